"""What so few test cells and splits could show of each rare type, whatever the choices are worth.

Recall moves in steps of one test cell, and a difference must exceed what splits leave open. How much two choices differ
from split to split is taken from all choices of a dataset and skew: the variance of recall that neither the choice nor
the split explains (two-way analysis of variance), twice, for two choices.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from sweeps.answers.celltypes import few_to_most
from sweeps.answers.deciding.wording import many
from sweeps.answers.designs import Designs
from sweeps.answers.runs import choices
from sweeps.answers.runs.choices import CHANCE
from sweeps.statistics import intervals
from trainables.metrics import TAIL

FOUND = 0.8  # share of sweeps in which such a difference would be found: its power
SAID = ["dataset", "skew", "split", "seed", "class", "recall", "predicted"]  # the same of the same predictions
HEAD = ["dataset", "type", "training cells", "test cells", "one cell is", "could be seen from", "splits"]


@dataclass(frozen=True)
class Power:
    """One rare type: cells of a split (fewest, most), `train` at the skew with the fewest; splits, of that with most.

    seen: the least difference in recall between two choices that a test would find in FOUND of such sweeps; NaN under
    three splits, and where splits aren't drawn anew or nothing varies.
    """

    dataset: str
    kind: str
    train: tuple[float, float]
    test: tuple[float, float]
    splits: int
    seen: float

    @property
    def step(self) -> str:
        """What one test cell more or less is of recall in a split."""
        points = few_to_most([100 / cells for cells in self.test])
        return f"{points} point{'' if points == '1' else 's'}"

    def row(self) -> list[str]:
        seen = "-" if np.isnan(self.seen) else many(round(100 * self.seen), "point") if self.seen < 1 else "nothing"
        cells = [few_to_most(self.train), few_to_most(self.test)]
        return [self.dataset, self.kind, *cells, self.step, seen, str(self.splits)]


def power(types: pd.DataFrame, designs: Designs, looks: int = 1) -> list[Power]:
    """Return each dataset's types with few training cells at some skew, those with the fewest test cells first.

    types: see frames.types; looks: see intervals.Error.
    """
    known = types[types["test"] > 0] if len(types) else types
    if known.empty:
        return []
    kinds = choices.kinds(known)
    known = _distinct(known[known["model"].map(kinds) != CHANCE].assign(choice=choices.labels(known)))
    found = []
    for (dataset, kind), group in known.groupby(["dataset", "class"], sort=False):
        if group["train"].min() <= TAIL:
            found.append(_of_type(dataset, str(kind), group, designs, looks))
    return sorted(found, key=lambda one: (one.dataset, one.test, one.kind))


def _distinct(types: pd.DataFrame) -> pd.DataFrame:
    """Return the types without choices that predict what another does, which would count the same chance twice."""
    first: dict[frozenset, str] = {}
    for choice, part in types.groupby("choice", sort=False):
        first.setdefault(frozenset(part[SAID].itertuples(index=False, name=None)), choice)
    return types[types["choice"].isin(first.values())]


def _of_type(dataset: str, kind: str, group: pd.DataFrame, designs: Designs, looks: int) -> Power:
    tables = [
        part.pivot_table("recall", "choice", "split", sort=False).dropna(axis=1).to_numpy()
        for _, part in group.groupby("skew", sort=False)
    ]
    by_split = group.groupby("split")[["test", "natural"]].mean()
    rarest = group[group["skew"] == group.loc[group["train"].idxmin(), "skew"]]
    train, test = (_ends(cells) for cells in (rarest["train"], by_split["test"]))
    splits = max(table.shape[1] for table in tables)
    ratio = float((by_split["test"] / by_split["natural"]).mean()) if designs.kind(dataset) == "splits" else np.nan
    return Power(dataset, kind, train, test, splits, seen(tables, ratio, looks))


def _ends(cells: pd.Series) -> tuple[float, float]:
    return float(cells.min()), float(cells.max())


def seen(tables: list[np.ndarray], ratio: float, looks: int = 1) -> float:
    """Return the least mean difference that a test finds in FOUND of such sweeps, of recalls [choices, splits] by skew.

    ratio: test cells per training cell, by which variances are widened, see intervals.redrawn. The quantiles of a test
    and of its power are added, both of Student's t with splits - 1 degrees of freedom.
    """
    whole = [table for table in tables if min(table.shape) > 1]
    if not whole or (splits := max(table.shape[1] for table in whole)) < intervals.LEAST:
        return np.nan
    left = [table - table.mean(0) - table.mean(1, keepdims=True) + table.mean() for table in whole]
    freedom = sum((len(table) - 1) * (table.shape[1] - 1) for table in whole)
    variance = sum(float((one**2).sum()) for one in left) / freedom
    if variance <= 1e-12:
        return np.nan
    reach = stdtrit(splits - 1, 1 - 0.025 / looks) + stdtrit(splits - 1, FOUND)
    return float(reach * np.sqrt(2 * variance * (1 / splits + ratio)))


def sentences(found: list[Power]) -> Iterator[str]:
    """Yield what the table is, by its type with the fewest test cells."""
    if not found:
        return
    least = min(found, key=lambda one: one.test)
    cells = f"{few_to_most(least.test)} test cell{'' if least.test[1] == 1 else 's'}"
    yield f"{least.kind} has {cells} in a split: one of them more or less is {least.step} of its recall."
    yield (
        f"Could be seen from: the least difference in recall between two choices at one skew that a test would find in "
        f"{FOUND:.0%} of sweeps with these splits, as far as choices vary here from split to split (80 % power, 5 % "
        "error); a smaller one that is there would mostly be missed, so that not to find it says nothing. More splits "
        "help until they share too many cells, more test cells always."
    )
