"""Ranks over datasets, and which can't be told apart: the critical-difference diagram of Demšar 2006 (JMLR 7, 1-30).

A block is a dataset: splits of one dataset share cells, so that they agree with each other more than datasets do, and
trial seeds even more; as blocks they would find differences that no other dataset has.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sweeps import tables
from sweeps.answers.deciding.ranking import Board
from sweeps.answers.deciding.wording import many, named
from sweeps.answers.summary import title
from sweeps.statistics import families
from sweeps.statistics.families import DATASETS
from sweeps.statistics.intervals import sign

SURE = 0.05  # p of Friedman's test, from which on no two choices are told apart
CHOICES = 3  # below which it is no question of ranks: compare has a test of two


@dataclass(frozen=True)
class Ranks:
    """The choices of one skew that all datasets have, the best mean rank first; ties in a dataset share a rank.

    ranks: mean over datasets, float [m]. p: of Friedman's test that all choices are alike. apart: the critical
    difference, beyond which two mean ranks differ (Nemenyi, 95 % for all pairs at once). left_out: choices that some
    dataset lacks.
    """

    metric: str
    skew: str
    datasets: list[str]
    labels: list[str]
    ranks: np.ndarray
    p: float
    apart: float
    left_out: list[str]

    @property
    def differs(self) -> bool:
        return self.p < SURE

    @property
    def alike(self) -> list[tuple[int, int]]:
        """Return the largest runs of choices, (first, last), of which no two can be told apart; all if none differs."""
        if not self.differs:
            return [(0, len(self.labels) - 1)]
        last = [int(np.flatnonzero(self.ranks <= rank + self.apart + 1e-9)[-1]) for rank in self.ranks]
        return [(first, end) for first, end in enumerate(last) if first < end and (not first or end > last[first - 1])]

    def __str__(self) -> str:
        where = f"{many(len(self.datasets), 'dataset')}, skew {self.skew}"
        said = f"mean ranks by {title(self.metric)} over {where}: "
        if not self.differs:
            return f"{said}Friedman's test finds no difference (p {self.p:.2g})"
        far = f"ranks up to {self.apart:.2f} apart can't be told from each other (Nemenyi)"
        return f"{said}Friedman p {self.p:.2g}; {far}"


def over_datasets(boards: Sequence[Board], looks: int = 1) -> list[Ranks]:
    """Return the ranks at every skew and metric that enough datasets have; looks: see intervals.Error."""
    found = []
    for group in _by_skew(boards):
        every = [label for board in group for label in board.table["label"]]
        common = [label for label in dict.fromkeys(every) if every.count(label) == len(group)]
        if len(group) >= DATASETS and len(common) >= CHOICES:
            found.append(_ranks(group, common, [label for label in dict.fromkeys(every) if label not in common], looks))
    return found


def _by_skew(boards: Sequence[Board]) -> list[list[Board]]:
    groups: dict[tuple[str, str], list[Board]] = {}
    for board in boards:
        groups.setdefault((board.ranking.metric, board.ranking.skew), []).append(board)
    return list(groups.values())


def _ranks(boards: list[Board], labels: list[str], left_out: list[str], looks: int) -> Ranks:
    metric = boards[0].ranking.metric
    means = [board.table.set_index("label").loc[labels, "mean"].to_numpy() * -sign(metric) for board in boards]
    ranks = np.array([families.ranks(one) for one in means])
    order = np.argsort(ranks.mean(0), kind="stable")
    p = min(1.0, looks * families.friedman(ranks))
    apart = families.critical_difference(len(labels), len(boards), looks)
    listed = [board.dataset for board in boards]
    return Ranks(
        metric, boards[0].ranking.skew, listed, [labels[at] for at in order], ranks.mean(0)[order], p, apart, left_out
    )


def refusals(boards: Sequence[Board]) -> Iterator[str]:
    """Yield why there are no ranks over datasets, where there are too few of them."""
    groups = _by_skew(boards)
    if groups and not any(len(group) >= DATASETS for group in groups):
        number = max(len(group) for group in groups)
        yield (
            f"no ranks over datasets (critical-difference diagram): {DATASETS} datasets are needed, here "
            f"{'is' if number == 1 else 'are'} {number}; splits of one dataset share cells, and don't stand for others"
        )


def show(found: Sequence[Ranks]) -> None:
    """Print ranks as tables: choices under one | can't be told from each other."""
    for one in found:
        tables.draw(as_text(one), title="", left=2)
        tables.say(*explained(one), "|: choices that can't be told from each other")


def as_text(found: Ranks) -> pd.DataFrame:
    """Return ranks as a table of text; a column of | per group of choices that can't be told apart."""
    text = pd.DataFrame({"mean rank": [f"{rank:.2f}" for rank in found.ranks], "choice": found.labels})
    for at, (first, last) in enumerate(found.alike):
        text[" " * at] = ["|" if first <= place <= last else "" for place in range(len(text))]
    return text


def explained(found: Ranks) -> list[str]:
    """Return what must be said of ranks."""
    said = [str(found), "a block is a dataset, by its mean over splits; splits of one share cells, and are none"]
    lost = f"left out, as some dataset lacks them: {named(found.left_out)}"
    return said + ([lost] if found.left_out else [])


def for_programs(found: Ranks) -> dict[str, Any]:
    """Return ranks as JSON has them."""
    parts = {name: getattr(found, name) for name in ("metric", "skew", "datasets", "p", "left_out")}
    groups = [found.labels[first : last + 1] for first, last in found.alike]
    ranks = dict(zip(found.labels, found.ranks.tolist(), strict=True))
    return parts | {"mean_ranks": ranks, "critical_difference": found.apart, "not_told_apart": groups}
