"""One cell type's numbers beside a run's others, and which types are rare: from the runs' tables per type."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from data_pipeline.errors import RequestError
from sweeps.answers.runs.stored import Stored
from sweeps.file.plugins import unknown
from trainables import metrics
from trainables.metrics import HEAD, TAIL

NUMBERS = ("f1", "recall", "precision")
OVER_ALL = ("accuracy", "balanced_accuracy", "macro_precision", "macro_recall", "macro_f1")
OVER_ALL += ("macro_auroc", "macro_auprc", "gmean")  # but for accuracy, means over all types with test cells
SIZES = {"head": (HEAD, np.inf), "middle": (TAIL, HEAD), "tail": (-1, TAIL)}  # training cells: above, up to


def with_type(runs: pd.DataFrame, kind: str, stored: Stored) -> pd.DataFrame:
    """Return the runs with one type's test_recall:TYPE, test_recall_low:TYPE, ..., and test_cells:TYPE.

    For recall, precision and F1; low, high: see metrics.intervals. After an adjustment, from the predictions that it
    left: test_recall.ADJUSTMENT:TYPE, ... NaN for runs that aren't finished, whose dataset
    lacks the type, or whose split has no test cells of it. RequestError if no run's table has the type.
    """
    rows, known = {}, set()
    finished = runs[runs["status"] == "FINISHED"]
    for (at, run), table in zip(finished.iterrows(), stored.tables(finished), strict=True):
        if table is None:
            continue
        table = with_intervals(table)
        known |= set(table["class"].astype(str))
        mine = table[table["class"].astype(str) == kind]
        if len(mine):
            rows[at] = {f"test_{name}:{kind}": value for name, value in _of_type(mine.iloc[0]).items()}
            for name in adjustments(run):
                adjusted = adjusted_table(run, name, mine.reset_index(drop=True), stored)
                numbers = {} if adjusted is None else _of_type(adjusted.iloc[0])
                rows[at] |= {f"test_{number}.{name}:{kind}": numbers[number] for number in numbers if number != "cells"}
    if not rows:
        if not known:
            raise RequestError(f"--type {kind}: no finished run's per_class.csv can be read, which has the types")
        raise RequestError(f"--type: {unknown('cell type', kind, sorted(known))}")
    return runs.join(pd.DataFrame.from_dict(rows, orient="index").astype(float))


def _of_type(row: pd.Series) -> dict[str, float]:
    """Return a type's numbers with their intervals and its test cells, from its row of `with_intervals`."""
    names = [*NUMBERS, *(end for name in NUMBERS for end in metrics.ends_of(name))]
    return {name: row[name] for name in names} | {"cells": row["test"]}


def adjustments(run: pd.Series) -> list[str]:
    """Return the adjustments after training that a run has numbers of."""
    begin = "test_macro_f1."
    return [name.removeprefix(begin) for name in run.index if name.startswith(begin) and pd.notna(run[name])]


def adjusted_table(run: pd.Series, adjustment: str, table: pd.DataFrame, stored: Stored) -> pd.DataFrame | None:
    """Return a run's table per type as an adjustment makes it; None if its predictions weren't kept."""
    said = stored.predictions(run, adjustment)
    if said is None:
        return None
    counts = metrics.confusion_counts(said.truth, said.predicted, len(said.classes))
    found = metrics.per_class_of(counts, said.classes, {}).drop(columns="test").set_index("class")
    return table.assign(**found.reindex(table["class"].astype(str)).reset_index(drop=True))


def with_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """Return a run's table per type with metrics.intervals, made of its cells: tables of earlier versions lack some."""
    hits = (table["recall"] * table["test"]).fillna(0).round()
    return table.assign(**metrics.intervals(hits, table["test"], table["predicted"]))


def parts(metric: str) -> tuple[str, str]:
    """Return (name, type) of a test metric: test_recall:DC -> (recall, DC), test_gmean.logit_adjust -> (gmean, "")."""
    name, _, kind = metric.removeprefix("test_").partition(":")
    return name.partition(".")[0], kind


def adjustment(metric: str) -> str:
    """Return the adjustment after training that a metric is of, "" if of none."""
    return metric.partition(":")[0].partition(".")[2]


def averaged(metric: str, table: pd.DataFrame) -> np.ndarray | None:
    """Return which types of a run's table per type a test metric is a mean over, bool [C]; None: it counts cells."""
    (name, kind), tested = parts(metric), (table["test"] > 0).to_numpy()
    if kind:
        return tested & (table["class"].astype(str) == kind).to_numpy()
    if name.endswith("_rarefied"):
        return tested & (table["train"] < table["natural"]).to_numpy()
    size, _, after_skew = name.removeprefix("recall_").partition("_")
    if size in SIZES:
        cells, (low, high) = table["train" if after_skew else "natural"].to_numpy(), SIZES[size]
        return tested & (cells > low) & (cells <= high)
    return tested if name in OVER_ALL[1:] else None


