"""Seconds until the first trial and network start, and the last has ended, where one artefact of several takes long.

    python benchmarks/driving/preparing.py [--seconds 60] [--splits 4] [--gpus 0]

A small real sweep (700 cells, two models, so many splits, two CPUs) in which what one split needs takes so many seconds
more to be made, as where a deep model makes cells. It sleeps meanwhile, so that other work on the machine matters less.
--gpus: a node with so many simulated GPUs, of which the network has what is measured (an eighth, after 5 s).
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from parts import Screen  # noqa: E402

from sweeps.drive.converge import converge  # noqa: E402
from sweeps.drive.request import Parts, Request, real_parts  # noqa: E402
from sweeps.file.config import parse  # noqa: E402

SWEEP = """
name: preparing
datasets: [pbmc68k_reduced]
genes: {{select: hvg, n: 200}}
splits: {{seeds: {splits}}}
models: {{scgpt: {{size: tiny, steps: 200}}, logistic_regression: {{}}}}
"""


class Watch(Screen):
    """Notes when the first trial started, and the first network."""

    def begin(self, trials: list[Any], *about: Any) -> None:
        self.networks = {trial.key for trial in trials if trial.is_network}

    def event(self, what: str, key: str, numbers: dict[str, Any]) -> None:
        self.at.setdefault(what, time.monotonic())
        if key in self.networks:
            self.at.setdefault(f"network {what}", time.monotonic())
        super().event(what, key, numbers)


def slow(parts: Parts, seconds: float) -> Parts:
    """Return parts whose preparation takes so many seconds more where it is for split 0."""

    def prepare(configs: list[dict[str, Any]], *given: Any) -> list[dict[str, Any]]:
        if any(config["split"]["seed"] == 0 for config in configs):
            time.sleep(seconds)
        return parts.prepare(configs, *given)

    return dataclasses.replace(parts, prepare=prepare)


def measured(config: dict[str, Any]) -> dict[str, Any]:
    """Return, after five seconds, that a trial takes an eighth of a GPU's memory."""
    time.sleep(5)
    return {"peak": 10e9, "total": 80e9, "gpu": "simulated"}


@contextmanager
def node(gpus: int) -> Iterator[str | None]:
    """Have a node of two CPUs with simulated GPUs, if any; gives its address, None: the driver starts its own."""
    if not gpus:
        yield None
        return
    from ray.cluster_utils import Cluster

    os.environ["CELLSKEW_SIMULATED_GPUS"] = "1"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": gpus})
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--splits", type=int, default=4)
    parser.add_argument("--gpus", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, node(asked.gpus) as address:
        spec = parse(SWEEP.format(splits=list(range(asked.splits))), Path(folder) / "preparing.yaml")
        screen, began = Watch(), time.monotonic()
        request = Request(storage=Path(folder), address=address, num_cpus=None if address else 2)
        parts = dataclasses.replace(real_parts(), measure=measured)
        outcome = converge(spec, request, screen, slow(parts, asked.seconds))
        ended = time.monotonic() - began
    first, network = (round(screen.at[what] - began, 1) for what in ("started", "network started"))
    told = {"trials": outcome.finished, "first_start": first, "first_network": network, "makespan": round(ended, 1)}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
