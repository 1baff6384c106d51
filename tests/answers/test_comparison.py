"""`cellskew compare`: pairs alike in all else, differences per seed, the corrected test, Holm's order."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from data_pipeline.errors import RequestError
from sweeps.answers import comparison

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


def only(table: pd.DataFrame, **where: str) -> pd.Series:
    for name, value in where.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_differences_interval_and_p_are_those_of_the_corrected_test(runs):
    row = only(comparison.compare(runs, "strategy", ["model"], METRIC), model="scgpt", level="oversample")
    assert (row["against"], row["n"], row["pairs"], row["unpaired"]) == ("none", 5, 10, 0)
    mean, sd = np.mean(GAINS), np.std(GAINS, ddof=1)
    assert row["difference"] == pytest.approx(mean) == pytest.approx(row["mean"] - row["mean_against"])
    assert row["effect"] == pytest.approx(mean / sd)
    error = sd * np.sqrt(1 / 5 + 0.2 / 0.7)  # Nadeau & Bengio 2003, eq. 9 in the limits of one test per split
    low, high = stats.t.interval(0.95, 4, mean, error)
    assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))
    assert row["p"] == pytest.approx(2 * stats.t.sf(mean / error, 4))


def test_seeds_on_one_split_are_tested_by_students_paired_t(runs):
    runs["seed"], runs["split"] = runs["split"], "0"
    row = only(comparison.compare(runs, "strategy", ["model"], METRIC), model="scgpt", level="oversample")
    theirs = stats.ttest_rel(0.5 + np.array(GAINS), np.full(5, 0.5))
    assert row["n"] == 5 and row["p"] == pytest.approx(theirs.pvalue)
    interval = theirs.confidence_interval()
    assert (row["low"], row["high"]) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_what_is_equal_differs_by_nothing_for_sure(runs):
    row = only(comparison.compare(runs, "strategy", ["model"], METRIC), model="majority", level="undersample")
    assert (row["difference"], row["p"], row["ties"], row["wins"], row["losses"]) == (0, 1, 10, 0, 0)


def test_a_difference_without_spread_or_of_one_seed_has_no_p(runs):
    runs.loc[runs["strategy"] == "undersample", METRIC] -= 0.1
    table = comparison.compare(runs, "strategy", [], METRIC)
    row = only(table, level="undersample")
    assert row["difference"] == pytest.approx(-0.1) and row[["p", "low", "high", "p_holm"]].isna().all()
    assert only(table, level="oversample")["p_holm"] == only(table, level="oversample")["p"], "NaN counts for no test"
    single = comparison.compare(runs[runs["split"] == "0"], "strategy", [], METRIC)
    assert single["n"].tolist() == [1, 1] and single["p"].isna().all()


def test_only_pairs_count_and_the_others_are_told(runs, capsys):
    lost = (runs["split"] == "4") & (runs["strategy"] == "oversample") & (runs["model"] == "scgpt")
    runs.loc[lost, "status"] = "FAILED"
    table = comparison.compare(runs, "strategy", ["model"], METRIC)
    row = only(table, model="scgpt", level="oversample")
    assert (row["n"], row["pairs"], row["unpaired"]) == (4, 8, 2)
    assert row["difference"] == pytest.approx(np.mean(GAINS[:4])), "split 4's high level without a partner is left out"
    comparison.show(table, "strategy", ["model"], METRIC, "table", None)
    said = capsys.readouterr().out
    assert "4*" in said and "2 runs have no finished partner" in said


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


def test_holms_correction_is_the_textbooks():
    corrected = comparison.holm(np.array([0.01, 0.04, np.nan, 0.03, 0.005]))
    np.testing.assert_allclose(corrected, [0.03, 0.06, np.nan, 0.06, 0.02])
    assert comparison.holm(np.array([0.6, 0.9])).tolist() == [1.0, 1.0]


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
    table = comparison.compare(runs, "strategy", ["model"], METRIC)
    comparison.show(table, "strategy", ["model"], METRIC, form, "WARNING: known defects")
    said = capsys.readouterr().out
    assert "WARNING: known defects" in said
    if form == "json":
        rows = json.loads(said)["rows"]
        assert len(rows) == 4 and set(comparison.COLUMNS) <= set(rows[0])
    elif form == "csv":
        assert len(said.splitlines()) == 6
    else:
        assert "+0.036 [" in said and "10/0/0" in said
