"""Trials that are prepared while others train: group by group, each handed over as soon as its inputs are there."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from sweeps.cluster.room import Waiting
from sweeps.drive.workshop import LOOK_EVERY, Closed, Workshop, raise_all
from sweeps.file.trials import Trial

J = TypeVar("J", bound=Waiting)
MOST, PATIENCE = 32, 10.0  # groups prepared at once; seconds that an end waits for all of those


class Coming(Generic[J]):
    """The trials of a launch, in groups that are prepared in their order, as many at once as there are CPUs.

    prepared: makes what a group needs and yields its jobs, those at a time that are ready, in threads of this process.
    A group that fails is tried again, what is left of it, model by model, so that only the trials fail that need what
    can't be made. All other methods are for one thread. jobs: what has been handed over so far. failed: what
    `unprepared` says of trials, and why, for whoever takes them out.
    """

    def __init__(
        self,
        groups: list[list[Trial]],
        prepared: Callable[[list[Trial]], Iterable[list[J]]],
        unprepared: Callable[[Trial], J],
        work: Workshop,
        count: Callable[[str, int, int], None],
    ) -> None:
        self.prepared, self.unprepared, self.work, self.count = prepared, unprepared, work, count
        self.jobs: list[J] = []
        self.failed: list[tuple[J, Exception]] = []
        self.total = self.left = sum(map(len, groups))
        self._groups, self._news = deque(groups), queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in groups[:MOST]]

    def begin(self) -> None:
        """Return once the first group is ready; raise what was wrong, as one, if none can be."""
        for thread in self._threads[: max(1, int(self.work.cpus()))]:
            thread.start()
        while self.left and not self.jobs:
            self._take(LOOK_EVERY)
        if not self.jobs:
            raise_all([error for _, error in self.failed])

    def arrived(self) -> list[J]:
        """Return the jobs that have become ready since it was last asked."""
        known = len(self.jobs)
        while not self._news.empty():
            self._take(0.0)
        return self.jobs[known:]

    def is_over(self) -> bool:
        """Tell whether no further job will come."""
        return not self.left

    def close(self) -> None:
        """Have what is being made left to the next run."""
        self.work.is_closed, until = True, time.monotonic() + PATIENCE
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, until - time.monotonic()))

    def _take(self, seconds: float) -> None:
        try:
            ready, failed, error = self._news.get(timeout=seconds) if seconds else self._news.get_nowait()
        except queue.Empty:
            return
        self.left -= len(ready) + len(failed)
        self.failed += [(self.unprepared(trial), error) for trial in failed]
        self.jobs += ready
        if self.left or self.total > len(ready):
            self.count("preparing: trials ready", len(self.jobs), len(self.jobs) + self.left)

    def _work(self) -> None:
        while self._groups and not self.work.is_closed:
            try:
                group = self._groups.popleft()
            except IndexError:
                return
            handed: set[str] = set()
            try:
                for jobs in filter(None, self.prepared(group)):
                    self._news.put((jobs, [], None))
                    handed |= {job.key for job in jobs}
            except Closed:
                return
            except Exception as error:
                self._failed([trial for trial in group if trial.key not in handed], error)

    def _failed(self, group: list[Trial], error: Exception) -> None:
        models: dict[str, list[Trial]] = {}
        for trial in group:
            models.setdefault(trial.label, []).append(trial)
        if len(models) > 1:
            self._groups.extendleft(models.values())
        else:
            self._news.put(([], group, error))
