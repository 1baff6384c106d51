"""`cellskew answer`: in about ten lines, which choice to make, how sure that is, and what can't be said."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sweeps import tables
from sweeps.answers import celltypes
from sweeps.answers.deciding import wording
from sweeps.answers.deciding.cost import gpu_hours
from sweeps.answers.deciding.ranking import Ranking, rankings
from sweeps.answers.designs import Designs
from sweeps.answers.runs import choices, controls, looks, results


@dataclass(frozen=True)
class Answer:
    """What can be decided. rankings: one per skew; sentences: the answer in words."""

    metric: str
    rankings: list[Ranking]
    sentences: list[str]


def answer(
    runs: pd.DataFrame, metric: str, designs: Designs, kind: str | None = None, budget: float | None = None
) -> Answer:
    """Return which choice is best by a metric, at every skew, and what may be said of it.

    runs: those that the sweep wants, see results.choose. kind: a type; metric is then of it. budget: GPU-hours that one
    training may take; dearer choices are left out. RequestError for an unknown metric or type.
    """
    results.check_alone(runs)
    known = kind is None or f"test_f1:{kind}" in runs
    runs = runs if known else celltypes.with_type(runs, kind, designs.stored)
    full = results.full_name(metric, runs, kind)
    results.check_columns(runs, [], [full])
    finished = choices.unfolded(runs[runs["status"] == "FINISHED"])
    finished, others = _about(finished, kind)
    affordable, dear = _within(finished, budget)
    ranked = rankings(affordable, full, designs)
    wrong = list(dict.fromkeys(choices.labels(affordable[affordable["defects"] != ""])))
    said = [*wording.sentences(affordable, full, ranked, designs, kind), *_left_out(dear, budget, others, wrong)]
    said += [f"splits: {one}" for one in looks.sentences(runs.attrs.get("until"))] + list(controls.sentences(runs))
    return Answer(full, ranked, said)


def _about(finished: pd.DataFrame, kind: str | None) -> tuple[pd.DataFrame, int]:
    """Return the runs that can tell of a type, and how many skews are left out: those that thin another type."""
    mine = re.compile(rf"rarefy-{re.escape(str(kind))}-\d+(-total=\d+)?")
    skews = list(dict.fromkeys(finished["skew"]))
    kept = [name for name in skews if kind is None or not name.startswith("rarefy-") or mine.fullmatch(name)]
    if not kept:
        return finished, 0
    return finished[finished["skew"].isin(kept)], len(skews) - len(kept)


def _within(runs: pd.DataFrame, budget: float | None) -> tuple[pd.DataFrame, list[str]]:
    """Return the runs of choices whose training keeps to so many GPU-hours on average, and the others' names."""
    if budget is None:
        return runs, []
    label = choices.labels(runs)
    mean = gpu_hours(runs).groupby(label, sort=False).mean()
    dear = list(mean.index[mean > budget])
    return runs[~label.isin(dear)], dear


def _left_out(dear: list[str], budget: float | None, skews: int, wrong: list[str]) -> list[str]:
    said = []
    if dear:
        said.append(f"over the budget of {budget:g} GPU-hours a training, and left out: {wording.named(dear)}")
    if skews:
        verb = "thins" if skews == 1 else "thin"
        said.append(f"left out, as {'it' if skews == 1 else 'they'} {verb} another type: {wording.many(skews, 'skew')}")
    if wrong:
        said.append(f"made with defects on purpose, no choice and left out: {wording.named(wrong)}")
    return said


def show(found: Sequence[Answer], form: str, warning: str | None) -> None:
    """Print answers as sentences, or as JSON with the ranking of every skew."""
    if form == "json":
        tables.print_json({"warning": warning, "answers": list(map(_for_programs, found))})
        return
    tables.warn(warning)
    for number, one in enumerate(found):
        print("\n" * (number > 0), end="")
        tables.say(*one.sentences)


def _for_programs(found: Answer) -> dict[str, Any]:
    skews = {one.skew: json.loads(one.table.to_json(orient="records")) for one in found.rankings}
    return {"metric": found.metric, "sentences": found.sentences, "skews": skews}


def closing(runs: pd.DataFrame, designs: Designs) -> list[str]:
    """Return the sentences that end a run of a sweep; none where nothing is finished."""
    finished = runs[runs["status"] == "FINISHED"]
    is_there = len(finished) and "test_macro_f1" in finished
    return answer(runs, "test_macro_f1", designs).sentences if is_there else []
