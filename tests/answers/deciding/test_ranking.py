"""Choices are ranked on the same cells; the best was picked, and its intervals and ties allow for that."""

import io
import math

import numpy as np
import pandas as pd
import pytest
from made_runs import METRIC, numbered, run, runs

from data_pipeline.errors import RequestError
from sweeps.answers import celltypes
from sweeps.answers.deciding import surer, table
from sweeps.answers.deciding.ranking import Difference, Ranking, left_out_score, rankings
from sweeps.answers.designs import Designs, Estimate
from sweeps.answers.runs import choices, results
from sweeps.answers.runs.choices import BASELINE, CHANCE, NETWORK
from sweeps.answers.runs.stored import Stored
from sweeps.statistics.intervals import Error, interval

LR, NONE, OVER = "logistic_regression", "none", "oversample"


def ranked(frame: pd.DataFrame, metric: str = METRIC) -> Ranking:
    found = rankings(choices.unfolded(frame), metric, Designs(frame))
    assert len(found) == 1
    return found[0]


FOUR = {("scgpt", NONE): 0.60, ("scgpt", OVER): 0.62, (LR, NONE): 0.80, (LR, OVER): 0.803, ("majority", NONE): 0.1}


def test_a_coverage_that_is_promised_has_no_best():
    covered = "test_conformal_coverage"
    frame = runs({(LR, NONE): 0.97, (LR, OVER): 0.9}).rename(columns={METRIC: covered})
    with pytest.raises(RequestError, match="conformal_coverage is no measure to choose by"):
        ranked(frame, covered)
    shown = table.build(choices.unfolded(frame), ["skew", "model", "strategy"], [covered], Designs(frame))
    assert not shown["mark"].any()


def test_the_best_comes_first_what_cannot_be_told_from_it_ties_and_chance_is_no_rival():
    found = ranked(runs(FOUR))
    assert found.best["label"] in (f"{LR} · none", f"{LR} · oversample") and len(found.tied) == 1
    assert list(found.table["kind"]) == [BASELINE, BASELINE, NETWORK, NETWORK, CHANCE]
    assert list(found.table["tied"]) == [True, True, False, False, False]
    assert found.splits == 5 and found.unranked == {}


def test_intervals_of_the_picked_hold_for_all_that_it_was_picked_from():
    frame = runs(FOUR)
    found = ranked(frame)
    rival = found.to_rival()  # 2 networks x 2 baselines
    values = frame.pivot_table(METRIC, "split", ["model", "strategy"])
    one, other = (tuple(label.split(" · ")) for label in (rival.one, rival.other))
    differences = (values[one] - values[other]).to_numpy()
    error = differences.std(ddof=1) * math.sqrt(1 / 5 + 20 / 80)
    t = 4.3147  # Student's, 4 degrees of freedom, 1 - 0.025 / 4; scipy.stats.t.ppf
    assert rival.tests == 4 and rival.is_sure
    assert [rival.low, rival.high] == pytest.approx(
        [differences.mean() - t * error, differences.mean() + t * error], abs=1e-4
    )


def test_one_interval_of_many_is_wider_and_one_of_one_is_as_before():
    error = Error(0.01, 4.0)
    assert interval(0.5, error) == interval(0.5, error, tests=1)
    assert np.diff(interval(0.5, error, tests=10)) > 1.5 * np.diff(interval(0.5, error))


def test_a_difference_stays_within_what_the_metric_can_differ_by():
    frame = runs({("scgpt", NONE): 0.5, (LR, NONE): 0.55}, splits=3, noise=0.5)
    found = ranked(frame).to_rival()
    assert -1 <= found.low <= found.high <= 1


def test_of_an_error_less_is_better():
    frame = runs({(LR, NONE): 0.3, ("scgpt", NONE): 0.1}).rename(columns={METRIC: "test_ece"})
    found = ranked(frame, "test_ece")
    assert found.best["label"] == "scgpt · none" and found.to_rival().mean > 0 and found.to_rival().is_sure


def test_a_choice_with_few_splits_is_not_ranked_and_takes_no_split_from_the_others():
    frame = runs(FOUR)
    late = (frame["model"] == "scgpt") & (frame["strategy"] == OVER) & (frame["split"].astype(int) > 1)
    found = ranked(frame[~late])
    assert found.unranked == {"scgpt · oversample": 2} and found.splits == 5
    assert "scgpt · oversample" not in set(found.table["label"])


