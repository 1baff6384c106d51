"""What each trial would train on, from labels alone: class counts after split, skew and strategy."""

from collections.abc import Callable
from dataclasses import dataclass
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


def shapes(trials: list[Trial], cells: dict[str, Any]) -> dict[str, Shape]:
    """Return the shape of every trial by key. RequestError lists all splits, skews and strategies that can't be had.

    cells: per dataset something with labels, classes, donors and fixed_test.
    """
    found: dict[str, Shape] = {}
    known: dict[tuple, Shape | None] = {}
    chosen: dict[tuple, choice.Rows | None] = {}
    problems: list[str] = []
    for trial in trials:
        labels = trial.labels
        part = (trial.dataset, labels["split"], labels["skew"])
        whole = (*part, labels["strategy"])  # which rows a strategy picks depends on the seed, how many doesn't
        where = " · ".join([part[0], f"split {part[1]}", part[2]])
        if part not in chosen:
            chosen[part] = _tried(lambda trial=trial: _choose(trial, cells[trial.dataset]), where, problems)
        if whole not in known and chosen[part] is not None:
            rows = chosen[part]
            make = lambda trial=trial, rows=rows: _shape(trial, cells[trial.dataset], rows)  # noqa: E731
            known[whole] = _tried(make, f"{where} · {labels['strategy']}", problems)
        if known.get(whole) is not None:
            found[trial.key] = known[whole]
    if problems:
        raise RequestError(*dict.fromkeys(problems))
    return found


def _tried(make: Callable[[], Any], where: str, problems: list[str]) -> Any:
    try:
        return make()
    except RequestError as error:
        problems += [f"{where}: {problem}" for problem in error.problems]
        return None


def _choose(trial: Trial, cells: Any) -> choice.Rows:
    described = trial.described
    return choice.choose(
        cells.labels, cells.classes, described["split"], described["skew"], cells.donors, cells.fixed_test
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
