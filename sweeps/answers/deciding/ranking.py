"""Which choice is best on the same test cells, and which can't be told from it.

The best of many is a selection, and each of its numbers flatters it. So every difference here has an interval that
holds for all those it was picked from at once (Bonferroni), and choices that can't be told from the best are ties: the
truly best one is the best or among them in 95 % of sweeps (as Gupta 1965, Technometrics 7, keeps a subset).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from data_pipeline.errors import RequestError
from sweeps.answers.deciding.cost import seconds, shares
from sweeps.answers.designs import Designs, Estimate
from sweeps.answers.runs import choices
from sweeps.answers.runs.choices import BASELINE, CHANCE, CHOICE, NETWORK
from sweeps.answers.summary import title
from sweeps.statistics import intervals

BLOCK = ["dataset", "split", "seed"]  # what choices are compared on, within a skew
COLUMNS = ["label", "kind", *CHOICE, "mean", "low", "high", "sd", "n", "seconds", "gpus"]


@dataclass(frozen=True)
class Difference:
    """How much better `one` is than `other` on the same cells. low, high: for all of `tests` differences at once.

    NaN where there is no interval (under three splits, say). estimate: of one - other, in the metric's own direction.
    """

    one: str
    other: str
    mean: float
    low: float
    high: float
    tests: int
    estimate: Estimate

    @property
    def is_sure(self) -> bool:
        """Tell whether `one` is better, chance apart."""
        return bool(self.low > 0)


@dataclass(frozen=True)
class Ranking:
    """The choices of one skew, in complete blocks.

    table: a row per choice, the best first: label, kind, *CHOICE, mean, low, high (its own 95 % interval), n (splits),
    tied (with the best), seconds and gpus (of one training, means, see cost). unranked: label -> blocks it has, of
    those that lack too many; blocks: those that all others have; dropped: the others, in words. runs: those of each
    choice, in the order of the blocks.
    """

    metric: str
    skew: str
    table: pd.DataFrame
    blocks: pd.DataFrame
    dropped: list[str]
    unranked: dict[str, int]
    estimates: dict[str, Estimate]
    runs: dict[str, pd.DataFrame]
    _designs: Designs

    @property
    def candidates(self) -> pd.DataFrame:
        """Return the rows that can be chosen: all but chance."""
        return self.table[self.table["kind"] != CHANCE]

    @property
    def best(self) -> pd.Series | None:
        return self.candidates.iloc[0] if len(self.candidates) else None

    @property
    def tied(self) -> list[str]:
        """Return the choices that can't be told from the best."""
        return list(self.candidates.loc[self.candidates["tied"], "label"])[1:]

    @property
    def splits(self) -> int:
        return int(self.blocks.groupby("dataset")["split"].nunique().min())

    def best_of(self, kind: str) -> pd.Series | None:
        found = self.table[self.table["kind"] == kind]
        return found.iloc[0] if len(found) else None

    def plain(self, row: pd.Series) -> pd.Series | None:
        """Return the choice of the same model that does nothing about the imbalance, None if it isn't ranked."""
        found = self.table[(self.table["model"] == row["model"]) & choices.is_plain(self.table)]
        return found.iloc[0] if len(found) else None

    def to_plain(self) -> Difference | None:
        """Return the best against doing nothing with its model; None if that is what the best does, or it isn't there.

        Picked from all remedies of all models.
        """
        other = None if self.best is None else self.plain(self.best)
        if other is None or other["label"] == self.best["label"]:
            return None
        remedies = self.distinct(self.candidates.loc[~choices.is_plain(self.candidates), "label"])
        return self.difference(self.best["label"], other["label"], remedies)

    def to_rival(self) -> Difference | None:
        """Return the best against the best of the other kind (network, baseline), remedies counted; None without one.

        Picked from all pairs of a network and a baseline.
        """
        of_kind = {kind: self.table.loc[self.table["kind"] == kind, "label"] for kind in (NETWORK, BASELINE)}
        kinds = {kind: self.distinct(labels) for kind, labels in of_kind.items()}
        if self.best is None or not all(kinds.values()):
            return None
        other = self.best_of(BASELINE if self.best["kind"] == NETWORK else NETWORK)
        return self.difference(self.best["label"], other["label"], kinds[NETWORK] * kinds[BASELINE])

    def to_next(self) -> Difference | None:
        """Return the best against the first that ties with it; None if nothing does."""
        tests = max(1, self.distinct(self.candidates["label"]) - 1)
        return self.difference(self.best["label"], self.tied[0], tests) if self.tied else None

    def distinct(self, labels: Iterable[str]) -> int:
        """Return how many choices these are: such with the same predictions are one."""
        return _distinct(self.runs, labels, self.metric)

    def difference(self, one: str, other: str, tests: int = 1) -> Difference:
        """Return how much better a choice is than another, its interval good for so many differences at once."""
        return _difference(self.runs, self._designs, self.metric, one, other, tests)


