"""`cellskew compare`: pairs alike in all else, differences per seed, the corrected test, Holm's order."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from data_pipeline.errors import RequestError
from sweeps.answers import comparison, differences
from sweeps.answers.runs import choices

METRIC = "test_macro_f1"
GAINS = (0.05, 0.02, 0.06, 0.01, 0.04)


@pytest.fixture
def runs() -> pd.DataFrame:
    """Two models, two skews, five splits; oversampling gains GAINS over none, undersampling nothing."""
    rows = []
    for model in ("scgpt", "majority"):
        for skew in ("natural", "step-10"):
            for split, gain in enumerate(GAINS):
                for strategy, more in (("none", 0.0), ("oversample", gain), ("undersample", 0.0)):
                    row = {"run_id": str(len(rows)), "status": "FINISHED", "dataset": "d", "split": str(split)}
                    row |= {"skew": skew, "strategy": strategy, "loss": "cross_entropy", "model": model, "seed": "0"}
                    row |= {"defects": "", "test_per_train": 0.2 / 0.7}
                    level = 0.5 + 0.1 * split + 0.05 * (skew == "natural") + (more if model == "scgpt" else 0.0)
                    rows.append(row | {METRIC: level, f"{METRIC}.logit_adjust": level + 0.01})
    return pd.DataFrame(rows)


def only(found: comparison.Comparison | pd.DataFrame, **where: str) -> pd.Series:
    table = found if isinstance(found, pd.DataFrame) else found.table
    for name, value in where.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def printed(found: comparison.Comparison, capsys) -> str:
    differences.show([found], "table", None)
    return " ".join(capsys.readouterr().out.split())


def test_differences_interval_and_p_are_those_of_the_corrected_test(runs):
    row = only(comparison.compare(runs, "strategy", ["model"], METRIC), model="scgpt", level="oversample")
    assert (row["against"], row["n"], row["pairs"]) == ("none", 5, 10)
    mean, sd = np.mean(GAINS), np.std(GAINS, ddof=1)
    assert row["difference"] == pytest.approx(mean) == pytest.approx(row["mean"] - row["mean_against"])
    error = sd * np.sqrt(1 / 5 + 0.2 / 0.7)  # Nadeau & Bengio 2003, eq. 9 in the limits of one test per split
    low, high = stats.t.interval(0.95, 4, mean, error)
    assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))
    assert row["p"] == pytest.approx(2 * stats.t.sf(mean / error, 4))


def test_a_table_says_what_its_rows_average(runs, capsys):
    """Losses that nobody asked about halve what an adjustment does, and nothing else in the table would tell."""
    both = pd.concat([runs, runs.assign(loss="weighted", run_id=runs["run_id"] + "w")], ignore_index=True)
    found = comparison.compare(both, "posthoc", ["model", "strategy"], METRIC)
    said = "a row averages 2 skews (natural, step-10) x 2 losses (cross_entropy, weighted)"
    assert said in printed(found, capsys)
    found = comparison.compare(runs, "strategy", ["model", "skew"], METRIC)
    assert "a row averages nothing else" in printed(found, capsys)


def test_what_has_no_partner_is_not_said_to_be_averaged(runs, capsys):
    """Weighted runs without a remedy alone: no pair has them, so no row averages losses."""
    plain = runs[runs["strategy"] == "none"]
    more = plain.assign(loss="weighted", run_id=plain["run_id"] + "w")
    found = comparison.compare(pd.concat([runs, more], ignore_index=True), "strategy", ["model", "skew"], METRIC)
    said = printed(found, capsys)
    assert "a row averages nothing else" in said and "weighted" not in said


def test_the_ratio_of_test_to_training_cells_is_what_trials_recorded(runs):
    """A dataset with a test share of its own: the sweep file's 0.2 / 0.7 is not what its splits have."""
    recorded = runs.assign(test_cells=130.0, natural_cells=100.0, fixed_test=0.0)
    row = only(comparison.compare(recorded, "strategy", ["model"], METRIC), model="scgpt", level="oversample")
    error = np.std(GAINS, ddof=1) * np.sqrt(1 / 5 + 1.3)
    assert row["p"] == pytest.approx(2 * stats.t.sf(np.mean(GAINS) / error, 4))


