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
from sweeps.drive.preparing import placing
from sweeps.drive.workshop import LOOK_EVERY, Workshop, raise_all

SEEN_WITHIN = 60.0  # seconds
CPU = {"num_cpus": 1}  # what a task asks of Ray
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
    work, errors = work or Workshop(), []
    with work.making(tasks, len(tasks)) as at_once:
        missing = {path: task for path, task in tasks.items() if not _is_there(path, shared)}
        if shared is not None:
            shared.push_missing(shared.made_in([task.args for task in missing.values()]))
        by_gpu = {path: task for path, task in missing.items() if task.on_gpu}
        with work.on_gpus(len(by_gpu)) as nodes:
            places = [CPU | {"num_gpus": 1} | placing.on(node) for node in nodes]
            errors += _make(by_gpu, count, places, work.check, shared)
        rest = by_gpu | {path: task for path, task in missing.items() if not task.on_gpu}
        errors += _make(rest, count, [CPU] * at_once, work.check, shared)
    raise_all(errors)
    for path in missing:
        _await(path, shared)


def _is_there(path: Path, shared: Shared | None) -> bool:
    return path.exists() or (shared is not None and shared.pull(path))


def _make(
    todo: dict[Path, Task],
    count: Count,
    places: list[dict[str, Any]],
    check: Callable[[], None],
    shared: Shared | None,
) -> list[Exception]:
    """Make the files, as many at once as there are places (what a task asks of Ray); returns what went wrong.

    What is made is taken out of `todo`; what is left there had its place on a node that is gone, as all are.
    """
    attempt, free, running = checked(_attempt, lambda said: said), list(places), {}
    of, done, errors = Counter(task.kind for task in todo.values()), Counter(), []
    while running or (todo and free):
        check()
        while todo and free:
            path, place = next(iter(todo)), free.pop()
            task = todo.pop(path)
            worker = ray.remote(max_retries=3, **place)(attempt)
            running[worker.remote(shared, task.make, path, *task.args)] = path, task, place
        for ready in ray.wait(list(running), timeout=LOOK_EVERY)[0]:
            path, task, place = running.pop(ready)
            try:
                error = ray.get(ready)
            except ray.exceptions.TaskUnschedulableError:
                todo[path] = task
                continue
            errors += [] if error is None else [_error(error)]
            free.append(place)
            done[task.kind] += 1
            count(f"preparing: {task.kind}", done[task.kind], of[task.kind])
    return errors


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
