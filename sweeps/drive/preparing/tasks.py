"""Files made by Ray tasks, one each, as many at once as the cluster has room for."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle

from data_pipeline.errors import RequestError
from data_pipeline.sameness import checked
from sweeps.drive.workshop import LOOK_EVERY, Workshop, raise_all

SEEN_WITHIN = 60.0  # seconds
Count = Callable[[str, int, int], None]  # what, how many are done, of how many


@dataclass(frozen=True)
class Task:
    """A file that make(path, *args) publishes. kind: what progress calls it; args may be Ray references; on_gpu: faster
    there."""

    kind: str
    make: Callable[..., None]
    args: tuple[Any, ...]
    on_gpu: bool = False


def make_files(tasks: dict[Path, Task], count: Count, work: Workshop | None = None) -> None:
    """Make every file that isn't there yet; Ray must run. All requests that can't be met are refused together."""
    if all(path.exists() for path in tasks):
        return
    work = work or Workshop()
    with work.making(tasks, len(tasks)) as at_once:
        missing = {path: task for path, task in tasks.items() if not path.exists()}
        _make(missing, count, at_once, work.check)
    for path in missing:
        _await(path)


def _make(missing: dict[Path, Task], count: Count, at_once: int, check: Callable[[], None]) -> None:
    has_gpu = ray.cluster_resources().get("GPU", 0) >= 1
    attempt, todo, running = checked(_attempt, lambda said: said), list(missing.items()), {}
    of, done, errors = Counter(task.kind for task in missing.values()), Counter(), []
    while todo or running:
        check()
        while todo and len(running) < at_once:
            path, task = todo.pop(0)
            worker = ray.remote(num_cpus=1, num_gpus=int(task.on_gpu and has_gpu), max_retries=3)(attempt)
            running[worker.remote(task.make, path, *task.args)] = task.kind
        for ready in ray.wait(list(running), timeout=LOOK_EVERY)[0]:
            error, kind = ray.get(ready), running.pop(ready)
            errors += [] if error is None else [_error(error)]
            done[kind] += 1
            count(f"preparing: {kind}", done[kind], of[kind])
    raise_all(errors)


def _await(path: Path) -> None:
    """Wait until a file that another node has written is seen here, which file servers may delay by half a minute."""
    deadline = time.monotonic() + SEEN_WITHIN
    while not path.exists():
        if time.monotonic() > deadline:
            raise RequestError(
                f"{path}: was made by a worker, but isn't there {SEEN_WITHIN:.0f} s later: the storage folder must be "
                "one that all nodes share; name such a folder with --storage"
            )
        time.sleep(0.2)


def _attempt(make: Callable[..., None], path: Path, *args: Any) -> bytes | None:
    """Return what went wrong, pickled by this very program: raised in a task, Ray keeps only its text."""
    try:
        make(path, *args)
    except Exception as error:
        return cloudpickle.dumps(error)
    return None


def _error(came: bytes | str) -> Exception:
    return RequestError(came) if isinstance(came, str) else cloudpickle.loads(came)
