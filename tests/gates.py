"""The program of `fault_tools.start`: the command line, with gates where a process waits for a test to kill it.

A gate is a stage and a file: the first process that reaches the stage creates the file, with its pid, and sleeps. Later
ones find the file and pass.
"""

import contextlib
import dataclasses
import faulthandler
import functools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

GATE, CLOCK = "CELLSKEW_TEST_GATE", "CELLSKEW_TEST_CLOCK"
PATIENCE = "CELLSKEW_TEST_PATIENCE"  # seconds that a driver waits at its end for MLflow, where waiting is in vain


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
    if PATIENCE in os.environ:
        worker.UPLOAD_PAUSES = (1, 2, 5, 10)
    before(Trainer, "_step", "first_epoch", is_step(0))
    before(Trainer, "_step", "last_epoch", is_step(2))
    before(checkpoint, "write_tensors", "checkpoint", lambda path, content: path.match("*epoch-0002*/best*"))
    copy = artifacts._copy

    def half_copied(here: Path, file: Path, folder: Path) -> None:
        target, data = here / folder / file.name, file.read_bytes()
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.write_bytes(data[: len(data) // 2])
        if file.suffix != ".txt":  # the log of a trial that failed goes alone
            wait_at("upload")
        copy(here, file, folder)

    artifacts._copy = half_copied


def _gate_driver() -> None:
    from alembic.operations import Operations
    from mlflow import MlflowClient

    from data_pipeline.shards import datasource
    from sweeps.drive import converge
    from sweeps.tracking.delivery import Delivery
    from sweeps.tracking.store import Tracker

    for_each = datasource.for_each_block
    gated = lambda *given: for_each(*given[:5], functools.partial(gated_work, given[5]), *given[6:])  # noqa: E731
    datasource.for_each_block = gated
    before(Operations, "create_index", "database")
    created: list[Any] = []
    after(MlflowClient, "create_run", "registration", lambda *a, **k: created.append(1) or len(created) == 2)
    second = "epoch"
    before(Tracker, "report", "noted", lambda tracker, run_id, numbers: numbers.get(second) == 2)
    before(Tracker, "finish", "closing", lambda tracker, run_id, status, *more: status == "FINISHED")
    after(Delivery, "deliver", "delivered", lambda delivery, records: any(one.get("step") == 2 for one in records))
    if os.environ.get(CLOCK):
        before(Tracker, "report", "", lambda *a: bool(turn_clock(float(os.environ[CLOCK]))))
    if seconds := os.environ.get(PATIENCE):
        Tracker.close = functools.partialmethod(Tracker.close, float(seconds))
    real = converge.real_parts
    converge.real_parts = lambda *shared: dataclasses.replace(real(*shared), run_trial=trial)


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
    sys.modules["gates"] = sys.modules["__main__"]
    for thing in (trial, gated_work):
        thing.__module__ = "gates"  # workers import it by this name
    _gate_driver()
    cli()


if __name__ == "__main__":
    main()
