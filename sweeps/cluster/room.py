"""Which node has room for a trial: CPUs and each GPU of every node by itself, not one bag of the cluster's."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from sweeps.cluster.resources import Shape

CRUMB = 1e-6  # of a GPU, or of a CPU: shares are decimals


@dataclass
class Node:
    """What of a node is free: CPUs, those that trials on its GPUs hold, and each GPU."""

    cpu: float
    gpu: float
    free_cpu: float = 0.0
    fed: float = 0.0  # CPUs of trials with a GPU
    gpus: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.free_cpu, self.gpus = self.cpu, [1.0] * int(self.gpu)

    def gpu_for(self, share: float) -> int | None:
        """Return the GPU with the least room that is enough, as Ray chooses; None: there is none."""
        enough = [number for number, free in enumerate(self.gpus) if free >= share - CRUMB]
        return min(enough, key=lambda number: self.gpus[number], default=None)

    def has_room(self, shape: Shape, kept: float = 0.0) -> bool:
        """Tell whether a trial fits, `kept` CPUs being kept for trials on this node's GPUs if it wants none."""
        if shape.gpu:
            return self.free_cpu >= shape.cpu - CRUMB and self.gpu_for(shape.gpu) is not None
        kept = min(self.cpu, kept * len(self.gpus))
        return self.free_cpu - max(kept - self.fed, 0.0) >= shape.cpu - CRUMB

    def left(self, shape: Shape) -> tuple[float, ...]:
        """Return how much would be left idle here, least first in order of preference; has_room must be true."""
        if not shape.gpu:
            return (len(self.gpus), self.free_cpu)
        return (self.gpus[self.gpu_for(shape.gpu)], self.free_cpu)

    def take(self, shape: Shape) -> int | None:
        """Take a trial's part; returns its GPU."""
        self.free_cpu -= shape.cpu
        number = self.gpu_for(shape.gpu) if shape.gpu else None
        if number is not None:
            self.gpus[number] -= shape.gpu
            self.fed += shape.cpu
        return number

    def give(self, shape: Shape, number: int | None) -> None:
        """Give a trial's part back."""
        self.free_cpu += shape.cpu
        if number is not None:
            self.gpus[number] += shape.gpu
            self.fed -= shape.cpu


class Held(NamedTuple):
    """A trial's part of a node: which, of what shape, on which GPU."""

    node: str
    shape: Shape
    gpu: int | None


class Places:
    """The nodes of a cluster, and what each trial holds of them."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}

    def look(self, capacities: Mapping[str, Shape], held: Iterable[Held]) -> None:
        """Take in which nodes there are now; what is held stays so on those that are left."""
        if {name: Shape(node.gpu, node.cpu) for name, node in self.nodes.items()} == dict(capacities):
            return
        self.nodes = {name: Node(shape.cpu, shape.gpu) for name, shape in capacities.items()}
        for part in held:
            if part.node in self.nodes:
                node = self.nodes[part.node]
                node.free_cpu -= part.shape.cpu
                if part.gpu is not None and part.gpu < len(node.gpus):
                    node.gpus[part.gpu] -= part.shape.gpu
                    node.fed += part.shape.cpu

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

    def take(self, shape: Shape, node: str) -> Held:
        """Note that a trial has its part of a node."""
        return Held(node, shape, self.nodes[node].take(shape))

    def give(self, part: Held) -> None:
        """Note that it has it no more."""
        if part.node in self.nodes:
            self.nodes[part.node].give(part.shape, part.gpu)
