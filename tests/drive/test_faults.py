"""Whatever dies, `cellskew run` again ends where an undisturbed run ends: real tiny trials, real kills.

Each case compares everything that does not measure time: one FINISHED run per trial, its parameters, every point of
every metric, predictions, tables, weights of the last checkpoint.
"""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fault_tools import STAGES, Driver, check_same, finish, start, state, wait_until
from gates import PATIENCE

pytestmark = [pytest.mark.faults, pytest.mark.timeout(2400)]
ON_WORKERS = ("preparation", "first_epoch", "checkpoint", "report", "last_epoch", "upload")
MATRIX = [(whom, stage) for stage in ON_WORKERS for whom in ("driver", "worker", "raylet", "machine")]
IN_DRIVER = ("database", "registration", "noted", "delivered", "closing")
MATRIX += [(whom, stage) for stage in IN_DRIVER for whom in ("driver", "machine")]
ENDS = {"driver": -9, "machine": -9, "worker": 0, "raylet": 3}  # of the driver, by what was killed


@pytest.fixture
def storage(undisturbed, tmp_path, request) -> Path:
    """An empty storage folder; unless a test is about the preparation, what that makes is there already."""
    fresh = tmp_path / "storage"
    for folder in ("datasets", "genes", "shards"):
        if "preparation" not in request.node.name:
            shutil.copytree(undisturbed[0] / folder, fresh / folder)
    return fresh


def converge(storage: Path, expected: int = 0, **more) -> str:
    """Run the sweep to its end; returns what was said."""
    return finish(start(storage, **more), expected)


def disturb(storage: Path, whom: str, stage: str) -> None:
    """Kill at a stage. A driver that survives brings the sweep to its end or says that it could not."""
    assert STAGES[stage]
    driver = start(storage, stage)
    try:
        waiting = driver.wait_for_gate()
        driver.kill(whom, waiting)
        assert driver.wait() == ENDS[whom], driver.said()
    finally:
        if whom != "driver":
            driver.end()
    if whom == "driver":  # its workers must go of themselves; Ray's own agents take their time
        try:
            wait_until(lambda: not trial_workers(driver), 240, lambda: f"still there: {driver.survivors()}")
        finally:
            driver.end()


def trial_workers(driver: Driver) -> list[int]:
    return [pid for pid, name in driver.survivors().items() if name.startswith(("ray::Implicit", "ray::IDLE"))]


def test_the_undisturbed_sweep_has_all_that_is_compared(undisturbed):
    """The premise of the others; baselines leave a model too, and no rounds to go on from."""
    runs, kept = undisturbed[1]["runs"], undisturbed[1]["artifacts"]
    assert len(runs) == 4 and all(name in kept for name in runs)
    networks = [run["metrics"]["train_loss"] for name, run in runs.items() if "scgpt" in name]
    assert [[step for step, _ in losses] for losses in networks] == [[1, 2, 3]] * 2
    counted = Counter(artifact.split()[0] for listed in kept.values() for artifact in listed)
    assert (counted["predictions.parquet"], counted["per_class.csv"], counted["model.safetensors"]) == (4, 4, 4)
    assert Counter(name.split("/")[-1] for name in undisturbed[1]["files"] if "safetensors" in name) == {
        "model.safetensors": 4,
        "last-weights.safetensors": 2,
        "last-optimizer.safetensors": 2,
    }


def test_a_kill_of_each_process_in_a_row_and_a_damaged_checkpoint_change_nothing_in_the_end(storage, undisturbed):
    """One of each kind, on one sweep; alone, and at every stage, they are slow. What waits at a gate isn't done yet,
    so each driver reaches the next stage."""
    disturb(storage, "machine", "checkpoint")
    disturb(storage, "raylet", "last_epoch")
    damage_all(storage, "trials/*/epoch-0002/weights.safetensors", "bit-flipped")
    disturb(storage, "driver", "closing")
    disturb(storage, "worker", "upload")  # goes on to the end
    check_same(state(storage), undisturbed[1])


@pytest.mark.slow
@pytest.mark.parametrize(("whom", "stage"), MATRIX)
def test_a_kill_at_any_stage_changes_nothing_in_the_end(whom, stage, storage, undisturbed):
    disturb(storage, whom, stage)
    converge(storage)
    check_same(state(storage), undisturbed[1])


# damaged files


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "truncated":
        data = data[: len(data) // 2]
    else:
        data[len(data) // 2] ^= 1
    path.write_bytes(data)


def damage_all(storage: Path, which: str, how: str) -> None:
    damaged = list(storage.glob(which))
    assert damaged
    for path in damaged:
        damage(path, how)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("weights.safetensors", "bit-flipped"),
        ("optimizer.safetensors", "truncated"),
        ("best.safetensors", "bit-flipped"),
        ("state.json", "truncated"),
        ("state.json", "bit-flipped"),
    ],
)
def test_a_damaged_checkpoint_is_not_used(name, how, storage, undisturbed):
    disturb(storage, "machine", "last_epoch")
    damage_all(storage, f"trials/*/epoch-0002/{name}", how)
    converge(storage)
    check_same(state(storage), undisturbed[1])