@pytest.mark.parametrize("seeds", [3, 10])
def test_trial_seeds_on_one_split_buy_no_significance(runs, seeds, capsys):
    rng = np.random.default_rng(0)
    one = runs[runs["split"] == "0"]
    many = pd.concat([one.assign(seed=str(n), **{METRIC: one[METRIC] + rng.normal(0, 0.01)}) for n in range(seeds)])
    found = comparison.compare(many, "strategy", ["model"], METRIC)
    assert (found.table["n"] == 1).all() and (found.table["seeds"] == seeds).all()
    assert found.table[["p", "p_holm", "low", "high"]].isna().all(axis=None)
    assert "one split: trial seeds tell of these cells alone, so no interval and no p" in printed(found, capsys)


def test_an_interval_that_leaves_out_0_and_is_not_sure_is_explained(runs, capsys):
    """Said to be undecided beside [+0.016, +0.078], with no word on why."""
    rng = np.random.default_rng(2)
    noisy = runs.assign(**{METRIC: runs[METRIC] + rng.normal(0, 0.012, len(runs))})
    found = comparison.compare(noisy, "strategy", ["model", "skew"], METRIC)
    table = found.table
    odd = ((table["low"] > 0) | (table["high"] < 0)) & (table["p_holm"] > 0.05)
    assert odd.sum() == 1, "the made-up numbers have one"
    assert "though p, Holm, is 0.05 or more: 1; each interval is of its row alone" in printed(found, capsys)


def test_two_splits_have_no_p_and_three_a_warning(runs, capsys):
    two = comparison.compare(runs[runs["split"].isin(["0", "1"])], "strategy", [], METRIC)
    assert two.table[["p", "low", "high"]].isna().all(axis=None) and "under 3 splits there is no" in printed(
        two, capsys
    )
    three = comparison.compare(runs[runs["split"].isin(["0", "1", "2"])], "strategy", [], METRIC)
    assert three.table["p"].notna().any() and "WARNING: under 5 splits" in printed(three, capsys)


def test_what_is_equal_differs_by_nothing_and_is_no_test(runs):
    found = comparison.compare(runs, "strategy", ["model"], METRIC)
    row = only(found, model="majority", level="undersample")
    assert (row["difference"], row["ties"], row["wins"], row["losses"]) == (0, 10, 0, 0)
    assert np.isnan(row["p"]) and found.table["p"].notna().sum() == 1
    assert only(found, model="scgpt", level="oversample")["p_holm"] == found.table["p"].min(), "NaN counts for no test"


def test_only_complete_blocks_count_and_what_is_dropped_is_named(runs, capsys):
    """Split 4 lacks a skew: the mean over its other skew is a mean over another mix."""
    lost = (runs["split"] == "4") & (runs["strategy"] == "oversample") & (runs["skew"] == "natural")
    runs.loc[lost, "status"] = "FAILED"
    found = comparison.compare(runs, "strategy", ["model"], METRIC)
    row = only(found, model="scgpt", level="oversample")
    assert (row["n"], row["pairs"]) == (4, 8)
    assert row["difference"] == pytest.approx(np.mean(GAINS[:4]))
    said = printed(found, capsys)
    assert "left out: scgpt oversample: 1 runs without a finished partner" in said
    assert "scgpt oversample: 1 pairs of incomplete blocks (d split 4)" in said


def test_what_is_left_out_of_many_rows_is_said_once(runs):
    found = comparison.compare(runs, "strategy", ["model"], METRIC)
    for number in range(8):
        found.lose("5 runs without a finished partner", f"scgpt skew-{number}")
    found.lose("1 pairs of incomplete blocks (d split 4)", "scgpt natural")
    one, many = found.lost()
    assert one.startswith("scgpt natural: 1 pairs")
    assert many == "5 runs without a finished partner, at each of 8 rows: scgpt skew-0, scgpt skew-1 ... scgpt skew-7"


def test_a_cell_that_few_splits_have_is_dropped_itself(runs, capsys):
    extra = runs[(runs["split"] == "0") & (runs["skew"] == "natural")].assign(skew="step-50")
    found = comparison.compare(pd.concat([runs, extra], ignore_index=True), "strategy", [], METRIC)
    assert only(found, level="oversample")["pairs"] == 20 and only(found, level="oversample")["n"] == 5
    assert "(d step-50 cross_entropy majority 0, d step-50 cross_entropy scgpt 0)" in printed(found, capsys)


def test_pairs_without_the_metric_are_counted_and_named(runs, capsys):
    runs.loc[(runs["split"] == "1") & (runs["strategy"] == "oversample") & (runs["model"] == "scgpt"), METRIC] = np.nan
    found = comparison.compare(runs, "strategy", ["model"], METRIC)
    row = only(found, model="scgpt", level="oversample")
    assert row["n"] == 4 and "scgpt oversample: 2 pairs without macro_f1" in printed(found, capsys)


