"""`cellskew run` of tiny real trials in a process of its own, which waits at a named stage so that a test can kill it.

A gate is a stage and a file: the first process that reaches the stage creates the file, with its pid, and sleeps. Later
ones find the file and pass. Run as a program, this file is the command line with the gates in place.
"""

import contextlib
import dataclasses
import faulthandler
import functools
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

HERE = Path(__file__).resolve().parent
GATE, CLOCK = "CELLSKEW_TEST_GATE", "CELLSKEW_TEST_CLOCK"
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


# inside the driver and its workers


def wait_at(stage: str) -> None:
    """Sleep until killed if this process is the first to reach the stage that a test waits for."""
    wanted, _, path = os.environ.get(GATE, "").partition("@")
    if wanted != stage:
        return
    with contextlib.suppress(FileExistsError):
        handle = os.open(f"{path}.part-{os.getpid()}", os.O_CREAT | os.O_WRONLY)
        os.write(handle, str(os.getpid()).encode())
        os.close(handle)
        os.link(f"{path}.part-{os.getpid()}", path)
        deadline = time.monotonic() + 600
        while Path(path).read_text() != "open" and time.monotonic() < deadline:
            time.sleep(0.05)


def before(owner: Any, name: str, stage: str, when: Callable[..., bool] = lambda *a, **k: True) -> None:
    """Have `owner.name` wait at a stage before it does its work."""
    work = getattr(owner, name)

    def gated(*args: Any, **named: Any) -> Any:
        if when(*args, **named):
            wait_at(stage)
        return work(*args, **named)

    setattr(owner, name, gated)


def after(owner: Any, name: str, stage: str, when: Callable[..., bool] = lambda *a, **k: True) -> None:
    """Have `owner.name` wait at a stage when its work is done."""
    work = getattr(owner, name)

    def gated(*args: Any, **named: Any) -> Any:
        result = work(*args, **named)
        if when(*args, **named):
            wait_at(stage)
        return result

    setattr(owner, name, gated)


def gated_work(work: Callable[..., None], *block: Any) -> None:
    """What encodes a block of cells on a worker, behind its gate."""
    wait_at("preparation")
    work(*block)


ORIGINAL: dict[str, Any] = {}


def trial(config: dict[str, Any], report: Callable, checkpoint: Path | None) -> dict[str, Any]:
    """run_trial behind the gates of a worker."""
    from trainables.trial.trial import run_trial

    if not ORIGINAL.get("worker"):
        ORIGINAL["worker"] = True
        _gate_worker()

    def gated_report(metrics: dict[str, Any], path: Path | None) -> None:
        if metrics.get("epoch") == 2 and not metrics.get("replayed") and not metrics.get("final"):
            wait_at("report")
        if path is not None:
            _keep_weights(path)
        report(metrics, path)

    return run_trial(config, gated_report, checkpoint)


def _keep_weights(checkpoint: Path) -> None:
    """Keep the newest state of a trial, which gives its checkpoints up at its end, to be compared."""
    for name in ("weights.safetensors", "optimizer.safetensors"):
        kept = checkpoint.parent / f"last-{name}"
        kept.unlink(missing_ok=True)
        kept.hardlink_to(checkpoint / name)


