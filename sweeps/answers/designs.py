"""How each dataset's test cells came about, and so how sure a mean or a difference over its splits is.

Three designs: every split draws its test cells anew; the test set is fixed; whole donors are drawn. Trial seeds within
a split are averaged before anything else, and so are skews and whatever else a table pools.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from sweeps.answers.runs.stored import Stored
from sweeps.statistics import intervals, resampling
from sweeps.statistics.intervals import Error
from trainables.metrics import HEAD, TAIL

GRID = [
    "dataset",
    "split",
    "skew",
    "strategy",
    "loss",
    "model",
    "defects",
    "settings",
]  # a cell of the grid: all but seed
SIZES = {"recall_head": (HEAD, np.inf), "recall_middle": (TAIL, HEAD), "recall_tail": (-1, TAIL)}


@dataclass(frozen=True)
class Estimate:
    """A mean over datasets and splits. n: splits, the fewest of any dataset; sd: over splits, within datasets.

    least, most: means over datasets of the lowest and highest split. error: of the mean, NONE under three splits.
    by_split: float, index (dataset, split).
    """

    mean: float
    n: int
    sd: float
    least: float
    most: float
    error: Error
    by_split: pd.Series

    def interval(self, span: tuple[float, float] | None) -> tuple[float, float]:
        return intervals.interval(self.mean, self.error, span)


def per_split(values: pd.DataFrame | pd.Series) -> pd.DataFrame | pd.Series:
    """Return means per (dataset, split): over trial seeds in each cell of the grid first, then over the cells.

    values: index with the levels of a run's labels, as `indexed` makes it.
    """
    cells = [name for name in values.index.names if name != "seed"]
    return values.groupby(level=cells, sort=False).mean().groupby(level=["dataset", "split"], sort=False).mean()


def indexed(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with their labels as index."""
    return runs.set_index([name for name in [*GRID, "seed"] if name in runs.columns])


