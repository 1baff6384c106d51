"""How each dataset's test cells came about, and so how sure a mean or a difference over its splits is.

Three designs: every split draws its test cells anew; the test set is fixed; whole donors are drawn. Trial seeds within
a split are averaged before anything else, and so are skews and whatever else a table pools.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from sweeps.answers import celltypes
from sweeps.answers.runs.looks import looks_at
from sweeps.answers.runs.stored import Stored
from sweeps.statistics import intervals, resampling
from sweeps.statistics.intervals import Error

FEW_CELLS, FEW_SPLITS = 10, 6  # below both, test cells are drawn again: see benchmarks/numbers/coverage.py
HOW_FEW = f"""{{dataset}}: {{metric}} rests on under {FEW_CELLS} test cells in a split, and under {FEW_SPLITS} splits: \
test cells are drawn again within types (paired bootstrap), and retraining added"""
LOOKED = (
    "splits were added while a difference wasn't sure: intervals and p hold however often was looked ({looks} looks at "
    "most; 5 % / {looks} for each, Jennison & Turnbull 1989)"
)
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


def of_splits(runs: pd.DataFrame, values: np.ndarray) -> pd.Series:
    """Return what per_split does, of the values of runs, float [n]; without pandas, which takes ten times as long."""
    names = [name for name in GRID if name in runs]
    cells: dict[tuple[str, ...], list[float]] = {}
    for labels, value in zip(zip(*(runs[name] for name in names), strict=True), values, strict=True):
        cells.setdefault(labels, []).append(value)
    splits: dict[tuple[str, str], list[float]] = {}
    at = names.index("dataset"), names.index("split")
    for labels, seeds in cells.items():
        splits.setdefault((labels[at[0]], labels[at[1]]), []).append(sum(seeds) / len(seeds))
    means = [sum(one) / len(one) for one in splits.values()]
    return pd.Series(means, pd.MultiIndex.from_tuples(list(splits), names=["dataset", "split"]))


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
        self._numbers: dict[tuple[str, str], float] = {}
        self._ratios: dict[tuple[str, str], tuple[list[tuple[pd.DataFrame, np.ndarray]], float]] = {}
        self._known: dict[tuple[str, str], list[tuple[pd.DataFrame, np.ndarray]]] = {}
        self.notes: list[str] = []

    @property
    def datasets(self) -> list[str]:
        return list(dict.fromkeys(self._runs["dataset"]))

    def kind(self, dataset: str) -> str:
        """Return "fixed", "donors" or "splits": what its test cells are."""
        if self._recorded(dataset, "fixed_test") > 0:
            return "fixed"
        return "donors" if self._recorded(dataset, "test_donors") > 0 else "splits"

    def ratio(self, dataset: str, metric: str, runs: pd.DataFrame | None = None) -> float:
        """Return test cells (donors) per training cell (donor) of a split, before any skew; as recorded by trials.

        Of a metric that averages types, the ratio of these, see intervals.ratio_of_types; the whole split's where
        tables per type can't be read. runs: those that the metric is of, None: all of the dataset.
        """
        unit = "donors" if self.kind(dataset) == "donors" else "cells"
        by_type = self._ratio_of_types(dataset, metric, runs) if unit == "cells" else np.nan
        if np.isfinite(by_type):
            return by_type
        found = self._recorded(dataset, f"test_{unit}") / self._recorded(dataset, f"natural_{unit}")
        return found if np.isfinite(found) else self._recorded(dataset, "test_per_train")

    def _ratio_of_types(self, dataset: str, metric: str, runs: pd.DataFrame | None) -> float:
        """Return the ratio of the types that a metric is about, mean over splits; NaN if tables don't tell it."""
        tables = self._tables(dataset, metric, runs)
        known = self._ratios.get((dataset, metric))
        if known is not None and known[0] is tables:
            return known[1]
        found = [
            intervals.ratio_of_types(*(table.loc[about, part].to_numpy() for part in ("test", "natural")))
            for table, about in tables
        ]
        self._ratios[dataset, metric] = tables, float(np.mean(found)) if found else np.nan
        return self._ratios[dataset, metric][1]

    def _recorded(self, dataset: str, name: str) -> float:
        """Return the mean of a number over a dataset's finished runs, NaN where none has it."""
        if (dataset, name) not in self._numbers:
            mine = self._runs[self._runs["dataset"] == dataset]
            self._numbers[dataset, name] = float(mine[name].mean()) if name in mine else np.nan
        return self._numbers[dataset, name]

    def estimate(self, runs: pd.DataFrame, metric: str, minus: pd.DataFrame | None = None) -> Estimate | None:
        """Return the mean of a metric over finished runs, or of its differences to `minus`, row by row the same length.

        Datasets count alike, however many runs each has. None if no run has the metric.
        """
        values = runs[metric].to_numpy(float) - (0.0 if minus is None else minus[metric].to_numpy(float))
        there = ~np.isnan(values)
        runs, minus = runs[there], None if minus is None else minus[there]
        if runs.empty:
            return None
        if (looks := looks_at(runs)) > 1:
            self._note(LOOKED.format(looks=looks))
        by_split = of_splits(runs, values[there])
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

    def _is_few(self, dataset: str, metric: str, runs: pd.DataFrame, splits: int) -> bool:
        """Tell whether a metric rests on so few test cells and splits that its spread over splits is hardly known."""
        cells = [table["test"][about].sum() for table, about in self._tables(dataset, metric, runs)]
        return splits < FEW_SPLITS and bool(cells) and float(np.mean(cells)) < FEW_CELLS

    def _tables(self, dataset: str, metric: str, runs: pd.DataFrame | None) -> list[tuple[pd.DataFrame, np.ndarray]]:
        """Return a table per type of each split with which types a metric averages; none of one that averages none.

        All runs of a split have the same counts, but those of metrics that tell types apart by what the skew left.
        """
        if runs is not None and metric.partition(".")[0].endswith(("_rarefied", "_after_skew")):
            return self._read_tables(runs[runs["dataset"] == dataset], metric)
        if (dataset, metric) not in self._known:
            self._known[dataset, metric] = self._read_tables(self._runs[self._runs["dataset"] == dataset], metric)
        return self._known[dataset, metric]

    def _read_tables(self, runs: pd.DataFrame, metric: str) -> list[tuple[pd.DataFrame, np.ndarray]]:
        found = []
        for table in self.stored.tables(runs.drop_duplicates("split")):
            about = None if table is None or "natural" not in table else celltypes.averaged(metric, table)
            if about is not None:
                found.append((table, about))
        return found

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
        kind, looks = self.kind(dataset), looks_at(runs)
        anew = intervals.redrawn(values, self.ratio(dataset, metric, runs), looks)
        few = kind == "splits" and self._is_few(dataset, metric, runs, len(values))
        if kind == "splits" and not few:
            return anew
        other = None if minus is None else minus[rows.to_numpy()]
        drawn = self._drawn(dataset, runs, metric, other)
        if drawn is None:
            what = "no interval or p" if kind == "fixed" else "interval and p are Student's t over splits"
            self._note(f"{dataset}: {what} for {metric}, which predictions that can be read don't give")
            return intervals.NONE if kind == "fixed" else anew
        if few:
            self._note(HOW_FEW.format(dataset=dataset, metric=metric))
        error = intervals.resampled(values, replace(drawn, looks=looks))
        return intervals.wider(error, anew) if kind == "donors" else error

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
        """Return a run's metric in every draw, float [draws]; after an adjustment if metric or run name one."""
        adjustment = celltypes.adjustment(metric) or run.get("posthoc", "none")
        which = run["run_id"], metric, adjustment
        if which not in self._scores:
            trial = self.stored.predictions(run, adjustment)
            table = self.stored.per_class(run)
            self._scores[which] = None if trial is None else _in_draws(draws, trial, metric, table)
        return self._scores[which]


def _in_draws(
    draws: resampling.Draws, trial: resampling.Predictions, metric: str, table: pd.DataFrame | None
) -> np.ndarray | None:
    """Return a test metric of a trial in every draw; None if the predicted types, and table per type, don't give it."""
    name, kind = celltypes.parts(metric)
    if not metric.startswith("test_"):
        return None
    if name in celltypes.OVER_ALL:
        return resampling.score(draws.tables(trial), name)
    kept = np.array([one == kind for one in trial.classes]) if kind else None
    kept = celltypes.averaged(metric, table) if kept is None and table is not None else kept
    return None if kept is None else resampling.score(draws.tables(trial), name.split("_")[0], kept)
