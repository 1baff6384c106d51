"""`cellskew results`: the split is the unit, intervals are honest, and what can't be said is said."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from data_pipeline.errors import RequestError
from sweeps.answers import celltypes, comparison, differences, summary
from sweeps.answers.deciding import answer, leaderboard, variance
from sweeps.answers.deciding import table as of_choices
from sweeps.answers.designs import Designs
from sweeps.answers.runs import choices
from sweeps.answers.runs.stored import Stored
from sweeps.statistics import intervals

METRIC = "test_macro_f1"


def grid(splits: int = 5, seeds: int = 1, models=("scgpt", "logistic_regression"), **same) -> pd.DataFrame:
    """Return finished runs: models x none, oversample x splits x seeds, of one dataset and skew."""
    rng, rows = np.random.default_rng(0), []
    for model in models:
        for strategy in ("none", "oversample"):
            for split in range(splits):
                luck = rng.normal(0, 0.03)
                for seed in range(seeds):
                    row = {
                        "run_id": f"r{len(rows)}",
                        "status": "FINISHED",
                        "key": f"{len(rows):016x}",
                        "seed": str(seed),
                    }
                    row |= {"dataset": "d", "split": str(split), "skew": "natural", "strategy": strategy}
                    row |= {
                        "loss": "cross_entropy",
                        "model": model,
                        "defects": "",
                        "settings": "",
                        "protocol": "corrected",
                    }
                    row |= {"test_cells": 20.0, "natural_cells": 80.0, "fixed_test": 0.0, "artifact_uri": ""}
                    base = 0.6 if model == "scgpt" else 0.8
                    rows.append(row | {METRIC: base + luck + rng.normal(0, 0.01)} | same)
    return pd.DataFrame(rows)


def printed(runs, by, metrics, capsys, form="table") -> str:
    designs = Designs(runs)
    of_choices.show(choices.unfolded(runs), by, metrics, designs, form, None)
    return capsys.readouterr().out


def test_runs_with_defects_and_without_are_never_one_row():
    """As in several sweeps, or with --all after `protocol:` was changed."""
    plain = grid(3, models=("scgpt",))
    other = grid(3, models=("scgpt",), defects="select_by_loss", protocol="paper").assign(**{METRIC: 0.1})
    runs = pd.concat([plain, other.assign(run_id="d" + other["run_id"])], ignore_index=True)
    rows = summary.summarise(runs, ["model", "strategy"], [METRIC])
    assert list(rows["defects"]) == ["", "", "select_by_loss", "select_by_loss"] and set(rows["runs"]) == {3}
    assert "defects" not in summary.summarise(plain, ["model"], [METRIC])


def test_the_interval_is_that_over_splits_widened_for_shared_cells():
    runs = grid(5)
    values = runs[METRIC].to_numpy()[:5]
    row = summary.summarise(runs, ["model", "strategy"], [METRIC]).iloc[0]
    mean, error = values.mean(), values.std(ddof=1) * math.sqrt(1 / 5 + 20 / 80)
    half = 2.7764451051977987 * error / (mean * (1 - mean))  # Student's t, 97.5 %, 4 degrees of freedom; on the logit
    ends = [1 / (1 + math.exp(-(math.log(mean / (1 - mean)) + sign * half))) for sign in (-1, 1)]
    assert (row["n"], row["seeds"], row["runs"]) == (5, 1, 5)
    assert [row[f"{METRIC}_low"], row[f"{METRIC}_high"]] == pytest.approx(ends)
    assert row[f"{METRIC}_sd"] == pytest.approx(values.std(ddof=1))


def test_more_trial_seeds_on_the_same_splits_buy_no_certainty():
    once, often = grid(5), pd.concat([grid(5).assign(seed=str(seed)) for seed in range(10)])
    tables = [summary.summarise(runs, ["model", "strategy"], [METRIC]) for runs in (once, often)]
    assert tables[1]["n"].tolist() == [5] * 4 and tables[1]["seeds"].tolist() == [10] * 4
    for name in ("_low", "_high", "_sd"):
        np.testing.assert_allclose(tables[0][METRIC + name], tables[1][METRIC + name])


@pytest.mark.parametrize("splits", [1, 2])
def test_under_three_splits_the_range_is_shown_and_no_interval(splits, capsys):
    runs = grid(splits)
    row = summary.summarise(runs, ["model"], [METRIC]).iloc[0]
    assert np.isnan(row[[f"{METRIC}_low", f"{METRIC}_high"]].astype(float)).all()
    said = printed(runs, ["model"], [METRIC], capsys)
    assert "±" not in said and "under 3 splits there is no interval" in said
    assert (" to " in said.splitlines()[1]) == (splits == 2)


def test_three_splits_have_an_interval_inside_0_and_1_and_a_warning(capsys):
    runs = grid(3)
    runs.loc[runs["model"] == "logistic_regression", METRIC] += 0.17
    table = summary.summarise(runs, ["model", "strategy"], [METRIC])
    assert (table[f"{METRIC}_low"] > 0).all() and (table[f"{METRIC}_high"] < 1).all()
    assert "WARNING: under 5 splits" in printed(runs, ["model"], [METRIC], capsys)
    assert "WARNING" not in printed(grid(5), ["model"], [METRIC], capsys)


def test_datasets_count_alike_and_their_difference_is_no_spread():
    other = grid(5).assign(dataset="e", run_id=lambda rows: "e" + rows["run_id"])
    other[METRIC] -= 0.4
    twice = pd.concat([other.assign(skew=f"step-{n}") for n in (2, 3)])  # more runs in one dataset
    runs = pd.concat([grid(5), twice], ignore_index=True)
    table = summary.summarise(runs, ["model"], [METRIC])
    alone = summary.summarise(grid(5), ["model"], [METRIC])
    np.testing.assert_allclose(table[METRIC], alone[METRIC] - 0.2)
    np.testing.assert_allclose(table[f"{METRIC}_sd"], alone[f"{METRIC}_sd"])


def test_splits_with_different_runs_are_marked(capsys):
    runs = grid(5)
    runs.loc[(runs["split"] == "2") & (runs["model"] == "scgpt") & (runs["strategy"] == "none"), "status"] = "FAILED"
    table = summary.summarise(runs, ["model"], [METRIC])
    assert dict(zip(table["model"], table["uneven"], strict=True)) == {"scgpt": True, "logistic_regression": False}
    said = printed(runs, ["model"], [METRIC], capsys)
    assert " 5*\n" in said and "n*: some splits lack finished runs" in said


def test_a_metric_that_some_runs_lack_says_how_many(capsys):
    runs = grid(5)
    runs.loc[0, METRIC] = np.nan
    table = summary.summarise(runs, ["model", "strategy"], [METRIC])
    assert table.loc[0, f"{METRIC}_lacking"] == 1 and table.loc[1, f"{METRIC}_lacking"] == 0
    assert "macro_f1: 1 of 20 runs have none and are left out (d)" in printed(runs, ["model"], [METRIC], capsys)


def test_unknown_columns_and_metrics_are_named_together():
    with pytest.raises(RequestError) as caught:
        summary.summarise(grid(), ["modle"], ["test_macro_f2"])
    assert caught.value.problems[0].startswith("unknown column 'modle'; did you mean model?")
    assert caught.value.problems[1].startswith("unknown metric 'test_macro_f2'; did you mean test_macro_f1?")


def test_json_has_null_where_a_number_is_undefined_and_csv_is_a_table(capsys):
    row = json.loads(printed(grid(1), ["model", "strategy"], [METRIC], capsys, "json"))["rows"][0]
    assert row["n"] == 1 and row[f"{METRIC}_low"] is None
    runs = grid(3)
    of_choices.show(choices.unfolded(runs), ["model"], [METRIC], Designs(runs), "csv", "WARNING: defects")
    said = capsys.readouterr()
    assert said.out.startswith("model,n,") and said.err == "WARNING: defects\n"


def test_nothing_finished_is_an_empty_table(capsys):
    runs = grid().assign(status="SCHEDULED").drop(columns=METRIC)
    assert printed(runs, ["model"], [], capsys) == "no finished trial yet\n"
    assert json.loads(printed(runs, ["model"], [], capsys, "json"))["rows"] == []


# fixed test sets and donors


def with_predictions(
    runs: pd.DataFrame, folder, cells: int = 60, donors: int | None = None, redrawn: bool = False
) -> pd.DataFrame:
    """Write predictions of every run on the same test cells: scgpt hits 60 %, others 80 %; return runs that say so.

    redrawn: each split has cells of its own. logit_adjust gives every fifth cell the right type.
    """
    rng, types = np.random.default_rng(1), np.array(["a", "b", "c"])
    truth, luck = types[np.arange(cells) % 3], rng.random(cells)
    rows = []
    for _, run in runs.iterrows():
        luck = rng.random(cells) if redrawn else luck
        hit = (0.85 * luck + 0.15 * rng.random(cells)) < (0.6 if run["model"] == "scgpt" else 0.8)
        named = f"{run['split']}-" if redrawn else ""
        table = pd.DataFrame({"cell_id": [f"cell{named}{n}" for n in range(cells)], "truth": truth})
        table["prediction"] = np.where(hit, truth, types[(np.arange(cells) + 1) % 3])
        table["prediction.logit_adjust"] = np.where(np.arange(cells) % 5 == 0, truth, table["prediction"])
        if donors is not None:
            table["donor"] = [f"donor{n % donors}" for n in range(cells)]
        place = folder / run["run_id"]
        place.mkdir()
        table.assign(p_a=0.0, p_b=0.0, p_c=0.0).to_parquet(place / "predictions.parquet")
        right = (table["truth"] == table["prediction"]).mean()
        rows.append({"artifact_uri": str(place), "test_accuracy": right, "test_cells": cells})
    return runs.assign(**pd.DataFrame(rows, index=runs.index), fixed_test=1.0)


def test_a_fixed_test_set_is_drawn_again_and_retraining_added(tmp_path, capsys):
    runs = with_predictions(grid(5), tmp_path)
    row = summary.summarise(runs, ["model", "strategy"], ["test_accuracy"]).iloc[0]
    values = runs["test_accuracy"].to_numpy()[:5]
    mean, only_retrained = values.mean(), values.std(ddof=1) / math.sqrt(5)
    binomial = math.sqrt(mean * (1 - mean) / 60)
    width = (row["test_accuracy_high"] - row["test_accuracy_low"]) / 2
    assert width > 1.6 * binomial, "cells were drawn once; no number of splits tells more of others"
    assert width < 2.5 * (binomial + only_retrained)
    assert "test cells drawn again within types" in printed(runs, ["model"], ["test_accuracy"], capsys)


def test_a_fixed_test_set_without_predictions_has_no_interval_and_says_so(capsys):
    runs = grid(5, fixed_test=1.0)
    assert summary.summarise(runs, ["model"], [METRIC])[f"{METRIC}_low"].isna().all()
    assert "d: no interval or p for test_macro_f1" in printed(runs, ["model"], [METRIC], capsys)


def test_donors_that_are_few_widen_the_interval(tmp_path):
    runs = with_predictions(grid(5), tmp_path, donors=4).assign(fixed_test=0.0, test_donors=1.0, natural_donors=3.0)
    plain = summary.summarise(runs.drop(columns="test_donors"), ["model"], ["test_accuracy"])
    table = summary.summarise(runs, ["model"], ["test_accuracy"])
    assert Designs(runs).kind("d") == "donors" and Designs(runs).ratio("d", METRIC) == pytest.approx(1 / 3)
    widths = [one["test_accuracy_high"] - one["test_accuracy_low"] for one in (table, plain)]
    assert (widths[0] > widths[1]).all()


# which types a metric is about, and how few test cells it rests on


def test_the_ratio_is_that_of_the_types_that_a_metric_averages(tmp_path):
    runs = per_class(tmp_path, grid(3), natural=(900, 40, 3), test=(200, 10, 1))
    designs = Designs(runs)
    over_all = (1 / 900 + 1 / 40 + 1 / 3) / (1 / 200 + 1 / 10 + 1)
    tail = (1 / 40 + 1 / 3) / (1 / 10 + 1)
    assert designs.ratio("d", METRIC) == pytest.approx(over_all) == designs.ratio("d", f"{METRIC}.logit_adjust")
    assert designs.ratio("d", "test_recall_tail") == pytest.approx(tail)
    assert designs.ratio("d", "test_recall:DC") == pytest.approx(10 / 40)
    assert designs.ratio("d", "test_accuracy") == designs.ratio("d", "trial_seconds") == 20 / 80, "the whole split's"
    assert Designs(grid(3)).ratio("d", METRIC) == 20 / 80, "no table can be read"


def few_cells(folder, splits: int, cells: int) -> pd.DataFrame:
    """Return runs of redrawn splits that test `cells` cells of each of three types, a third of them found wrongly."""
    runs = with_predictions(grid(splits), folder, cells=3 * cells, redrawn=True).assign(fixed_test=0.0)
    runs = per_class(folder, runs, natural=(4 * cells,) * 3, test=(cells,) * 3, names=("a", "b", "c"))
    for at, run in runs.iterrows():
        table = Stored(None).predictions(run)
        runs.loc[at, "test_recall:a"] = np.mean(table.predicted[table.truth == 0] == 0)
    return runs


def test_where_a_types_test_cells_and_splits_are_few_the_cells_are_drawn_again(tmp_path, capsys):
    runs = few_cells(tmp_path, splits=4, cells=5)
    designs = Designs(runs)
    row = summary.summarise(runs, ["model", "strategy"], ["test_recall:a"], designs).iloc[0]
    mine = runs.iloc[:4]
    drawn = designs._drawn("d", mine, "test_recall:a", None)
    error = intervals.resampled(mine["test_recall:a"].to_numpy(), drawn)
    assert error.size != pytest.approx(intervals.redrawn(mine["test_recall:a"].to_numpy(), 0.25).size)
    ends = intervals.interval(mine["test_recall:a"].mean(), error, (0, 1))
    assert [row["test_recall:a_low"], row["test_recall:a_high"]] == pytest.approx(ends)
    (said,) = designs.notes
    assert "under 10 test cells in a split" in said and "paired bootstrap" in said


def test_tables_per_type_are_read_once_per_split_not_per_row(tmp_path, monkeypatch):
    runs, stored = per_class(tmp_path, grid(3)), Stored(None)
    read, per_type = [], stored.per_class
    monkeypatch.setattr(stored, "per_class", lambda run: read.append(run["run_id"]) or per_type(run))
    table = summary.summarise(runs, ["model", "strategy"], [METRIC], Designs(runs, stored))
    assert len(table) == 4 and len(read) == 3


@pytest.mark.parametrize(("splits", "cells"), [(6, 5), (4, 12)])
def test_enough_splits_or_cells_keep_students_t(tmp_path, splits, cells):
    runs = few_cells(tmp_path, splits, cells)
    row = summary.summarise(runs, ["model", "strategy"], ["test_recall:a"]).iloc[0]
    values = runs["test_recall:a"].to_numpy()[:splits]
    ends = intervals.interval(values.mean(), intervals.redrawn(values, 0.25), (0, 1))
    assert [row["test_recall:a_low"], row["test_recall:a_high"]] == pytest.approx(ends)


# one type, and which are rare


def per_class(
    folder, runs: pd.DataFrame, natural=(900, 40, 3), test=(200, 10, 1), names=("T cell", "DC", "NA")
) -> pd.DataFrame:
    for run_id in runs["run_id"]:
        (folder / run_id).mkdir(exist_ok=True)
        table = pd.DataFrame({"class": names, "natural": natural, "train": natural, "test": test})
        hits = np.rint(np.array([0.9, 0.5, 0.0]) * test)  # half of what is predicted is right
        table = table.assign(recall=hits / test, precision=np.where(hits, 0.5, 0.0), predicted=2 * hits)
        table["f1"] = 2 * hits / (table["test"] + table["predicted"])
        table.to_csv(folder / run_id / "per_class.csv", index=False)
    return runs.assign(artifact_uri=[str(folder / run_id) for run_id in runs["run_id"]], test_recall_tail=0.25)


def test_one_types_numbers_come_with_its_test_cells_and_wilsons_interval(tmp_path, capsys):
    runs = per_class(tmp_path, grid(3))
    mine = celltypes.with_type(runs, "DC", Stored(None))
    said = printed(mine, ["model"], ["test_recall:DC"], capsys)
    row = summary.summarise(mine, ["model"], ["test_recall:DC"]).iloc[0]
    ends = [row["test_recall:DC_one_low"], row["test_recall:DC_one_high"]]
    assert row["test_cells:DC"] == 10 and ends == pytest.approx([0.2366, 0.7634], abs=1e-4)
    assert said.startswith("DC ") and "0.24–0.76" in said and "so few test cells of the type leave open" in said
    assert celltypes.with_type(runs, "NA", Stored(None))["test_cells:NA"].eq(1).all(), "a type may be called NA"
    with pytest.raises(RequestError, match="unknown cell type 'dc'; did you mean DC"):
        celltypes.with_type(runs, "dc", Stored(None))


@pytest.mark.parametrize("name", celltypes.NUMBERS)
def test_every_number_of_a_type_has_an_interval_in_bounds_and_its_test_cells(tmp_path, name, capsys):
    """Also where all splits agree, so that there is no spread over them: none of NA's cells is found."""
    runs = per_class(tmp_path, grid(3))
    for kind, cells in (("DC", 10), ("NA", 1)):
        mine, metric = celltypes.with_type(runs, kind, Stored(None)), f"test_{name}:{kind}"
        row = summary.summarise(mine, ["model"], [metric]).iloc[0]
        low, high = row[f"{metric}_one_low"], row[f"{metric}_one_high"]
        assert row[f"test_cells:{kind}"] == cells
        if (kind, name) != ("NA", "precision"):  # never predicted: a share of no cells
            assert 0 <= low <= row[metric] <= high <= 1 and high - low > 0.4
        said = printed(mine, ["model"], [metric], capsys)
        assert "one split" in said and "test cells" in said.splitlines()[1]


