"""From MLflow to a table: means, spread, intervals, the filter, the warning, and nothing that could be executed."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from fake_trials import spec

from data_pipeline.errors import RequestError
from sweeps.answers import results, selection, state
from sweeps.tracking import database as database_of_mlflow
from sweeps.tracking import runs as reading
from sweeps.tracking import store as tracking
from sweeps.tracking import uris


@pytest.fixture
def runs() -> pd.DataFrame:
    rows = []
    for model, base in (("scgpt", 0.6), ("majority", 0.1)):
        for strategy in ("none", "oversample"):
            for split, extra in enumerate((0.0, 0.1, 0.2)):
                row = {"run_id": f"{model}{strategy}{split}", "status": "FINISHED", "key": f"{len(rows):016x}"}
                row |= {"name": f"d·{model}", "started": 0, "ended": 1000 * len(rows), "reason": "", "defects": ""}
                row |= {"dataset": "d", "split": str(split), "skew": "natural", "strategy": strategy}
                row |= {"loss": "cross_entropy", "model": model, "seed": "0", "protocol": "corrected"}
                rows.append(row | {"test_macro_f1": base + extra, "val_loss": 1.0})
    return pd.DataFrame(rows)


def test_means_and_intervals_are_those_worked_by_hand(runs):
    table = results.summarise(runs, ["model", "strategy"], ["test_macro_f1"])
    assert list(table["n"]) == [3, 3, 3, 3] and list(table["model"]) == ["scgpt", "scgpt", "majority", "majority"]
    first = table.iloc[0]
    assert first["test_macro_f1"] == pytest.approx(0.7) and first["test_macro_f1_sd"] == pytest.approx(0.1)
    half = 4.302652729911275 * 0.1 / math.sqrt(3)  # Student's t, 97.5 %, 2 degrees of freedom
    assert first["test_macro_f1_low"] == pytest.approx(0.7 - half)
    assert first["test_macro_f1_high"] == pytest.approx(0.7 + half)


def test_one_run_has_no_spread_and_unfinished_runs_do_not_count(runs):
    runs.loc[runs["split"] != "0", "status"] = "RUNNING"
    table = results.summarise(runs, ["model"], ["test_macro_f1"])
    assert list(table["n"]) == [1, 1] and list(table["runs"]) == [2, 2]
    single = results.summarise(runs, ["model", "strategy"], ["test_macro_f1"])
    assert single["test_macro_f1_sd"].isna().all() and single["test_macro_f1_low"].isna().all()


def test_what_differs_within_a_seed_is_averaged_before_the_seeds_are_compared(runs):
    runs.loc[runs["strategy"] == "oversample", "test_macro_f1"] += 0.4
    table = results.summarise(runs, ["model"], ["test_macro_f1"])
    apart = results.summarise(runs, ["model", "strategy"], ["test_macro_f1"])
    assert table["n"].tolist() == [3, 3] and table["runs"].tolist() == [6, 6] and not table["uneven"].any()
    assert table.loc[0, "test_macro_f1"] == pytest.approx(0.9)  # between 0.7 and 1.1
    assert table.loc[0, "test_macro_f1_sd"] == pytest.approx(apart.loc[0, "test_macro_f1_sd"])  # not that of 6 runs


def test_seeds_with_different_runs_are_marked(runs, capsys):
    runs.loc[(runs["split"] == "2") & (runs["model"] == "scgpt") & (runs["strategy"] == "none"), "status"] = "FAILED"
    table = results.summarise(runs, ["model"], ["test_macro_f1"])
    assert dict(zip(table["model"], table["uneven"], strict=True)) == {"scgpt": True, "majority": False}
    results.show(table, ["model"], ["test_macro_f1"], "table", None)
    said = capsys.readouterr().out
    assert " 3*\n" in said and "some seeds lack finished runs" in said
    assert not results.summarise(runs, ["model", "strategy"], ["test_macro_f1"])["uneven"].any()


def test_a_metric_that_some_runs_lack_says_how_many_have_it(runs):
    runs.loc[0, "test_macro_f1"] = np.nan
    table = results.summarise(runs, ["model", "strategy"], ["test_macro_f1"])
    assert table.loc[0, "n"] == 3 and table.loc[0, "n_test_macro_f1"] == 2
    assert table.loc[0, "test_macro_f1"] == pytest.approx(0.75)


def test_unknown_columns_and_metrics_are_named_together(runs):
    with pytest.raises(RequestError) as caught:
        results.summarise(runs, ["modle"], ["test_macro_f2"])
    assert caught.value.problems[0].startswith("unknown column 'modle'; did you mean model?")
    assert caught.value.problems[1].startswith("unknown metric 'test_macro_f2'; did you mean test_macro_f1?")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('model == "scgpt"', 6),
        ('model == "scgpt" and strategy != "none"', 3),
        ('not model == "scgpt"', 6),
        ('strategy in ("none", "smote") or test_macro_f1 > 0.75', 7),
        ('strategy not in ["none"]', 6),
        ("0.2 <= test_macro_f1 < 0.65", 6),
        ("split == 1", 4),
        ("split in (0, 1)", 8),
        ("1 < split", 4),
        ("test_macro_f1 > -1", 12),
        ("test_macro_f1 > val_loss", 0),
    ],
)
def test_where_selects_runs(runs, expression, expected):
    assert len(selection.where(runs, expression)) == expected


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ('modle == "scgpt"', "unknown column 'modle'; did you mean model?"),
        ("model ==", "invalid syntax"),
        ("model", "'model' is not a comparison"),
        ("__import__('os').system('true') == 0", "is not allowed"),
        ("model.__class__ == 1", "'model.__class__' is not allowed"),
        ("test_macro_f1 + 1 > 2", "'test_macro_f1 + 1' is not allowed"),
        ("model is 3", "`is` is not allowed; use =="),
        ('test_macro_f1 > "a"', "compares text with a number"),
        ('"a" in model', "`in` needs a column and a list"),
    ],
)
def test_where_refuses_what_is_no_plain_comparison(runs, expression, said):
    with pytest.raises(RequestError) as caught:
        selection.where(runs, expression)
    assert said in str(caught.value) and str(caught.value).startswith("--where ")


def test_runs_with_defects_stand_under_a_warning_in_every_format(runs, capsys):
    runs.loc[:1, "defects"] = "select_on_test,resample_before_split"
    said = results.warning(runs)
    assert said == (
        "WARNING: 2 of 12 runs were made with known defects on purpose: resample_before_split, select_on_test"
    )
    table = results.summarise(runs, ["model"], ["test_macro_f1"])
    results.show(table, ["model"], ["test_macro_f1"], "table", said)
    assert "WARNING: 2 of 12 runs" in capsys.readouterr().out
    results.show(table, ["model"], ["test_macro_f1"], "csv", said)
    assert capsys.readouterr().out.startswith("# WARNING: 2 of 12 runs")
    results.show(table, ["model"], ["test_macro_f1"], "json", said)
    assert json.loads(capsys.readouterr().out)["warning"] == said
    assert results.warning(runs.assign(defects="")) is None


def test_json_has_null_where_a_number_is_undefined(runs, capsys):
    table = results.summarise(runs[runs["split"] == "0"], ["model", "strategy"], ["test_macro_f1"])
    results.show(table, ["model", "strategy"], ["test_macro_f1"], "json", None)
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert row["test_macro_f1"] == 0.6 and row["test_macro_f1_sd"] is None


def test_no_finished_trial_is_said_so(runs, capsys):
    table = results.summarise(runs.assign(status="SCHEDULED"), ["model"], ["test_macro_f1"])
    results.show(table, ["model"], ["test_macro_f1"], "table", None)
    assert capsys.readouterr().out == "no finished trial yet\n"


# with a store


@pytest.fixture
def sweep(tmp_path):
    """A sweep of eight registered trials: one finished, one failed, one running, one interrupted."""
    (tmp_path / "sweeps").mkdir()
    tracker = tracking.Tracker(uris.default_uri(tmp_path), "small", tmp_path)
    trials = spec().trials()
    listed = list(tracker.register(trials, {}, lambda done, total: None).values())
    tracker.report(listed[0].run_id, {"epoch": 3, "test_macro_f1": 0.5})
    tracker.finish(listed[0].run_id, "FINISHED", {})
    tracker.finish(listed[1].run_id, "FAILED", {"cellskew.reason": "ValueError: loss is not finite"})
    tracker.start(listed[2].run_id, {})
    tracker.finish(listed[3].run_id, "KILLED", {"cellskew.reason": "stopped by Ctrl-C"})
    assert tracker.close(60)
    (tmp_path / "sweeps" / "small.keys").write_text("".join(f"{trial.key} {trial.name}\n" for trial in trials[:6]))
    return tmp_path


def test_fetch_reads_every_run_page_by_page(sweep, monkeypatch):
    monkeypatch.setattr(reading, "PAGE", 3)
    monkeypatch.setattr(reading, "read_runs", lambda uri, name: None)
    uri = uris.of_sweep(sweep, None, "small")
    found = results.fetch(uri, "small")
    assert list(found["name"]) == [trial.name for trial in spec().trials()]
    assert dict(found["status"].value_counts()) == {
        "SCHEDULED": 4,
        "FINISHED": 1,
        "FAILED": 1,
        "RUNNING": 1,
        "KILLED": 1,
    }
    assert found.loc[0, "test_macro_f1"] == 0.5 and found.loc[0, "model"] == "scgpt"


def test_status_counts_what_is_wanted_and_knows_that_nobody_drives(sweep):
    found = state.summary("small", sweep, results.fetch(uris.of_sweep(sweep, None, "small"), "small"))
    assert found.counts == {"finished": 1, "failed": 1, "interrupted": 2, "scheduled": 2}
    assert found.wanted == 6 and found.removed == 2 and found.driver == "no driver is running"
    assert list(found.failed["reason"]) == ["ValueError: loss is not finite"]


def test_status_without_a_failure_lists_none(sweep):
    runs = results.fetch(uris.of_sweep(sweep, None, "small"), "small")
    found = state.summary("small", sweep, runs[runs["status"] != "FAILED"])
    assert found.failed.empty and found.troubled.empty
    assert found.seconds_left is None


def test_status_believes_running_runs_while_a_driver_lives(sweep):
    from sweeps.tracking.lock import SweepLock

    with SweepLock(sweep / "sweeps" / "small.lock"):
        found = state.summary("small", sweep, results.fetch(uris.of_sweep(sweep, None, "small"), "small"))
    assert found.counts["running"] == 1 and found.counts["interrupted"] == 1
    assert found.driver.startswith("driver: pid ")


def test_a_sweep_nobody_ran_is_refused_with_the_nearest_name(sweep, tmp_path):
    with pytest.raises(RequestError, match="unknown sweep 'smal'; did you mean small?"):
        results.fetch(uris.of_sweep(sweep, None, "smal"), "smal")
    with pytest.raises(RequestError, match="no sweep has been run in .*; say where with --storage"):
        uris.of_sweep(tmp_path / "elsewhere", None, "small")


def test_the_embedded_database_read_directly_gives_what_mlflow_gives(sweep, monkeypatch):
    uri = uris.of_sweep(sweep, None, "small")
    direct = results.fetch(uri, "small")
    monkeypatch.setattr(reading, "read_runs", lambda uri, name: None)
    pd.testing.assert_frame_equal(direct, results.fetch(uri, "small"), check_like=True)


def test_a_driver_that_reads_the_database_directly_knows_what_mlflow_would_tell_it(sweep, monkeypatch):
    tracker = tracking.Tracker(uris.of_sweep(sweep, None, "small"), "small", sweep)
    direct = tracker.runs()
    monkeypatch.setattr(tracking, "read_runs", lambda uri, name: None)
    assert len(direct) == 8 and direct == tracker.runs()
    assert tracker.close(10)


def test_a_database_of_another_shape_is_left_to_mlflow(sweep):
    import sqlite3

    with sqlite3.connect(sweep / "mlflow.db") as database:
        database.execute("ALTER TABLE latest_metrics RENAME TO other_metrics")
    database.close()
    assert database_of_mlflow.read_runs(f"sqlite:///{sweep}/mlflow.db", "small") is None