class Designs:
    """The designs of a sweep's datasets, from what its finished runs recorded. notes: why some interval is missing."""

    def __init__(self, runs: pd.DataFrame, stored: Stored | None = None) -> None:
        self._runs = runs[runs["status"] == "FINISHED"]
        self.stored = Stored(runs.attrs.get("uri")) if stored is None else stored
        self._draws: dict[str, resampling.Draws | None] = {}
        self._scores: dict[tuple[str, str], np.ndarray | None] = {}
        self.notes: list[str] = []

    @property
    def datasets(self) -> list[str]:
        return list(dict.fromkeys(self._runs["dataset"]))

    def kind(self, dataset: str) -> str:
        """Return "fixed", "donors" or "splits": what its test cells are."""
        if self._recorded(dataset, "fixed_test") > 0:
            return "fixed"
        return "donors" if self._recorded(dataset, "test_donors") > 0 else "splits"

    def ratio(self, dataset: str) -> float:
        """Return test cells (donors) per training cell (donor) of a split, before any skew; as recorded by trials."""
        unit = "donors" if self.kind(dataset) == "donors" else "cells"
        found = self._recorded(dataset, f"test_{unit}") / self._recorded(dataset, f"natural_{unit}")
        return found if np.isfinite(found) else self._recorded(dataset, "test_per_train")

    def _recorded(self, dataset: str, name: str) -> float:
        if name not in self._runs.columns:
            return np.nan
        return float(self._runs.loc[self._runs["dataset"] == dataset, name].mean())

    def estimate(self, runs: pd.DataFrame, metric: str, minus: pd.DataFrame | None = None) -> Estimate | None:
        """Return the mean of a metric over finished runs, or of its differences to `minus`, row by row the same length.

        Datasets count alike, however many runs each has. None if no run has the metric.
        """
        values = indexed(runs)[metric] if minus is None else indexed(runs)[metric] - minus[metric].to_numpy()
        there = values.notna().to_numpy()
        runs, minus = runs[there], None if minus is None else minus[there]
        if runs.empty:
            return None
        by_split = per_split(values[there])
        parts = {name: part.to_numpy() for name, part in by_split.groupby(level="dataset", sort=False)}
        errors = [
            self._error(name, part, runs[runs["dataset"] == name], metric, minus, runs["dataset"] == name)
            for name, part in parts.items()
        ]
        listed = list(parts.values())
        sizes = [len(part) for part in listed]
        return Estimate(
            mean=float(np.mean([part.mean() for part in listed])),
            n=min(sizes),
            sd=float(np.sqrt(np.mean([part.var(ddof=1) for part in listed]))) if min(sizes) > 1 else np.nan,
            least=float(np.mean([part.min() for part in listed])),
            most=float(np.mean([part.max() for part in listed])),
            error=intervals.pooled(errors),
            by_split=by_split,
        )

    def _error(
        self,
        dataset: str,
        values: np.ndarray,
        runs: pd.DataFrame,
        metric: str,
        minus: pd.DataFrame | None,
        rows: pd.Series,
    ) -> Error:
        if len(values) < intervals.LEAST:
            return intervals.NONE
        kind = self.kind(dataset)
        anew = intervals.redrawn(values, self.ratio(dataset))
        if kind == "splits":
            return anew
        other = None if minus is None else minus[rows.to_numpy()]
        drawn = self._drawn(dataset, runs, metric, other)
        if drawn is None:
            self._note(f"{dataset}: no interval or p for {metric}, which predictions that can be read don't give")
            return intervals.NONE if kind == "fixed" else anew
        error = intervals.resampled(values, drawn)
        return error if kind == "fixed" else intervals.wider(error, anew)

    def _note(self, said: str) -> None:
        if said not in self.notes:
            self.notes.append(said)

    def _drawn(self, dataset: str, runs: pd.DataFrame, metric: str, minus: pd.DataFrame | None) -> Error | None:
        """Return the error of the mean when cells, or donors, are drawn again; None if predictions don't give it."""
        draws = self._draws_of(dataset)
        if draws is None:
            return None
        scores = [self._score(draws, run, metric) for _, run in runs.iterrows()]
        others = [] if minus is None else [self._score(draws, run, metric) for _, run in minus.iterrows()]
        if any(score is None for score in [*scores, *others]):
            return None
        table = np.array(scores) - (np.array(others) if others else 0.0)
        means = per_split(pd.DataFrame(table, index=indexed(runs).index))
        return draws.error(means.mean(axis=0).to_numpy())

    def _draws_of(self, dataset: str) -> resampling.Draws | None:
        if dataset not in self._draws:
            first = self._runs[self._runs["dataset"] == dataset].drop_duplicates("split")
            trials = [self.stored.predictions(run) for _, run in first.iterrows()]
            known = [trial for trial in trials if trial is not None]
            self._draws[dataset] = resampling.Draws(known) if known and len(known) == len(trials) else None
        return self._draws[dataset]

    def _score(self, draws: resampling.Draws, run: pd.Series, metric: str) -> np.ndarray | None:
        """Return a run's metric in every draw, float [draws]."""
        which = run["run_id"], metric
        if which not in self._scores:
            trial = self.stored.predictions(run)
            self._scores[which] = None if trial is None else _in_draws(draws, trial, metric)
        return self._scores[which]


def _in_draws(draws: resampling.Draws, trial: resampling.Predictions, metric: str) -> np.ndarray | None:
    """Return a metric of a trial in every draw; None if the predicted types alone don't give it.

    metric: test_<name>, or test_<name>:<type> of one type.
    """
    name, _, kind = metric.removeprefix("test_").partition(":")
    if "." in name or not metric.startswith("test_"):
        return None
    kept = np.array([one == kind for one in trial.classes]) if kind else None
    if name in SIZES and trial.natural is not None:
        low, high = SIZES[name]
        name, kept = "recall", (trial.natural > low) & (trial.natural <= high)
    return resampling.score(draws.tables(trial), name, kept)
