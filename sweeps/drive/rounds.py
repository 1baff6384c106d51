"""More and more splits, until what a sweep asks about is sure; all at once where its file lists them."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from data_pipeline.errors import RequestError
from sweeps.drive.outcome import Outcome
from sweeps.drive.request import Look, Wanted
from sweeps.drive.stopping import Stop
from sweeps.file.config import SweepSpec
from sweeps.file.plugins import unknown
from sweeps.file.trials import Trial
from sweeps.tracking.kept import wanted

if TYPE_CHECKING:
    from sweeps.tracking.store import Tracker

PATIENCE = 60.0  # seconds that MLflow has to take what trials reported, before a look


def nothing_yet(spec: SweepSpec) -> Outcome:
    """Return what has become of a sweep before anything is known of its trials."""
    return Outcome(len(spec.first(spec.looks[0]).trials()))


def count(spec: SweepSpec) -> str:
    """Return how many trials a sweep may come to, in words."""
    least, most = (len(spec.first(splits).trials()) for splits in (spec.looks[0], len(spec.splits)))
    return f"{most} trials" if least == most else f"at least {least}, at most {most} trials"


def check(spec: SweepSpec, cells: dict[str, Any]) -> None:
    """RequestError if splits can't make it surer: where all of them are tested on the same cells, or lack the type."""
    if spec.until is None:
        return
    fixed = [name for name, one in cells.items() if one.fixed_test is not None]
    problems = [
        f"splits.until: {name} has a test set of its own, on which all splits are tested: more of them can't make a "
        "difference sure; list `seeds:` instead (compare draws the test cells again)"
        for name in fixed
    ]
    kind, known = spec.until.type, dict.fromkeys(str(label) for one in cells.values() for label in one.classes)
    if kind is not None and kind not in known:
        problems.append(f"splits.until.type: {unknown('cell type', kind, known)}")
    if problems:
        raise RequestError(*problems)


def rounds(
    spec: SweepSpec, tracker: "Tracker", look: Look, outcome: Outcome, stop: Stop, say: Callable[[str], None]
) -> Iterator[SweepSpec]:
    """Yield the sweep with the splits that it wants, and with more as soon as these are over and a look wants more.

    What is wanted follows from the finished trials alone: killed at any time, it goes on with the same splits. Where
    the file lists its splits nothing is looked at. `outcome` is open until a look wants no more.
    """
    if spec.until is None:
        yield spec
        return
    outcome.is_open = True
    until = wanted.until(spec, 0, tracker.tags())
    looks, before = 1 if until is None else len(until["looks"]), 0
    found = look(spec, tracker.uri, looks)
    while found.splits > before:
        before = found.splits
        say(f"{spec.until}: {before} of at most {len(spec.splits)} splits are wanted now")
        yield spec.first(before)
        if not _may_look(spec, tracker, outcome, stop, say):
            return
        found = look(spec, tracker.uri, looks)
    outcome.is_open = False
    _conclude(spec, tracker, found, say)


def _may_look(spec: SweepSpec, tracker: "Tracker", outcome: Outcome, stop: Stop, say: Callable[[str], None]) -> bool:
    """Tell whether all wanted trials are finished, and MLflow knows."""
    if stop.asked:
        return False
    if outcome.before + outcome.finished < outcome.wanted:
        say("no splits are added before every trial of these is finished")
        return False
    return tracker.outbox.drain(PATIENCE)


def _conclude(spec: SweepSpec, tracker: "Tracker", found: Wanted, say: Callable[[str], None]) -> None:
    if found.said:
        say(f"{spec.until}: {found.said}")
        want(spec, spec.first(found.splits).trials(), tracker, found.said)


def want(spec: SweepSpec, trials: list[Trial], tracker: "Tracker", said: str = "") -> None:
    """Keep in MLflow which trials are wanted now, and of a sweep that adds splits what is known of that."""
    splits = len({trial.labels["split"] for trial in trials})
    until = wanted.until(spec, splits, tracker.tags(), said)
    tracker.want((trial.key for trial in trials), spec.questions, until)