def test_numbers_of_the_rarefied_type_say_on_how_many_test_cells_they_rest(capsys):
    thinned = grid(3).assign(test_f1_rarefied=0.5)
    thinned["test_cells_rarefied"] = 15.0 + thinned["split"].astype(int)
    assert "test cells of the rarefied type in a split: 15 to 17" in printed(
        thinned, ["model"], ["test_f1_rarefied"], capsys
    )
    found = comparison.compare(thinned, "strategy", ["model"], "test_f1_rarefied")
    assert "test cells of the rarefied type in a split: 15 to 17" in differences.explained(found)
    assert "test cells" not in printed(thinned, ["model"], [METRIC], capsys).replace("the test cells' numbers", "")


def test_tables_name_the_rare_types_by_their_natural_count(tmp_path, capsys):
    runs = per_class(tmp_path, grid(3))
    said = " ".join(printed(runs, ["model"], ["test_recall_tail"], capsys).split())
    assert "d: rare are NA (3, 1), DC (40, 10) (training cells before the skew, test cells; of a split)" in said
    few = per_class(tmp_path, grid(3), natural=(9, 9, 9))
    assert "all types are rare (up to 50 training cells): recall_tail is balanced_accuracy" in " ".join(
        printed(few, ["model"], ["test_recall_tail"], capsys).split()
    )