@pytest.mark.slow
@pytest.mark.parametrize("how", ["bit-flipped", "truncated"])
def test_damaged_shards_are_encoded_again(how, storage, undisturbed):
    damage_all(storage, "shards/*/*/part-*.arrow", how)
    if how == "bit-flipped":  # same size: only the trial, which reads every byte, can tell
        assert "run the sweep again to encode this part anew" in converge(storage, expected=1)
    converge(storage)
    check_same(state(storage), undisturbed[1])


@pytest.mark.slow
def test_a_damaged_note_of_the_last_run_is_not_in_the_way(storage, undisturbed):
    disturb(storage, "machine", "report")
    for path in [
        *storage.glob("sweeps/*.lock"),
        *storage.glob("sweeps/*.jsonl"),
        *storage.glob("trials/*/result.json"),
    ]:
        damage(path, "truncated")
    converge(storage)
    check_same(state(storage), undisturbed[1])


# disk, clock, database


@pytest.fixture
def small_disk(tmp_path) -> Path:
    """A file system of its own: 64 MB, to be filled or made read-only."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", place], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"a small tmpfs can't be mounted here: {made.stderr.strip()}")
    yield place / "storage"
    subprocess.run(["umount", "-l", place], check=True)


def remount(storage: Path, options: str) -> None:
    """Mount a disk anew; killed processes have files open for writing until the system has taken them away."""
    again = ["mount", "-o", f"remount,{options}", str(storage.parent)]
    wait_until(lambda: subprocess.run(again, check=False).returncode == 0, 60)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Keep a file system full while `with` lasts: what others write before us or give back later changes nothing."""
    done = threading.Event()
    with (disk / "ballast").open("wb", buffering=0) as ballast:

        def keep_full() -> None:
            while not done.is_set():
                with contextlib.suppress(OSError):
                    while ballast.write(bytes(4096)):
                        pass
                done.wait(0.02)

        filling = threading.Thread(target=keep_full)
        filling.start()
        try:
            wait_until(lambda: os.statvfs(disk).f_bavail == 0, 60)
            yield
        finally:
            done.set()
            filling.join()
            Path(ballast.name).unlink()


@pytest.mark.parametrize("stage", [pytest.param("checkpoint", marks=pytest.mark.slow), "report"])
def test_a_disk_that_fills_up_is_named_and_costs_nothing_once_there_is_room(stage, small_disk, undisturbed):
    for folder in ("datasets", "genes", "shards"):
        shutil.copytree(undisturbed[0] / folder, small_disk / folder)
    driver = start(small_disk, stage, **{PATIENCE: "5"})
    try:
        waiting = driver.wait_for_gate()
        with full(small_disk.parent):
            driver.kill("worker", waiting)
            assert driver.wait() in (1, 3), "trials are left over, or the driver itself had no room"
    finally:
        driver.end()
    assert "No space left on device" in driver.said() or "disk is full" in driver.said()
    converge(small_disk)
    check_same(state(small_disk), undisturbed[1])


@pytest.mark.slow
def test_storage_gone_read_only_is_refused_in_words_and_taken_up_again(small_disk, undisturbed):
    disturb(small_disk, "machine", "report")
    remount(small_disk, "ro")
    said = converge(small_disk, expected=2)
    assert "read-only" in said.lower() and str(small_disk) in said
    remount(small_disk, "rw")
    converge(small_disk)
    check_same(state(small_disk), undisturbed[1])


@pytest.mark.slow
@pytest.mark.parametrize("seconds", ["-86400", "86400"])
def test_a_clock_that_jumps_costs_no_point_and_no_lock(seconds, storage, undisturbed):
    converge(storage, CELLSKEW_TEST_CLOCK=seconds)
    converge(storage)
    check_same(state(storage), undisturbed[1])


@pytest.mark.slow
def test_a_database_locked_by_another_process_is_waited_for(storage, undisturbed):
    driver = start(storage, "noted")
    try:
        driver.wait_for_gate()
        with sqlite3.connect(storage / "mlflow.db", timeout=60, isolation_level=None) as database:
            database.execute("BEGIN EXCLUSIVE")
            driver.open_gate()
            time.sleep(25)
            database.execute("ROLLBACK")
        database.close()
        assert driver.wait() == 0, driver.said()
    finally:
        driver.end()
    check_same(state(storage), undisturbed[1])


@pytest.mark.slow
def test_a_database_locked_when_the_driver_starts_is_waited_for(storage, undisturbed):
    disturb(storage, "driver", "report")
    database = sqlite3.connect(storage / "mlflow.db", timeout=60, isolation_level=None, check_same_thread=False)
    database.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(30, lambda: database.execute("ROLLBACK"))
    release.start()
    converge(storage)
    release.join()
    database.close()
    check_same(state(storage), undisturbed[1])
