"""A strange answer of MLflow loses nothing: it is asked again, then the run is set aside, said, and delivered later."""

import json
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from fake_trials import spec
from fault_tools import wait_until
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, RESOURCE_DOES_NOT_EXIST

from sweeps.drive.outcome import Outcome, tell
from sweeps.tracking import outbox, records
from sweeps.tracking.delivery import Delivery
from sweeps.tracking.outbox import Outbox, Undeliverable
from sweeps.tracking.records import refused_path

FINAL = {"epoch": 3, "final": 1, "test_macro_f1": 0.5}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(outbox, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(outbox, "LONGEST_PAUSE", 0.02)


class Refusing:
    """A destination that refuses the news of some runs, or raises what it was told to."""

    def __init__(self, *refused: str) -> None:
        self.got: list[dict] = []
        self.refused = set(refused)
        self.raises: Exception | None = None

    def __call__(self, records: list[dict]) -> dict[str, str]:
        if self.raises is not None:
            raise self.raises
        self.got += [record for record in records if record["run"] not in self.refused]
        return {record["run"]: "not today" for record in records if record["run"] in self.refused}


def of_run(got: list[dict], run: str) -> list[int]:
    return [record["n"] for record in got if record["run"] == run]


def test_a_slow_server_is_waited_for_as_long_as_it_takes_something(tmp_path, monkeypatch):
    monkeypatch.setattr(outbox, "LONG", 0.02)
    path = tmp_path / "out.jsonl"
    path.write_text("".join(json.dumps({"run": f"r{n}", "n": n}) + "\n" for n in range(100)))
    box = Outbox(path, lambda records: time.sleep(0.004 * len(records)))
    assert box.settle(0.2), "0.4 s of work in all"
    assert box.close(1)


def test_a_batch_that_arrives_after_the_end_is_left_to_the_next_process(tmp_path, monkeypatch):
    entered, go_on, raised = threading.Event(), threading.Event(), []

    def late(records: list[dict]) -> None:
        entered.set()
        go_on.wait(10)

    monkeypatch.setattr(threading, "excepthook", raised.append)
    monkeypatch.setattr(
        threading.Thread, "join", lambda thread, timeout=None, join=threading.Thread.join: join(thread, 0.01)
    )
    box = Outbox(tmp_path / "out.jsonl", late)
    box.put({"run": "r", "n": 0})
    assert entered.wait(10) and not box.close(0)
    there = Refusing()
    second = Outbox(tmp_path / "out.jsonl", there)
    go_on.set()
    wait_until(lambda: not box._thread.is_alive(), 10, lambda: "")
    assert second.close(10) and of_run(there.got, "r") == [0] and not raised


def test_a_run_refused_for_a_while_arrives_in_order_and_holds_up_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(outbox, "MOST_REFUSALS", 1000)
    there = Refusing("a")
    box = Outbox(tmp_path / "small.outbox.jsonl", there)
    for number in range(4):
        box.put({"run": "ab"[number % 2], "n": number})
    wait_until(lambda: of_run(there.got, "b") == [1, 3], 20)
    there.refused.clear()
    assert box.close(20) and of_run(there.got, "a") == [0, 2]


def test_a_run_refused_for_good_is_set_aside_with_all_that_follows_and_delivered_by_the_next_process(tmp_path):
    path, there = tmp_path / "small.outbox.jsonl", Refusing("a")
    box = Outbox(path, there)
    box.put({"run": "a", "n": 0})
    box.put({"run": "b", "n": 1})
    assert box.drain(20) and box.aside == {"a": "not today"}
    box.put({"run": "a", "n": 2})
    box.put({"run": "b", "n": 3})
    assert not box.close(20), "not all was delivered"
    assert of_run(there.got, "b") == [1, 3] and not of_run(there.got, "a")
    assert [json.loads(line)["n"] for line in refused_path(path).read_text().splitlines()] == [0, 2]
    assert records.waiting(path) == (0, {"a": "not today"})
    there.refused.clear()
    later = Outbox(path, there)
    later.put({"run": "a", "n": 4})
    assert later.close(20) and of_run(there.got, "a") == [0, 2, 4] and not refused_path(path).exists()
    assert "refused" not in there.got[-1]


def test_a_fault_of_our_own_is_said_and_does_not_end_the_thread(tmp_path):
    there = Refusing()
    there.raises = KeyError("step")
    box = Outbox(tmp_path / "small.outbox.jsonl", there)
    box.put({"run": "a", "n": 0})
    wait_until(lambda: box.trouble == "KeyError: 'step'", 20)
    assert box.away_since is not None
    there.raises = None
    assert box.close(20) and of_run(there.got, "a") == [0]


def test_a_torn_line_loses_itself_alone(tmp_path):
    path, there = tmp_path / "small.outbox.jsonl", Refusing()
    path.write_text('{"run": "a", "n": 0}\n{"run": "a", "n\n{"run": "a", "n": 2}\n{"run": ')
    box = Outbox(path, there)
    box.put({"run": "a", "n": 3})
    assert box.close(20) and of_run(there.got, "a") == [0, 2, 3]


@pytest.mark.parametrize("junk", ["{}", "[]", "null", '{"n": 1}', '{"run": 7}', '{"run": "a", "number": "x"}'])
@pytest.mark.parametrize("note", ['{"delivered": 3}', '{"delivered": 3, "but": 1}', '{"delivered": "x", "but": []}'])
def test_a_line_that_is_no_record_stops_nothing(junk, note, tmp_path):
    path, there = tmp_path / "small.outbox.jsonl", Refusing()
    path.write_text(f'{{"number": 1, "run": "a", "n": 0}}\n{junk}\n{note}\n{{"number": 2, "run": "a", "n": 2}}\n')
    assert Outbox(path, there).close(20) and of_run(there.got, "a") == [0, 2]


def test_after_a_crash_only_what_is_not_delivered_is_delivered_again(tmp_path, monkeypatch):
    monkeypatch.setattr(outbox, "BATCH", 10)
    monkeypatch.setattr(outbox, "MOST_REFUSALS", 1000)
    path, there, crashed = tmp_path / "small.outbox.jsonl", Refusing("a"), tmp_path / "crashed.outbox.jsonl"
    box = Outbox(path, there)
    with box._changed:  # so that all are there before the first batch goes
        for number in range(50):
            box.put({"run": "a" if number in (3, 17) else "b", "n": number})
    wait_until(lambda: len(there.got) == 48, 20)
    wait_until(lambda: records.waiting(path)[0] == 2, 20)
    box.put({"run": "a", "n": 50})
    crashed.write_bytes(path.read_bytes())
    there.refused.clear()
    assert box.close(20) and len(there.got) == 51
    again = Refusing()
    assert Outbox(crashed, again).close(20) and [record["n"] for record in again.got] == [3, 17, 50]


def test_text_is_cleaned_at_the_door():
    assert records.clean({"tags": {"why\0": "M\udcfcller\0"}, "n": 1.5}) == {"tags": {"why": "M?ller"}, "n": 1.5}


# MLflow


def two_runs(tracker: Any) -> list[str]:
    return [run.run_id for run in tracker.register(spec().trials()[:2], {}, lambda done, total: None).values()]


def failing(
    monkeypatch: pytest.MonkeyPatch, client: Any, name: str, error: Exception, when: Callable[..., bool]
) -> list:
    """Have a method of a client raise an error when its first argument says so; returns a list of the failed calls."""
    calls, method = [], getattr(client, name)

    def answer(*args: Any, **named: Any) -> Any:
        if when(args[0]):
            calls.append(args)
            raise error
        return method(*args, **named)

    monkeypatch.setattr(client, name, answer)
    return calls


def finished(tracker: Any, run_id: str) -> tuple[str, dict[str, float]]:
    run = tracker.client.get_run(run_id)
    return run.info.status, run.data.metrics


def test_a_busy_database_that_answers_400_leaves_no_finished_run_without_its_numbers(tracker, monkeypatch):
    """MLflow answers BAD_REQUEST when its pool of connections is used up."""
    one, other = two_runs(tracker)
    busy = MlflowException("QueuePool limit of size 5 overflow 10 reached", error_code=BAD_REQUEST)
    calls = failing(monkeypatch, tracker.client, "log_batch", busy, lambda run_id: run_id == one and len(calls) < 5)
    for run_id in (one, other):
        tracker.finish(run_id, "FINISHED", {"cellskew.host": "here"}, FINAL)
    assert tracker.close(60) and len(calls) == 5
    assert [finished(tracker, run_id) for run_id in (one, other)] == [("FINISHED", {"test_macro_f1": 0.5})] * 2


@pytest.mark.parametrize("error", [ValueError("surrogates not allowed"), KeyError("step"), Undeliverable("500")])
def test_a_poisonous_record_sets_its_run_aside_and_no_other(tracker, monkeypatch, tmp_path, error):
    from sweeps.tracking import store as tracking

    one, other = two_runs(tracker)
    with monkeypatch.context() as patched:
        failing(patched, tracker.client, "log_batch", error, lambda run_id: run_id == one)
        for run_id in (one, other):
            tracker.report(run_id, {"epoch": 1, "train_loss": 0.25})
            tracker.finish(run_id, "FINISHED", {}, FINAL)
        assert not tracker.close(60) and list(tracker.outbox.aside) == [one]
    assert finished(tracker, other)[0] == "FINISHED" and finished(tracker, one) == ("SCHEDULED", {})
    later = tracking.Tracker(tracking.default_uri(tmp_path), "small", tmp_path)
    assert later.close(60) and finished(later, one) == ("FINISHED", {"train_loss": 0.25, "test_macro_f1": 0.5})


def test_a_database_that_takes_nothing_is_away_and_nobody_is_set_aside(tracker, monkeypatch):
    run_id, _ = two_runs(tracker)
    full = MlflowException("connection already closed", error_code=BAD_REQUEST)
    with monkeypatch.context() as patched:
        for name in ("log_batch", "set_experiment_tag"):
            failing(patched, tracker.client, name, full, lambda first: True)
        tracker.finish(run_id, "FINISHED", {}, FINAL)
        wait_until(lambda: tracker.outbox.away_since is not None, 20)
        assert not tracker.outbox.drain(0.1) and not tracker.outbox.aside
    assert tracker.close(60) and finished(tracker, run_id)[0] == "FINISHED"


def test_an_answer_of_404_that_is_not_mlflows_drops_nothing(tracker, monkeypatch):
    run_id, _ = two_runs(tracker)
    said = f"API request to endpoint /api failed with error code 404. Response body: 'no such page: {run_id}'"
    ingress = MlflowException(said, error_code=RESOURCE_DOES_NOT_EXIST)
    with monkeypatch.context() as patched:
        for name in ("log_batch", "get_run", "set_experiment_tag"):
            failing(patched, tracker.client, name, ingress, lambda first: True)
        tracker.finish(run_id, "FINISHED", {}, FINAL)
        assert not tracker.outbox.drain(0.3)
    assert tracker.close(60) and finished(tracker, run_id) == ("FINISHED", {"test_macro_f1": 0.5})


def test_an_error_text_of_half_characters_is_delivered(tracker):
    run_id, _ = two_runs(tracker)
    tracker.finish(run_id, "FAILED", {"cellskew.reason": "/data/M\udcfcller\0.h5ad"})
    assert tracker.close(60)
    assert tracker.client.get_run(run_id).data.tags["cellskew.reason"] == "/data/M?ller.h5ad"


def test_refused_news_make_a_sweep_incomplete_and_are_said(tmp_path, capsys):
    from sweeps.answers import state
    from sweeps.answers.runs import results

    outcome = Outcome(wanted=1, finished=1, refused={"r1": "BAD_REQUEST: not today"})
    assert not outcome.is_complete
    said: list[str] = []
    tell("small", tmp_path, None, "sqlite:///x", outcome, said.append)
    assert "MLflow refused the news of 1 trials time and again; the last answer: BAD_REQUEST: not today" in said
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "small.refused.jsonl").write_text('{"run": "r1", "n": 0, "refused": "not today"}\n')
    found = state.summary("small", tmp_path, pd.DataFrame(columns=results.FIXED).astype({"wanted": bool}))
    assert found.refused == {"r1": "not today"}
    state.show(found, False)
    assert "MLflow refused the news of 1 trials; the next run tries again; the last answer: not today" in (
        capsys.readouterr().out
    )


