"""Which cells a trial sees: split, then skew, then strategy, the last two on training cells alone."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.rows.resample import STRATEGIES
from data_pipeline.rows.skew import SKEWS
from data_pipeline.rows.split import Split, split
from data_pipeline.seeds import generator


@dataclass(frozen=True)
class Rows:
    """Row numbers into the dataset, int64: `kept` = training cells after the skew, `split` = the parts before it."""

    split: Split
    kept: np.ndarray

    def counts(self, labels: np.ndarray, num_classes: int) -> dict[str, np.ndarray]:
        """Return cells per class: train (after the skew), validation and test, each int64 [C]."""
        parts = {"train": self.kept, "validation": self.split.validation, "test": self.split.test}
        return {name: np.bincount(labels[rows], minlength=num_classes) for name, rows in parts.items()}


def call(function: Callable[..., Any], *args: Any, params: dict[str, Any], **context: Any) -> Any:
    """Call a plug-in with its parameters and with whatever of `context` (classes, counts) it asks for by name."""
    asked = inspect.signature(function).parameters
    return function(*args, **params, **{name: value for name, value in context.items() if name in asked})


def choose(
    labels: np.ndarray,
    classes: list[str],
    split_options: dict[str, Any],
    skew: dict[str, Any],
    donors: np.ndarray | None = None,
    fixed_test: np.ndarray | None = None,
    twins: np.ndarray | None = None,
) -> Rows:
    """Split the cells and thin the training part. The same split seed and skew give every trial the same cells.

    split_options: seed, test, validation. skew: {"kind": name in SKEWS, **parameters}.
    """
    parts = split(labels, donors=donors, fixed_test=fixed_test, classes=classes, twins=twins, **split_options)
    params = {name: value for name, value in skew.items() if name != "kind"}
    rng = generator(split_options["seed"], "skew")
    kept = call(SKEWS[skew["kind"]], labels[parts.train], rng, params=params, classes=classes)
    return Rows(parts, parts.train[kept])


def resample(labels: np.ndarray, kept: np.ndarray, strategy: dict[str, Any], seed: tuple, **context: Any) -> np.ndarray:
    """Return the rows to train on: `kept` repeated or left out as the strategy says. `seed`: (seed, stage, ...)."""
    params = {name: value for name, value in strategy.items() if name != "kind"}
    picked = call(STRATEGIES[strategy["kind"]], labels[kept], generator(*seed), params=params, **context)
    return kept[picked]
