"""`cellskew run` of tiny real trials in a process of its own, which waits at a named stage so that a test can kill it.

The program is gates.py. Beside it: what a sweep has come to, and whether two have come to the same.
"""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gates import GATE

HERE = Path(__file__).resolve().parent
STAGES = {  # what is going on when a process is stopped there
    "database": "the tables of the embedded MLflow database are half made",
    "registration": "a run was created in MLflow, its parameters were not sent yet",
    "preparation": "the first block of cells is about to be encoded",
    "first_epoch": "two steps of the first epoch are done",
    "checkpoint": "half of the second epoch's checkpoint is written",
    "report": "the second epoch's checkpoint is whole, its report was not sent",
    "noted": "the second epoch's report reached the driver, which has written nothing yet",
    "delivered": "the second epoch's numbers are in MLflow, but the queue on disk still holds them",
    "last_epoch": "two steps of the last epoch are done",
    "upload": "one artifact is half copied",
    "closing": "the final numbers are with the driver, the run is not FINISHED yet",
}
SWEEP = """
name: small
datasets: [pbmc68k_reduced]
genes: {select: hvg, n: 50}
splits: {seeds: [0, 1]}
skews: [natural]
strategies: [class_balanced_batches]
losses: [cross_entropy]
models: {scgpt: {size: tiny, epochs: 3, batch_size: 64}, majority: {}}
checkpoint_every: 1
"""
ARTIFACTS = (".safetensors", ".parquet", ".csv", ".png")
TIMED = ("second", "per_second", "peak_memory", "checkpoint")  # parts of the names of metrics that no run repeats


@dataclass
class Driver:
    """A running `cellskew run`, its descendants remembered so that none of them outlives the test."""

    storage: Path
    process: subprocess.Popen
    gate: Path
    log: Path
    seen: dict[int, str] = field(default_factory=dict)

    def wait_for_gate(self, seconds: float = 400) -> int:
        """Return the pid of the process that waits at the gate."""
        wait_until(lambda: self.gate.exists() or self.process.poll() is not None, seconds, self.said)
        assert self.gate.exists(), f"the driver ended first:\n{self.said()}"
        return int(self.gate.read_text())

    def open_gate(self) -> None:
        """Let the process that waits go on."""
        self.gate.write_text("open")

    def kill(self, whom: str, waiting: int | None = None) -> None:
        """SIGKILL the driver, the worker (`waiting`), the raylet, or the whole tree ("machine")."""
        self.look()
        pids = {
            "driver": [self.process.pid],
            "worker": [waiting],
            "raylet": [pid for pid in self.seen if name_of(pid) == "raylet"],
            "machine": [self.process.pid, *self.seen],
        }[whom]
        assert pids, f"no {whom} to kill"
        for pid in pids:
            _kill(pid, born(pid))

    def look(self) -> None:
        """Remember all descendants that live now."""
        self.seen |= {pid: born(pid) for pid in descendants(self.process.pid)}

    def wait(self, seconds: float = 600) -> int:
        """Return the exit code; fails, with what its threads are doing, when the driver lives on after so long."""
        wait_until(self.is_over, seconds, self.where)
        return self.process.returncode

    def is_over(self) -> bool:
        """Tell whether the driver has ended; remembers its descendants while it has not."""
        self.look()
        return self.process.poll() is not None

    def survivors(self) -> dict[int, str]:
        """Return the descendants that are still there, by pid, with their names."""
        return {pid: name_of(pid) for pid, birth in self.seen.items() if birth and born(pid) == birth}

    def end(self) -> None:
        """Leave nothing behind."""
        self.look()
        for pid, birth in {self.process.pid: born(self.process.pid), **self.seen}.items():
            _kill(pid, birth)
        self.process.wait(30)

    def where(self) -> str:
        """Have the driver print where its threads are; returns all it printed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGUSR2)
            time.sleep(2)
        return self.said()

    def said(self) -> str:
        """Return what the driver printed."""
        return self.log.read_text()


def start(storage: Path, stage: str = "", sweep: str = SWEEP, options: tuple[str, ...] = (), **environment) -> Driver:
    """Start `cellskew run` on a storage folder; with a stage, the first process that reaches it waits there."""
    storage.parent.mkdir(parents=True, exist_ok=True)
    beside = storage.parent.parent if storage.parent.is_mount() else storage.parent  # not on a disk that is in trouble
    file = beside / "sweep.yaml"
    file.write_text(sweep)
    number = len(list(beside.glob("driver-*.log")))
    gate, log = beside / f"gate-{number}", beside / f"driver-{number}.log"
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    given = os.environ | {"PYTHONPATH": path, GATE: f"{stage}@{gate}" if stage else ""} | environment
    given["RAY_worker_niceness"] = "0"  # Ray's 15 would starve the trials beside anything else on the machine
    command = [sys.executable, str(HERE / "gates.py"), "run", str(file), "--storage", str(storage), *options]
    with log.open("w") as out:
        process = subprocess.Popen(command, env=given, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    return Driver(storage, process, gate, log)


def finish(driver: Driver, expected: int = 0, seconds: float = 600) -> str:
    """Wait until the driver ends with the expected code and without a traceback; returns what was said."""
    try:
        assert driver.wait(seconds) == expected, driver.said()
    finally:
        driver.end()
    assert "Traceback" not in driver.said()
    return driver.said()


def wait_until(holds: Callable[[], bool], seconds: float, said: Callable[[], str] = str) -> None:
    """Wait until something holds; AssertionError with what was said when it doesn't for so long."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"nothing after {seconds} s:\n{said()}"
        time.sleep(0.05)


