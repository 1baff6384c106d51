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
from data_pipeline.shared.hand import make
from data_pipeline.shared.store import Shared
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


def make_files(
    tasks: dict[Path, Task], count: Count, work: Workshop | None = None, shared: Shared | None = None
) -> None:
    """Make every file that isn't there yet; Ray must run. All requests that can't be met are refused together.

    shared: where machines that share no folder find what tasks read, and put what they make.
    """
    if all(_is_there(path, shared) for path in tasks):
        return
    work = work or Workshop()
    with work.making(tasks, len(tasks)) as at_once:
        missing = {path: task for path, task in tasks.items() if not _is_there(path, shared)}
        if shared is not None:
            shared.push_missing(shared.made_in([task.args for task in missing.values()]))
        _make(missing, count, at_once, work.check, shared)
    for path in missing:
        _await(path, shared)


def _is_there(path: Path, shared: Shared | None) -> bool:
    return path.exists() or (shared is not None and shared.pull(path))


def _make(
    missing: dict[Path, Task], count: Count, at_once: int, check: Callable[[], None], shared: Shared | None
) -> None:
    has_gpu = ray.cluster_resources().get("GPU", 0) >= 1
    attempt, todo, running = checked(_attempt, lambda said: said), list(missing.items()), {}
    of, done, errors = Counter(task.kind for task in missing.values()), Counter(), []
    while todo or running:
        check()
        while todo and len(running) < at_once:
            path, task = todo.pop(0)
            worker = ray.remote(num_cpus=1, num_gpus=int(task.on_gpu and has_gpu), max_retries=3)(attempt)
            running[worker.remote(shared, task.make, path, *task.args)] = task.kind
        for ready in ray.wait(list(running), timeout=LOOK_EVERY)[0]:
            error, kind = ray.get(ready), running.pop(ready)
            errors += [] if error is None else [_error(error)]
            done[kind] += 1
            count(f"preparing: {kind}", done[kind], of[kind])
    raise_all(errors)


def _await(path: Path, shared: Shared | None) -> None:
    """Wait until a file that another node has written is seen here, which file servers may delay by half a minute."""
    deadline = time.monotonic() + SEEN_WITHIN
    while not _is_there(path, shared):
        if time.monotonic() > deadline:
            raise RequestError(
                f"{path}: was made by a worker, but isn't there {SEEN_WITHIN:.0f} s later: the storage folder must be "
                "one that all nodes share; name such a folder with --storage"
            )
        time.sleep(0.2)


def _attempt(shared: Shared | None, how: Callable[..., None], path: Path, *args: Any) -> bytes | None:
    """Return what went wrong, pickled by this very program: raised in a task, Ray keeps only its text."""
    try:
        make(shared, how, path, *args)
    except Exception as error:
        return cloudpickle.dumps(error)
    return None


def _error(came: bytes | str) -> Exception:
    return RequestError(came) if isinstance(came, str) else cloudpickle.loads(came)
