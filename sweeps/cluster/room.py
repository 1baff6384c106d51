"""Which node has room for a trial: CPUs and each GPU of every node by itself, not one bag of the cluster's."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from sweeps.cluster.resources import Shape, workers

CRUMB = 1e-6  # of a GPU, or of a CPU: shares are decimals


@dataclass
class Node:
    """What of a node is free: CPUs, those that trials on its GPUs hold, and each GPU."""

    cpu: float
    gpu: float
    free_cpu: float = 0.0
    fed: float = 0.0  # CPUs of trials with a GPU
    gpus: list[float] = field(default_factory=list)
    kept: int = 0  # GPUs, those with the most room, that no trial is put on: something is made on them

    def __post_init__(self) -> None:
        self.free_cpu, self.gpus = self.cpu, [1.0] * int(self.gpu)

    def gpus_for(self, gpu: float) -> tuple[int, ...]:
        """Return the GPU with the least room that is enough, as Ray chooses, or so many whole ones; (): there are none.

        gpu: a share of one, or a number of whole ones.
        """
        number = workers(gpu)
        fullest = sorted(range(len(self.gpus)), key=lambda place: self.gpus[place])
        given = fullest[: max(0, len(fullest) - self.kept)]
        chosen = [place for place in given if self.gpus[place] >= gpu / number - CRUMB][:number]
        return tuple(chosen) if len(chosen) == number else ()

    def has_room(self, shape: Shape, kept: float = 0.0) -> bool:
        """Tell whether a trial fits, `kept` CPUs being kept for trials on this node's GPUs if it wants none."""
        if shape.gpu:
            return self.free_cpu >= shape.cpu - CRUMB and bool(self.gpus_for(shape.gpu))
        kept = min(self.cpu, kept * len(self.gpus))
        return self.free_cpu - max(kept - self.fed, 0.0) >= shape.cpu - CRUMB

    def left(self, shape: Shape) -> tuple[float, ...]:
        """Return how much would be left idle here, least first in order of preference; has_room must be true."""
        if not shape.gpu:
            return (len(self.gpus), self.free_cpu)
        if shape.gpu > 1:
            return (sum(free >= 1 - CRUMB for free in self.gpus), self.free_cpu)
        return (self.gpus[self.gpus_for(shape.gpu)[0]], self.free_cpu)

    def take(self, shape: Shape) -> tuple[int, ...]:
        """Take a trial's part; returns its GPUs."""
        chosen = self.gpus_for(shape.gpu) if shape.gpu else ()
        self.give(shape, chosen, times=-1)
        return chosen

    def give(self, shape: Shape, chosen: tuple[int, ...], times: int = 1) -> None:
        """Give a trial's part back, or take it; of GPUs that a node had no more it is nobody's."""
        self.free_cpu += times * shape.cpu
        there = [number for number in chosen if number < len(self.gpus)]
        self.fed -= times * shape.cpu if there else 0.0
        for number in there:
            self.gpus[number] += times * shape.gpu / len(chosen)


class Held(NamedTuple):
    """A trial's part of a node: which, of what shape, on which GPUs."""

    node: str
    shape: Shape
    gpus: tuple[int, ...]


class Waiting(Protocol):
    """A trial that waits: see Job."""

    key: str
    resources: dict[str, float]
    cost: float
    turn: int


class Coming(Protocol):
    """Trials that aren't ready yet, see drive.coming; work: what is taken to make their inputs, see Workshop."""

    work: Any

    def arrived(self) -> list[Any]: ...

    def is_over(self) -> bool: ...


@dataclass
class Handed:
    """A trial that has been handed out: its node (None: any) and its part of it, None while it waits for a worker."""

    job: Waiting
    node: str | None
    part: Held | None
    since: float
    is_heir: bool = False  # of the worker that another one had
    comes_back: str = ""  # why, once its end will not be one


class Places:
    """The nodes of a cluster, and what each trial holds of them."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.lent: Mapping[str, int] = {}  # GPUs that no trial is put on, by node

    def look(self, capacities: Mapping[str, Shape], held: Iterable[Held]) -> None:
        """Take in which nodes there are now; what is held stays so on those that are left."""
        if {name: Shape(node.gpu, node.cpu) for name, node in self.nodes.items()} == dict(capacities):
            return
        self.nodes = {name: Node(shape.cpu, shape.gpu) for name, shape in capacities.items()}
        for part in held:
            if part.node in self.nodes:
                self.nodes[part.node].give(part.shape, part.gpus, times=-1)
        self.keep(self.lent)

    def keep(self, lent: Mapping[str, int]) -> dict[str, float]:
        """Put no trial on so many GPUs of each node; returns how much of its GPUs trials hold, by node."""
        self.lent = lent
        for name, node in self.nodes.items():
            node.kept = lent.get(name, 0)
        return {name: round(len(node.gpus) - sum(node.gpus), 6) for name, node in self.nodes.items()}

    def is_kept(self, node: str) -> bool:
        """Tell whether something is to be made on a GPU of the node."""
        return node in self.nodes and self.nodes[node].kept > 0

    def find(self, shape: Shape, dense: float = 0.0, without: Iterable[str] = ()) -> str | None:
        """Return the node that such a trial fills best, None if it fits on none now.

        dense: CPUs that trials which wait for a GPU could use per GPU; trials without one leave them. Those go to nodes
        without GPUs first.
        """
        fitting = [
            (node.left(shape), name)
            for name, node in self.nodes.items()
            if name not in without and node.has_room(shape, dense)
        ]
        return min(fitting, default=(None, None))[1]

    def nearest(self, shape: Shape, without: Iterable[str] = ()) -> str | None:
        """Return the node that will first have several whole GPUs free, as far as can be told; None: none has so many.

        Kept free by the line until then: smaller trials would take each GPU that falls free.
        """
        able = [(name, node) for name, node in self.nodes.items() if name not in without]
        able = [(-sum(node.gpus), name) for name, node in able if len(node.gpus) >= shape.gpu and node.cpu >= shape.cpu]
        return min(able, default=(None, None))[1]

    def take(self, shape: Shape, node: str) -> Held:
        """Note that a trial has its part of a node."""
        return Held(node, shape, self.nodes[node].take(shape))

    def give(self, part: Held) -> None:
        """Note that it has it no more."""
        if part.node in self.nodes:
            self.nodes[part.node].give(part.shape, part.gpus)
