"""How much of a GPU a trial needs: measured once per kind of trial and GPU, remembered in the storage folder."""

import contextlib
import functools
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray

from data_pipeline.atomic import publish
from data_pipeline.hashes import identity_hash
from data_pipeline.sameness import checked
from data_pipeline.shards.shards import Shards
from sweeps.cluster import resources
from sweeps.file.trials import Trial

VERSION = 3  # raise it when the same kind of trial comes to need another amount
OF_RECIPE = ("batch_size", "precision", "optimizer")  # what of a recipe memory depends on
ALIKE, SLACK = 1.1, 1.03  # a trial counts as measured by one this much larger or smaller, see resources.HEADROOM
TYPE = "accelerator_type:"
LONGEST = 1_200.0  # seconds that a measurement may take, the coming of a node of its kind included
Found = dict[str, Any]  # what a measurement returns
Measure = Callable[[dict[str, Any]], Found]


def of_trials(
    trials: list[Trial],
    made: list[dict[str, Any]],
    storage: Path,
    nodes: list[dict[str, float]],
    measure: Measure,
    say: Callable[[str], None],
) -> dict[str, float]:
    """Return the share of a GPU of each network's trial, by key, that is to be measured. made: what was prepared."""
    here = {"directory": str(storage / "profiles")}
    pairs = zip(trials, made, strict=True)
    configs = {one.key: one.config() | paths | here for one, paths in pairs if resources.is_auto(one)}
    return shares(configs, storage, nodes, measure, say) if configs and resources.has_gpus(nodes) else {}


def shares(
    configs: dict[str, dict[str, Any]],
    storage: Path,
    nodes: list[dict[str, float]],
    measure: Measure,
    say: Callable[[str], None],
) -> dict[str, float]:
    """Return the share of a GPU, a whole n-th of it, for each trial of `configs` (key -> what run_trial takes).

    Trials of a kind (model, weights, batch, classes) whose sizes are about the same are measured once, by the largest,
    on each type of GPU that the cluster has, by `measure`, which returns {"peak", "total": bytes, "gpu": name}; the
    largest share counts. Whatever can't be measured gets a whole GPU. Ray must run.
    """
    types = sorted({name for node in nodes if node.get("GPU") for name in _types(node)}) or [""]
    found: dict[str, float] = dict.fromkeys(configs, 0.0)
    for gpu in types:
        for key, covered in _covering(configs, storage, gpu, measure, say).items():
            found[key] = max(found[key], _share(covered))
    return found


def _covering(
    configs: dict[str, dict[str, Any]], storage: Path, gpu: str, measure: Measure, say: Callable[[str], None]
) -> dict[str, Found | None]:
    """Return what was measured on this type of GPU, now or earlier, that holds for each trial; None: nothing."""
    needs = {key: Need.of(config) for key, config in configs.items()}
    known, asked, covers = _remembered(storage, gpu), {}, {}
    for key in sorted(needs, key=lambda key: needs[key].numbers, reverse=True):
        need = needs[key]
        covers[key] = next((one for one in (*known, *asked) if one.covers(need)), need)
        if covers[key] is need:
            asked[need] = _asked(measure, gpu).remote(configs[key])
    for number, (need, answer) in enumerate(asked.items()):
        say(f"measuring GPU memory: {number + 1} of {len(asked)}, {need.model}")
        try:
            known[need] = ray.get(answer, timeout=LONGEST)
        except ray.exceptions.RayError as error:
            if isinstance(error, ray.exceptions.GetTimeoutError):  # one that ended must not be: Ray 2.60 dies of that
                ray.cancel(answer, force=True)
            last = (str(error).strip() or type(error).__name__).splitlines()[-1]
            say(f"  it can't be measured, so a trial gets a whole GPU: {last[:300]}")
            continue
        _remember(storage, need, gpu, known[need])
        say(f"  {_told(known[need])}")
    return {key: known.get(need) for key, need in covers.items()}


@dataclass(frozen=True)
class Need:
    """What decides how much memory a trial takes: its kind, as a hash, and numbers that it grows with."""

    model: str
    kind: str
    numbers: tuple[int, ...]

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Need":
        """numbers: the tokens of a batch of the longest cells, those of the longest, the network's vocabularies."""
        lengths, num_classes, sizes = _facts(config["shards"])
        recipe = [config["recipe"][name] for name in OF_RECIPE]
        kind = identity_hash(VERSION, config["model"], config["options"], config["weights"], recipe, num_classes)
        batch = int(lengths[: config["recipe"]["batch_size"]].sum())
        return cls(config["model"], kind, (batch, int(lengths[0]), *sizes))

    def covers(self, other: "Need") -> bool:
        """Tell whether what this one takes is about what the other takes."""
        pairs = zip(self.numbers, other.numbers, strict=True)
        return self.kind == other.kind and all(b <= SLACK * a and a <= ALIKE * b for a, b in pairs)


def _types(node: dict[str, float]) -> list[str]:
    return [name for name in node if name.startswith(TYPE)] or [""]


@functools.lru_cache(maxsize=64)
def _facts(folder: str) -> tuple[np.ndarray, int, list[int]]:
    """Return the tokens of each cell, longest first, the number of classes, what the network's size follows from."""
    shards = Shards(Path(folder))
    sizes = [shards.network_options.get(name, 0) for name in ("num_tokens", "num_positions")]
    return -np.sort(-shards.lengths), len(shards.classes), sizes


def _asked(measure: Measure, gpu: str) -> Any:
    """Return `measure` as a task on a whole GPU of a type, in a process that ends with it.

    It asks for no CPU, so that it waits for no trial without a GPU.
    """
    where = {"resources": {gpu: 0.001}} if gpu else {}
    return ray.remote(num_gpus=1, num_cpus=0, max_calls=1, **where)(checked(measure))


def _remember(storage: Path, need: Need, gpu: str, found: Found) -> None:
    name = f"{identity_hash(need.kind, *need.numbers)}{_suffix(gpu)}"
    publish(storage / "profiles" / name, json.dumps(found | {"need": asdict(need)}).encode())


def _remembered(storage: Path, gpu: str) -> dict[Need, Found]:
    """Return what was measured on this type of GPU; notes that are damaged are left out."""
    known: dict[Need, Found] = {}
    for path in sorted((storage / "profiles").glob(f"*{_suffix(gpu)}")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(path.read_text())
            need = found.pop("need")
            if found["peak"] > 0 and found["total"] > 0:
                known[Need(need["model"], need["kind"], tuple(need["numbers"]))] = found
    return known


def _suffix(gpu: str) -> str:
    """Return how the notes of a type of GPU end."""
    return f".{gpu.removeprefix(TYPE).replace('/', '-') or 'any'}.json"


def _share(found: Found | None) -> float:
    return 1.0 if found is None else resources.share(found["peak"], found["total"])


def _told(found: Found) -> str:
    part = resources.share(found["peak"], found["total"])
    peak, total = found["peak"] / 2**30, found["total"] / 2**30
    return f"{peak:.1f} of {total:.0f} GB ({found['gpu']}): {part:.2f} of a GPU, {round(1 / part)} trials on each"