def test_whatever_is_asked_about_rare_types_names_them(tmp_path, capsys):
    metric, runs = "test_recall_tail", per_class(tmp_path, grid(3))
    runs = runs.assign(**{metric: runs[METRIC], "gpu": "", "trial_seconds": 1.0})
    designs = Designs(runs)
    told = {
        "compare": differences.explained(comparison.compare(runs, "strategy", ["model"], metric)),
        "leaderboard": leaderboard.explained(leaderboard.boards(runs, metric, designs), runs, designs),
        "answer": answer.answer(runs, "recall_tail", designs).sentences,
        "shares": variance.of_variance(runs, metric, designs)[0].rare,
        "results": printed(runs, ["model"], [metric], capsys).splitlines(),
    }
    lacking = [name for name, said in told.items() if not any(one.startswith("d: rare are NA (3, 1)") for one in said)]
    assert not lacking


# the table that ends a run


def test_the_best_is_marked_and_baselines_stand_apart_below(capsys):
    runs = grid(5)
    runs.loc[(runs["model"] == "logistic_regression") & (runs["strategy"] == "oversample"), METRIC] += 0.1
    of_choices.end(runs, Designs(runs))
    said = capsys.readouterr().out
    rows = [line.split() for line in said.splitlines() if line.endswith(" 5")]
    assert [row[0] for row in rows] == ["scgpt", "scgpt", "logistic_regression", "logistic_regression"]
    assert rows[2][1:3] == ["oversample", "best"] and not any("best" in row for row in (*rows[:2], rows[3]))
    assert "picked from all, which flatters it" in said