def one_split(group: pd.DataFrame, metric: str) -> dict[str, float]:
    """Return of finished runs what one split's test cells of a type leave open of a number; nothing of other metrics.

    Columns: test_cells:TYPE (of a split, mean), <metric>_one_low, <metric>_one_high (95 %, mean over runs
    of metrics.intervals).
    """
    low, high, cells = of_split(metric)
    if low not in group:
        return {}
    found = {cells: group[cells].mean()}
    return found | {f"{metric}_one_{end}": group[name].mean() for end, name in (("low", low), ("high", high))}


def of_split(metric: str) -> tuple[str, str, str]:
    """Return what the ends of a metric's interval in one split, and the test cells it rests on, are called in runs."""
    name, separator, kind = metric.partition(":")
    name, dot, adjusted = name.partition(".")
    name, rarefied, _ = name.partition("_rarefied")
    rest = f"{rarefied}{dot}{adjusted}{separator}{kind}"
    return *(f"{end}{rest}" for end in metrics.ends_of(name)), f"test_cells{rest}"


def tested(runs: pd.DataFrame, asked: Sequence[str]) -> Iterator[str]:
    """Yield on how many test cells of a split the numbers of one type rest, a sentence per type asked about."""
    kinds = dict.fromkeys(f":{kind}" if kind else "_rarefied" for kind in map(_kind, asked) if kind is not None)
    for kind in kinds:
        cells = runs.get(f"test_cells{kind}", pd.Series(dtype=float)).dropna()
        if len(cells):
            named = kind[1:] if kind.startswith(":") else "the rarefied type"
            yield f"test cells of {named} in a split: {few_to_most(cells)}"


def few_to_most(values: Sequence[float] | pd.Series | np.ndarray) -> str:
    """Return the fewest and the most in whole numbers, 31 to 60; one number where they are the same, "" of nothing."""
    known = pd.Series(values, dtype=float).dropna()
    if known.empty:
        return ""
    few, most = round(known.min()), round(known.max())
    return str(few) if few == most else f"{few} to {most}"


def _kind(metric: str) -> str | None:
    """Return the type that a metric is about, "" for the one that the skew has thinned, None for all types."""
    name, _, kind = metric.partition(":")
    return kind or ("" if name.split(".")[0].endswith("_rarefied") else None)


@dataclass(frozen=True)
class Sizes:
    """Training cells that a skew leaves in a split, means over splits. ratio: largest type over smallest one left."""

    ratio: float
    cells: float
    largest: float
    smallest: float


def sizes(runs: pd.DataFrame, stored: Stored) -> dict[str, Sizes]:
    """Return what each skew of one dataset's finished runs has made of the training cells, before any strategy.

    A skew whose tables can't be read is left out.
    """
    found = {}
    for skew, group in runs[runs["status"] == "FINISHED"].groupby("skew", sort=False):
        tables = stored.tables(group.drop_duplicates("split"))
        trained = [table["train"].to_numpy() for table in tables if table is not None and "train" in table]
        if trained:
            ends = [(one.max() / one[one > 0].min(), one.sum(), one.max(), one[one > 0].min()) for one in trained]
            found[skew] = Sizes(*np.mean(ends, axis=0).tolist())
    return found


def of_skews(runs: pd.DataFrame, stored: Stored) -> Iterator[str]:
    """Yield a sentence per dataset: how unequal its skews have made the training cells, as counted, and how many."""
    for dataset, group in runs.groupby("dataset", sort=False):
        said = [
            f"{skew}: {one.ratio:.0f} to 1 ({one.largest:.0f} to {one.smallest:.0f} of a type), {one.cells:,.0f} cells"
            for skew, one in sizes(group, stored).items()
        ]
        if said:
            yield f"{dataset}: training cells of a split, largest to smallest type: {'; '.join(said)}"


def rare(runs: pd.DataFrame, stored: Stored, asked: Sequence[str]) -> Iterator[str]:
    """Yield which types recall_tail is about, where it is asked for, a sentence per dataset; natural: before a skew."""
    finished = runs[runs["status"] == "FINISHED"]
    finished = finished if "recall_tail" in (parts(metric)[0] for metric in asked) else finished.iloc[:0]
    for dataset, group in finished.groupby("dataset", sort=False):
        listed = stored.tables(group.drop_duplicates("split"))
        listed = [table for table in listed if table is not None and "natural" in table]
        if not listed:
            continue
        table = pd.concat(listed)
        tested = table[table["test"] > 0]
        found = {name: rows for name, rows in tested.groupby("class", sort=False) if rows["natural"].min() <= TAIL}
        if (tested["natural"] <= TAIL).all():
            yield f"{dataset}: all types are rare (up to {TAIL} training cells): recall_tail is balanced_accuracy"
        elif found:
            named = ", ".join(
                f"{name} ({few_to_most(rows['natural'])}, {few_to_most(rows['test'])})"
                for name, rows in sorted(found.items(), key=lambda one: one[1]["natural"].mean())
            )
            yield f"{dataset}: rare are {named} (training cells before the skew, test cells; of a split)"
        else:
            yield f"{dataset}: no type is rare (at most {TAIL} training cells before the skew)"