def test_points_that_were_asked_for_are_not_asked_for_again(tmp_path):
    asked: list[str] = []

    class Client:
        """An MLflow that falls over each second time that a metric's history is asked for, and once for longer."""

        def get_run(self, run_id: str) -> Any:
            info = SimpleNamespace(status="RUNNING", lifecycle_stage="active")
            return SimpleNamespace(info=info, data=SimpleNamespace(metrics=dict.fromkeys("abc", 0.5)))

        def get_metric_history(self, run_id: str, key: str) -> list[Any]:
            asked.append(key)
            if len(asked) % 2 == 0 or len(asked) in (3, 4, 5):
                raise MlflowException("too many 500 error responses")
            return [SimpleNamespace(step=1)]

        def log_batch(self, run_id: str, metrics: list, params: list, tags: list) -> None:
            assert [(one.key, one.step) for one in metrics] == [("a", 2)], "what isn't there"

        def set_experiment_tag(self, *given: str) -> None:
            """Takes it."""

    news = [{"run": "r", "step": step, "time": 0, "metrics": {"a": 0.5}} for step in (1, 2)]
    delivery = Delivery(Client(), "http://server", "1")
    attempts = [delivery.deliver(news) for _ in range(2)]
    assert [bool(refused) for refused in attempts] == [True, False] and len(set(asked[1:])) == 2
    assert not delivery.read
