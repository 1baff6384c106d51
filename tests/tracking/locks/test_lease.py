"""One driver per sweep and one worker per trial, wherever they sit and whatever their file systems say."""

import errno
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import pandas as pd
import pytest
from fault_tools import wait_until

from data_pipeline.errors import RequestError
from sweeps.answers import state
from sweeps.answers.runs import results
from sweeps.drive.launching import fence
from sweeps.drive.launching.job import Job
from sweeps.drive.launching.worker import work
from sweeps.tracking.locks import lease, lock
from sweeps.tracking.locks.lease import TAG, Lease, Lost, holder_in

Holder = TypeVar("Holder", Lease, lock.SweepLock)


@pytest.fixture(autouse=True)
def settled_soon(monkeypatch):
    monkeypatch.setattr(lease, "SETTLED", 0.05)


class Experiment:
    """The part of a client that a lease needs, with one experiment behind it."""

    def __init__(self) -> None:
        self.tags: dict[str, str] = {}
        self.away = False

    def get_experiment(self, experiment_id: str) -> SimpleNamespace:
        self.answer()
        return SimpleNamespace(tags=dict(self.tags))

    def set_experiment_tag(self, experiment_id: str, name: str, value: str) -> None:
        self.answer()
        self.tags[name] = value

    def answer(self) -> None:
        if self.away:
            raise ConnectionError("away")


def elsewhere(one: Holder, **changes: object) -> Holder:
    one.me |= {"host": "elsewhere", "boot": "another"} | changes
    return one


def test_a_second_driver_with_another_storage_is_refused_with_the_first_ones_name(tmp_path):
    there = Experiment()
    first = elsewhere(Lease(there, "1", tmp_path / "first", beat=0.05))
    first.take()
    second = Lease(there, "1", tmp_path / "second", beat=0.05, timeout=20)
    with pytest.raises(RequestError, match=rf"pid \d+ on elsewhere, with --storage {tmp_path}/first"):
        second.take()
    first.give_back()
    second.take()
    assert holder_in(there.tags)["id"] == second.me["id"]
    second.give_back()
    assert holder_in(there.tags) is None


def test_a_dead_driver_is_succeeded_here_at_once_and_elsewhere_after_a_while(tmp_path):
    there, said = Experiment(), []
    dead = Lease(there, "1", tmp_path)
    dead.me |= {"born": "long ago"}
    dead._write()
    Lease(there, "1", tmp_path / "b", on_wait=said.append).take()
    assert not said
    elsewhere(dead)._write()
    begin = time.monotonic()
    Lease(there, "1", tmp_path / "b", on_wait=said.append, beat=0.05, timeout=0.3).take()
    assert time.monotonic() - begin >= 0.3 and "a driver on elsewhere wrote this sweep's runs" in said[0]


def test_a_lease_that_was_taken_is_noticed_and_an_mlflow_that_is_away_is_not_that(tmp_path):
    there, lost = Experiment(), threading.Event()
    first = Lease(there, "1", tmp_path, on_loss=lost.set, beat=0.02)
    first.take()
    there.away = True
    assert not lost.wait(0.2)
    there.away = False
    assert not lost.wait(0.2)
    elsewhere(Lease(there, "1", tmp_path), id="x")._write()
    assert lost.wait(10)
    first.give_back()
    assert holder_in(there.tags)["id"] == "x"


def test_a_driver_whose_question_was_asked_twice_does_not_refuse_itself(tmp_path):
    there = Experiment()
    one = Lease(there, "1", tmp_path)
    one._write()  # an attempt whose answer got lost
    one.take()
    one.give_back()


def test_a_lease_that_could_not_be_given_back_does_not_lock_out_its_own_process(tmp_path):
    there = Experiment()
    first, second = Lease(there, "1", tmp_path), Lease(there, "1", tmp_path)
    first.take()
    with pytest.raises(RequestError, match="another cellskew drives"):
        second.take()
    there.away = True
    first.give_back()
    there.away = False
    second.take()
    second.give_back()


def test_of_two_that_ask_at_the_same_moment_one_is_refused(tmp_path):
    there, other = Experiment(), elsewhere(Lease(Experiment(), "1", tmp_path / "other"))
    other.client = there
    first = Lease(there, "1", tmp_path)
    threading.Timer(0.02, other._write).start()  # it has looked before the first one wrote
    with pytest.raises(RequestError, match="on elsewhere, with --storage"):
        first.take()


def test_a_driver_that_slept_learns_before_it_delivers_that_it_was_overtaken(tmp_path):
    there, lost = Experiment(), threading.Event()
    sleeper = Lease(there, "1", tmp_path, on_loss=lost.set, beat=1000)
    sleeper.take()
    sleeper.check()
    elsewhere(Lease(there, "1", tmp_path), id="x")._write()
    sleeper._proved -= 3000
    with pytest.raises(Lost, match="another driver has taken this sweep over"):
        sleeper.check()
    assert lost.is_set()


def test_status_knows_a_driver_that_only_mlflow_has_heard_of(tmp_path):
    there = Experiment()
    elsewhere(Lease(there, "1", tmp_path / "theirs"))._write()
    runs = pd.DataFrame(columns=results.FIXED).astype({"wanted": bool})
    runs.attrs["driver"] = holder_in(there.tags)
    assert "on elsewhere, with --storage" in state.summary("small", tmp_path, runs).driver
    runs.attrs["driver"] |= {"at": time.time() - 2 * state.FORGOTTEN}
    assert state.summary("small", tmp_path, runs).driver == "no driver is running"
    assert holder_in({TAG: "no JSON"}) is None


