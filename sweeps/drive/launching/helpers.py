"""A trial on several GPUs: its worker trains on the first, and has a helper on each other one of its part of the node.

Ray Train isn't used: what it starts lies in a placement group of its own, which neither Tune's trial holds nor the line
counts, and reports and checkpoints would go its way in place of the trial's.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from sweeps.cluster.nodes import end_with_raylet
from sweeps.cluster.resources import workers
from sweeps.drive.launching.log import logger
from sweeps.drive.launching.worker import Trainable
from trainables.trial.outcome import finished

READY = 300.0  # seconds within which a helper has started and imported what it needs
TELLS = 20.0  # seconds in which a worker that waits for a dead helper notices it itself


def together(trainable: Trainable, resources: dict[str, float]) -> Trainable:
    """Return what runs a trial, with helpers if it has several GPUs; run_trial itself, if not.

    A helper that dies fails the attempt as an outside cause does, so that it goes on from the newest checkpoint; what
    a helper raises is raised here.
    """
    size = workers(resources["gpu"])
    if size == 1:
        return trainable

    def run(config: dict[str, Any], report: Any, checkpoint: Path | None) -> dict[str, Any]:
        if finished(Path(config["directory"])) is not None:
            return trainable(config, report, checkpoint)
        with _helped(config, checkpoint, size, resources["cpu"] / size):
            return trainable(config, report, checkpoint)

    return run


@contextmanager
def _helped(config: dict[str, Any], checkpoint: Path | None, size: int, cpus: float) -> Iterator[None]:
    """Have helpers train beside this process while it lasts."""
    from trainables.training.team import Team, TeamBroken, joined

    helpers, port, over = [_helper(rank, cpus) for rank in range(1, size)], _free_port(), threading.Event()
    try:
        ray.get([one.is_ready.remote(config) for one in helpers], timeout=READY)
        asked = [one.train.remote(port, rank, size, config, checkpoint) for rank, one in enumerate(helpers, 1)]
        threading.Thread(target=_watch, args=(asked, over), daemon=True).start()
        with joined(port, Team(0, size), config["device"] == "cuda"):
            yield
    except TeamBroken as error:
        raise _failure(asked, error) from error
    except ray.exceptions.RayError as error:
        raise _cause(error) from error
    finally:
        over.set()
        for one in helpers:
            ray.kill(one)


def _helper(rank: int, cpus: float) -> Any:
    """Start a helper in its part of the trial's placement group."""
    here = PlacementGroupSchedulingStrategy(get_current_placement_group(), placement_group_bundle_index=rank)
    return ray.remote(Helper).options(num_cpus=cpus, num_gpus=1, scheduling_strategy=here).remote()


class Helper:
    """A process that trains beside a trial's worker."""

    def is_ready(self, config: dict[str, Any]) -> None:
        """Fail for whatever would keep it from training, before the others wait for it."""
        from trainables.training.device import choose_device

        end_with_raylet()
        choose_device(config["device"])

    def train(self, port: int, rank: int, size: int, config: dict[str, Any], checkpoint: Path | None) -> None:
        """Train with the team whose first worker listens at `port`."""
        from trainables.training.team import Team, joined
        from trainables.trial.trial import assist

        with joined(port, Team(rank, size), config["device"] == "cuda"):
            assist(config, checkpoint)


def _watch(asked: list[Any], over: threading.Event) -> None:
    """End this process if a helper is gone and it doesn't notice, as it may wait for it on a GPU; Tune tries again."""
    waiting = list(asked)
    while waiting and not over.wait(0.5):
        done, waiting = ray.wait(waiting, timeout=0)
        said = next(filter(None, map(_error, done)), None)
        if said is not None and not over.wait(TELLS):
            logger.error("a helper of this trial failed, and it waits for it: %s", said)
            os._exit(1)


def _failure(asked: list[Any], error: Exception) -> Exception:
    """Return why the team broke: what a helper raised, or that one died."""
    done, _ = ray.wait(asked, timeout=TELLS)
    return next(filter(None, map(_error, done)), ConnectionError(str(error)))


def _error(answer: Any) -> Exception | None:
    try:
        ray.get(answer)
    except ray.exceptions.RayError as error:
        return _cause(error)
    return None


def _cause(error: ray.exceptions.RayError) -> Exception:
    """Return what a helper raised; if it died, what stands for a cause outside of the trial."""
    if isinstance(error, ray.exceptions.RayTaskError) and isinstance(error.cause, Exception):
        return error.cause
    return ConnectionError(f"a helper on another GPU of this trial died: {str(error).strip().splitlines()[0][:300]}")


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