@dataclass(frozen=True)
class Board:
    """The choices of one dataset and skew, the best first.

    table: Ranking.table less chance, with rank (ties share the mean), rank_low, rank_high (what can't be excluded),
    wins (mean of its row of `wins`), gpu_hours, pareto (no other is as good for less). wins: label x label, the share
    of splits in which the row beats the column, ties half.
    """

    dataset: str
    ranking: Ranking
    table: pd.DataFrame
    wins: pd.DataFrame


def rankings(runs: pd.DataFrame, metric: str, designs: Designs) -> list[Ranking]:
    """Return a ranking per skew of the finished runs that have a metric; defects on purpose are no choice.

    runs: see choices.unfolded. RequestError for a metric of which neither more nor less is better.
    """
    if not intervals.has_best(metric):
        raise RequestError(
            f"{title(metric)} is no measure to choose by: sets are promised to hold 90 % of the cells, and more is no "
            "better; conformal_size and conformal_single say how small they are"
        )
    finished = runs[(runs["status"] == "FINISHED") & runs[metric].notna() & (runs["defects"] == "")]
    return [_rank(group, metric, skew, designs) for skew, group in finished.groupby("skew", sort=False)]


def _rank(runs: pd.DataFrame, metric: str, skew: str, designs: Designs) -> Ranking:
    runs = runs.assign(label=choices.labels(runs))
    blocks, unranked = _blocks(runs)
    ranked = runs[~runs["label"].isin(unranked)].merge(blocks, on=BLOCK).sort_values(BLOCK, kind="stable")
    parts = {label: part.reset_index(drop=True) for label, part in ranked.groupby("label", sort=False)}
    estimates = {label: designs.estimate(part, metric) for label, part in parts.items()}
    order = sorted(parts, key=lambda label: -intervals.sign(metric) * estimates[label].mean)
    rows = [_row(label, parts[label], estimates[label], metric) for label in order]
    table = pd.DataFrame(rows, columns=COLUMNS)
    table["tied"] = _ties(table, parts, metric, designs)
    return Ranking(metric, skew, table, blocks, _dropped(runs, blocks), unranked, estimates, parts, designs)