def test_all_are_compared_on_the_splits_that_all_have():
    frame = runs(FOUR, noise=0.001)
    easy = frame["split"] == "4"
    frame.loc[easy, METRIC] += 0.1  # one split is easier: who has it alone would gain 0.02
    lacking = easy & (frame["strategy"] == NONE)
    found = ranked(frame[~lacking])
    assert found.splits == 4 and len(found.tied) == 1 and found.dropped == ["d split 4"]
    more = pd.concat([frame[~lacking], frame[frame["model"] == LR].assign(dataset="e")], ignore_index=True)
    assert ranked(numbered(more)).dropped == ["d split 4", "e altogether"]


def test_nothing_is_ranked_where_no_split_is_whole():
    rows = [run(model, NONE, split, 0.5) for model, splits in (("scgpt", (0, 1)), (LR, (2, 3))) for split in splits]
    found = rankings(choices.unfolded(numbered(pd.DataFrame(rows))), METRIC, Designs(numbered(pd.DataFrame(rows))))[0]
    assert found.best is None and found.table.empty


def test_adjustments_after_training_are_rows_and_types_may_have_dots():
    frame = runs({(LR, NONE): 0.5}).assign(
        **{"test_macro_f1.logit_adjust": 0.7, "test_f1:CD4.T": 0.4, "test_f1.logit_adjust:CD4.T": 0.6}
    )
    found = choices.unfolded(frame)
    assert not [name for name in found if name.partition(":")[0].count(".")]
    assert found.groupby("posthoc")["test_f1:CD4.T"].mean().to_dict() == {"none": 0.4, "logit_adjust": 0.6}
    assert ranked(frame).best["label"] == f"{LR} · logit_adjust"
    assert ranked(frame).to_plain().mean == pytest.approx(0.7 - frame[METRIC].mean())


def test_an_adjustment_without_a_number_is_not_given_the_plain_one():
    frame = runs({(LR, NONE): 0.5}).assign(**{"test_macro_f1.logit_adjust": 0.7, "test_f1:DC": 0.4})
    found = choices.unfolded(frame)
    assert found.loc[found["posthoc"] == "logit_adjust", "test_f1:DC"].isna().all()
    assert (found["test_cells"] == 20).all()


def test_what_picking_is_worth_is_scored_on_the_split_left_out():
    table = {"a": [0.9, 0.9, 0.0], "b": [0.5, 0.5, 0.8]}
    rows = [run(LR, name, split, table[name][split]) for name in table for split in range(3)]
    score, same, of = left_out_score(ranked(numbered(pd.DataFrame(rows))))
    # left out 0: a .45, b .65 -> b .5; left out 1: likewise .5; left out 2: a .9 -> 0.0; the best of all is a (.6, .6)
    assert score == pytest.approx((0.5 + 0.5 + 0.0) / 3) and of == 3 and same in (1, 2)


def difference(mean: float, error: float, sd: float, n: int = 5) -> Difference:
    index = pd.MultiIndex.from_product([["d"], [str(split) for split in range(n)]], names=["dataset", "split"])
    estimate = Estimate(mean, n, sd, mean, mean, Error(error, n - 1.0), pd.Series(mean, index=index))
    return Difference("a", "b", mean, mean - 3 * error, mean + 3 * error, 1, estimate)


def test_more_splits_do_where_they_share_no_cells():
    need = surer.needed(difference(0.05, 0.1 / math.sqrt(5), 0.1))
    t = {17: 2.1199, 18: 2.1098}  # Student's, 97.5 %, 16 and 17 degrees of freedom
    assert t[17] * 0.1 / math.sqrt(17) > 0.05 > t[18] * 0.1 / math.sqrt(18)
    assert need == surer.Need(splits=18)


def test_only_more_cells_do_where_splits_share_them():
    shared = 0.1 * math.sqrt(1 / 5 + 1)  # so that 50 splits leave an error of 0.1, and 0.05 is never told
    need = surer.needed(difference(0.15, shared, 0.1))
    assert need.splits is None and need.cells == pytest.approx((2.7764 * shared / 0.15) ** 2, rel=1e-3)
    assert surer.needed(difference(0.01, shared, 0.1)) == surer.Need()


