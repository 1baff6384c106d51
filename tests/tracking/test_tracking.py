"""The writer of MLflow: in order, on disk first, nothing twice, nothing lost, no password anywhere; and the locks."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fake_trials import spec
from fault_tools import wait_until

from data_pipeline.errors import RequestError
from sweeps.tracking import outbox, uris
from sweeps.tracking.artifacts import Upload, upload
from sweeps.tracking.locks import lock
from sweeps.tracking.outbox import Outbox, Undeliverable
from sweeps.tracking.uris import default_uri

# the queue on disk


class Destination:
    """Collects what is delivered; raises Undeliverable while `away`."""

    def __init__(self) -> None:
        self.got: list[dict] = []
        self.calls = 0
        self.away = False

    def __call__(self, records: list[dict]) -> None:
        self.calls += 1
        if self.away:
            raise Undeliverable("connection refused")
        self.got += records


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(outbox, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(outbox, "LONGEST_PAUSE", 0.05)


def test_records_arrive_in_order_and_the_file_is_gone_afterwards(tmp_path):
    there, path = Destination(), tmp_path / "out.jsonl"
    box = Outbox(path, there)
    for number in range(1200):
        box.put({"run": "a", "n": number})
    assert box.close(10)
    assert [record["n"] for record in there.got] == list(range(1200)) and not path.exists()
    assert there.calls < 1200, "records are handed over in batches"


def test_put_does_not_wait_for_a_destination_that_is_away_and_what_is_left_is_on_disk(tmp_path):
    there, path = Destination(), tmp_path / "out.jsonl"
    there.away = True
    box = Outbox(path, there)
    begin = time.monotonic()
    for number in range(500):
        box.put({"run": "a", "n": number})
    assert time.monotonic() - begin < 20  # an attempt each, with its pause, would take minutes
    assert not box.drain(0.2) and box.trouble == "connection refused" and box.away_since is not None
    assert not box.close(0.1)
    assert [json.loads(line)["n"] for line in path.read_text().splitlines()] == list(range(500))


def test_an_outage_ends_and_everything_arrives_once(tmp_path):
    there = Destination()
    there.away = True
    box = Outbox(tmp_path / "out.jsonl", there)
    box.put({"run": "a", "n": 0})
    time.sleep(0.1)
    box.put({"run": "a", "n": 1})
    there.away = False
    assert box.close(10)
    assert [record["n"] for record in there.got] == [0, 1] and box.trouble is None


def test_the_next_process_delivers_what_the_last_one_left(tmp_path):
    path = tmp_path / "out.jsonl"
    away = Destination()
    away.away = True
    box = Outbox(path, away)
    box.put({"run": "a", "n": 0})
    box.close(0)
    there = Destination()
    second = Outbox(path, there)
    second.put({"run": "a", "n": 1})
    assert second.close(10) and [record["n"] for record in there.got] == [0, 1]


@pytest.mark.parametrize("torn", ['{"run": "a", "n": 2', '{"run": "a", "n": 2}', "\x00\x00", '{"run": "a"}garbage\n'])
def test_a_line_cut_off_by_a_crash_is_dropped_and_the_file_goes_on_whole(tmp_path, torn):
    path = tmp_path / "out.jsonl"
    path.write_text('{"run": "a", "n": 0}\n{"run": "a", "n": 1}\n' + torn)
    there = Destination()
    box = Outbox(path, there)
    box.put({"run": "a", "n": 3})
    assert box.close(10) and [record["n"] for record in there.got] == [0, 1, 3]


def test_a_full_disk_loses_nothing_while_the_process_lives(tmp_path, monkeypatch):
    there = Destination()
    there.away = True
    box = Outbox(tmp_path / "out.jsonl", there)

    class Full:
        def write(self, text: str) -> None:
            raise OSError(28, "No space left on device")

        def __getattr__(self, name: str):
            return getattr(whole, name)

    whole, box._file = box._file, Full()
    box.put({"n": 0})
    assert "No space left" in box.trouble
    there.away = False
    assert box.close(10) and there.got == [{"n": 0}]


# MLflow


def one_run(tracker):
    trial = spec().trials()[0]
    return tracker.register([trial], tracker.runs(), lambda done, total: None)[trial.key]


def history(tracker, run_id: str, metric: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in tracker.client.get_metric_history(run_id, metric)]


def test_registering_twice_makes_one_run_per_trial(tracker):
    trials, counted = spec().trials(), []
    first = tracker.register(trials, tracker.runs(), lambda done, total: counted.append((done, total)))
    again = tracker.register(trials, tracker.runs(), lambda done, total: counted.append("again"))
    assert {key: run.run_id for key, run in first.items()} == {key: run.run_id for key, run in again.items()}
    assert counted == [(8, 8)]
    assert {run.status for run in again.values()} == {"SCHEDULED"}


def test_of_two_runs_of_one_trial_the_finished_one_stays(tracker):
    run = one_run(tracker)
    twin = tracker.client.create_run(tracker.experiment_id, tags={"cellskew.trial": run.key})
    tracker.client.set_terminated(twin.info.run_id, "FINISHED")
    assert tracker.runs()[run.key].run_id == twin.info.run_id
    assert tracker.client.get_run(run.run_id).info.lifecycle_stage == "deleted"


def test_a_point_that_is_reported_again_is_not_logged_again(tracker):
    run = one_run(tracker)
    data = {"name": "cells", "digest": "d" * 64, "source": "/data/cells.h5ad"}
    tracker.start(run.run_id, {"cellskew.digest": "d"}, data)
    tracker.start(run.run_id, {"cellskew.digest": "d"}, data)
    tracker.report(run.run_id, {"epoch": 1, "epochs": 3, "train_loss": 0.5, "note": "no number", "ok": True})
    tracker.report(run.run_id, {"epoch": 1, "train_loss": 0.5, "replayed": 1})
    tracker.report(run.run_id, {"epoch": 2, "train_loss": 0.4})
    assert tracker.outbox.drain(20)
    assert history(tracker, run.run_id, "train_loss") == [(1, 0.5), (2, 0.4)]
    found = tracker.client.get_run(run.run_id)
    assert set(found.data.metrics) == {"train_loss"} and found.info.status == "RUNNING"
    (traced,) = found.inputs.dataset_inputs
    assert (traced.dataset.name, traced.dataset.digest) == ("cells", "d" * 36)


def test_a_later_driver_asks_mlflow_which_points_it_has(tracker, tmp_path):
    from sweeps.tracking import store as tracking

    run = one_run(tracker)
    tracker.report(run.run_id, {"epoch": 1, "train_loss": 0.5})
    tracker.finish(run.run_id, "FAILED", dict.fromkeys(("cellskew.reason", "cellskew.traceback"), "line 1: no gene"))
    tracker.close(20)
    later = tracking.Tracker(default_uri(tmp_path), "small", tmp_path)
    later.reschedule(later.runs()[run.key], spec().trials()[0])
    later.report(run.run_id, {"epoch": 1, "train_loss": 0.5, "replayed": 1})
    later.report(run.run_id, {"epoch": 2, "train_loss": 0.25})
    later.finish(run.run_id, "FINISHED", {})
    assert later.close(20)
    assert history(later, run.run_id, "train_loss") == [(1, 0.5), (2, 0.25)]
    found = later.client.get_run(run.run_id)
    assert found.info.status == "FINISHED" and "line 1: no gene" not in found.data.tags.values()


def test_records_left_by_a_killed_driver_are_delivered_before_anything_else(tmp_path, tracker):
    from sweeps.tracking import store as tracking

    run = one_run(tracker)
    tracker.close(20)
    left = [
        {"run": run.run_id, "time": 1000, "metrics": {"train_loss": 0.5}, "step": 1},
        {"run": run.run_id, "time": 2000, "status": "FINISHED", "tags": {}},
    ]
    (tmp_path / "sweeps" / "small.outbox.jsonl").write_text("".join(json.dumps(record) + "\n" for record in left))
    later = tracking.Tracker(default_uri(tmp_path), "small", tmp_path)
    assert later.runs()[run.key].status == "FINISHED"
    assert history(later, run.run_id, "train_loss") == [(1, 0.5)]
    later.close(10)


def test_the_same_records_delivered_twice_change_nothing(tracker):
    run = one_run(tracker)
    records = [
        {"run": run.run_id, "time": 1000, "metrics": {"train_loss": 0.5, "val_loss": float("nan")}, "step": 1},
        {"run": run.run_id, "time": 2000, "status": "FINISHED", "tags": {"cellskew.host": "here"}},
    ]
    tracker.delivery.deliver(records)
    tracker.delivery.known.clear()
    tracker.delivery.deliver(records)
    assert history(tracker, run.run_id, "train_loss") == [(1, 0.5)]
    assert len(history(tracker, run.run_id, "val_loss")) == 1


def test_news_of_a_run_that_somebody_deleted_do_not_hold_up_the_others(tracker, caplog):
    trials = spec().trials()[:2]
    gone, here = tracker.register(trials, {}, lambda done, total: None).values()
    tracker.client.delete_run(gone.run_id)
    tracker.report(gone.run_id, {"epoch": 1, "train_loss": 0.5})
    tracker.report(here.run_id, {"epoch": 1, "train_loss": 0.25})
    assert tracker.outbox.drain(20)
    assert history(tracker, here.run_id, "train_loss") == [(1, 0.25)]
    assert f"run {gone.run_id} was deleted in MLflow; its news are dropped" in caplog.text


def test_a_deleted_experiment_is_refused_with_the_way_back(tmp_path, tracker):
    from sweeps.tracking import store as tracking

    tracker.client.delete_experiment(tracker.experiment_id)
    with pytest.raises(RequestError, match="was deleted; bring it back with `MLFLOW_.* mlflow experiments restore"):
        tracking.Tracker(default_uri(tmp_path), "small", tmp_path)


def test_a_server_that_does_not_answer_is_refused_without_its_password(tmp_path, monkeypatch):
    from sweeps.tracking import store as tracking

    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "sweeps").mkdir()
    with pytest.raises(RequestError) as caught:
        tracking.Tracker("http://me:s3cret@127.0.0.1:9", "small", tmp_path, patience=1)
    assert "MLflow at http://127.0.0.1:9 doesn't answer" in str(caught.value) and "s3cret" not in str(caught.value)
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "s3cret", "MLflow's own way of being told"


def test_a_database_that_another_process_has_locked_is_waited_for_then_refused(tmp_path):
    from sweeps.tracking.connection import create_database
    from sweeps.tracking.store import Tracker

    (tmp_path / "sweeps").mkdir()
    create_database(tmp_path / "mlflow.db")
    command = [sys.executable, "-c", LOCKING, str(tmp_path / "mlflow.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as locking:
        assert locking.stdout.readline() == "locked\n"
        with pytest.raises(RequestError, match="doesn't answer: database is locked. Start it, or choose another"):
            Tracker(default_uri(tmp_path), "small", tmp_path, patience=1)
        threading.Timer(3, locking.stdin.close).start()
        assert Tracker(default_uri(tmp_path), "small", tmp_path, patience=60).close(20)


LOCKING = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
database.execute("ROLLBACK")
"""


