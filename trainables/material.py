"""What a trial works on: its shards, mapped, and the rows it trains, validates and tests on."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from data_pipeline.rows import choice
from data_pipeline.rows.resample import STRATEGIES
from data_pipeline.seeds import generator
from data_pipeline.shards.feed import Feed
from data_pipeline.shards.shards import Joined, Shards, Stored
from data_pipeline.tree import Tree, below
from trainables.config import TrialConfig
from trainables.spec import ModelSpec

PER_EPOCH = "per_epoch"  # attribute of a strategy whose rows are drawn anew in every epoch
BALANCED = "balanced"  # attribute of a strategy whose types are equally frequent on average, not in each draw


@dataclass(frozen=True)
class Material:
    """Rows are int64 numbers into `shards`; `natural`, `kept`: training cells before, after the skew; no strategy."""

    shards: Shards | Joined
    classes: list[str]
    natural: np.ndarray
    kept: np.ndarray
    fixed_rows: np.ndarray | None
    validation: np.ndarray
    test: np.ndarray
    strategy: dict[str, Any]
    seeds: tuple[int, int]  # split seed, trial seed
    bootstrap: bool = False  # defect scbert_bootstrap_items
    relabelled: np.ndarray | None = None  # labels of all cells in place of the shards' own, see `_controlled`
    features: Shards | Joined | None = None  # of the same cells, what a head is trained on

    @property
    def labels(self) -> np.ndarray:
        return self.shards.labels if self.relabelled is None else self.relabelled

    @property
    def real(self) -> Shards:
        """The dataset's own cells, without made ones: their donors and fixed test cells; rows are numbered alike."""
        return self.shards.real if isinstance(self.shards, Joined) else self.shards

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Return cells per class among `rows`, int64 [C]."""
        return np.bincount(self.labels[rows], minlength=len(self.classes))

    def training_rows(self, epoch: int) -> np.ndarray:
        """Return the rows of one pass; they differ between passes only where the strategy says so."""
        rows = self._resampled(epoch)
        if self.bootstrap:
            rows = generator(self.seeds[0], "bootstrap", self.seeds[1], epoch).choice(rows, len(rows))
        return rows

    def balanced_rows(self, epoch: int) -> np.ndarray:
        """Return as many rows as there are training cells, every class equally often, drawn with replacement."""
        labels = self.labels[self.kept]
        rng = generator(self.seeds[0], "balanced", self.seeds[1], epoch)
        weights = 1.0 / np.bincount(labels, minlength=len(self.classes))[labels]
        return self.kept[rng.choice(len(labels), len(labels), p=weights / weights.sum())]

    @property
    def balanced_counts(self) -> np.ndarray:
        """Rows per class among `balanced_rows`, on average: float64 [C], 0 for a class without training cells."""
        present = self.counts(self.kept) > 0
        return present * len(self.kept) / present.sum()

    def counts_on_average(self) -> np.ndarray:
        """Return rows per class in a pass, [C], as a loss is told them; where draws vary, what they are on average."""
        is_balanced = self.fixed_rows is None and getattr(STRATEGIES[self.strategy["kind"]], BALANCED, False)
        return self.balanced_counts if is_balanced else self.counts(self.training_rows(0))

    def below(self, tree: Tree | None) -> np.ndarray | None:
        """Return which types lie below which, bool [C, C], by a tree of them; None without one."""
        return None if tree is None else below(tree, self.classes)

    def feed(self, spec: ModelSpec, batch_size: int) -> Feed:
        """Return the batches of this material for a network, or for a head that is trained on features."""
        if self.features is None:
            return Feed(self.shards, self.labels, spec.collate, batch_size)
        return Feed(Stored(self.features), self.labels, _as_input, batch_size)

    def _resampled(self, epoch: int) -> np.ndarray:
        if self.fixed_rows is not None:
            return self.fixed_rows
        if getattr(STRATEGIES[self.strategy["kind"]], PER_EPOCH, False):
            return self._drawn(epoch)
        return self._drawn_once

    @cached_property
    def _drawn_once(self) -> np.ndarray:
        return self._drawn(0)

    def _drawn(self, epoch: int) -> np.ndarray:
        seed = (self.seeds[0], "strategy", self.seeds[1], epoch)
        return choice.resample(self.labels, self.kept, self.strategy, seed, classes=self.classes)


def open_material(config: TrialConfig) -> Material:
    """Map the shards and choose the rows that the trial's split, skew, strategy and defects ask for."""
    shards = Shards(config.shards)
    grouped = (shards.donors, shards.fixed_test, shards.twins)
    rows = choice.choose(shards.labels, shards.classes, config.split, config.skew, *grouped)
    material = Material(
        shards=shards,
        classes=shards.classes,
        natural=rows.split.train,
        kept=rows.kept,
        fixed_rows=None,
        validation=rows.split.validation,
        test=rows.split.test,
        strategy=config.strategy,
        seeds=(config.split["seed"], config.seed),
        bootstrap="scbert_bootstrap_items" in config.defects,
    )
    material = _controlled(_with_made_rows(material, config), config.control)
    if config.features:
        material = dataclasses.replace(material, features=_features(config))
    return _with_defects(material, config.defects, config.split["validation"])


