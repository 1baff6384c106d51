"""`splits: until:` of a sweep file: whether more splits are wanted, from the trials that MLflow has as finished."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import chdtri

from data_pipeline.errors import RequestError
from sweeps import tables
from sweeps.answers import celltypes, comparison
from sweeps.answers.comparison import Comparison
from sweeps.answers.designs import Designs, Estimate
from sweeps.answers.runs import choices, results
from sweeps.answers.runs.stored import Stored
from sweeps.file.config import SweepSpec
from sweeps.file.questions import Until
from sweeps.statistics import intervals

NAMED = 4  # differences in a sentence
SURE, HOPELESS, OPEN = "sure", "hopeless", "open"


@dataclass(frozen=True)
class Wanted:
    """How many splits a sweep wants, and what the look after these found, "" where they aren't finished."""

    splits: int
    said: str = ""


def wanted(spec: SweepSpec, uri: str, looks: int) -> Wanted:
    """Return how many splits a sweep wants now: the fewest of its `looks` that aren't finished, or that are enough.

    Each look sees its own splits alone, whatever else is finished, so that the same is wanted after any interruption.
    looks: how many intervals allow for, see wanted.until. spec: with contents known, since it goes by keys of trials.
    """
    runs, stored = results.fetch(uri, spec.name), Stored(uri)
    runs = runs[runs["superseded"] == ""].assign(wanted=True, looks=looks)
    for splits in spec.looks:
        keys = {trial.key for trial in spec.first(splits).trials()}
        mine = runs[runs["key"].isin(keys)]
        if mine.loc[mine["status"] == "FINISHED", "key"].nunique() < len(keys):
            return Wanted(splits)
        said = _look(spec, splits, results.choose(uri, mine, every=False)[0], stored)
        if said is not None:
            return Wanted(splits, said)
    raise AssertionError("the last look always ends it")


def _look(spec: SweepSpec, splits: int, runs: pd.DataFrame, stored: Stored) -> str | None:
    """Return why no more splits are wanted than the runs have, None if more are."""
    try:
        found = _compared(spec.until, runs, stored)
    except RequestError as error:
        return f"it can't be told, and no more are added: {'; '.join(error.problems)}"
    most = len(spec.splits)
    states = [state(spec.until, *row, most) for row in _rows(found)]
    if splits < most and OPEN in states:
        return None
    return _sentence(found, states, splits, most, _saved(runs, splits, most))


def _compared(until: Until, runs: pd.DataFrame, stored: Stored) -> Comparison:
    question, kinds = until.question, choices.kinds(runs)
    if question.between != "model":  # what chance does holds nothing up
        runs = runs[runs["model"].map(kinds) != choices.CHANCE]
    runs = runs if question.type is None else celltypes.with_type(runs, question.type, stored)
    within = comparison.per_skew(runs, question.between, question.within)
    metric = results.full_name(question.metric, runs, question.type)
    designs = Designs(runs, stored)
    return comparison.compare(runs, question.between, within, metric, question.against, until.tie, designs)


def _rows(found: Comparison) -> list[tuple[pd.Series, Estimate]]:
    """Return the differences that are asked about, with their estimates: of several datasets those over all."""
    tested = found.tested.to_numpy()
    return [(row, found.estimates[at]) for at, (_, row) in enumerate(found.table.iterrows()) if tested[at]]


def state(until: Until, row: Mapping[str, Any], estimate: Estimate, most: int) -> str:
    """Return SURE, HOPELESS or OPEN of a difference; two choices with the same predictions surely don't differ."""
    if row["same"]:
        return SURE
    if np.isnan(row["low"]):
        return OPEN
    narrow = (row["high"] - row["low"]) / 2 <= until.half_width
    if narrow or row["low"] > until.tie or row["high"] < -until.tie:
        return SURE
    return HOPELESS if is_hopeless(until, estimate, most) else OPEN


def is_hopeless(until: Until, estimate: Estimate, most: int) -> bool:
    """Tell whether an interval won't be sure at `most` splits either, by the most that can be hoped for.

    That is with a variance at the lower end of its own interval (one-sided 95 %), of which the part stays that splits
    share, and a mean twice as far from 0 as chance may yet move it by. Such rows may end a sweep early: that makes no
    interval less sure, as these hold whatever made an end.
    """
    error, n = estimate.error, estimate.n
    datasets = estimate.by_split.index.get_level_values("dataset").nunique()
    shrinking, luck = min(estimate.sd**2 / datasets / n, error.size**2), np.sqrt((n - 1) / chdtri(n - 1, 0.05))
    size = luck * np.sqrt(error.size**2 - shrinking + shrinking * n / most)
    reach = intervals.reach(replace(error, size=size, freedom=most - 1.0))
    moves = 2 * luck * np.sqrt(shrinking * (1 - n / most))
    return bool(reach > until.half_width and abs(estimate.mean) + moves - reach <= until.tie)


def _sentence(found: Comparison, states: list[str], splits: int, most: int, saved: str) -> str:
    """Return what ended it."""
    rows, sure = [row for row, _ in _rows(found)], states.count(SURE)
    if sure == len(states):
        every = "the difference is" if sure == 1 else f"all {sure} differences are"
        return f"{every} sure after {splits} splits{saved}"
    left = [_named(found, row) for row, state in zip(rows, states, strict=True) if state != SURE]
    named = ", ".join(left[:NAMED]) + (f" and {len(left) - NAMED} more" if len(left) > NAMED else "")
    if splits == most:
        return f"{sure} of {len(states)} differences are sure after all {splits} splits; not: {named}"
    why = f"the others not by {most} splits either, as these share cells, and only more cells would do"
    return f"after {splits} splits {sure} of {len(states)} differences are sure, {why}: {named}{saved}"


def _named(found: Comparison, row: pd.Series) -> str:
    where = "".join(f" ({row[name]})" for name in found.within)
    return f"{row['level']} - {row['against']}{where}"


def _saved(runs: pd.DataFrame, splits: int, most: int) -> str:
    """Say what splits that aren't wanted would have cost, by what the others did; nothing if there are none."""
    if splits == most:
        return ""
    times = (most - splits) / splits
    seconds = runs["trial_seconds"].sum() * times if "trial_seconds" in runs else 0.0
    worth = f", about {tables.hours(seconds)} of trials" if seconds > 0 else ""
    return f"; {most - splits} more were not needed ({round(len(runs) * times)} trials{worth})"