def descendants(root: int) -> list[int]:
    """Return the pids of a process's children, their children and so on."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, todo = [], [root]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


def born(pid: int) -> str:
    """Return a process's start time, "" if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _kill(pid: int, birth: str) -> None:
    if birth and born(pid) == birth:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def histories(uri: str, sweep: str = "small") -> dict[str, Any]:
    """Return run name -> {id, key, status, params, metrics {name: [(step, value)]}} in MLflow; one run per trial.

    The run that holds the sweep's answer is no trial's, and is left out.

    Of metrics that no two runs share (times, memory) only the steps are kept.
    """
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    found: dict[str, Any] = {}
    experiment = client.get_experiment_by_name(sweep).experiment_id
    for run in client.search_runs([experiment], "tags.`cellskew.trial` != ''", max_results=1000):
        name = run.info.run_name
        assert name not in found, f"two runs of {name}"
        metrics = {key: _points(client.get_metric_history(run.info.run_id, key)) for key in sorted(run.data.metrics)}
        found[name] = {"id": run.info.run_id, "key": run.data.tags["cellskew.trial"], "status": run.info.status}
        found[name] |= {"params": run.data.params, "metrics": metrics}
    return dict(sorted(found.items()))


def _points(history: list[Any]) -> list[tuple[int, Any]]:
    return sorted((p.step, None if any(part in p.key for part in TIMED) else p.value) for p in history)


def files(storage: Path) -> dict[str, str]:
    """Return <key>/<file> -> sha256 of every prediction, table and checkpoint of a storage folder's trials."""
    kinds = (".safetensors", ".parquet", ".csv", ".png")
    paths = [path for path in storage.glob("trials/**/*") if path.suffix in kinds]
    return {str(p.relative_to(storage / "trials")): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(paths)}


def artifacts(storage: Path) -> dict[str, list[str]]:
    """Return run id -> name and sha256 of its weights, tables and predictions in the embedded store, sorted."""
    found: dict[str, list[str]] = {}
    for path in sorted(storage.glob("artifacts/**/*")):
        if path.suffix in ARTIFACTS:
            run_id = path.relative_to(storage / "artifacts").parts[1]
            found.setdefault(run_id, []).append(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}")
    return {run_id: sorted(listed) for run_id, listed in found.items()}


def state(storage: Path) -> dict[str, Any]:
    """Return everything about a sweep that must not depend on what happened to it on the way."""
    runs, there = histories(f"sqlite:///{storage}/mlflow.db"), artifacts(storage)
    found = {name: there.pop(run["id"], []) for name, run in runs.items()}
    assert not there, f"artifacts of no trial's run: {there}"
    return {"runs": runs, "files": files(storage), "artifacts": found}


def part_of(whole: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the state of those trials of a sweep whose names contain something."""
    runs = {one: run for one, run in whole["runs"].items() if name in one}
    keys = {run["key"] for run in runs.values()}
    kept = {path: digest for path, digest in whole["files"].items() if path.split("/")[0] in keys}
    return {"runs": runs, "files": kept, "artifacts": {one: whole["artifacts"][one] for one in runs}}


def check_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare two states piece by piece, so that a difference has a name."""
    assert list(found["runs"]) == list(expected["runs"])
    for name, run in expected["runs"].items():
        assert found["runs"][name]["status"] == "FINISHED", f"{name} is {found['runs'][name]['status']}"
        assert found["runs"][name]["params"] == run["params"], name
        for metric, points in run["metrics"].items():
            assert found["runs"][name]["metrics"].get(metric) == points, f"{metric} of {name}"
        assert set(found["runs"][name]["metrics"]) == set(run["metrics"])
    for kind in ("files", "artifacts"):
        assert found[kind] == expected[kind], kind
