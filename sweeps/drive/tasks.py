"""Files made by Ray tasks, one each, as many at once as the cluster has room for."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle

from data_pipeline.errors import RequestError

Count = Callable[[str, int, int], None]  # what, how many are done, of how many


@dataclass(frozen=True)
class Task:
    """A file that make(path, *args) publishes. kind: what progress calls it; args may be Ray references;
    on_gpu: faster there; after: the file that must be there first."""

    kind: str
    make: Callable[..., None]
    args: tuple[Any, ...]
    on_gpu: bool = False
    after: Path | None = None


def make_files(tasks: dict[Path, Task], count: Count) -> None:
    """Make every file that isn't there yet; Ray must run. All requests that can't be met are refused together."""
    missing = {path: task for path, task in tasks.items() if not path.exists()}
    has_gpu = ray.cluster_resources().get("GPU", 0) >= 1 if missing else False
    started: dict[Path, ray.ObjectRef] = {}
    for path, task in missing.items():
        worker = ray.remote(num_cpus=1, num_gpus=int(task.on_gpu and has_gpu), max_retries=3)(_attempt)
        started[path] = worker.remote(started.get(task.after), task.make, path, *task.args)
    kinds = {ref: missing[path].kind for path, ref in started.items()}
    of, done, errors, waiting = Counter(kinds.values()), Counter(), [], list(kinds)
    while waiting:
        (ready,), waiting = ray.wait(waiting, num_returns=1)
        error = ray.get(ready)
        errors += [] if error is None else [cloudpickle.loads(error)]
        done[kinds[ready]] += 1
        count(f"preparing: {kinds[ready]}", done[kinds[ready]], of[kinds[ready]])
    _raise(errors)


def _attempt(before: bytes | None, make: Callable[..., None], path: Path, *args: Any) -> bytes | None:
    """Return what went wrong, pickled by this very program: raised in a task, Ray keeps only its text."""
    if before is not None:
        return before
    try:
        make(path, *args)
    except Exception as error:
        return cloudpickle.dumps(error)
    return None


def _raise(errors: list[Exception]) -> None:
    refused = [problem for error in errors if isinstance(error, RequestError) for problem in error.problems]
    for error in errors:
        if not isinstance(error, RequestError):
            raise error
    if refused:
        raise RequestError(*dict.fromkeys(refused))