def test_every_dataset_has_a_row_and_the_family_is_that_of_the_rows_over_all(runs, capsys):
    """The mean over datasets isn't that over runs: one dataset has twice as many."""
    other = runs[runs["skew"] == "natural"].assign(dataset="e", test_per_train=1.0)
    other.loc[other["strategy"] == "oversample", METRIC] += 0.1
    found = comparison.compare(pd.concat([runs, other], ignore_index=True), "strategy", ["model"], METRIC)
    mine = found.table[(found.table["model"] == "scgpt") & (found.table["level"] == "oversample")].set_index("dataset")
    gain = np.mean(GAINS)
    assert mine["difference"].to_dict() == pytest.approx({"all": gain + 0.05, "d": gain, "e": gain + 0.1})
    sizes = np.array([np.std(GAINS, ddof=1) * np.sqrt(1 / 5 + ratio) for ratio in (0.2 / 0.7, 1.0)])
    error = np.sqrt((sizes**2).sum()) / 2
    freedom = (sizes**2).sum() ** 2 / (sizes**4 / 4).sum()
    assert mine.loc["all", "p"] == pytest.approx(2 * stats.t.sf((gain + 0.05) / error, freedom))
    assert mine.loc[["d", "e"], ["p", "p_holm"]].isna().all(axis=None) and mine["low"].notna().all()
    said = printed(found, capsys)
    assert 'one test, the rows "all" and no others' in said and "these 2 datasets, which says nothing of others" in said


def test_six_datasets_are_units_themselves(runs, capsys):
    """All gain, so the signed-rank test over six gives 2 / 2^6, however sure each dataset is."""
    many = pd.concat([runs.assign(dataset=f"d{n}") for n in range(6)], ignore_index=True)
    gains = {f"d{n}": 0.01 * n for n in range(6)}
    more = many["dataset"].map(gains) * (many["strategy"] == "oversample")
    found = comparison.compare(many.assign(**{METRIC: many[METRIC] + more}), "strategy", ["model"], METRIC)
    row = only(found, model="scgpt", level="oversample", dataset="all")
    assert row["p"] == pytest.approx(2 / 64)
    low, high = stats.t.interval(0.95, 5, np.mean(GAINS) + 0.025, stats.sem(list(gains.values())))
    assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))
    assert "over 6 datasets as units" in printed(found, capsys)


def test_a_fixed_test_set_makes_no_replicates_of_splits(runs, tmp_path):
    """Every split's difference is the same few test cells: Student's t over splits is sure of what it can't know."""
    from test_summary import with_predictions

    fixed = with_predictions(runs[runs["skew"] == "natural"], tmp_path)
    plain = fixed.assign(fixed_test=0.0)
    rows = [
        only(comparison.compare(one, "model", [], "test_accuracy", "majority"), level="scgpt") for one in (fixed, plain)
    ]
    assert rows[0]["difference"] == rows[1]["difference"]
    assert rows[0]["high"] - rows[0]["low"] > 1.5 * (rows[1]["high"] - rows[1]["low"])
    unread = comparison.compare(fixed.assign(artifact_uri=""), "model", [], "test_accuracy", "majority")
    assert np.isnan(only(unread, level="scgpt")["p"]) and "no interval or p" in " ".join(differences.explained(unread))


def test_adjusted_predictions_are_drawn_again_where_they_are_stored(runs, tmp_path):
    """On a fixed test set an adjustment's p comes of its own predictions, not of the plain ones or of the splits."""
    from test_summary import with_predictions

    fixed = with_predictions(runs[runs["skew"] == "natural"], tmp_path)
    tables = [pd.read_parquet(f"{place}/predictions.parquet") for place in fixed["artifact_uri"]]
    adjusted = [(table["truth"] == table["prediction.logit_adjust"]).mean() for table in tables]
    fixed["test_accuracy.logit_adjust"] = adjusted
    row = only(comparison.compare(fixed, "posthoc", [], "test_accuracy"), level="logit_adjust")
    gain = np.mean(adjusted) - fixed["test_accuracy"].mean()
    assert row["difference"] == pytest.approx(gain) and gain > 0.02
    assert 0 < row["p"] < 0.05 and row["low"] < gain < row["high"]
    for place, table in zip(fixed["artifact_uri"], tables, strict=True):  # as runs of earlier versions are
        table.drop(columns="prediction.logit_adjust").to_parquet(f"{place}/predictions.parquet")
    found = comparison.compare(fixed, "posthoc", [], "test_accuracy")
    assert np.isnan(only(found, level="logit_adjust")["p"]) and "no interval or p" in " ".join(
        differences.explained(found)
    )


