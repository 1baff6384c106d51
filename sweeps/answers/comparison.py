"""`cellskew compare`: what a choice changes, on the same cells, and whether chance alone could have done it.

Two finished runs are a pair if they differ in the choice alone: same dataset, split, skew, seed and so on. Only splits
count that have every pair that the others have (complete blocks); what is dropped is named. Differences are averaged
over trial seeds within a split, then over what else is pooled: n splits remain, and interval and p (see designs) are
theirs; under three splits there are none. Where several datasets are pooled each has a row, and a row "all" has the
mean of their differences: of these datasets, and from six on of datasets (t interval, Wilcoxon's signed-rank test).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from data_pipeline.errors import RequestError
from sweeps.answers.designs import Designs, Estimate, indexed, per_split
from sweeps.answers.runs import choices
from sweeps.answers.runs.looks import looks_at
from sweeps.answers.runs.results import check_alone, check_columns
from sweeps.answers.summary import title
from sweeps.file.plugins import unknown
from sweeps.file.trials import AXES
from sweeps.statistics import families, intervals

CHOICES = [axis for axis in AXES if axis not in ("split", "seed")] + ["posthoc", "defects"]
USUAL = {"none", "natural", "cross_entropy", "logistic_regression"}  # what others are compared with, unless told
COLUMNS = ["level", "against", "n", "seeds", "pairs", "mean", "mean_against"]
COLUMNS += ["difference", "low", "high", "wins", "ties", "losses", "p", "p_holm", "same"]
ALL, NAMED = "all", 6  # in the column dataset: over datasets; how much of what is left out is named


@dataclass
class Comparison:
    """What `compare` found. table: a row per group of `within` and level, and per dataset where there are several.

    `same`: both have the same predictions in every pair. estimates, asked: of the rows, in their order; rows with
    the same predictions on both sides ask the same, and are one test. pairs: the runs that
    have a partner, once per pair. left_out: why some wasn't compared, and of which rows. designs: how sure the
    differences are.
    """

    table: pd.DataFrame
    between: str
    within: list[str]
    metric: str
    against: str
    designs: Designs
    estimates: list[Estimate] = field(default_factory=list)
    asked: list[Hashable] = field(default_factory=list)
    pairs: list[pd.DataFrame] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    @property
    def compared(self) -> pd.DataFrame:
        """The runs that have a partner."""
        return pd.concat(self.pairs, ignore_index=True)

    def lose(self, what: str, where: str) -> None:
        self.left_out.setdefault(what, []).append(where)

    def lost(self) -> list[str]:
        """Return what was not compared, in words: what is so of many rows once."""
        return [f"{row}: {what}" for what, rows in self.left_out.items() if len(rows) <= NAMED for row in rows] + [
            f"{what}, at each of {len(rows)} rows: {', '.join(rows[:2])} ... {rows[-1]}"
            for what, rows in self.left_out.items()
            if len(rows) > NAMED
        ]

    @property
    def tested(self) -> pd.Series:
        """Tell which rows make up the family of tests: those over all datasets."""
        return self.table["dataset"] == ALL if ALL in set(self.table.get("dataset", ())) else self.table["n"] > 0


def compare(
    runs: pd.DataFrame,
    between: str,
    within: list[str],
    metric: str,
    against: str | None = None,
    tie: float = 0.0,
    designs: Designs | None = None,
) -> Comparison:
    """Return the differences level - against of every group of `within` and level of `between`, see above.

    wins, ties, losses: pairs, |difference| <= tie being a tie; p_holm: corrected for all rows with a p (Holm 1979).
    RequestError for an unknown column, metric or level, and where there is nothing to compare.
    """
    _check_choice(between, within)
    designs = Designs(runs) if designs is None else designs
    check_alone(runs)
    runs = choices.unfolded(runs) if "posthoc" in (between, *within) else runs
    check_columns(runs, [*within, between], [metric])
    finished = runs[runs["status"] == "FINISHED"].replace({"defects": {"": "none"}})
    levels = list(dict.fromkeys(finished[between]))
    against = _baseline(levels, against, between)
    found = Comparison(pd.DataFrame(), between, within, metric, against, designs)
    rows = _all_rows(found, finished, [level for level in levels if level != against], tie)
    if not rows:
        why = f"no two finished runs differ in {between} alone in a split that has all such pairs"
        raise RequestError(f"{why}; `cellskew status` says what is missing", *found.lost())
    several = any("dataset" in row for row in rows) and "dataset" not in within
    found.estimates, found.asked = ([row[name] for row in rows] for name in ("estimate", "asked"))
    found.table = pd.DataFrame(rows, columns=[*within, *(["dataset"] if several else []), *COLUMNS])
    found.table["p"] = found.table["p"].where(found.tested)
    return as_one_family([found])[0]


def tests(found: Sequence[Comparison]) -> int:
    """Return how many tests comparisons have."""
    pairs = (pair for one in found for pair in zip(one.asked, one.table["p"], strict=True))
    return len({asked for asked, p in pairs if not np.isnan(p)})


def as_one_family(found: list[Comparison]) -> list[Comparison]:
    """Return comparisons with their tests corrected as one family."""
    asked = [question for one in found for question in one.asked]
    p, start = families.holm(pd.concat([one.table["p"] for one in found]).to_numpy(dtype=float), asked), 0
    for one in found:
        one.table["p_holm"] = p[start : start + len(one.table)]
        start += len(one.table)
    return found


def per_skew(runs: pd.DataFrame, between: str, within: list[str]) -> list[str]:
    """Return the columns that get a comparison each, the skew among them if there are several: it is never averaged."""
    several = runs.loc[runs["status"] == "FINISHED", "skew"].nunique() > 1
    return [*within, "skew"] if several and "skew" not in (between, *within) else within


def _all_rows(found: Comparison, finished: pd.DataFrame, levels: list[str], tie: float) -> list[dict[str, Any]]:
    rows = []
    for values, group in finished.groupby(found.within, sort=False) if found.within else [((), finished)]:
        named = dict(zip(found.within, values, strict=True))
        rows += [named | row for level in levels for row in _rows(found, group, level, tie, named)]
    return rows


def _check_choice(between: str, within: list[str]) -> None:
    if between not in CHOICES:
        raise RequestError(unknown("choice for --between", between, CHOICES))
    if between in within:
        raise RequestError(f"--within {between} is what --between compares; leave it out there")


def _baseline(levels: list[str], against: str | None, between: str) -> str:
    if len(levels) < 2:
        only = f"only {levels[0]}" if levels else "nothing"
        raise RequestError(f"there is {only} among the finished runs to compare --between {between}")
    if against is None:
        return next((level for level in levels if level in USUAL), levels[0])
    if against not in levels:
        raise RequestError(unknown(f"{between} for --against", against, levels))
    return against


def _rows(
    found: Comparison, group: pd.DataFrame, level: str, tie: float, named: dict[str, str]
) -> list[dict[str, Any]]:
    """Return the comparison of one level: of all datasets, and of each where there are several."""
    where = " ".join([*named.values(), level])
    mine, theirs = _pairs(found, group, level, where)
    if mine.empty:
        return []
    found.pairs += [mine, theirs]
    row = _row(found, mine, theirs, level, tie)
    datasets = list(dict.fromkeys(mine["dataset"]))
    if len(datasets) == 1 or "dataset" in found.within:
        return [row]
    each = [
        _row(found, mine[mine["dataset"] == name], theirs[(mine["dataset"] == name).to_numpy()], level, tie)
        | {"dataset": name}
        for name in datasets
    ]
    return [
        row | _over_datasets([one["difference"] for one in each], found.metric, looks_at(mine)) | {"dataset": ALL},
        *each,
    ]


def _over_datasets(differences: list[float], metric: str, looks: int) -> dict[str, float]:
    """Return interval and p with datasets as units where there are enough of them, else nothing to change."""
    values = np.array(differences)
    if len(values) < families.DATASETS:
        return {}
    error = intervals.Error(float(values.std(ddof=1) / np.sqrt(len(values))), len(values) - 1.0, looks)
    low, high = intervals.of_difference(float(values.mean()), error, metric)
    return {"low": low, "high": high, "p": min(1.0, looks * families.signed_rank(values))}


def _pairs(found: Comparison, group: pd.DataFrame, level: str, where: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the runs of `level` and their partners, row by row, in complete blocks; `found` notes what is dropped."""
    same = [name for name in (*AXES, "defects", "posthoc") if name != found.between and name in group]
    mine, theirs = (group[group[found.between] == one].set_index(same) for one in (level, found.against))
    both = mine.index.intersection(theirs.index, sort=False)
    alone = len(mine.index.union(theirs.index)) - len(both)
    if alone and len(both):
        found.lose(f"{alone} runs without a finished partner", where)
    mine, theirs = mine.loc[both].reset_index(), theirs.loc[both].reset_index()
    there = (mine[found.metric].notna() & theirs[found.metric].notna()).to_numpy()
    if not there.all():
        found.lose(f"{int((~there).sum())} pairs without {title(found.metric)}", where)
    mine, theirs = mine[there], theirs[there]
    whole, dropped = _complete(mine, found.between)
    if dropped:
        found.lose(f"{int((~whole).sum())} pairs of incomplete blocks ({', '.join(dropped)})", where)
    return mine[whole], theirs[whole]


