"""One cell type's numbers beside a run's others, and which types are rare: from the runs' tables per type."""

from collections.abc import Iterator, Sequence

import pandas as pd

from data_pipeline.errors import RequestError
from sweeps.answers.runs.stored import Stored
from sweeps.file.plugins import unknown
from trainables.metrics import TAIL, wilson

NUMBERS = ("recall", "precision", "f1")


def with_type(runs: pd.DataFrame, kind: str, stored: Stored) -> pd.DataFrame:
    """Return the runs with test_recall:TYPE, test_precision:TYPE, test_f1:TYPE and test_cells:TYPE of one type.

    NaN for runs that aren't finished, whose dataset lacks the type, or whose split has no test cells of it.
    RequestError if no run's table has the type.
    """
    rows, known = {}, set()
    for at, run in runs[runs["status"] == "FINISHED"].iterrows():
        table = stored.per_class(run)
        if table is None:
            continue
        known |= set(table["class"].astype(str))
        mine = table[table["class"].astype(str) == kind]
        if len(mine):
            named = mine.iloc[0][[*NUMBERS, "test"]].rename({"test": "cells"})
            rows[at] = {f"test_{name}:{kind}": value for name, value in named.items()}
    if not rows:
        if not known:
            raise RequestError(f"--type {kind}: no finished run's per_class.csv can be read, which has the types")
        raise RequestError(f"--type: {unknown('cell type', kind, sorted(known))}")
    return runs.join(pd.DataFrame.from_dict(rows, orient="index").astype(float))


def binomial(group: pd.DataFrame, metric: str) -> dict[str, float]:
    """Return of finished runs what a type's few test cells leave open of its recall; nothing for another metric.

    Columns: cells (test cells of the type in a split, mean), wilson_low, wilson_high (95 %, of the mean recall among so
    many cells).
    """
    name, _, kind = metric.partition(":")
    if name != "test_recall" or f"test_cells:{kind}" not in group:
        return {}
    cells, recall = group[f"test_cells:{kind}"].mean(), group[metric].mean()
    low, high = wilson([cells * recall], [cells])
    return {"cells": cells, "wilson_low": float(low[0]), "wilson_high": float(high[0])}


def tested(runs: pd.DataFrame, metrics: Sequence[str]) -> Iterator[str]:
    """Yield on how many test cells of a split the numbers of one type rest, a sentence per type asked about."""
    kinds = dict.fromkeys(f":{kind}" if kind else "_rarefied" for kind in map(_kind, metrics) if kind is not None)
    for kind in kinds:
        cells = runs.get(f"test_cells{kind}", pd.Series(dtype=float)).dropna()
        if len(cells):
            few, most = int(cells.min()), int(cells.max())
            named = kind[1:] if kind.startswith(":") else "the rarefied type"
            yield f"test cells of {named} in a split: {few if few == most else f'{few} to {most}'}"


def _kind(metric: str) -> str | None:
    """Return the type that a metric is about, "" for the one that the skew has thinned, None for all types."""
    name, _, kind = metric.partition(":")
    return kind or ("" if name.split(".")[0].endswith("_rarefied") else None)


def rare(runs: pd.DataFrame, stored: Stored) -> Iterator[str]:
    """Yield which types rare-type recall is about, a sentence per dataset; natural: cells before any skew."""
    finished = runs[runs["status"] == "FINISHED"]
    for dataset, group in finished.groupby("dataset", sort=False):
        listed = [stored.per_class(run) for _, run in group.drop_duplicates("split").iterrows()]
        listed = [table for table in listed if table is not None and "natural" in table]
        if not listed:
            continue
        table = pd.concat(listed).groupby("class", sort=False)[["natural", "test"]].mean()
        tested = table[table["test"] > 0]
        found = tested[tested["natural"] <= TAIL].sort_values("natural")
        if len(found) == len(tested):
            yield f"{dataset}: all types are rare (up to {TAIL} training cells): rare-type recall is balanced accuracy"
        elif len(found):
            named = ", ".join(f"{name} ({row.natural:.0f}, {row.test:.0f})" for name, row in found.iterrows())
            yield f"{dataset}: rare are {named} (training cells before the skew, test cells; of a split)"
        else:
            yield f"{dataset}: no type is rare (at most {TAIL} training cells before the skew)"