def test_a_row_per_skew_is_the_rule_unless_skews_are_compared(runs):
    assert comparison.per_skew(runs, "strategy", ["model"]) == ["model", "skew"]
    assert comparison.per_skew(runs, "strategy", ["skew"]) == ["skew"]
    assert comparison.per_skew(runs, "skew", []) == []
    assert comparison.per_skew(runs[runs["skew"] == "natural"], "strategy", []) == []


def test_another_level_can_be_the_one_to_compare_with(runs):
    row = only(comparison.compare(runs, "strategy", ["model"], METRIC, "oversample"), model="scgpt", level="none")
    assert row["against"] == "oversample" and row["difference"] == pytest.approx(-np.mean(GAINS))
    assert (row["wins"], row["losses"]) == (0, 10)


def test_small_differences_are_ties_when_asked(runs):
    row = only(comparison.compare(runs, "strategy", ["model"], METRIC, tie=0.021), model="scgpt", level="oversample")
    assert (row["wins"], row["ties"], row["losses"]) == (6, 4, 0)


def test_adjustments_after_training_are_compared_with_the_plain_predictions(runs):
    row = only(comparison.compare(runs, "posthoc", [], METRIC), level="logit_adjust")
    assert row["against"] == "none" and row["difference"] == pytest.approx(0.01) and row["pairs"] == 60


def test_a_defect_is_compared_with_the_correct_recipe_of_the_same_trial(runs):
    wrong = runs.assign(defects="resample_before_split", **{METRIC: runs[METRIC] + 0.2})
    row = only(comparison.compare(pd.concat([runs, wrong]), "defects", [], METRIC), level="resample_before_split")
    assert row["against"] == "none" and row["difference"] == pytest.approx(0.2) and row["pairs"] == 60
    apart = comparison.compare(pd.concat([runs, wrong]), "strategy", ["model"], METRIC)
    assert only(apart, model="scgpt", level="oversample")["difference"] == pytest.approx(np.mean(GAINS)), "like to like"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(between="stratgy"), "unknown choice for --between 'stratgy'; did you mean strategy?"),
        (dict(between="split"), "unknown choice for --between 'split'"),
        (dict(between="strategy", within=["strategy"]), "--within strategy is what --between compares"),
        (dict(between="strategy", within=["modle"]), "unknown column 'modle'; did you mean model?"),
        (dict(between="strategy", metric="test_f1"), "unknown metric 'test_f1'"),
        (dict(between="strategy", against="smote"), "unknown strategy for --against 'smote'"),
        (dict(between="loss"), "only cross_entropy among the finished runs to compare --between loss"),
    ],
)
def test_what_cannot_be_compared_is_refused(runs, given, said):
    with pytest.raises(RequestError) as caught:
        comparison.compare(runs, **({"within": [], "metric": METRIC} | given))
    assert said in str(caught.value)


def test_runs_without_partners_are_refused(runs):
    alone = runs[(runs["strategy"] == "none") == (runs["model"] == "scgpt")]
    with pytest.raises(RequestError, match="no two finished runs differ in strategy alone"):
        comparison.compare(alone, "strategy", [], METRIC)


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_every_format_has_every_row_and_the_warning(runs, form, capsys):
    found = comparison.compare(runs, "strategy", ["model"], METRIC)
    differences.show([found], form, "WARNING: known defects")
    printed = capsys.readouterr()
    said = printed.out
    assert "WARNING: known defects" in (printed.err if form == "csv" else said)
    if form == "json":
        rows = json.loads(said)["rows"]
        assert len(rows) == 4 and set(comparison.COLUMNS) <= set(rows[0])
    elif form == "csv":
        assert len(said.splitlines()) == 5
    else:
        assert "+0.036 [" in said and "10/0/0" in said and "p, Holm: one test, the rows of this table" in said


