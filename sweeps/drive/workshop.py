"""What preparations that run beside each other, and beside trials, share: CPUs, GPUs, and who makes which file."""

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
    """Lends CPUs and whole GPUs to whoever makes files, and lets nobody make a file that another is making.

    Lent is what trials neither hold nor could have, and at least half of the cluster's CPUs and GPUs, one of each at
    any rate. Threads may share a CPU. gpus: of a kind (a resource of the nodes, "": any), node -> number.
    """

    def __init__(
        self, cpus: Callable[[], float] | None = None, gpus: Callable[[str], dict[str, int]] | None = None
    ) -> None:
        self.cpus, self.gpus = cpus or _of_the_cluster, gpus or _of_the_nodes
        self.wanted: Counter[Shape] = Counter()  # trials that run or are ready, see Line.wanted
        self.held: dict[str, float] = {}  # GPUs that trials hold, by node
        self.taken, self.is_closed = 0, False
        self.lent: Counter[str] = Counter()  # whole GPUs, by node; replaced, never changed: others read it
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

    @contextmanager
    def on_gpus(self, most: int, kind: str = "") -> Iterator[list[str]]:
        """Have whole GPUs while it lasts; gives the node of each, 1 to `most`, none if there are none of the kind.

        Trials may still be on them: no other comes, and Ray starts who waits for a whole one when those have ended.
        """
        nodes: list[str] = []
        with self._changed:
            while most and (there := self.gpus(kind)) and not (nodes := self._free_gpus(there, most)):
                self.check()
                self._changed.wait(LOOK_EVERY)
            self.lent = self.lent + Counter(nodes)
        try:
            yield nodes
        finally:
            with self._changed:
                self.lent = self.lent - Counter(nodes)
                self._changed.notify_all()

    def is_awaited(self, node: str) -> bool:
        """Tell whether trials are on a GPU of the node that is lent already."""
        there = self.gpus("").get(node, 0)
        return self.held.get(node, 0.0) + self.lent[node] > there > 0

    def check(self) -> None:
        """Closed if the end was asked for."""
        if self.is_closed:
            raise Closed

    def _room(self) -> float:
        cpus = self.cpus()
        half = max(1.0, cpus // 2)
        trials = sum(shape.cpu * number for shape, number in self.wanted.items() if shape.cpu <= cpus - half)
        return max(half, cpus - trials) - self.taken

    def _free_gpus(self, there: dict[str, int], most: int) -> list[str]:
        """Return the nodes of those that can be lent now, the ones that trials leave soonest first."""
        total, trials = sum(there.values()), sum(shape.gpu * number for shape, number in self.wanted.items())
        room = int(max(1, total // 2, total - trials)) - sum(self.lent[node] for node in there)
        places = [
            (max(0.0, self.held.get(node, 0.0) + number - there[node]), number, node)
            for node in there
            for number in range(self.lent[node] + 1, there[node] + 1)
        ]
        return [node for _, _, node in sorted(places)[: max(0, min(room, most))]]


def _of_the_cluster() -> float:
    import ray

    return ray.cluster_resources().get("CPU", 0.0)


def _of_the_nodes(kind: str) -> dict[str, int]:
    from sweeps.cluster.demand import capacities

    return {node: int(shape.gpu) for node, shape in capacities(kind).items() if shape.gpu >= 1}


def raise_all(errors: list[Exception]) -> None:
    """Raise the first error that is no refusal, else all that was refused as one; nothing if there are none."""
    refused = [problem for error in errors if isinstance(error, RequestError) for problem in error.problems]
    for error in errors:
        if not isinstance(error, RequestError):
            raise error
    if refused:
        raise RequestError(*dict.fromkeys(refused))