def per_skew_and_type(tmp_path):
    frame = runs({("scgpt", NONE): 0.6, (LR, NONE): 0.7, ("majority", NONE): 0.1})
    for place, row in frame.iterrows():
        (folder := tmp_path / row["run_id"]).mkdir()
        (folder / "per_class.csv").write_text(
            "class,natural,train,test,predicted,precision,recall,f1\nDC,9,4,4,2,1,.5,.667\nB,60,60,6,8,.75,1,.857\n"
        )
        frame.loc[place, "artifact_uri"] = str(folder)
    return frame


def test_a_types_numbers_after_an_adjustment_come_from_the_predictions_that_it_left(tmp_path):
    frame = per_skew_and_type(tmp_path).assign(**{"test_macro_f1.logit_adjust": 0.9})
    for folder in frame["artifact_uri"]:
        said = {"cell_id": list("abcdef"), "truth": ["DC"] * 4 + ["B"] * 2, "prediction": ["DC", "DC"] + ["B"] * 4}
        said |= {"prediction.logit_adjust": ["DC"] * 3 + ["B"] * 2 + ["DC"], "p_DC": [0.5] * 6, "p_B": [0.5] * 6}
        pd.DataFrame(said).to_parquet(f"{folder}/predictions.parquet")
    found = choices.unfolded(celltypes.with_type(frame, "DC", Stored(None))).groupby("posthoc")
    assert found["test_recall:DC"].mean().to_dict() == pytest.approx({"none": 0.5, "logit_adjust": 0.75})
    assert found["test_precision:DC"].mean().to_dict() == pytest.approx({"none": 1.0, "logit_adjust": 0.75})
    assert found["test_f1:DC"].mean().to_dict() == pytest.approx({"none": 0.667, "logit_adjust": 0.75})
    assert (found["test_recall_high:DC"].mean() <= 1).all() and (found["test_cells:DC"].mean() == 4).all()


def test_several_types_are_a_table_each_and_one_csv(tmp_path, capsys):
    frame = per_skew_and_type(tmp_path)
    for kind in ("DC", "B"):
        frame = celltypes.with_type(frame, kind, Stored(None))
    metrics = [f"test_{name}:{kind}" for kind in ("DC", "B") for name in celltypes.NUMBERS]
    table.show(choices.unfolded(frame), None, metrics, Designs(frame), "table", None)
    said = capsys.readouterr().out
    assert "DC, skew natural" in said and "B, skew natural" in said and max(map(len, said.splitlines())) <= 160
    table.show(choices.unfolded(frame), None, metrics, Designs(frame), "csv", None)
    found = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert found["type"].tolist() == ["DC"] * 3 + ["B"] * 3 and found["test_recall"].tolist() == [0.5] * 3 + [1.0] * 3
    assert found["kind"].tolist() == [NETWORK, BASELINE, CHANCE] * 2


def test_what_people_type_is_understood_as_the_metric_on_test_cells():
    frame = runs(FOUR).assign(test_recall_tail=0.5)
    for typed in ("macro_f1", "macro F1", "Macro-F1", "test_macro_f1"):
        assert results.full_name(typed, frame) == METRIC
    assert results.full_name("rare-type recall", frame) == "test_recall_tail"


def test_columns_that_tell_no_single_choice_have_no_marks():
    frame = choices.unfolded(runs(FOUR))
    assert not table.build(frame, ["model"], [METRIC], Designs(frame))["mark"].any()
    folded = frame[frame["posthoc"] == "none"].drop(columns="posthoc")  # `results --by model,strategy`
    assert not table.build(folded, ["model"], [METRIC], Designs(folded))["mark"].any()
    assert table.build(frame, ["model", "strategy"], [METRIC], Designs(frame))["mark"].iloc[2] == table.BEST


def test_a_choice_with_the_predictions_of_another_widens_no_interval():
    """As temperature scaling: the same predictions under a second name are no second rival."""
    rng = np.random.default_rng(0)
    plain = runs({("scgpt", "none"): 0.5, ("scgpt", "smote"): 0.52, ("scgpt", "oversample"): 0.51})
    plain = plain.assign(**{name: rng.random(len(plain)) for name in choices.OF_PREDICTIONS})
    again = plain[plain["strategy"] == "none"].assign(strategy="like-none")
    tests = []
    for frame in (plain, numbered(pd.concat([plain, again], ignore_index=True))):
        (found,) = rankings(choices.unfolded(frame), METRIC, Designs(frame))
        tests.append((found.to_next().tests, found.distinct(found.table["label"])))
    assert tests[0] == tests[1] == (2, 3)