def test_a_databases_password_is_not_shown():
    assert uris.shown_uri("postgresql://me:s3cret@db:5432/x") == "postgresql://me:***@db:5432/x"
    assert uris.shown_uri("sqlite:////tmp/x.db") == "sqlite:////tmp/x.db"
    assert "s3cret" not in uris.harmless("(x) postgresql://me:s3cret@db failed", "postgresql://me:s3cret@db/x")


def test_drivers_of_two_sweeps_may_create_the_store_at_once(tmp_path):
    code = (
        "import sys; from pathlib import Path; from sweeps.tracking import store as tracking, uris;"
        "t = tracking.Tracker(uris.default_uri(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[1])); t.close(20)"
    )
    (tmp_path / "sweeps").mkdir()
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name], stderr=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    said = [process.communicate(timeout=200)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said


# artifacts


def test_artifacts_are_the_trials_files_and_on_request_its_checkpoint(tmp_path):
    trial, target = tmp_path / "trial", tmp_path / "my artifacts"
    (trial / "checkpoint").mkdir(parents=True)
    (trial / "epoch-0003").mkdir()
    for name in ("config.yaml", "per_class.csv", ".lock", "trained.txt", "checkpoint/best.safetensors"):
        (trial / name).write_text("x")
    upload(trial, Upload(str(target), None, with_checkpoint=False))
    assert sorted(path.name for path in target.iterdir()) == ["config.yaml", "per_class.csv"]
    upload(trial, Upload(f"file://{str(target).replace(' ', '%20')}", None, with_checkpoint=True))
    assert (target / "checkpoint" / "best.safetensors").exists() and not (target / "epoch-0003").exists()


# locks


def foreign(path: Path, **fields) -> dict:
    holder = {"host": "elsewhere", "pid": 1, "born": "1", "id": "x", "beats": 1} | fields
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(holder))
    return holder


