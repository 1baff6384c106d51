"""From MLflow to the runs that a sweep wants: the filter, the warnings, and nothing that could be executed."""

import json
import shutil

import pandas as pd
import pytest
from fake_trials import spec

from data_pipeline.errors import RequestError
from sweeps.answers import comparison, state, summary
from sweeps.answers.runs import results, selection
from sweeps.commands import asking
from sweeps.tracking import registration, uris
from sweeps.tracking import store as tracking
from sweeps.tracking.kept import database as database_of_mlflow
from sweeps.tracking.kept import runs as reading
from sweeps.tracking.kept import wanted

METRIC = "test_macro_f1"


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
                row |= {"test_cells": 20.0, "natural_cells": 80.0, "fixed_test": 0.0, "settings": ""}
                rows.append(row | {METRIC: base + extra, "val_loss": 1.0})
    return pd.DataFrame(rows)


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
        ("test_macro_f1 < val_loss", 12),
    ],
)
def test_where_selects_runs(runs, expression, expected):
    assert len(selection.where(runs, expression)) == expected


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ('modle == "scgpt"', "unknown column 'modle'; did you mean model?"),
        ("model ==", "invalid syntax"),
        ("skew == natural", 'natural is a skew, not a column; text wants quotes: skew == "natural"'),
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


def test_where_that_keeps_nothing_says_what_there_is(runs):
    with pytest.raises(RequestError) as caught:
        selection.where(runs, 'skew == "natural-350" and test_macro_f1 > 0')
    assert "no run is like that; skew is one of natural; test_macro_f1 is from 0.1 to 0.8" in str(caught.value)


def test_precisions_mixed_under_one_name_stand_above_every_table(runs):
    runs["precision"] = "float32"
    assert results.warning(runs) is None
    runs.loc[0, "precision"] = "bfloat16"
    said = (
        "WARNING: runs of scgpt were computed in different precisions (float32 in 5, bfloat16 in 1): they are not alike"
    )
    assert results.warning(runs) == said


def test_genes_fitted_on_cells_that_the_skew_takes_away_stand_above_every_table(runs):
    runs["genes_fit"] = ""
    assert results.warning(runs) is None
    runs.loc[:1, "genes_fit"] = "natural"
    assert "2 of 12 runs were fitted on all training cells of the split" in results.warning(runs)


def test_kinds_of_cpu_are_told_where_runs_are_compared(runs):
    runs["machine"] = "Linux x86_64, AMD EPYC 7763, 8 cores"
    assert results.of_processors(runs) is None
    runs.loc[:2, "machine"] = "Linux x86_64, AMD EPYC 7763, 64 cores"
    assert results.of_processors(runs) is None, "as many cores as there are"
    runs.loc[:2, "machine"] = "Linux x86_64, Intel Xeon Platinum 8375C, 8 cores"
    said = results.of_processors(runs)
    assert "2 kinds of CPU (AMD EPYC 7763; Intel Xeon Platinum 8375C)" in said
    assert results.of_processors(runs.drop(columns="machine")) is None


# runs that a sweep no longer wants


def edited(runs: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, dict[str, str]]]:
    """Return the runs and those of an edited file beside them, 0.3 higher after 15 epochs; and all parameters."""
    again = runs.assign(run_id=runs["run_id"] + "-15", key="b" + runs["key"].str[1:], wanted=True)
    again[METRIC] += 0.3
    both = pd.concat([runs.assign(wanted=False), again], ignore_index=True)
    params = {
        row.run_id: {"model": row.model}
        | ({} if row.model == "majority" else {"recipe.epochs": "15" if row.wanted else "2"})
        for row in both.itertuples()
    }
    return both, params


def test_only_the_runs_that_the_file_wants_count(runs, monkeypatch):
    both, params = edited(runs)
    monkeypatch.setattr(results, "params_of", lambda uri, run_ids: params)
    chosen, said = results.choose("", both, every=False)
    assert said == "12 runs of trials that the sweep's file no longer has are left out (--all shows them too)"
    for finished, shown in ((0, "none of them is finished"), (5, "--all shows the 5 finished ones too")):
        both.loc[both.index[~both["wanted"]][finished:], "status"] = "KILLED"
        assert results.choose("", both, every=False)[1].endswith(f"are left out ({shown})")
        both["status"] = "FINISHED"
    table = summary.summarise(chosen, ["model", "strategy"], [METRIC])
    assert table[METRIC].tolist() == pytest.approx([1.0, 1.0, 0.5, 0.5]) and not chosen["settings"].any()


def test_runs_that_share_all_labels_but_not_the_key_are_never_averaged(runs, monkeypatch):
    scgpt = runs[runs["model"] == "scgpt"]
    both, params = edited(scgpt)
    with pytest.raises(RequestError, match="12 finished runs share all labels"):
        summary.summarise(both, ["model"], [METRIC])
    monkeypatch.setattr(results, "params_of", lambda uri, run_ids: params)
    every, said = results.choose("", both, every=True)
    table = summary.summarise(every, ["model"], [METRIC])
    assert said is None and table["settings"].tolist() == ["recipe.epochs=2", "recipe.epochs=15"]
    assert table[METRIC].tolist() == pytest.approx([0.7, 1.0])
    with pytest.raises(RequestError, match="recipe.epochs=2; recipe.epochs=15. Choose with --where 'settings =="):
        comparison.compare(every, "strategy", [], METRIC)
    one = selection.where(every, 'settings == "recipe.epochs=15"')
    assert comparison.compare(one, "strategy", [], METRIC).table["pairs"].tolist() == [3]


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
    tracker = tracking.Tracker(uris.default_uri(tmp_path), "small", tmp_path)
    tracker.want([trial.key for trial in trials[:6]])
    assert tracker.close(60)
    return tmp_path


