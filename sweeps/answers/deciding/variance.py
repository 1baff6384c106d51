"""`cellskew shares`: how much of a metric's variance skew, model and remedy have, in each dataset by itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from data_pipeline.errors import RequestError
from sweeps import tables
from sweeps.answers import celltypes
from sweeps.answers.deciding.wording import many, named
from sweeps.answers.designs import Designs
from sweeps.answers.runs import choices, results
from sweeps.answers.runs.choices import CHANCE
from sweeps.answers.runs.looks import looks_at
from sweeps.answers.summary import title
from sweeps.statistics import shares
from sweeps.statistics.intervals import LEAST

FACTORS = ["skew", "model", "remedy"]


@dataclass(frozen=True)
class Shares:
    """The shares of one dataset's variance, the largest first. shares: share, low, high by factor.

    levels: of each factor; left_out: remedies that not all models have, and splits that lack a trial of these.
    fixed: all splits have the same test cells, so that none is a replicate. rare: which types the metric is of, if
    these are the rare ones.
    """

    dataset: str
    metric: str
    shares: dict[str, tuple[float, float, float]]
    levels: dict[str, list[str]]
    splits: int
    left_out: list[str]
    fixed: bool
    rare: list[str]


def of_variance(runs: pd.DataFrame, metric: str, designs: Designs) -> list[Shares]:
    """Return the shares of each dataset that has enough; RequestError if none has, or for an unknown metric.

    Of a complete table: remedies (strategy, loss, adjustment) that all models have at all skews, on splits that have
    all of it; trial seeds averaged; without chance and defects.
    """
    results.check_columns(runs, [], [metric])
    results.check_alone(runs)
    usable = choices.unfolded(runs[(runs["status"] == "FINISHED") & (runs["defects"] == "")])
    usable = usable[usable[metric].notna() & (usable["model"].map(choices.kinds(usable)) != CHANCE)]
    usable = usable.assign(remedy=[choices.remedy(row) for row in usable[list(choices.PLAIN)].to_dict("records")])
    found = [_of_dataset(name, part, metric, designs) for name, part in usable.groupby("dataset", sort=False)]
    if not any(one is not None for one in found):
        raise RequestError(
            f"shares of the variance of {title(metric)} take two or more skews, models or remedies, and two splits "
            "that have all of their combinations; `cellskew status` says what isn't finished; what the file has at "
            "some skews alone is left out by --where 'model != \"NAME\"'"
        )
    return [one for one in found if one is not None]


def _of_dataset(dataset: str, runs: pd.DataFrame, metric: str, designs: Designs) -> Shares | None:
    remedies, every = list(dict.fromkeys(runs["remedy"])), runs.groupby(["skew", "model"], sort=False).ngroups
    whole = [name for name in remedies if runs[runs["remedy"] == name].groupby(["skew", "model"]).ngroups == every]
    common, copies = _told_apart(runs[runs["remedy"].isin(whole)], metric)
    kept = runs[runs["remedy"].isin(common)]
    means = kept.groupby([*FACTORS, "split"], sort=False)[metric].mean()
    levels = {name: list(dict.fromkeys(kept[name])) for name in FACTORS}
    several = [name for name in FACTORS if len(levels[name]) > 1]
    wide = means.unstack("split").dropna(axis=1)
    size = np.prod([len(levels[name]) for name in FACTORS])
    if not several or len(wide) < size or wide.shape[1] < 2:
        return None
    order = pd.MultiIndex.from_product([levels[name] for name in FACTORS], names=FACTORS)
    table = wide.reindex(order).to_numpy().reshape([len(levels[name]) for name in several] + [wide.shape[1]])
    ratio = np.nan if designs.kind(dataset) == "fixed" else designs.ratio(dataset, metric, kept)
    found = shares.with_intervals(table, several, ratio, looks_at(kept))
    ranked = dict(sorted(found.items(), key=lambda pair: (pair[0] in (shares.SPLIT, shares.REST), -pair[1][0])))
    lost = [f"remedy {name}" for name in remedies if name not in whole] + copies
    lost += [f"split {name}" for name in dict.fromkeys(runs["split"]) if name not in wide.columns]
    about = ranked, {name: levels[name] for name in several}, wide.shape[1], lost
    rare = list(celltypes.rare(kept, designs.stored, [metric]))
    return Shares(dataset, metric, *about, designs.kind(dataset) == "fixed", rare)


def _told_apart(runs: pd.DataFrame, metric: str) -> tuple[list[str], list[str]]:
    """Return the remedies whose numbers aren't those of one before, and a word on each other.

    As a temperature's, which leaves predictions as they are: the same numbers again would count as more of them.
    """
    runs = runs.assign(remedy=pd.Categorical(runs["remedy"], dict.fromkeys(runs["remedy"])))
    means = runs.groupby(["remedy", "skew", "model", "split"], observed=True)[metric].mean().unstack("remedy")
    first = {name: next(one for one in means if means[one].equals(means[name])) for name in means}
    same = [f"remedy {name}, whose numbers are those of {one}" for name, one in first.items() if one != name]
    return [name for name, one in first.items() if one == name], same


def show(found: Sequence[Shares], form: str, warning: str | None) -> None:
    """Print shares as a table per dataset, or as CSV or JSON."""
    rows = [
        {"dataset": one.dataset, "factor": name, "share": share, "low": low, "high": high, "splits": one.splits}
        for one in found
        for name, (share, low, high) in one.shares.items()
    ]
    if tables.for_programs(pd.DataFrame(rows), form, warning):
        return
    for one in found:
        heading = f"{one.dataset}: shares of the variance of {title(one.metric)}, {many(one.splits, 'split')}"
        tables.say(heading, form=form)
        tables.draw(_as_text(one), left=1, form=form)
        tables.say(*_explained(one), form=form)


def _as_text(found: Shares) -> pd.DataFrame:
    rows = []
    for name, (share, low, high) in found.shares.items():
        ends = "" if np.isnan(low) else f" [{low:.0%}, {high:.0%}]"
        rows.append({"factor": name, "share": f"{share:.0%}{ends}"})
    return pd.DataFrame(rows)


def _explained(found: Shares) -> Iterator[str]:
    levels = "; ".join(f"{many(len(listed), name)} ({named(listed)})" for name, listed in found.levels.items())
    yield f"of these levels and no others: {levels}; other levels have other shares"
    yield (
        "share: omega squared of an analysis of variance (Olejnik & Algina 2003), what chance alone would give taken "
        "off; split: what all choices share on a split; rest: what is left, splits by choices and luck among it"
    )
    if found.fixed:
        yield "no interval: all splits have the same test cells, so that they don't tell what others would change"
    elif found.splits >= LEAST:
        yield "[95 %]: each split left out once (jackknife), widened for the cells that splits share"
    else:
        yield f"under {LEAST} splits there is no interval: add splits: seeds"
    yield from found.rare
    if found.left_out:
        yield f"left out, as the table must be complete: {named(found.left_out, 6)}"
