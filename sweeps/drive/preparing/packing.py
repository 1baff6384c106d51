"""How much of a GPU a trial needs: measured once per kind of trial and GPU, remembered in the storage folder."""

import contextlib
import functools
import itertools
import json
import time
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
from sweeps.drive.preparing import placing
from sweeps.drive.workshop import LOOK_EVERY, Workshop
from sweeps.file.trials import Trial

VERSION = 3  # raise it when the same kind of trial comes to need another amount
OF_RECIPE = ("batch_size", "precision", "optimizer")  # what of a recipe memory depends on
ALIKE = 1.1  # a trial counts as measured by one that is at most so many times as large, or as small
TYPE = "accelerator_type:"
LONGEST = 1_200.0  # seconds that a measurement may take, as may the coming of a node of its type
Found = dict[str, Any]  # what a measurement returns
Measure = Callable[[dict[str, Any]], Found]


class Gauge:
    """Measures what the trials of one launch take of a GPU; threads may share it. Ray must run.

    Trials of a kind (model, weights, batch, classes) whose sizes are about the same are measured once, by the largest
    of those that are asked for together, on each type of GPU that `nodes` have, by `measure`, which returns {"peak",
    "total": bytes, "gpu": name}; the largest share counts. Whatever can't be measured gets a whole GPU.
    """

    def __init__(
        self,
        storage: Path,
        nodes: list[dict[str, float]],
        measure: Measure,
        say: Callable[[str], None],
        work: Workshop | None = None,
    ) -> None:
        self.storage, self.measure, self.say, self.work = storage, measure, say, work or Workshop()
        self.types = sorted({name for node in nodes if node.get("GPU") for name in _types(node)})
        self.failed: set[tuple[str, Need]] = set()  # what can't be measured, by type of GPU: not tried again

    def measures(self, trial: Trial) -> bool:
        """Tell whether a trial's share is to be measured."""
        return bool(self.types) and resources.is_auto(trial)

    def of_trials(self, made: list[tuple[Trial, dict[str, Any]]]) -> dict[str, float]:
        """Return the share of a GPU of each trial that is to be measured. made: what was prepared for it."""
        here = {"directory": str(self.storage / "profiles")}
        return self.shares({trial.key: trial.config() | paths | here for trial, paths in made})

    def shares(self, configs: dict[str, dict[str, Any]]) -> dict[str, float]:
        """Return the share of a GPU, a whole n-th of it, for each of `configs` (key -> what run_trial takes)."""
        needs = {key: Need.of(config) for key, config in configs.items()}
        found: dict[str, float] = dict.fromkeys(needs, 0.0)
        for gpu in self.types:
            known = self._known(configs, needs, gpu)
            for key, need in needs.items():
                found[key] = max(found[key], _share(known, need))
        return found

    def _known(self, configs: dict[str, dict[str, Any]], needs: dict[str, "Need"], gpu: str) -> dict["Need", Found]:
        """Return what was measured on this type of GPU, now or earlier; one thread at a time measures."""
        known = _remembered(self.storage, gpu)
        if self._asked(needs, known, gpu):
            with self.work.making([self.storage / "profiles"], 1):
                known = _remembered(self.storage, gpu)
                asked = {need: configs[key] for need, key in self._asked(needs, known, gpu).items()}
                known |= self._measured(asked, gpu)
        return known

    def _asked(self, needs: dict[str, "Need"], known: dict["Need", Found], gpu: str) -> dict["Need", str]:
        """Return what nothing known covers, and a trial of each; the largest first, which cover others."""
        failed, asked = [need for at, need in self.failed if at == gpu], {}
        for key in sorted(needs, key=lambda key: needs[key].numbers, reverse=True):
            if not any(one.covers(needs[key]) for one in (*known, *failed, *asked)):
                asked[needs[key]] = key
        return asked

    def _measured(self, asked: dict["Need", dict[str, Any]], gpu: str) -> dict["Need", Found]:
        """Measure each, as many at once as there are GPUs to have; again, on others, where a node is lost meanwhile."""
        known: dict[Need, Found] = {}
        while asked:
            lost: list[Need] = []
            with self.work.on_gpus(len(asked), gpu) as nodes:
                places = itertools.islice(itertools.cycle(nodes or [""]), len(asked))
                tasks = [
                    (need, _task(self.measure, gpu, node).remote(config), node)
                    for (need, config), node in zip(asked.items(), places, strict=True)
                ]
                for number, (need, task, node) in enumerate(tasks, 1):
                    self.say(f"measuring GPU memory: {number} of {len(asked)}, {need.model}")
                    lost += [] if self._tell(known, need, gpu, task, node) else [need]
            if lost:
                time.sleep(LOOK_EVERY)  # until all see that it is gone
            asked = {need: asked[need] for need in lost}
        return known

    def _tell(self, known: dict["Need", Found], need: "Need", gpu: str, task: ray.ObjectRef, node: str) -> bool:
        """Add what was measured to `known` and remember it; False if the node of the GPU is gone."""
        try:
            known[need] = _answer(task, node, gpu, self.work)
        except ray.exceptions.TaskUnschedulableError:
            return False
        except ray.exceptions.RayError as error:
            self.failed.add((gpu, need))
            said = (str(error).strip() or type(error).__name__).splitlines()[-1]
            self.say(f"  it can't be measured, so a trial gets a whole GPU: {said[:300]}")
            return True
        _remember(self.storage, need, gpu, known[need])
        self.say(f"  {_told(known[need])}")
        return True


