"""A type without a training cell: does the highest probability tell that none of the known types is meant?

From trials whose skew left no cell of the type (`rarefy` to 0): its test cells against those of all other types, by the
highest probability, plain. Source of the score, AUROC and FPR95: Hendrycks & Gimpel 2017, arXiv 1610.02136.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sweeps.answers.designs import Designs, Estimate
from sweeps.answers.runs import choices
from sweeps.answers.runs.choices import CHANCE
from sweeps.answers.runs.stored import Scores
from trainables.metrics import areas

KEPT = 0.95  # of the cells of known types, when the rest is called unknown
NUMBERS = ("auroc", "passed")


@dataclass(frozen=True)
class Unseen:
    """How a choice takes cells of a type that it never saw, means over splits.

    auroc: that such a cell has a lower highest probability than one of a known type; 0.5: can't tell. passed: share
    of its cells that pass for a known type where 95 % of the known types' do. taken: type -> share of the cells that
    are given it, the most first.
    """

    dataset: str
    kind: str
    label: str
    skew: str
    auroc: Estimate
    passed: Estimate
    taken: dict[str, float]


def unseen(runs: pd.DataFrame, kind: str, designs: Designs) -> Iterator[Unseen]:
    """Yield how each choice takes the type in trials without a training cell of it; nothing where there are none.

    runs: with the type's numbers, see celltypes.with_type; adjustments after training have no probabilities here.
    """
    finished = runs[(runs["status"] == "FINISHED") & (runs["defects"] == "") & runs[f"test_recall:{kind}"].notna()]
    finished = choices.before_adjustment(finished)
    finished = finished.assign(label=choices.labels(finished))
    finished = finished[finished["model"].map(choices.kinds(finished)) != CHANCE]
    for (dataset, skew, label), part in finished.groupby(["dataset", "skew", "label"], sort=False):
        if _trained(part.iloc[0], kind, designs) > 0:
            continue
        told = {at: _told(scores, kind) for at, run in part.iterrows() if (scores := designs.stored.scores(run))}
        if len(told) == len(part):
            yield _mean(part, told, designs, (dataset, kind, label, skew))


def _trained(run: pd.Series, kind: str, designs: Designs) -> float:
    table = designs.stored.per_class(run)
    return np.inf if table is None else float(table.loc[table["class"].astype(str) == kind, "train"].sum())


def _told(scores: Scores, kind: str) -> tuple[float, float, dict[str, float]]:
    """Return a trial's (auroc, passed, share of the type's cells by the type they are given)."""
    mine, highest = scores.truth == scores.classes.index(kind), scores.highest
    given = scores.given[mine]
    counts = np.bincount(given, minlength=len(scores.classes)) / mine.sum()
    taken = {name: float(share) for name, share in zip(scores.classes, counts, strict=True) if share > 0}
    least = np.quantile(highest[~mine], 1 - KEPT)
    return auroc(highest[~mine], highest[mine]), float((highest[mine] >= least).mean()), taken


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """Return how often a known cell scores higher than an unknown one, ties half; float [n] and [m]."""
    scores = np.concatenate([known, unknown])
    return float(areas(scores, np.arange(len(scores)) < len(known))[0])


def _mean(
    part: pd.DataFrame,
    told: dict[int, tuple[float, float, dict[str, float]]],
    designs: Designs,
    about: tuple[str, str, str, str],
) -> Unseen:
    names = [f"test_{name}_unseen:{about[1]}" for name in NUMBERS]
    part = part.assign(**{name: [told[at][place] for at in part.index] for place, name in enumerate(names)})
    shares = pd.DataFrame([taken for _, _, taken in told.values()]).fillna(0).mean().sort_values(ascending=False)
    return Unseen(*about, *(designs.estimate(part, name) for name in names), shares.to_dict())
