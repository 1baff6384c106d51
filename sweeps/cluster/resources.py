"""What a trial asks of the cluster: CPUs and a share of a GPU, or several whole ones of one node."""

import math
import os
from collections.abc import Mapping
from typing import NamedTuple

from data_pipeline.errors import RequestError
from sweeps.file.trials import Trial

HEADROOM = 1.15  # over the measured peak: other orders of cells, fragments
MOST = 20  # trials on one GPU


class Shape(NamedTuple):
    """What a trial asks for: a share of a GPU (0: none; above 1: so many whole ones of one node) and CPUs."""

    gpu: float
    cpu: float

    @classmethod
    def of(cls, resources: Mapping[str, float]) -> "Shape":
        """Return the shape of {"cpu": ..., "gpu": ...}."""
        return cls(resources["gpu"], resources["cpu"])

    @property
    def workers(self) -> int:
        """Processes that train together, one on each GPU."""
        return workers(self.gpu)

    @property
    def trials_per_gpu(self) -> float:
        """How many trials fill a GPU; 0 for one without."""
        return 0 if not self.gpu else round(1 / self.gpu) if self.gpu <= 1 else 1 / self.gpu

    def __str__(self) -> str:
        return f"{self.cpu:g} CPU and {self.gpu:g} GPU" + (" of one node" if self.gpu > 1 else "")


def workers(gpu: float) -> int:
    """Return how many processes train together with so much of GPUs: one on each, if they are several."""
    return max(1, int(gpu))


def own_cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def of_trial(trial: Trial, nodes: list[dict[str, float]], measured: float = 1.0) -> dict[str, float]:
    """Return {"cpu": ..., "gpu": ...}: as the sweep file says, else a CPU per thread, and for a network `gpu: auto`.

    `gpu: auto` is the share that was `measured` (by packing.py), and none where no node has a GPU. Every share is
    an n-th of a GPU (`nth`), or whole ones; each of several has CPUs of its own, if the sweep file says nothing.
    """
    asked = trial.resources
    given = 0.0 if asked.gpu in (None, "auto") else float(asked.gpu)
    gpu = measured * has_gpus(nodes) if is_auto(trial) else given
    threads = trial.described["recipe"]["threads"] if trial.is_network else 1
    cpu = threads * workers(gpu) if asked.cpu is None else asked.cpu
    return {"cpu": float(cpu), "gpu": gpu if gpu > 1 else nth(gpu)}


def is_auto(trial: Trial) -> bool:
    """Tell whether the trial's share of a GPU is to be measured: a network's, unless the sweep file gives a number.

    What is on vectors of cells is so small that a core does.
    """
    on_vectors = "on" in trial.described or trial.rests is not None
    return trial.is_network and not on_vectors and trial.resources.gpu in (None, "auto")


def notes(trials: list[Trial]) -> list[str]:
    """Return which models' share of a GPU isn't known yet, and which have several GPUs."""
    models = sorted({trial.label for trial in trials if trial.resources.gpu == "auto" and is_auto(trial)})
    wanted = "measured where there is a GPU, before their first trial; none is used where there is none"
    said = [f"gpu: auto of {', '.join(models)}: the share that a trial needs is {wanted}"] if models else []
    several = sorted({(one.label, gpu) for one in trials if isinstance(gpu := one.resources.gpu, float) and gpu > 1})
    return said + [f"{label}: each trial trains on {gpu:g} GPUs of one node" for label, gpu in several]


def nth(share: float) -> float:
    """Return the smallest 1/n of a GPU, n whole, that is at least `share` (0: none), to Ray's four decimals.

    Shares that don't divide a GPU leave crumbs of it. Ray adds the crumbs of several GPUs up to a place that is on
    none of them, and a trial put there waits for ever (ray-project/ray#52133).
    """
    places = math.floor(1 / share + 1e-3) if share else 0  # 1e-3: 0.3333 is a third
    return math.floor(10_000 / places) / 10_000 if places else 0.0


def share(peak: float, total: float) -> float:
    """Return the share of a GPU with `total` memory that a trial with such a peak is given, 1 of n; in any unit."""
    return nth(min(1.0, max(HEADROOM * peak / total, 1 / MOST)))


def device_of(share: dict[str, float]) -> str:
    """Return where a trial computes: "cuda" if it has a share of a GPU, and nowhere else then.

    With CELLSKEW_SIMULATED_GPUS set, GPUs are only numbers that Ray was told (`ray start --num-gpus`), and the trials
    compute on CPUs: for tests of a cluster.
    """
    return "cuda" if share["gpu"] and not os.environ.get("CELLSKEW_SIMULATED_GPUS") else "cpu"


def has_gpus(nodes: list[dict[str, float]]) -> bool:
    """Tell whether any node has a GPU, of those there are and those that an autoscaler may bring."""
    return any(node.get("GPU", 0) > 0 for node in nodes)


def cores(nodes: list[dict[str, float]], most: int | None) -> float:
    """Return how many CPU cores train at once, at most so many; 0 where GPUs do."""
    found = 0.0 if has_gpus(nodes) else sum(node.get("CPU", 0.0) for node in nodes)
    return found if most is None else min(found, float(most))


def check_room(trials: list[Trial], nodes: list[dict[str, float]]) -> None:
    """RequestError if a trial fits on no node there is, nor on one that an autoscaler may bring."""
    problems = too_large(trials, nodes)
    if problems:
        raise RequestError(*problems)


def without_gpu(trials: list[Trial], nodes: list[dict[str, float]]) -> str | None:
    """Return a sentence about networks that would have a GPU if the cluster had one, None if there are none."""
    unsaid = {trial.label for trial in trials if is_auto(trial)}
    if not unsaid or has_gpus(nodes):
        return None
    return (
        f"no node of the cluster has a GPU now, so these train on CPUs: {', '.join(sorted(unsaid))}. If it brings GPUs "
        "when they are asked for, ask in the sweep file: resources: {MODEL: {gpu: 0.5}}"
    )


def too_large(trials: list[Trial], nodes: list[dict[str, float]]) -> list[str]:
    """Return a sentence for every model whose trials fit on no node there is."""
    problems = {}
    for trial in trials:
        wanted = of_trial(trial, nodes)
        if not any(_fits(wanted, node) for node in nodes):
            most = {name: max((node.get(name, 0) for node in nodes), default=0) for name in ("CPU", "GPU")}
            problems[trial.label] = (
                f"resources.{trial.label}: a trial asks for {Shape.of(wanted)}, but the "
                f"largest node has {most['CPU']:g} CPU and {most['GPU']:g} GPU; ask for less, or join a cluster with "
                "--address"
            )
    return list(problems.values())


def _fits(wanted: dict[str, float], node: dict[str, float]) -> bool:
    return wanted["cpu"] <= node.get("CPU", 0) and wanted["gpu"] <= node.get("GPU", 0)
