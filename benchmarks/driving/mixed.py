"""Trials of mixed shapes on simulated nodes: how much of their GPUs is given.

    python benchmarks/driving/mixed.py

120 trials that sleep, on 4 simulated nodes of 1 GPU and 6 CPUs, 24 each of a whole GPU, half, a quarter, and 48
without; GPUs given = share x seconds of all trials that had one, over the seconds until the last of them started.
"""

import argparse
import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from parts import known, nothing_to_prepare  # noqa: E402

from sweeps.drive.converge import converge  # noqa: E402
from sweeps.drive.request import Parts, Request, real_parts  # noqa: E402
from sweeps.file.config import SweepSpec  # noqa: E402

NODES, GPUS, CPUS = 4, 1, 6
SECONDS = {"scbert": 40.0, "geneformer": 30.0, "scgpt": 30.0, "logistic_regression": 6.0, "majority": 3.0}
SHARES = {"scbert": 1.0, "geneformer": 0.5, "scgpt": 0.25}
MIXED = """
name: mixed
datasets: [pbmc68k_reduced]
splits: {seeds: [0, 1, 2, 3, 4, 5]}
skews: [natural, {kind: exponential, ratio: 20}]
strategies: [none, oversample]
models: {scbert: {}, geneformer: {}, scgpt: {}, logistic_regression: {}, majority: {}}
resources: {scbert: {gpu: 1}, geneformer: {gpu: 0.5}, scgpt: {gpu: 0.25}}
"""


class Clock:
    """A screen that notes when each trial held its share of a GPU."""

    def __init__(self, models: dict[str, str]) -> None:
        self.models, self.began, self.ended = models, {}, {}

    def say(self, text: str) -> None:
        print(text, flush=True)

    def count(self, what: str, done: int, total: int) -> None:
        """Nothing to show."""

    def passed(self, what: str) -> None:
        pass

    def begin(self, *about: Any) -> None:
        self.at = time.monotonic()

    def event(self, what: str, key: str, numbers: dict[str, Any]) -> None:
        if what == "started":
            self.began[key] = time.monotonic()
        elif what in ("finished", "failed", "interrupted"):
            self.ended[key] = time.monotonic()

    def end(self) -> None:
        """Nothing to show."""

    def given(self, begin: float, end: float) -> float:
        """Return how many GPUs trials had on average between two times."""
        total = 0.0
        for key, began in self.began.items():
            share = SHARES.get(self.models[key], 0.0)
            total += share * max(0.0, min(self.ended[key], end) - max(began, begin))
        return total / (end - begin)


def sleeping_as_told(config: dict[str, Any], report: Callable, checkpoint: Path | None) -> dict[str, Any]:
    time.sleep(float(os.environ["STRETCH"]) * SECONDS[config["model"]])
    report({"epoch": 1, "epochs": 1, "train_loss": 0.5}, Path(config["directory"]))
    report({"epoch": 1, "final": 1, "test_macro_f1": 0.5}, None)
    return {}


def mixed(storage: Path, stretch: float) -> None:
    """Run the mixed sweep on simulated nodes and print how much of the GPUs trials had."""
    from ray.cluster_utils import Cluster

    os.environ |= {"CELLSKEW_SIMULATED_GPUS": "1", "STRETCH": str(stretch)}
    spec = known(MIXED, storage / "mixed.yaml")
    cluster = Cluster()
    try:
        for _ in range(NODES):
            cluster.add_node(num_cpus=CPUS, num_gpus=GPUS, include_dashboard=False, object_store_memory=80_000_000)
        cluster.wait_for_nodes()
        told_of_mixed(spec, storage, cluster.address, stretch)
    finally:
        cluster.shutdown()


def told_of_mixed(spec: SweepSpec, storage: Path, address: str, stretch: float) -> None:
    clock = Clock({trial.key: trial.model for trial in spec.trials()})
    parts: Parts = dataclasses.replace(real_parts(), prepare=nothing_to_prepare, run_trial=sleeping_as_told)
    outcome = converge(spec, Request(storage=storage, address=address), clock, parts)
    assert outcome.finished == outcome.wanted, outcome
    on_gpus = [clock.began[key] for key, model in clock.models.items() if model in SHARES]
    first, last, over = min(on_gpus), max(on_gpus), max(clock.ended.values())
    ideal = sum(SECONDS[model] * SHARES.get(model, 0.0) for model in clock.models.values()) * stretch / (NODES * GPUS)
    baseline = min(clock.began[key] for key, model in clock.models.items() if model not in SHARES)
    print(f"{outcome.wanted} trials on {NODES} nodes of {GPUS} GPU and {CPUS} CPUs: {over - clock.at:.0f} s,", end=" ")
    print(f"at best {ideal:.0f}; the first baseline started {baseline - first:.0f} s after the first network")
    print(f"GPUs given until the last wave: {clock.given(first, last):.2f} of {NODES * GPUS}", end=" ")
    print(f"({last - first:.0f} s); with start and end {clock.given(clock.at, over):.2f}")
    print("; ".join(f"{name}s given {given:.2f} of {had:.2f}" for name, (given, had) in outcome.given.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stretch", type=float, default=1.0, help="times the seconds of each trial")
    parser.add_argument("--storage", type=Path, help="default: a temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cellskew-mixed-") as folder:
        storage = given.storage or Path(folder)
        storage.mkdir(parents=True, exist_ok=True)
        mixed(storage, given.stretch)


if __name__ == "__main__":
    main()