def test_a_lock_is_held_and_given_back(tmp_path):
    path = tmp_path / "small.lock"
    with lock.SweepLock(path, beat=0.05):
        first, born = lock.read_lock(path), path.stat().st_mtime_ns
        assert first["pid"] == os.getpid() and lock.is_live(path)
        wait_until(lambda: path.stat().st_mtime_ns > born, 60)
        with pytest.raises(RequestError, match=rf"another cellskew is running this sweep: pid {os.getpid()} on"):
            lock.SweepLock(path).__enter__()
    assert not path.exists() and lock.is_live(path) is False


def test_a_driver_that_died_here_is_succeeded_at_once_even_if_its_number_was_given_away(tmp_path):
    path = tmp_path / "small.lock"
    foreign(path, **(lock.here() | {"born": "another birth"}))
    begin = time.monotonic()
    with lock.SweepLock(path):
        assert time.monotonic() - begin < lock.TIMEOUT / 2


def test_a_silent_driver_elsewhere_is_succeeded_after_the_timeout(tmp_path):
    path, said = tmp_path / "small.lock", []
    foreign(path)
    begin = time.monotonic()
    with lock.SweepLock(path, on_wait=said.append, beat=0.05, timeout=0.5):
        assert 0.4 < time.monotonic() - begin < 10
        assert lock.read_lock(path)["pid"] == os.getpid()
    assert said == ["a driver on elsewhere held this sweep; watching 0 s for a sign of life"]