@pytest.mark.parametrize("changed", [{"boot": "another"}, {"pids": 1}, {"host": "another"}])
def test_a_container_of_the_same_name_is_not_taken_for_dead(changed, tmp_path):
    """Its pid is a number of other processes: here it names nobody, or somebody else."""
    path, stop = tmp_path / "small.lock", threading.Event()
    other = lock.SweepLock(path, beat=0.05)
    other.me |= changed | {"pid": 1, "born": "another birth"}
    other._write()

    def beat() -> None:
        while not stop.wait(0.05):
            path.touch()  # as on a full disk, where nothing can be written

    beating = threading.Thread(target=beat)
    beating.start()
    assert lock.is_live(path) is None
    try:
        with pytest.raises(RequestError, match="another cellskew is running this sweep: pid 1"):
            lock.SweepLock(path, beat=0.05, timeout=20).__enter__()
    finally:
        stop.set()
        beating.join()


def test_time_in_which_the_watcher_was_stalled_itself_counts_for_nothing():
    looks = []

    def look() -> int:
        looks.append(1)
        time.sleep(0.5 if len(looks) == 1 else 0.0)  # a file server that stalls, for the other one too
        return len(looks) // 3

    assert lock.moves(look, 0, seconds=0.3, every=0.05) and len(looks) == 3


def test_a_look_is_one_at_a_file_system_that_takes_signs_of_life(tmp_path):
    path = tmp_path / "small.lock"
    elsewhere(lock.SweepLock(path))._write()
    guard = path.with_suffix(".guard")
    with lock.SweepLock(path, on_wait=lambda said: os.utime(guard, (0, 0)), timeout=0.1):
        assert guard.stat().st_mtime > 0


def unreadable(monkeypatch, path: Path) -> None:
    """Have a file server refuse to read a file."""
    read_text = Path.read_text

    def refuse(self, *how, **named):
        if self == path:
            raise OSError(errno.EIO, "Input/output error")
        return read_text(self, *how, **named)

    monkeypatch.setattr(Path, "read_text", refuse)


def test_a_folder_that_is_away_for_a_moment_is_no_other_driver(tmp_path, monkeypatch):
    path, lost = tmp_path / "sweeps" / "small.lock", threading.Event()
    with lock.SweepLock(path, on_loss=lost.set, beat=0.01):
        path.parent.rename(tmp_path / "away")
        time.sleep(0.1)
        (tmp_path / "away").rename(path.parent)
        with monkeypatch.context() as stalled:
            unreadable(stalled, path)
            time.sleep(0.1)
        assert not lost.is_set()
        before = path.stat().st_mtime_ns
        time.sleep(0.1)
        assert path.stat().st_mtime_ns > before, "its signs of life go on"
        path.unlink()  # by one that took over, and is done
        assert lost.wait(5)


def test_a_lock_that_can_t_be_read_is_nobodys_death(tmp_path, monkeypatch):
    path = tmp_path / "small.lock"
    elsewhere(lock.SweepLock(path))._write()
    unreadable(monkeypatch, path)
    with pytest.raises(OSError, match="Input/output error"):
        lock.SweepLock(path, timeout=0.1).__enter__()
    assert lock.is_live(path) is None
    monkeypatch.undo()
    assert lock.read_lock(path)["host"] == "elsewhere"


# trials


def hold(folder: Path, told: list[str], **times: float) -> tuple[threading.Thread, threading.Event]:
    """Hold a trial's folder in a thread until the event is set; told gets what its check then says."""
    held, end = threading.Event(), threading.Event()

    def run() -> None:
        with fence.own(folder, told.append, **times) as check:
            held.set()
            end.wait(30)
            try:
                check()
            except fence.Overtaken as error:
                told.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    assert held.wait(20)
    return thread, end


def test_a_worker_waits_as_long_as_the_other_lives_and_takes_its_result(tmp_path):
    folder, news, first_said = tmp_path / "k", [], []
    folder.mkdir()
    first, end = hold(folder, first_said, beat=0.05)
    job = Job({"key": "k", "directory": str(folder)}, "r", {"cpu": 1, "gpu": 0}, {}, {})
    trial = lambda config, report, checkpoint: {"epoch": 1, "read": (folder / "result.json").exists()}  # noqa: E731
    second = threading.Thread(target=work, args=(job, news.append, trial))
    second.start()
    wait_until(lambda: bool(news), 20)
    assert "waits for another worker" in news[0]["trouble"]
    (folder / "result.json").touch()
    end.set()
    first.join()
    second.join()
    assert news[1]["final"] == {"epoch": 1, "read": True} and not first_said


def test_a_worker_whose_signs_of_life_stopped_is_passed_by_and_learns_it(tmp_path):
    """A file server may keep the lock of a node that is gone, or of one that is only cut off."""
    told: list[str] = []
    cut_off, end = hold(tmp_path, told, beat=1000)
    with fence.own(tmp_path, told.append, beat=0.05, timeout=0.3) as check:
        check()
        end.set()
        cut_off.join()
        check()
    assert "waits for another worker" in told[0] and "another worker has taken over" in told[1]
    assert (tmp_path / ".attempt").read_text().startswith("2 ")


def test_a_worker_that_was_stalled_itself_passes_nobody_by(tmp_path, monkeypatch):
    told, said, looks = [], [], []
    first, end = hold(tmp_path, told)

    def sign(mark: Path) -> int:
        looks.append(1)
        if len(looks) == 2:
            time.sleep(0.7)  # a file server that stalls, for the other one too
        if len(looks) == 4:
            end.set()
            first.join()
        return len(looks) // 3

    monkeypatch.setattr(fence, "_sign", sign)
    with fence.own(tmp_path, said.append, timeout=0.5):
        assert len(looks) == 4 and not told
