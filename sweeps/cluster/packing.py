"""How much of a GPU a trial needs: measured once per kind of trial and GPU, remembered in the storage folder."""

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray

from data_pipeline.atomic import publish
from data_pipeline.hashes import identity_hash
from data_pipeline.shards.shards import Shards
from sweeps.cluster import resources

VERSION = 2  # raise it when the same kind of trial comes to need another amount
HEADROOM = 1.15  # over the measured peak: other orders of cells, fragments
MOST = 20  # trials on one GPU
OF_RECIPE = ("batch_size", "precision", "optimizer")  # what of a recipe memory depends on
ALIKE = 1.1  # lengths within such a factor need about as much, see HEADROOM
TYPE = "accelerator_type:"
Measure = Callable[[dict[str, Any]], dict[str, Any]]


def shares(
    configs: dict[str, dict[str, Any]],
    storage: Path,
    nodes: list[dict[str, float]],
    measure: Measure,
    say: Callable[[str], None],
) -> dict[str, float]:
    """Return the share of a GPU, a whole n-th of it, for each trial of `configs` (key -> what run_trial takes).

    Trials of a kind (model, weights, batch, longest cells, classes) are measured once on each type of GPU that the
    cluster has, by `measure`, which returns {"peak", "total": bytes, "gpu": name}; the largest share counts. Whatever
    can't be measured gets a whole GPU. Ray must run.
    """
    types = sorted({name for node in nodes if node.get("GPU") for name in _types(node)}) or [""]
    kinds = {key: _kind(config) for key, config in configs.items()}
    example = {kinds[key]: configs[key] for key in sorted(configs, key=lambda key: _tokens(configs[key]))}
    asked = {
        (kind, gpu): _asked(measure, gpu).remote(config)
        for kind, config in example.items()
        for gpu in types
        if _remembered(storage, kind, gpu) is None
    }
    for number, ((kind, gpu), answer) in enumerate(asked.items()):
        say(f"measuring GPU memory: {number + 1} of {len(asked)}, {example[kind]['model']}")
        try:
            found = ray.get(answer)
        except ray.exceptions.RayError as error:
            last = (str(error).strip() or type(error).__name__).splitlines()[-1]
            say(f"  it can't be measured, so a trial gets a whole GPU: {last[:300]}")
            continue
        publish(_place(storage, kind, gpu), json.dumps(found).encode())
        say(f"  {_told(found)}")
    return {key: max(_share(_remembered(storage, kind, gpu)) for gpu in types) for key, kind in kinds.items()}


def share(peak: float, total: float) -> float:
    """Return the share of a GPU with `total` bytes that a trial with such a peak is given, 1 of n."""
    return resources.nth(min(1.0, max(HEADROOM * peak / total, 1 / MOST)))


def _types(node: dict[str, float]) -> list[str]:
    return [name for name in node if name.startswith(TYPE)] or [""]


def _kind(config: dict[str, Any]) -> str:
    """Return what decides how much memory a trial needs, as a hash; lengths that differ by a tenth are alike."""
    lengths, num_classes, sizes = _facts(config["shards"])
    recipe = [config["recipe"][name] for name in OF_RECIPE]
    alike = [math.ceil(math.log(max(1, number), ALIKE)) for number in (_tokens(config), lengths[0])]
    parts = config["model"], config["options"], config["weights"], recipe, num_classes, sizes, alike
    return identity_hash(VERSION, *parts)


def _tokens(config: dict[str, Any]) -> int:
    """Return the tokens of a batch of the longest cells."""
    return int(_facts(config["shards"])[0][: config["recipe"]["batch_size"]].sum())


@functools.lru_cache(maxsize=64)
def _facts(folder: str) -> tuple[np.ndarray, int, list[int]]:
    """Return the tokens of each cell, longest first, the number of classes, what the network's size follows from."""
    shards = Shards(Path(folder))
    sizes = [shards.network_options.get(name, 0) for name in ("num_tokens", "num_positions")]
    return -np.sort(-shards.lengths), len(shards.classes), sizes


def _asked(measure: Measure, gpu: str) -> Any:
    """Return `measure` as a task on a whole GPU of a type, in a process that ends with it."""
    where = {"resources": {gpu: 0.001}} if gpu else {}
    return ray.remote(num_gpus=1, num_cpus=1, max_calls=1, **where)(measure)


def _place(storage: Path, kind: str, gpu: str) -> Path:
    return storage / "profiles" / f"{kind}{gpu.replace(':', '-').replace('/', '-')}.json"


def _remembered(storage: Path, kind: str, gpu: str) -> dict[str, Any] | None:
    try:
        found = json.loads(_place(storage, kind, gpu).read_text())
        return found if found["peak"] > 0 and found["total"] > 0 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _share(found: dict[str, Any] | None) -> float:
    return 1.0 if found is None else share(found["peak"], found["total"])


def _told(found: dict[str, Any]) -> str:
    part = share(found["peak"], found["total"])
    peak, total = found["peak"] / 2**30, found["total"] / 2**30
    return f"{peak:.1f} of {total:.0f} GB ({found['gpu']}): {part:.2f} of a GPU, {round(1 / part)} trials on each"