def test_a_driver_elsewhere_whose_heart_beats_is_refused_whatever_the_clocks_say(tmp_path):
    path, stop = tmp_path / "small.lock", threading.Event()

    def beat() -> None:
        for number in range(1000):
            if stop.wait(0.1):
                return
            temporary = path.with_suffix(".new")
            foreign(temporary, beats=number)
            temporary.replace(path)
            os.utime(path, (0, 0))  # its clock says 1970

    foreign(path)
    other = threading.Thread(target=beat)
    other.start()
    with pytest.raises(RequestError, match="pid 1 on elsewhere"):
        lock.SweepLock(path, beat=0.05, timeout=20).__enter__()
    stop.set()
    other.join()


def test_a_lock_taken_over_is_noticed_and_not_deleted(tmp_path):
    path, lost = tmp_path / "small.lock", threading.Event()
    with lock.SweepLock(path, on_loss=lost.set, beat=0.05):
        foreign(path)
        assert lost.wait(10)
    assert lock.read_lock(path)["host"] == "elsewhere"


def test_a_file_lock_ends_with_its_process(tmp_path):
    path = tmp_path / ".lock"
    code = "import sys, time; from pathlib import Path; from sweeps.tracking.locks.lock import file_lock\n"
    code += f"with file_lock(Path({str(path)!r})): print('held', flush=True); time.sleep(600)"
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(TimeoutError, match="has been locked by another process for 0 s"), lock.file_lock(path, 0.3):
        pass
    other.kill()
    other.communicate()
    with lock.file_lock(path, 5):
        pass