def _blocks(runs: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the blocks that all choices have, and the choices that have under half of them, which aren't asked.

    Half of the blocks that any has: a choice with few splits finished is no rival yet.
    """
    every = runs[BLOCK].drop_duplicates()
    has = runs.groupby("label", sort=False).size()
    unranked = has[has * 2 < len(every)]
    counted = runs[~runs["label"].isin(unranked.index)].groupby(BLOCK, sort=False)["label"].nunique()
    whole = counted[counted == len(has) - len(unranked)].reset_index()[BLOCK]
    return whole, {label: int(number) for label, number in unranked.items()}


def _dropped(runs: pd.DataFrame, blocks: pd.DataFrame) -> list[str]:
    """Return which datasets, or splits and seeds of them, have runs but are no block that all choices have."""
    every = runs[BLOCK].drop_duplicates().merge(blocks, on=BLOCK, how="left", indicator="is")
    found = []
    for dataset, part in every.groupby("dataset", sort=False):
        lost = part[part["is"] == "left_only"]
        several = part["seed"].nunique() > 1
        each = [f"split {one.split}" + (f" seed {one.seed}" if several else "") for one in lost.itertuples()]
        found += [f"{dataset} altogether"] if len(lost) == len(part) else [f"{dataset} {one}" for one in each]
    return found


def _row(label: str, part: pd.DataFrame, estimate: Estimate, metric: str) -> dict[str, object]:
    first = part.iloc[0]
    low, high = estimate.interval(intervals.span(metric))
    row = {"label": label, "kind": choices.kinds(part)[first["model"]]} | {name: first[name] for name in CHOICE}
    row |= {"mean": estimate.mean, "low": low, "high": high, "sd": estimate.sd, "n": estimate.n}
    return row | {"seconds": float(seconds(part).mean()), "gpus": float(shares(part).mean())}


def _ties(table: pd.DataFrame, parts: dict[str, pd.DataFrame], metric: str, designs: Designs) -> list[bool]:
    """Tell which choices can't be told from the best that isn't chance; chance is no rival."""
    rivals = table.loc[table["kind"] != CHANCE, "label"]
    if rivals.empty:
        return [False] * len(table)
    best, tests = rivals.iloc[0], max(1, _distinct(parts, rivals, metric) - 1)
    sure = {label: _difference(parts, designs, metric, best, label, tests).is_sure for label in rivals if label != best}
    return [label == best or (label in sure and not sure[label]) for label in table["label"]]


def _distinct(parts: dict[str, pd.DataFrame], labels: Iterable[str], metric: str) -> int:
    said = [choices.predicted(parts[label], metric) for label in labels]
    return len(set(said) - {None}) + said.count(None)


def _difference(
    parts: dict[str, pd.DataFrame], designs: Designs, metric: str, one: str, other: str, tests: int
) -> Difference:
    estimate = designs.estimate(parts[one], metric, minus=parts[other])
    ends = intervals.of_difference(estimate.mean, estimate.error, metric, tests)
    low, high = sorted(end * intervals.sign(metric) for end in ends)
    return Difference(one, other, intervals.sign(metric) * estimate.mean, low, high, tests, estimate)


def to_plain_throughout(ranked: Sequence[Ranking], label: str) -> Difference | None:
    """Return how much better a choice is than doing nothing with its model, mean over skews, all on the same splits.

    Picked from all remedies of all models. None if nothing is what it does, or that isn't ranked, or blocks differ.
    """
    first, *others = ranked
    blocks = [set(map(tuple, one.blocks[BLOCK].to_numpy().tolist())) for one in ranked]
    listed = first.candidates[[all(one in other.runs for other in others) for one in first.candidates["label"]]]
    plain = first.plain(listed[listed["label"] == label].iloc[0])
    if plain is None or plain["label"] == label or plain["label"] not in set(listed["label"]):
        return None
    if any(one != blocks[0] for one in blocks):
        return None
    parts = {one: pd.concat([each.runs[one] for each in ranked], ignore_index=True) for one in listed["label"]}
    tests = _distinct(parts, listed.loc[~choices.is_plain(listed), "label"], first.metric)
    return _difference(parts, first._designs, first.metric, label, plain["label"], tests)


def left_out_score(ranking: Ranking) -> tuple[float, int, int] | None:
    """Return what picking the best is worth: picked on all splits but one, its mean on that one, over all splits.

    And how often it is the same choice as the best of all, of how many. None under three splits.
    """
    scores = pd.DataFrame({label: ranking.estimates[label].by_split for label in ranking.candidates["label"]})
    splits = scores.index.get_level_values("split")
    names = list(dict.fromkeys(splits))
    if len(names) < intervals.LEAST or scores.shape[1] < 2:
        return None
    found, same = [], 0
    for name in names:
        others = scores[splits != name].groupby(level="dataset").mean().mean() * intervals.sign(ranking.metric)
        found.append(scores.loc[splits == name, others.idxmax()].mean())
        same += others.idxmax() == ranking.best["label"]
    return float(np.mean(found)), int(same), len(names)
