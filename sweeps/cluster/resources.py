"""What a trial asks of the cluster: CPUs and a share of a GPU."""

import os

from sweeps.file.trials import Trial


def own_cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def of_trial(trial: Trial, nodes: list[dict[str, float]], measured: float = 1.0) -> dict[str, float]:
    """Return {"cpu": ..., "gpu": ...}: as the sweep file says, else 1 CPU and for a network 1 GPU where there are some.

    `gpu: auto` is the share that was `measured` (see packing.shares), and none where no node has a GPU.
    """
    has_gpu = has_gpus(nodes)
    asked = trial.resources
    wants_gpu = asked.gpu is None and trial.described["recipe"] is not None
    if asked.gpu == "auto":
        gpu = measured if has_gpu else 0.0
    else:
        gpu = float(has_gpu) if wants_gpu else float(asked.gpu or 0)
    return {"cpu": 1.0 if asked.cpu is None else float(asked.cpu), "gpu": gpu}


def has_gpus(nodes: list[dict[str, float]]) -> bool:
    """Tell whether any node has a GPU."""
    return any(node.get("GPU", 0) > 0 for node in nodes)


def too_large(trials: list[Trial], nodes: list[dict[str, float]]) -> list[str]:
    """Return a sentence for every model whose trials fit on no node there is."""
    problems = {}
    for trial in trials:
        wanted = of_trial(trial, nodes)
        if not any(_fits(wanted, node) for node in nodes):
            most = {name: max((node.get(name, 0) for node in nodes), default=0) for name in ("CPU", "GPU")}
            problems[trial.model] = (
                f"resources.{trial.model}: a trial asks for {wanted['cpu']:g} CPU and {wanted['gpu']:g} GPU, but the "
                f"largest node has {most['CPU']:g} CPU and {most['GPU']:g} GPU; ask for less, or join a cluster with "
                "--address"
            )
    return list(problems.values())


def _fits(wanted: dict[str, float], node: dict[str, float]) -> bool:
    return wanted["cpu"] <= node.get("CPU", 0) and wanted["gpu"] <= node.get("GPU", 0)
