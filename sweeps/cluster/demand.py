"""What a running Ray's nodes have, and what its autoscaler is asked for, as long as someone is there to want it."""

import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import ray

from sweeps.cluster.kinds import node_types
from sweeps.cluster.resources import Shape

LEASE = 90.0  # seconds that a request outlives its driver
RENEW = 20.0  # seconds between its renewals
MOST = 1_000  # bundles asked for at once


def capacities(kind: str = "") -> dict[str, Shape]:
    """Return all that each node has, by id; those that are dead or being drained are left out.

    kind: a resource that the node must have, "": any.
    """
    from ray._private.state import state

    leaving = state.get_draining_nodes()  # there is no public way
    return {
        node["NodeID"]: Shape(node["Resources"].get("GPU", 0.0), node["Resources"].get("CPU", 0.0))
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in leaving and (not kind or kind in node["Resources"])
    }


class Demand:
    """Asks the autoscaler for room for all trials that run or wait, at once, and gives it back.

    Left to itself it would see the few that Ray has been handed. The request stands in Ray until it is changed, so a
    driver that is killed would keep its nodes for ever: an actor on the head makes it, and withdraws it when the
    driver's word doesn't come. Nothing happens where there is no autoscaler.
    """

    def __init__(self, sweep: str) -> None:
        self.sweep, self.keeper, self.asked = sweep, None, -1e9
        self.scales: bool | None = None  # whether there is an autoscaler

    def want(self, wanted: Callable[[], Counter[Shape]]) -> None:
        """Ask for room for so many trials of each shape; once in a while is enough."""
        if time.monotonic() - self.asked < RENEW:
            return
        self.asked = time.monotonic()
        if self.scales is None:
            self.scales = bool(node_types())
        if self.keeper is None and self.scales:
            where = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}, "lifetime": "detached"}
            name = {"name": f"cellskew-{self.sweep}-{uuid.uuid4().hex[:8]}", "namespace": "cellskew"}
            self.keeper = ray.remote(_Keeper).options(**where, **name).remote(LEASE)
        if self.keeper is not None:
            self.keeper.want.remote(bundles(wanted()))

    def give_back(self) -> None:
        """Ask for nothing any more."""
        if self.keeper is not None:
            self.keeper.end.remote()
            self.keeper = None


def bundles(shapes: Counter[Shape]) -> list[dict[str, float]]:
    """Return what the autoscaler is to make room for, in Ray's words; large ones first, if it is too much."""
    listed = [shape for shape in sorted(shapes, reverse=True) for _ in range(shapes[shape])]
    return [{"CPU": shape.cpu, "GPU": shape.gpu} if shape.gpu else {"CPU": shape.cpu} for shape in listed[:MOST]]


class _Keeper:
    """Holds a request for nodes as long as `want` is called."""

    def __init__(self, lease: float) -> None:
        self.lease, self.heard = lease, time.monotonic()
        threading.Thread(target=self._watch, daemon=True).start()

    def want(self, asked: list[dict[str, float]]) -> None:
        from ray.autoscaler.sdk import request_resources

        self.heard = time.monotonic()
        request_resources(bundles=asked)

    def end(self) -> None:
        self.want([])
        os._exit(0)

    def _watch(self) -> Any:
        while time.monotonic() - self.heard < self.lease:
            time.sleep(1)
        self.end()