def _as_input(vectors_BE: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
    """Return the vectors `rows` as a head takes them."""
    import torch

    return {"vectors": torch.from_numpy(vectors_BE[rows])}


def _features(config: TrialConfig) -> Shards | Joined:
    """Return the vectors of the cells of `shards`, and of those made for the trial."""
    real = Shards(config.features[str(config.shards)])
    made = None if config.generated is None else config.features[str(config.generated)]
    return real if made is None else Joined(real, Shards(made))


def _controlled(material: Material, control: str | None) -> Material:
    """Return the material with labels that say nothing of cells: exchanged among those that a model learns from.

    Training cells exchange theirs with each other, validation cells theirs, so that each part keeps its cells per type;
    test cells keep their own. Rows are chosen by the true labels: that is how many there are, not which is which.
    """
    if control is None:
        return material
    labels, rng = material.labels.copy(), generator(material.seeds[0], control, material.seeds[1])
    for rows in (material.kept, material.validation):
        labels[rows] = rng.permutation(labels[rows])
    return dataclasses.replace(material, relabelled=labels)


def _with_made_rows(material: Material, config: TrialConfig) -> Material:
    """Add what the preparation made for this trial: generated cells (if any were wanting), or rows chosen by counts."""
    if config.strategy["kind"] not in STRATEGIES:
        material = dataclasses.replace(material, fixed_rows=material.kept)
    if config.generated is not None:
        joined = Joined(material.shards, Shards(config.generated))
        made = np.arange(len(material.shards), len(joined))
        return dataclasses.replace(material, shards=joined, fixed_rows=np.concatenate([material.kept, made]))
    if config.rows is not None:
        return dataclasses.replace(material, fixed_rows=np.load(config.rows, allow_pickle=False))
    return material


def _with_defects(material: Material, defects: tuple[str, ...], share: float) -> Material:
    """Return the material as the published notebooks would have drawn it (trainables/protocol.py)."""
    rng = generator(material.seeds[0], "defects", material.seeds[1])
    if "resample_before_split" in defects:
        together = np.concatenate([material.training_rows(0), material.validation])
        if material.fixed_rows is None:
            pool = dataclasses.replace(material, kept=np.concatenate([material.kept, material.validation]))
            together = pool._resampled(0)
        material = _cut(material, rng.permutation(together), share)
    elif "unstratified_validation" in defects:
        material = _with_unstratified_validation(material, rng)
    if "scgpt_test_is_training" in defects:
        material = dataclasses.replace(material, test=np.concatenate([material.training_rows(0), material.validation]))
    if material.bootstrap:
        drawn = {name: rng.choice(rows, len(rows)) for name, rows in _evaluated(material).items() if len(rows)}
        material = dataclasses.replace(material, **drawn)
    return material


def _with_unstratified_validation(material: Material, rng: np.random.Generator) -> Material:
    """Exchange the validation cells for as many of any type; rows fixed beforehand give theirs and take the others."""
    together = np.concatenate([material.kept, material.validation])
    order = rng.permutation(len(together))
    held = together[order[: len(material.validation)]]
    fixed = material.fixed_rows
    if fixed is not None:
        freed = np.setdiff1d(material.validation, held)
        fixed = np.concatenate([fixed[~np.isin(fixed, held)], freed])
    kept = together[np.sort(order[len(held) :])]
    return dataclasses.replace(material, validation=held, kept=kept, fixed_rows=fixed)


def _cut(material: Material, together: np.ndarray, share: float) -> Material:
    held = max(1, int(round(share * len(together))))
    return dataclasses.replace(material, validation=together[:held], fixed_rows=together[held:])


def _evaluated(material: Material) -> dict[str, np.ndarray]:
    return {"validation": material.validation, "test": material.test}