def test_the_table_that_ends_a_run_never_averages_skews_and_says_how_unequal_they_are(tmp_path, capsys):
    """oversample costs at the natural mix what it gains at the steep one: a mean over both would show nothing."""
    natural, steep = grid(5), grid(5).assign(skew="step-90", run_id=lambda runs: "s" + runs["run_id"])
    for runs, gain in ((natural, -0.1), (steep, 0.1)):
        runs.loc[runs["strategy"] == "oversample", METRIC] += gain
    runs = pd.concat(
        [per_class(tmp_path, natural, natural=(900, 40, 3)), per_class(tmp_path, steep, natural=(900, 30, 10))],
        ignore_index=True,
    )
    of_choices.end(runs, Designs(runs))
    out = capsys.readouterr().out
    blocks, said = out.split("skew step-90"), " ".join(out.split())
    assert "skew natural" in blocks[0] and len(blocks) == 2
    means = [
        float(line.split()[2])
        for block in blocks
        for line in block.splitlines()
        if line.startswith("scgpt") and "oversample" in line
    ]
    assert means[1] - means[0] == pytest.approx(0.2, abs=0.001)
    assert "natural: 300 to 1 (900 to 3 of a type), 943 cells" in said
    assert "step-90: 90 to 1 (900 to 10 of a type), 940 cells" in said
    assert "a row averages nothing else" in said


def test_nothing_to_end_with_prints_nothing(capsys):
    runs = grid().assign(status="RUNNING")
    of_choices.end(runs, Designs(runs))
    assert capsys.readouterr().out == ""


def test_a_row_of_one_run_averages_nothing(capsys):
    runs = grid(3).assign(skew=["natural", "rarefy-T-5"] * 6)
    said = " ".join(printed(runs, ["model", "strategy"], [METRIC], capsys).split())
    assert "a row averages 2 skews (natural, rarefy-T-5)" in said
    assert "a row averages nothing else" in printed(runs, ["run_id"], [METRIC], capsys)