def _gate_worker() -> None:
    from sweeps.drive.launching import worker
    from sweeps.tracking import artifacts
    from trainables.training import checkpoint
    from trainables.training.loop import Trainer

    def is_step(epoch: int) -> Callable[..., bool]:
        seen: list[int] = []

        def second(trainer: Any, batches: list, rate: float, at: int) -> bool:
            seen.extend([at] if at == epoch else [])
            return at == epoch and len(seen) > 2

        return second

    worker.TRAIN_PAUSES = (0.1, 0.1, 0.1)
    worker.UPLOAD_PAUSES = (1, 2, 5, 10)  # a minute and more of waiting less, where a disk stays full
    before(Trainer, "_step", "first_epoch", is_step(0))
    before(Trainer, "_step", "last_epoch", is_step(2))
    before(checkpoint, "write_tensors", "checkpoint", lambda path, content: path.match("*epoch-0002*/best*"))
    copy = artifacts._copy

    def half_copied(files: list[Path], folder: Path | None, target: Path) -> None:
        target.mkdir(parents=True, exist_ok=True)
        data = files[-1].read_bytes()
        if not (target / files[-1].name).exists():
            (target / files[-1].name).write_bytes(data[: len(data) // 2])
        if (folder is not None) or len(files) > 1:
            wait_at("upload")
        copy(files, folder, target)

    artifacts._copy = half_copied


def _gate_driver() -> None:
    from alembic.operations import Operations
    from mlflow import MlflowClient

    from data_pipeline.shards import datasource
    from sweeps.drive import converge
    from sweeps.tracking.delivery import Delivery
    from sweeps.tracking.store import Tracker

    for_each = datasource.for_each_block
    datasource.for_each_block = lambda *given: for_each(*given[:-1], functools.partial(gated_work, given[-1]))
    before(Operations, "create_index", "database")
    created: list[Any] = []
    after(MlflowClient, "create_run", "registration", lambda *a, **k: created.append(1) or len(created) == 2)
    second = "epoch"
    before(Tracker, "report", "noted", lambda tracker, run_id, numbers: numbers.get(second) == 2)
    before(Tracker, "finish", "closing", lambda tracker, run_id, status, *more: status == "FINISHED")
    after(Delivery, "deliver", "delivered", lambda delivery, records: any(one.get("step") == 2 for one in records))
    if os.environ.get(CLOCK):
        before(Tracker, "report", "", lambda *a: bool(turn_clock(float(os.environ[CLOCK]))))
    parts = dataclasses.replace(converge.real_parts(), run_trial=trial)
    converge.real_parts = lambda: parts


def turn_clock(seconds: float) -> None:
    """Make this process believe that it is so many seconds later (earlier, below 0), from now on."""
    if "clock" not in ORIGINAL:
        ORIGINAL["clock"] = clock = time.time
        time.time = lambda: clock() + seconds


def main() -> None:
    """The command line, gated."""
    import sweeps.cluster.environment  # noqa: F401
    from sweeps.cli import main as cli

    faulthandler.register(signal.SIGUSR2)  # Tune takes SIGUSR1 as a wish to stop
    sys.modules["fault_tools"] = sys.modules["__main__"]
    for thing in (trial, gated_work):
        thing.__module__ = "fault_tools"  # workers import it by this name
    _gate_driver()
    cli()


# outside: what a test holds


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
    command = [sys.executable, str(HERE / "fault_tools.py"), "run", str(file), "--storage", str(storage), *options]
    with log.open("w") as out:
        process = subprocess.Popen(command, env=given, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    return Driver(storage, process, gate, log)


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
    """Return run name -> {status, params, metrics {name: [(step, value)]}} as MLflow has them; one run per trial.

    Of metrics that no two runs share (times, memory) only the steps are kept.
    """
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    found: dict[str, Any] = {}
    for run in client.search_runs([client.get_experiment_by_name(sweep).experiment_id], max_results=1000):
        name = run.info.run_name
        assert name not in found, f"two runs of {name}"
        metrics = {key: _points(client.get_metric_history(run.info.run_id, key)) for key in sorted(run.data.metrics)}
        found[name] = {"status": run.info.status, "params": run.data.params, "metrics": metrics}
    return dict(sorted(found.items()))


def _points(history: list[Any]) -> list[tuple[int, Any]]:
    return sorted((p.step, None if any(part in p.key for part in TIMED) else p.value) for p in history)


def files(storage: Path) -> dict[str, str]:
    """Return <key>/<file> -> sha256 of every prediction, table and checkpoint of a storage folder's trials."""
    kinds = (".safetensors", ".parquet", ".csv", ".png")
    paths = [path for path in storage.glob("trials/**/*") if path.suffix in kinds]
    return {str(p.relative_to(storage / "trials")): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(paths)}


def artifacts(storage: Path) -> list[str]:
    """Return name and sha256 of all weights, tables and predictions in the embedded artifact store, sorted."""
    paths = [path for path in storage.glob("artifacts/**/*") if path.suffix in ARTIFACTS]
    return sorted(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths)


def state(storage: Path) -> dict[str, Any]:
    """Return everything about a sweep that must not depend on what happened to it on the way."""
    uri = f"sqlite:///{storage}/mlflow.db"
    return {"runs": histories(uri), "files": files(storage), "artifacts": artifacts(storage)}


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


if __name__ == "__main__":
    main()