def test_every_row_is_a_sentence_that_says_no_more_than_its_test(runs):
    found = comparison.compare(runs, "strategy", ["model"], METRIC)
    found.table = found.table.iloc[:3].assign(
        difference=[0.05, -0.05, 0.05], low=[0.01, -0.09, -0.01], high=[0.09, -0.01, 0.11], p_holm=[0.01, 0.02, 0.3]
    )
    up, down, unsure = differences.sentences(found, 3)
    assert " raises macro_f1" in up and "by 0.050 [+0.010, +0.090]" in up and "p 0.01 corrected over 3" in up
    assert " lowers macro_f1" in down and "by 0.050" in down
    assert unsure.startswith("whether ") and "can't be told: +0.050" in unsure
    found.table["p_holm"] = float("nan")
    assert all(said.endswith("not tested") for said in differences.sentences(found, 3))


def test_the_forest_has_one_scale_and_zero_in_its_middle(runs):
    found = comparison.compare(runs, "strategy", ["model"], METRIC)
    found.table = found.table.iloc[:2].assign(difference=[0.1, -0.05], low=[0.05, -0.1], high=[0.2, 0.0])
    wide, other = differences.forest(found)
    assert len(wide) == len(other) == 25 and wide[12] == "|" and wide[24] == "-" and wide[18] == "o"
    assert wide[:12].strip() == "" and other[9] == "o" and other[13:].strip() == ""


def test_intervals_stand_below_each_other_and_a_long_table_has_sentences_of_what_is_sure(runs, capsys):
    found = comparison.compare(runs, "strategy", ["model"], METRIC)
    two = found.table.iloc[:2].assign(difference=[0.1, -0.05], low=[0.05, -0.1], high=[0.2, 0.0], p_holm=[0.01, 0.4])
    found.table, found.asked = two, found.asked[:2]
    differences.show([found], "table", None)
    up, down = (line for line in capsys.readouterr().out.splitlines() if "o-" in line)
    assert up[12] == down[12] == "|" and up.index("o") == 18 and down.index("o") == 9
    found.table, found.asked = pd.concat([two] * 12, ignore_index=True), found.asked * 12
    differences.show([found], "table", None)
    said = capsys.readouterr().out
    assert said.count(" raises ") == 12 and "can't be told:" not in said
    assert "none of the other 12 differences is sure" in said


def with_predictions_like(runs: pd.DataFrame, level: str, like: str) -> pd.DataFrame:
    """Return the runs with numbers that tell predictions, those of one strategy the same as another's."""
    rng = np.random.default_rng(3)
    runs = runs.assign(**{name: rng.random(len(runs)) for name in choices.OF_PREDICTIONS})
    columns = [METRIC, *choices.OF_PREDICTIONS]
    by = ["model", "skew", "split", "seed"]
    source = runs[runs["strategy"] == like].set_index(by)[columns]
    mine = runs["strategy"] == level
    runs.loc[mine, columns] = source.loc[pd.MultiIndex.from_frame(runs.loc[mine, by])].to_numpy()
    return runs


def test_choices_with_the_same_predictions_ask_one_question(runs, capsys):
    """As an adjustment that changes no prediction: the second row is the first test again, and no second one."""
    scgpt = runs[runs["model"] == "scgpt"]
    other = scgpt[scgpt["strategy"] == "oversample"].assign(
        strategy="focal-like", run_id=lambda rows: "f" + rows["run_id"]
    )
    both = with_predictions_like(pd.concat([scgpt, other], ignore_index=True), "focal-like", "oversample")
    found = comparison.compare(both, "strategy", [], METRIC)
    alone = comparison.compare(both[both["strategy"] != "focal-like"], "strategy", [], METRIC)
    rows = [only(found, level=name) for name in ("oversample", "focal-like")]
    assert rows[0]["p"] == rows[1]["p"] and rows[0]["p_holm"] == rows[1]["p_holm"]
    assert rows[0]["p_holm"] == only(alone, level="oversample")["p_holm"]
    assert "same predictions as another, and are one test with it: 1" in printed(found, capsys)
    twice = comparison.as_one_family([found, comparison.compare(both, "strategy", [], METRIC)])
    assert only(twice[1], level="oversample")["p_holm"] == rows[0]["p_holm"], "a question that is asked twice is one"


def test_the_same_predictions_are_said_to_be_the_same(runs, capsys):
    both = with_predictions_like(runs[runs["model"] == "scgpt"].copy(), "oversample", "none")
    found = comparison.compare(both, "strategy", [], METRIC)
    row = only(found, level="oversample")
    assert row["same"] and np.isnan(row["p"])
    assert "is the same, as all predictions are; nothing to test" in printed(found, capsys)
