"""Runs on a server: one question makes each, the outbox tells the rest, whatever was killed in between."""

import threading
import time
from pathlib import Path

import pytest
from fake_trials import spec

from sweeps.drive.contents import STARTED
from sweeps.tracking.kept.database import BEGAN
from sweeps.tracking.kept.runs import stored
from sweeps.tracking.outbox import Outbox
from sweeps.tracking.registration import params_of
from sweeps.tracking.store import Tracker
from sweeps.tracking.uris import default_uri

TRIALS = spec().trials()[:3]


def one_by_one(storage: Path) -> Tracker:
    """Return a tracker that asks of its store what it would ask of a server."""
    tracker = Tracker(default_uri(storage), "small", storage)
    tracker.is_joint = tracker.registration.is_joint = tracker.delivery.is_joint = False
    return tracker


def nothing(*given: object, **named: object) -> None:
    raise AssertionError("a question that isn't needed")


def test_a_run_is_made_by_one_question_and_told_its_parameters_before_anything_else(tracker, monkeypatch):
    tracker = one_by_one(tracker.storage)
    with monkeypatch.context() as patched:
        for name in ("log_batch", "update_run", "get_run", "set_tag"):
            patched.setattr(tracker.client, name, nothing)
        tracker.registration.make(TRIALS[:1], lambda done, total: None)
    runs = tracker.register(TRIALS[1:], {}, lambda done, total: None)
    monkeypatch.setattr(tracker.client, "update_run", nothing)  # asks for the whole run
    tracker.start(runs[TRIALS[1].key].run_id, {})
    assert tracker.outbox.drain(20)
    found = [tracker.client.get_run(runs[trial.key].run_id) for trial in TRIALS[1:]]
    assert [run.info.status for run in found] == ["RUNNING", "SCHEDULED"]
    assert [run.data.params for run in found] == [params_of(trial) for trial in TRIALS[1:]]


def test_a_driver_killed_while_it_registered_has_started_nothing_and_the_next_one_tells_the_rest(tracker):
    tracker = one_by_one(tracker.storage)
    tracker.registration.make(TRIALS, lambda done, total: None)  # killed before a word of it was on disk
    known = tracker.runs()
    assert not {run.status for run in known.values()} & set(STARTED)
    assert not any(run.has_params for run in known.values())
    again = tracker.register(TRIALS, known, lambda done, total: None)
    assert {key: run.run_id for key, run in again.items()} == {key: run.run_id for key, run in known.items()}
    for trial in TRIALS:
        tracker.reschedule(again[trial.key], trial)
    assert tracker.outbox.drain(20)
    assert all(run.has_params and run.status == "SCHEDULED" for run in tracker.runs().values())


def test_a_run_on_a_server_began_when_its_training_did_and_keeps_that_when_it_goes_on(tracker):
    tracker, key = one_by_one(tracker.storage), TRIALS[0].key
    run_id = tracker.register(TRIALS[:1], {}, lambda done, total: None)[key].run_id
    assert tracker.outbox.drain(20)
    before = tracker.runs()[key].started
    time.sleep(0.05)
    tracker.start(run_id, {})
    tracker.report(run_id, {"epoch": 1, "train_loss": 1.0})
    assert tracker.outbox.drain(20)
    began = tracker.runs()[key].started
    assert began >= before + 50
    time.sleep(0.05)
    tracker.start(run_id, {})
    tracker.finish(run_id, "FINISHED", {}, {"epoch": 2, "train_loss": 0.5})
    assert tracker.outbox.drain(20)
    assert tracker.runs()[key].started == began
    found = stored(tracker.client.get_run(run_id))
    assert found.started == began < found.ended, "asked of the server page by page, too"
    tracker.client.set_tag(run_id, BEGAN, "1795842844698")
    assert tracker.runs()[key].started == before, "a tag that somebody wrote over is none"


@pytest.mark.parametrize("ends", [True, False])
def test_a_slow_server_is_waited_for_as_long_as_it_takes_something(tmp_path, monkeypatch, ends):
    monkeypatch.setattr("sweeps.tracking.outbox.BATCH", 1)
    stalled = threading.Event()

    def deliver(records: list[dict]) -> None:
        time.sleep(0.05)
        if not ends and records[0]["n"] == 4:
            stalled.wait(10)

    box = Outbox(tmp_path / "out.jsonl", deliver)
    for n in range(30):
        box.put({"n": n})
    assert box.drain(1.0) == ends  # thirty of them take 1.5 s
    stalled.set()
    assert box.close(10)