def _complete(pairs: pd.DataFrame, between: str) -> tuple[np.ndarray, list[str]]:
    """Return which pairs, bool [n], belong to complete blocks, and in words what doesn't.

    A block is a split of a dataset; complete, if it has every cell (skew, strategy, ..., seed) that at least half of
    the dataset's splits have. Cells that fewer splits have are dropped themselves.
    """
    whole, dropped = np.zeros(len(pairs), dtype=bool), []
    axes = [axis for axis in ("skew", "strategy", "loss", "model", "seed") if axis != between]
    cells = pairs[axes].agg(" ".join, axis=1)
    for dataset in dict.fromkeys(pairs["dataset"]):
        rows = (pairs["dataset"] == dataset).to_numpy()
        splits = pairs.loc[rows, "split"]
        common = cells[rows].groupby(cells[rows]).size() * 2 >= splits.nunique()
        usual = cells.isin(common.index[common]).to_numpy() & rows
        number = cells[usual].groupby(pairs.loc[usual, "split"]).nunique()
        full = set(number.index[number == common.sum()])
        whole |= usual & pairs["split"].isin(full).to_numpy()
        dropped += [f"{dataset} split {split}" for split in dict.fromkeys(splits) if split not in full]
        dropped += [f"{dataset} {cell}" for cell in common.index[~common]]
    return whole, dropped[:NAMED] + ([f"and {len(dropped) - NAMED} more"] if len(dropped) > NAMED else [])