def test_fetch_reads_every_run_page_by_page(sweep, monkeypatch):
    monkeypatch.setattr(reading, "PAGE", 3)
    monkeypatch.setattr(reading, "read_runs", lambda uri, name: None)
    uri = uris.of_sweep(sweep, None, "small")
    found = results.fetch(uri, "small")
    assert sorted(found["name"]) == sorted(trial.name for trial in spec().trials())
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


def test_status_names_the_fits_that_did_not_converge(sweep, capsys):
    runs = results.fetch(uris.of_sweep(sweep, None, "small"), "small")
    assert state.summary("small", sweep, runs).unconverged == []
    found = state.summary("small", sweep, runs.assign(converged=0.0))
    assert found.unconverged == runs.loc[runs["status"] == "FINISHED", "name"].tolist()
    state.show(found, as_json=False)
    assert "1 fits did not converge (metric converged = 0; the first: " in capsys.readouterr().out


def test_status_believes_running_runs_while_a_driver_lives(sweep):
    from sweeps.tracking.locks.lock import SweepLock

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
    monkeypatch.setattr(registration, "read_runs", lambda uri, name: None)
    assert len(direct) == 8 and direct == tracker.runs()
    assert tracker.close(10)


def test_a_database_of_another_shape_is_left_to_mlflow(sweep):
    import sqlite3

    with sqlite3.connect(sweep / "mlflow.db") as database:
        database.execute("ALTER TABLE latest_metrics RENAME TO other_metrics")
    database.close()
    assert database_of_mlflow.read_runs(f"sqlite:///{sweep}/mlflow.db", "small") is None


def test_the_keys_wanted_are_known_from_mlflow_alone(sweep, monkeypatch):
    uri = uris.of_sweep(sweep, None, "small")
    shutil.rmtree(sweep / "sweeps")
    runs = results.fetch(uri, "small")
    wanted_keys = [trial.key for trial in spec().trials()[:6]]
    assert runs.loc[runs["wanted"], "key"].tolist() == wanted_keys, "in the file's order, whichever began first"
    assert runs["key"].head(6).tolist() == wanted_keys
    monkeypatch.setattr(reading, "read_tags", lambda uri, name: None)
    assert results.fetch(uri, "small")["wanted"].equals(runs["wanted"])


def test_thousands_of_keys_are_kept_in_tags_that_mlflow_takes():
    tags: dict[str, str] = {}
    first, second = [f"{n:016x}" for n in range(5000)], [f"{n:016x}" for n in range(10, 700)]
    for keys in (first, second, first[:1]):
        written = {}
        wanted.write(keys, tags, written.__setitem__)
        assert max(map(len, written.values())) <= 5000 and list(written)[-1] == wanted.TAG
        for name in list(written)[:-1]:  # half written: what was wanted before stays
            before = wanted.read(tags)
            tags[name] = written[name]
            assert wanted.read(tags) == before
        tags |= written
        assert wanted.read(tags) == set(keys)
    wanted.write(first[:1], tags, lambda *said: pytest.fail("written again"))
    assert wanted.read({}) is None


def test_where_that_keeps_runs_none_of_which_is_finished_says_so(runs):
    some = runs.assign(status=["FINISHED" if model == "majority" else "RUNNING" for model in runs["model"]])
    assert len(selection.where(some, 'model == "majority"'))
    with pytest.raises(RequestError, match="none of these .* runs is finished; of the finished, model is one of majo"):
        selection.where(some, 'model == "scgpt"')
    nothing = some.assign(status="RUNNING")
    assert len(selection.where(nothing, 'model == "scgpt"')), "then status is the answer"


# the commands


def test_results_without_options_never_fails_for_want_of_a_metric(sweep, capsys):
    """The one finished trial has no rare type, so no test_recall_tail, and no balanced accuracy."""
    asking.results("small", storage=sweep)
    printed = capsys.readouterr()
    assert "macro_f1" in printed.out and "0.500" in printed.out and "recall_tail" not in printed.out
    assert "2 runs of trials that the sweep's file no longer has are left out (none of them is finished)" in printed.err
    with pytest.raises(RequestError, match="unknown metric 'recall_tail'"):
        asking.results("small", metric="recall_tail", storage=sweep)
    with pytest.raises(RequestError, match="no run is like that; model is one of majority, scgpt"):
        asking.results("small", where='model == "scbert"', storage=sweep)


def test_results_of_a_sweep_with_nothing_finished_are_an_empty_table(tmp_path, capsys):
    (tmp_path / "sweeps").mkdir()
    tracker = tracking.Tracker(uris.default_uri(tmp_path), "small", tmp_path)
    tracker.register(spec().trials(), {}, lambda done, total: None)
    assert tracker.close(60)
    asking.results("small", storage=tmp_path)
    assert capsys.readouterr().out == "no finished trial yet\n"
    asking.results("small", as_json=True, storage=tmp_path)
    assert json.loads(capsys.readouterr().out)["rows"] == []


def test_compare_wants_either_a_choice_or_the_files_questions(sweep):
    for given in ({}, {"between": "model", "questions": True}):
        with pytest.raises(RequestError, match="either --between CHOICE or --questions"):
            asking.compare("small", storage=sweep, **given)
    with pytest.raises(RequestError, match="the sweep's file has no `questions:`"):
        asking.compare("small", questions=True, storage=sweep)


def test_pandas_copies_no_list_of_keys_at_every_step():
    """It copies deeply what a frame is told; of thousands of keys that took four fifths of `results`."""
    import copy

    for told in (results.Keys(["a", "b"]), results.Rows([{"key": "a"}])):
        assert copy.deepcopy(told) is told
    assert results.Keys("ab") - {"a"} == {"b"} and list(results.Rows([1, 2])) == [1, 2]
