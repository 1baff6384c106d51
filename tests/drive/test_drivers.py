"""Drivers in processes of their own, killed and interrupted: whoever comes next finds all runs whole. Fake trials."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_trials import check_whole, faults, runs, spec, trained

HERE = Path(__file__).parents[1]
PATIENCE = 240  # seconds, on a machine that is busy with other things


@contextmanager
def driver_of(storage: Path, output: Path) -> Iterator[subprocess.Popen]:
    """Start a driver in a process of its own, which writes what became of the trials to `output`."""
    code = (
        "import sys; from pathlib import Path; from fake_trials import *; from sweeps.drive.converge import *;"
        f"request = Request(storage=Path({str(storage)!r}), num_cpus=2);"
        "o = converge(spec(), request, Silent(), parts());"
        "print(o.finished, o.interrupted, o.stopped, flush=True); sys.exit(0 if o.is_complete else 1)"
    )
    command, environment = [sys.executable, "-c", code], os.environ | {"PYTHONPATH": f"{HERE}:{HERE.parent}"}
    with (
        output.open("w") as file,
        subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True) as driver,
    ):
        try:
            yield driver
        finally:
            driver.kill()


def run_to_the_end(storage: Path) -> None:
    with driver_of(storage, storage / "said.txt") as driver:
        assert driver.wait(timeout=PATIENCE) == 0, (storage / "said.txt").read_text()


def wait_for_epochs(storage: Path, number: int) -> None:
    """Wait until so many epochs have begun, all trials together."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if sum(len(file.read_text().split()) for file in storage.glob("trials/*/trained.txt")) >= number:
            return
        time.sleep(0.05)
    raise AssertionError(f"no {number} epochs within {PATIENCE} s")


def wait_for_trials(storage: Path, number: int) -> None:
    """Wait until so many trials are at work."""
    deadline = time.monotonic() + PATIENCE
    while len(list(storage.glob("trials/*/.lock"))) < number:
        assert time.monotonic() < deadline, f"no {number} trials within {PATIENCE} s"
        time.sleep(0.05)


@pytest.mark.faults
def test_a_killed_driver_is_succeeded_and_all_runs_are_whole(tmp_path):
    faults(tmp_path, seconds=0.3, save_every=2)
    with driver_of(tmp_path, tmp_path / "said.txt") as driver:
        wait_for_epochs(tmp_path, 7)
        driver.kill()
    faults(tmp_path)
    run_to_the_end(tmp_path)
    check_whole(tmp_path, spec())
    epochs = [trained(tmp_path, trial) for trial in spec().trials()]
    assert all(sorted(set(listed)) == [1, 2, 3] for listed in epochs)
    assert (
        sum(len(listed) for listed in epochs) <= 3 * 8 + 2 * 2
    )  # two trials were running, each at most two epochs after its last checkpoint


def to_driver(driver: subprocess.Popen) -> str:
    driver.send_signal(signal.SIGINT)
    return "Ctrl-C"


def to_all(driver: subprocess.Popen) -> str:
    """As `timeout`, Slurm and systemd do: Ray's processes are asked too."""
    os.killpg(driver.pid, signal.SIGTERM)
    return "SIGTERM"


@pytest.mark.faults
@pytest.mark.parametrize("ask", [pytest.param(to_driver, marks=pytest.mark.slow), to_all])
def test_a_first_signal_finishes_the_epoch_and_says_what_is_left(ask, tmp_path):
    faults(tmp_path, seconds=0.5, save_every=100)  # by itself a trial would save its end alone
    with driver_of(tmp_path, tmp_path / "said.txt") as driver:
        wait_for_epochs(tmp_path, 3)
        by = ask(driver)
        assert driver.wait(timeout=PATIENCE) == 1
    assert not list(tmp_path.glob("sweeps/*.stop-*"))
    assert re.search(rf"\d [12] stopped by {by}", (tmp_path / "said.txt").read_text())
    interrupted = [tags for status, _, tags in runs(tmp_path).values() if status == "KILLED"]
    assert 1 <= len(interrupted) <= 2
    assert all(re.match(rf"stopped by {by} after round \d of 3", tags["cellskew.reason"]) for tags in interrupted)
    assert sum(status == "SCHEDULED" for status, _, _ in runs(tmp_path).values()) >= 4
    faults(tmp_path)
    run_to_the_end(tmp_path)
    check_whole(tmp_path, spec())
    assert all(trained(tmp_path, trial) == [1, 2, 3] for trial in spec().trials()), "no epoch was trained twice"


@pytest.mark.faults
def test_a_second_ctrl_c_ends_at_once_and_loses_nothing(tmp_path):
    faults(tmp_path, seconds=600.0)  # the first epoch is far from its end
    with driver_of(tmp_path, tmp_path / "said.txt") as driver:
        wait_for_trials(tmp_path, 2)
        driver.send_signal(signal.SIGINT)
        time.sleep(1)
        driver.send_signal(signal.SIGINT)
        assert driver.wait(timeout=60) == 130
    faults(tmp_path)
    run_to_the_end(tmp_path)
    check_whole(tmp_path, spec())