def _row(found: Comparison, mine: pd.DataFrame, theirs: pd.DataFrame, level: str, tie: float) -> dict[str, Any]:
    """Return the comparison of runs with their partners, row by row."""
    estimate = found.designs.estimate(mine, found.metric, minus=theirs)
    difference = (mine[found.metric] - theirs[found.metric].to_numpy()).to_numpy()
    better = difference * intervals.sign(found.metric)
    low, high = intervals.of_difference(estimate.mean, estimate.error, found.metric)
    of_mine, of_theirs = (_mean(runs, found.metric) for runs in (mine, theirs))
    said = tuple(choices.predicted(runs, found.metric) for runs in (mine, theirs))
    return {
        "level": level,
        "against": found.against,
        "n": estimate.n,
        "seeds": int(mine.groupby(["dataset", "split"])["seed"].nunique().max()),
        "pairs": len(mine),
        "mean": of_mine,
        "mean_against": of_theirs,
        "difference": estimate.mean,
        "low": low,
        "high": high,
        "wins": int((better > tie).sum()),
        "ties": int((np.abs(difference) <= tie).sum()),
        "losses": int((better < -tie).sum()),
        "p": intervals.p_value(estimate.mean, estimate.error),
        "same": said[0] is not None and said[0] == said[1],
        "estimate": estimate,
        "asked": said if None not in said else object(),
    }


def _mean(runs: pd.DataFrame, metric: str) -> float:
    return float(per_split(indexed(runs)[metric]).groupby(level="dataset").mean().mean())
