"""The trials that wait: which is next, and on which node. Knows neither Ray nor Tune."""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence

from sweeps.cluster.resources import Shape
from sweeps.cluster.room import CRUMB, Coming, Handed, Held, Places, Waiting

LOOK_EVERY = 5.0  # seconds between looks at the nodes
SHORT = 120.0  # a trial that was over within so many seconds has another one wait for its worker
PATIENCE = 300.0  # seconds that a trial waits in vain for what its node should have
FAULTS = 2  # trials that a node fails before it gets no more
TRIES = 3  # nodes that may fail a trial before it counts as its own failure
SAY_EVERY = 60.0  # seconds between words about trials that no node has room for
Capacities = Callable[[], Mapping[str, Shape]]  # node id -> all it has


class Line:
    """Hands out trials, each with a node that has room for it.

    Each shape has a line of its own, by the trials' turns, so that one that fits nowhere holds up no other. Those that
    want a GPU come first; among them the one that holds least for the work it has left, so that all end at about the
    same time and small ones fill what large ones leave. Trials without a GPU go to nodes without one, and leave to
    those with some the CPUs that trials on the GPUs can use. For one that wants several whole GPUs a node is kept
    until it has them. A trial too short for a worker's start to be worth its
    while takes the worker of one of its shape: one waits behind each of these.
    """

    def __init__(
        self,
        jobs: Sequence[Waiting],
        capacities: Capacities,
        say: Callable[[str], None],
        most: int | None,
        clock: Callable[[], float] | None = None,
        short: float = SHORT,
        coming: Coming | None = None,
    ) -> None:
        self.coming, self.clock, self.brief = coming, clock or time.monotonic, short
        self.waiting: dict[Shape, deque[Waiting]] = {}
        self.left: Counter[Shape] = Counter()  # what those that wait cost together
        self._queue(jobs)
        self.capacities, self.say, self.most = capacities, say, most
        self.places = Places()
        self.handed: dict[str, Handed] = {}
        self.short: Counter[tuple[str, Shape]] = Counter()  # 1 where the last trial was short
        self.avoided: dict[str, float] = {}  # node -> when it may be tried again; until then nothing is sent there
        self.faults: Counter[str] = Counter()  # of nodes
        self.refusals: Counter[str] = Counter()  # of trials
        self.barred: dict[str, str] = {}  # node -> why it gets no more trials
        self.back_for: dict[str, str] = {}  # trial that is in line again -> why
        self.looked = self.said = -1e9

    def is_over(self) -> bool:
        """Tell whether all trials are done: none waits, none that runs may come back, and none is being prepared."""
        return not self.is_preparing() and not self.handed and not any(self.waiting.values())

    def is_preparing(self) -> bool:
        """Tell whether trials will come that aren't ready yet."""
        return self.coming is not None and not self.coming.is_over()

    def lends(self) -> bool:
        """Tell whether others are being prepared with CPUs or GPUs that trials leave them."""
        return self.coming is not None and bool(self.coming.work.taken or self.coming.work.lent)

    def next(self) -> Handed | None:
        """Hand out the trial that is to start now; None: none has room."""
        self._look()
        spare = self._spare()
        if self.most is not None and len(self.handed) >= self.most:
            return None
        shapes = sorted((shape for shape, jobs in self.waiting.items() if jobs), key=self._urgency)
        without = {node for node, until in self.avoided.items() if until > self.clock()} | set(self.barred)
        for shape in shapes:
            node = self.places.find(shape, self._dense(), without) if shape.cpu <= spare + CRUMB else None
            if node is not None:
                return self._hand(shape, node, self.places.take(shape, node))
            if shape.gpu > 1:
                without |= {self.places.nearest(shape, without)}
        for shape in shapes if spare >= 0 else []:
            node = self._worker_to_come(shape, without)
            if node is not None:
                return self._hand(shape, node, None)
        return None

    def _spare(self) -> float:
        """Take in the trials that have become ready; return the CPUs that the preparation of others leaves.

        The GPUs that it is lent are kept from trials.
        """
        if self.coming is None:
            return math.inf
        work = self.coming.work
        self._queue(self.coming.arrived())
        work.wanted, work.held = self.wanted(), self.places.keep(work.lent)
        return sum(node.free_cpu for node in self.places.nodes.values()) - work.taken

    def started(self, key: str) -> None:
        """Note that a trial has its worker; one that waited behind another may have got one of its own before."""
        found = self.handed[key]
        found.since = self.clock()
        node, shape = self.places.nodes.get(found.node), Shape.of(found.job.resources)
        if found.part is None and node is not None and node.has_room(shape):
            found.part = self.places.take(shape, found.node)

    def over(self, key: str) -> None:
        """Note that a trial needs its part no more; the one that waits behind it, if any, has it now."""
        gone = self.handed.pop(key, None)
        if gone is not None and gone.comes_back:
            self.back_for[key] = gone.comes_back
            self._wait_again(gone.job)
        if gone is None or gone.part is None:
            return
        place = (gone.part.node, gone.part.shape)
        self.short[place] = int(self.clock() - gone.since < self.brief)
        behind = [one for one in self.handed.values() if self._is_behind(one, *place)]
        if behind:
            behind[0].part, behind[0].since, behind[0].is_heir = gone.part, self.clock(), True
        else:
            self.places.give(gone.part)

    def back(self, key: str) -> None:
        """Put a trial that was handed out in front of its line again."""
        job = self.handed[key].job
        self.stays(key)
        self.over(key)
        self.back_for[key] = "its node is gone or has no room"
        self._wait_again(job)

    def stays(self, key: str) -> None:
        """Note that Tune has a trial again, or has given it up: its end will be one."""
        self.handed[key].comes_back = ""

    def refused(self, key: str, why: str) -> bool:
        """Note that a node lacks what a trial needs; tell whether the trial goes back in line when it ends.

        A node that fails two is barred. A trial that three nodes refuse has itself to blame.
        """
        found = self.handed[key]
        self.refusals[key] += 1
        if found.node is not None:
            self.faults[found.node] += 1
            if self.faults[found.node] >= FAULTS and found.node not in self.barred:
                self.barred[found.node] = why
                self.say(f"a node gets no more trials, as it failed {FAULTS}: {why}")
        if self.refusals[key] >= TRIES:
            return False
        found.comes_back = why
        return True

    def hopeless(self) -> str | None:
        """Return why, if every node is barred; else None."""
        self._look()
        nodes = self.places.nodes
        if not nodes or any(node not in self.barred for node in nodes):
            return None
        return next(iter(self.barred.values()))

    def leaving(self) -> list[Waiting]:
        """Return the trials that were handed to nodes which are being drained, or are gone."""
        self._look()
        nodes = self.places.nodes
        return [one.job for one in self.handed.values() if one.node is not None and one.node not in nodes]

    def leaves(self, key: str) -> bool:
        """Tell whether a trial's node is being drained; its end is none then: it goes back in line."""
        found = self.handed.get(key)
        if found is None or found.node is None or found.node in self.places.nodes:
            return False
        found.comes_back = "its node is being drained"
        return True

    def came_back(self, key: str) -> str | None:
        """Return why a trial that ended is in line again, None if it isn't; told once."""
        return self.back_for.pop(key, None)

    def is_misplaced(self, key: str) -> bool:
        """Tell whether a trial that has not started waits where it will not: its node is gone, or has no room."""
        self._look()
        found = self.handed[key]
        if found.node is None:
            return False
        if found.node not in self.places.nodes or found.node in self.barred:
            return True
        if self.avoided.get(found.node, 0) > self.clock():
            return True
        has_waited = self.clock() - found.since > PATIENCE and not self.is_preparing()
        is_late = found.part is not None and has_waited and self._fits_elsewhere(found)
        if is_late:
            self.avoid(found.node, PATIENCE)
        return is_late

    def is_promised(self) -> bool:
        """Tell whether a trial has been promised room on a node that is there."""
        return any(one.part is not None and one.part.node in self.places.nodes for one in self.handed.values())

    def moved(self, key: str) -> str | None:
        """Return the node where a trial that lost its worker starts again; None: any that has room."""
        self.looked = -1e9
        self._look()
        found = self.handed[key]
        if found.node not in self.places.nodes:
            shape = Shape.of(found.job.resources)
            found.node = self.places.find(shape)
            found.part = None if found.node is None else self.places.take(shape, found.node)
        found.since = self.clock()
        return found.node

    def avoid(self, node: str, seconds: float) -> None:
        """Send nothing to a node for a while."""
        self.avoided[node] = self.clock() + seconds

    def has_inherited(self, key: str) -> bool:
        """Tell whether a trial waited behind another, which is over."""
        return key in self.handed and self.handed[key].is_heir

    def capacity(self) -> Shape:
        """Return all that the nodes have."""
        self._look()
        nodes = self.places.nodes.values()
        return Shape(sum(node.gpu for node in nodes), sum(node.cpu for node in nodes))

    def wanted(self) -> Counter[Shape]:
        """Return how many trials of each shape run or wait."""
        running = Counter(Shape.of(one.job.resources) for one in self.handed.values())
        return running + Counter({shape: len(jobs) for shape, jobs in self.waiting.items()})

    def _fits_elsewhere(self, found: Handed) -> bool:
        shape, nodes = Shape.of(found.job.resources), self.places.nodes
        others = set(nodes) - {found.node} - set(self.barred)
        return any(_could(nodes[name].cpu, nodes[name].gpu, shape) for name in others)

    def _queue(self, jobs: Sequence[Waiting]) -> None:
        for job in jobs:
            self.waiting.setdefault(Shape.of(job.resources), deque()).append(job)
            self.left[Shape.of(job.resources)] += job.cost
        for shape in {Shape.of(job.resources) for job in jobs}:
            self.waiting[shape] = deque(sorted(self.waiting[shape], key=lambda job: job.turn))

    def _wait_again(self, job: Waiting) -> None:
        self.waiting[Shape.of(job.resources)].appendleft(job)
        self.left[Shape.of(job.resources)] += job.cost

    def _hand(self, shape: Shape, node: str, part: Held | None) -> Handed:
        job = self.waiting[shape].popleft()
        self.left[shape] -= job.cost
        self.handed[job.key] = Handed(job, node, part, self.clock())
        return self.handed[job.key]

    def _urgency(self, shape: Shape) -> tuple[bool, float, float]:
        """Return what decides which shape is next, smallest first."""
        amount = shape.gpu or shape.cpu
        left = self.left[shape] * amount
        held = sum(one.part is not None and one.part.shape == shape for one in self.handed.values()) * amount
        return not shape.gpu, held / max(left, 1e-9), -self.waiting[shape][0].cost

    def _dense(self) -> float:
        """Return the most CPUs per GPU that trials which wait for one could use."""
        shapes = [shape for shape, jobs in self.waiting.items() if jobs and shape.gpu]
        return max((shape.cpu * shape.trials_per_gpu for shape in shapes), default=0.0)

    def _worker_to_come(self, shape: Shape, without: set[str]) -> str | None:
        """Return a node with a short trial of this shape behind which none waits yet."""
        brief = {node for (node, other), is_short in self.short.items() if is_short and other == shape} - without
        if not brief:
            return None
        brief = {node for node in brief if not (shape.gpu and self.places.is_kept(node))}
        alike = [one for one in self.handed.values() if Shape.of(one.job.resources) == shape]
        running = Counter(one.node for one in alike if one.part is not None)
        behind = Counter(one.node for one in alike if one.part is None)
        return next((node for node, number in running.items() if node in brief and behind[node] < number), None)

    def _is_behind(self, one: Handed, node: str | None, shape: Shape) -> bool:
        return one.part is None and one.node == node and Shape.of(one.job.resources) == shape

    def _look(self) -> None:
        now = self.clock()
        if now - self.looked < LOOK_EVERY:
            return
        self.looked = now
        parts = [one.part for one in self.handed.values() if one.part is not None]
        self.places.look(self.capacities(), parts)
        if now - self.said > SAY_EVERY:
            self.said = now
            for shape, jobs in self.waiting.items():
                if jobs and not any(_could(node.cpu, node.gpu, shape) for node in self.places.nodes.values()):
                    self.say(f"{len(jobs)} trials wait for a node with {shape}; none is there now")


def _could(cpu: float, gpu: float, shape: Shape) -> bool:
    return shape.cpu <= cpu and shape.gpu <= gpu