def _answer(task: ray.ObjectRef, node: str, gpu: str, work: Workshop) -> Found:
    """Return what was measured; GetTimeoutError if it takes too long, not counted while trials are on the GPU.

    Where no node of the type was there, one that comes is kept for it.
    """
    until = time.monotonic() + LONGEST
    while not ray.wait([task], timeout=LOOK_EVERY)[0]:
        work.check()
        if not node and work.gpus(gpu):
            with work.on_gpus(1, gpu) as nodes:
                return _answer(task, "".join(nodes), gpu, work)
        if work.is_awaited(node):
            until = time.monotonic() + LONGEST
        elif time.monotonic() > until:
            ray.cancel(task, force=True)
            raise ray.exceptions.GetTimeoutError(f"no answer in {LONGEST:.0f} s")
    return ray.get(task)


@dataclass(frozen=True, order=True)
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
        """Tell whether what this one takes tells what the other takes."""
        ratios = self._ratios(other)
        return self.kind == other.kind and min(ratios) >= 1 / ALIKE and max(ratios) <= ALIKE

    def growth(self, other: "Need") -> float:
        """Return how many times as much the other takes, at most; 1 if it takes less. Memory grows by its numbers."""
        return max(1.0, *self._ratios(other))

    def _ratios(self, other: "Need") -> list[float]:
        return [(b or 1) / (a or 1) for a, b in zip(self.numbers, other.numbers, strict=True)]


def _types(node: dict[str, float]) -> list[str]:
    return [name for name in node if name.startswith(TYPE)] or [""]


@functools.lru_cache(maxsize=64)
def _facts(folder: str) -> tuple[np.ndarray, int, list[int]]:
    """Return the tokens of each cell, longest first, the number of classes, what the network's size follows from."""
    shards = Shards(Path(folder))
    sizes = [shards.network_options.get(name, 0) for name in ("num_tokens", "num_positions")]
    return -np.sort(-shards.lengths), len(shards.classes), sizes


def _task(measure: Measure, gpu: str, node: str) -> Any:
    """Return `measure` as a task on a whole GPU of a type, of a node if it is named, in a process that ends with it.

    It asks for no CPU, so that it waits for no trial without a GPU.
    """
    where = {"resources": {gpu: 0.001}} if gpu else {}
    return ray.remote(num_gpus=1, num_cpus=0, max_calls=1, **where, **placing.on(node))(checked(measure))


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


def _share(known: dict[Need, Found], need: Need) -> float:
    """Return the share of a GPU by the nearest that was measured, a whole one if nothing was."""
    growth, found = min(((one.growth(need), one) for one in known if one.covers(need)), default=(0.0, None))
    return 1.0 if found is None else resources.share(growth * known[found]["peak"], known[found]["total"])


def _told(found: Found) -> str:
    part = resources.share(found["peak"], found["total"])
    peak, total = found["peak"] / 2**30, found["total"] / 2**30
    return f"{peak:.1f} of {total:.0f} GB ({found['gpu']}): {part:.2f} of a GPU, {round(1 / part)} trials on each"
