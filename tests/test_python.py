"""Sweeps from Python: the same answers as the commands', as records and frames; nothing heavy until it is needed."""

import subprocess
import sys
from pathlib import Path

import fake_trials
import pytest

import sweeps
from data_pipeline.errors import RequestError

SWEEP = fake_trials.SWEEP.format(name="small", splits="[0, 1]", seeds="[0]", strategies="[none]", max_failures=3)


@pytest.fixture
def storage(tmp_path):
    """A sweep of twelve trials that are finished, but for one; the last is no longer wanted."""
    from sweeps.tracking.store import Tracker
    from sweeps.tracking.uris import default_uri

    (tmp_path / "sweeps").mkdir()
    trials = fake_trials.spec(splits="[0, 1, 2]").trials()
    tracker = Tracker(default_uri(tmp_path), "small", tmp_path)
    for trial, run in tracker.register(trials, {}, lambda done, total: None).items():
        scores = {f"test_{name}": fake_trials.score(trial, name) for name in ("macro_f1", "balanced_accuracy")}
        tracker.report(run.run_id, {"epoch": 3, "test_recall_tail": 0.5, **scores})
        tracker.finish(run.run_id, "FAILED" if trial == trials[0].key else "FINISHED", {})
    assert tracker.close(60)
    tracker = Tracker(default_uri(tmp_path), "small", tmp_path)
    tracker.want(trial.key for trial in trials[:-1])
    assert tracker.close(60)
    return tmp_path


def test_importing_it_loads_nothing_heavy():
    code = "import sweeps, sys; print(sorted({'torch', 'ray', 'mlflow', 'pandas', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_what_it_offers_is_documented():
    assert sweeps.__all__ == ["compare", "load", "plan", "results", "run"]
    for name in sweeps.__all__:
        assert "Return" in getattr(sweeps, name).__doc__ and f"sweeps.{name}(" in sweeps.__doc__


def test_load_gives_finished_trials_that_are_still_wanted(storage):
    runs, _ = sweeps.load("small", storage)
    trials = fake_trials.spec(splits="[0, 1, 2]").trials()
    assert set(runs["key"]) == {trial.key for trial in trials[1:-1]} and set(runs["status"]) == {"FINISHED"}
    assert runs["test_macro_f1"].tolist() == [fake_trials.score(key, "macro_f1") for key in runs["key"]]
    assert sweeps.load("small", f"sqlite:///{storage}/mlflow.db").trials["key"].equals(runs["key"]), (
        "MLflow knows what is wanted"
    )
    with pytest.raises(RequestError, match="unknown sweep 'smal'; did you mean small?"):
        sweeps.load("smal", storage)


def test_results_and_compare_take_a_name_or_a_part_of_the_runs(storage):
    by_name = sweeps.results("small", by=["model"], where=storage)
    runs, _ = sweeps.load("small", storage)
    assert by_name.equals(sweeps.results(runs, by=["model"])) and list(by_name["runs"]) == [5, 5]
    natural = sweeps.results(runs[runs["skew"] == "natural"], by=["model"], metrics=["test_macro_f1"])
    assert dict(zip(natural["model"], natural["runs"], strict=True)) == {"scgpt": 2, "majority": 3}
    table = sweeps.compare("small", between="model", against="scgpt", where=storage)
    assert list(table["level"]) == ["majority"] and list(table["pairs"]) == [2]
    assert table.equals(sweeps.compare(runs, between="model", against="scgpt"))


def test_run_and_plan_take_a_files_path(tmp_path, monkeypatch):
    file, asked = tmp_path / "small.yaml", []
    file.write_text(SWEEP)
    found = sweeps.plan(file, tmp_path / "runs")
    assert len(found.trials) == 8 and found.seconds > 0 and list(tmp_path.iterdir()) == [file]
    monkeypatch.setattr("sweeps.drive.converge.converge", lambda *given, look: asked.append(given) or "outcome")
    monkeypatch.chdir(tmp_path)
    assert sweeps.run("small.yaml", "runs", max_concurrent=2, retry_failed=True) == "outcome"
    ((spec, request, _),) = asked
    assert spec.name == "small" and request.storage == Path(tmp_path / "runs")
    assert (request.max_concurrent, request.retry_failed, request.tracking_uri) == (2, True, None)
