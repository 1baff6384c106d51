"""Simulated machines: nodes of a Ray cluster, all here, which are added, slow, drained, killed, and lose their head."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from fault_tools import descendants  # noqa: E402

from data_pipeline.shared.store import OWN  # noqa: E402

NOTICE = 30.0  # seconds between a drained node's notice and its end


class Nodes:
    """A head that trains nothing and some nodes of the same CPUs and GPUs, while `with` lasts.

    own: called for each node, gives the folder that it alone has; None: they share the storage folder.
    """

    def __init__(self, number: int, cpus: int, gpus: int, own: Callable[[], Path] | None = None) -> None:
        self.own = own
        os.environ |= {"CELLSKEW_SIMULATED_GPUS": "1", "RAY_AUTH_MODE": "disabled"}
        self.number, self.has, self.over = number, {"num_cpus": cpus, "num_gpus": gpus}, threading.Event()

    def __enter__(self) -> "Nodes":
        self._start()
        return self

    def __exit__(self, *about: object) -> None:
        self.over.set()
        self.cluster.shutdown()

    @property
    def address(self) -> str:
        return self.cluster.address

    def add(self) -> None:
        """Have one node more."""
        common = {"include_dashboard": False, "object_store_memory": 80_000_000}
        told = {} if self.own is None else {"env_vars": {OWN: str(self.own())}}
        self.nodes.append(self.cluster.add_node(**self.has, **common, **told))

    def slow(self, place: int) -> None:
        """Give a node a quarter of its time from now on: its workers are stopped for 1.5 of every 2 seconds."""
        raylet = self.nodes[place].all_processes["raylet"][0].process.pid
        threading.Thread(target=self._slow, args=(raylet,), daemon=True).start()

    def kill(self, place: int) -> None:
        """End all of a node's processes, as a machine that goes does."""
        self.cluster.remove_node(self.nodes[place], allow_graceful=False)

    def drain(self, place: int) -> None:
        """Tell Ray that a node is about to be taken away, as a cloud's notice does."""
        from ray._raylet import GcsClient
        from ray.core.generated import autoscaler_pb2

        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        told = self.nodes[place].node_id, reason, "the benchmark takes it", int((time.time() + NOTICE) * 1000)
        accepted, why = GcsClient(address=self.address).drain_node(*told)
        assert accepted, why

    def lose_head(self) -> None:
        """End the head's processes; the nodes are left to themselves."""
        self.cluster.remove_node(self.cluster.head_node, allow_graceful=False)

    def come_back(self) -> None:
        """Have a new head, and as many new nodes as at the start."""
        self.cluster.shutdown()
        self._start()

    def _start(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.nodes: list[Any] = []
        for _ in range(self.number):
            self.add()
        self.cluster.wait_for_nodes()

    def _slow(self, raylet: int) -> None:
        while not self.over.is_set():
            workers = descendants(raylet)
            for number, seconds in ((signal.SIGSTOP, 1.5), (signal.SIGCONT, 0.5)):
                for pid in workers:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                self.over.wait(seconds)
