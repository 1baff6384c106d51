"""What preparations that run beside each other, and beside trials, share: CPUs, and who makes which file."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipeline.errors import RequestError
from sweeps.cluster.resources import Shape

LOOK_EVERY = 0.5  # seconds between looks at what trials want, and at whether the end was asked for


class Closed(Exception):
    """The end was asked for: what isn't made yet is left to the next run."""


class Workshop:
    """Lends CPUs to whoever makes files, and lets nobody make a file that another is making.

    Lent is what trials neither hold nor could have, and at least half of the cluster's CPUs. Threads may share one.
    """

    def __init__(self, cpus: Callable[[], float] | None = None) -> None:
        self.cpus = cpus or _of_the_cluster
        self.wanted: Counter[Shape] = Counter()  # trials that run or are ready, see Line.wanted
        self.taken, self.is_closed = 0, False
        self._making: set[Path] = set()
        self._changed = threading.Condition()

    @contextmanager
    def making(self, files: Iterable[Path], most: int) -> Iterator[int]:
        """Have files to oneself while it lasts; gives how many tasks may run at once, 1 to `most`. Closed if it is."""
        wanted = set(files)
        with self._changed:
            while self._making & wanted or (room := self._room()) < 1:
                self.check()
                self._changed.wait(LOOK_EVERY)
            lent = max(1, min(most, int(room)))
            self.taken += lent
            self._making |= wanted
        try:
            yield lent
        finally:
            with self._changed:
                self.taken -= lent
                self._making -= wanted
                self._changed.notify_all()

    def check(self) -> None:
        """Closed if the end was asked for."""
        if self.is_closed:
            raise Closed

    def _room(self) -> float:
        cpus = self.cpus()
        half = max(1.0, cpus // 2)
        trials = sum(shape.cpu * number for shape, number in self.wanted.items() if shape.cpu <= cpus - half)
        return max(half, cpus - trials) - self.taken


def _of_the_cluster() -> float:
    import ray

    return ray.cluster_resources().get("CPU", 0.0)


def raise_all(errors: list[Exception]) -> None:
    """Raise the first error that is no refusal, else all that was refused as one; nothing if there are none."""
    refused = [problem for error in errors if isinstance(error, RequestError) for problem in error.problems]
    for error in errors:
        if not isinstance(error, RequestError):
            raise error
    if refused:
        raise RequestError(*dict.fromkeys(refused))
