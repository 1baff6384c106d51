"""What each trial would train on, from labels alone: class counts after split, skew and strategy."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from data_pipeline.errors import RequestError
from data_pipeline.rows import choice
from data_pipeline.rows.resample import STRATEGIES
from data_pipeline.rows.synthesize import SYNTHESIZERS
from sweeps.file.trials import Trial


@dataclass(frozen=True)
class Shape:
    """Cells per class, int64 [C] each: of the dataset's parts, of the training part after the skew, and trained on.

    trained is None where it depends on the counts themselves (tomek: at most `kept`). notes: what the split had to do.
    """

    classes: list[str]
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    kept: np.ndarray
    trained: np.ndarray | None
    notes: list[str]

    @property
    def num_natural(self) -> int:
        """Training cells before skew and strategy: what a budget of steps follows from."""
        return int(self.train.sum())

    @property
    def num_rows(self) -> int:
        """Rows of a pass over what is trained on, at most."""
        return int((self.kept if self.trained is None else self.trained).sum())


NUMBER = re.compile(r"\d[\d,.]*")
Refused = dict[tuple[str, str, str], dict[str, tuple[str, ...]]]  # (dataset, skew, strategy) -> split -> problems


def shapes(trials: list[Trial], cells: dict[str, Any], places: Mapping[str, str] | None = None) -> dict[str, Shape]:
    """Return the shape of every trial by key. RequestError lists all skews and strategies that can't be had, once.

    cells: per dataset something with labels, classes, donors, fixed_test and twins. places: where in the sweep file a
    skew stands, by its label.
    """
    found: dict[str, Shape] = {}
    known: dict[tuple, Shape | None] = {}
    chosen: dict[tuple, choice.Rows | None] = {}
    refused: Refused = {}
    for trial in trials:
        dataset, split, skew, strategy = (trial.labels[axis] for axis in ("dataset", "split", "skew", "strategy"))
        part = (dataset, split, skew)
        whole = (*part, strategy)  # which rows a strategy picks depends on the seed, how many doesn't
        if part not in chosen:
            refusals = refused.setdefault((dataset, skew, ""), {})
            chosen[part] = _tried(partial(_choose, trial, cells[dataset]), split, refusals)
        if whole not in known and chosen[part] is not None:
            refusals = refused.setdefault((dataset, skew, strategy), {})
            known[whole] = _tried(partial(_shape, trial, cells[dataset], chosen[part]), split, refusals)
        if known.get(whole) is not None:
            found[trial.key] = known[whole]
    if any(refused.values()):
        raise RequestError(*_sentences(refused, places or {}))
    return found


def _tried(make: Callable[[], Any], split: str, refused: dict[str, tuple[str, ...]]) -> Any:
    try:
        return make()
    except RequestError as error:
        refused[split] = error.problems
        return None


def _sentences(refused: Refused, places: Mapping[str, str]) -> list[str]:
    """Return each mistake once: that of the first split and level of a skew, with the number of the others, whose
    sentences differ in numbers alone."""
    told: dict[tuple[str, str, str, str], list[str]] = {}
    for (dataset, skew, strategy), splits in refused.items():
        place = places.get(skew, skew)
        line = "" if place == skew else f"{place}: "
        for split, problems in splits.items():
            where = " · ".join(filter(None, [dataset, f"split {split}", skew, strategy]))
            for said in problems:
                mistake = (dataset, place, strategy, NUMBER.sub("", said))
                told.setdefault(mistake, []).append(f"{line}{where}: {said}")
    return [
        first + (f" (and {len(others)} more of its splits and levels)" if others else "")
        for first, *others in told.values()
    ]


def _choose(trial: Trial, cells: Any) -> choice.Rows:
    described = trial.described
    return choice.choose(
        cells.labels, cells.classes, described["split"], described["skew"], cells.donors, cells.fixed_test, cells.twins
    )


def _shape(trial: Trial, cells: Any, rows: choice.Rows) -> Shape:
    num_classes = len(cells.classes)
    counts = rows.counts(cells.labels, num_classes)
    train = np.bincount(cells.labels[rows.split.train], minlength=num_classes)
    trained = _trained(trial, cells, rows, counts["train"])
    parts = (train, counts["validation"], counts["test"], counts["train"])
    return Shape(cells.classes, *parts, trained, rows.split.notes)


def _trained(trial: Trial, cells: Any, rows: choice.Rows, kept: np.ndarray) -> np.ndarray | None:
    strategy = trial.described["strategy"]
    if strategy["kind"] in SYNTHESIZERS:
        return np.where(kept > 0, np.maximum(kept, strategy.get("cells", 0)), 0)
    if getattr(STRATEGIES[strategy["kind"]], "needs", None) == "counts":
        return None
    seed = (trial.described["split"]["seed"], "strategy", trial.described["seed"], 0)
    picked = choice.resample(cells.labels, rows.kept, strategy, seed, classes=cells.classes)
    return np.bincount(cells.labels[picked], minlength=len(cells.classes))
