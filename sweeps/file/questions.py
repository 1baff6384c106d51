"""`questions:` of a sweep file, the comparisons that it is run for, and `splits: until:`, what must become sure."""

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from sweeps.file.plugins import Problem, unknown
from sweeps.file.strict import Strict
from sweeps.file.trials import AXES, Trial

WITHIN = [axis for axis in AXES if axis not in ("split", "seed")]
BETWEEN = [*WITHIN, "posthoc", "defects"]
FIRST, GROWTH, LAST = 5, 1.5, 1.25  # splits of the first look; each look to the next; no look so near the last
OF_TYPE = ("f1", "precision", "recall")


class Question(BaseModel):
    """One comparison: what it is between, in each group of `within`, of which metric; type: one cell type's."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    between: str
    within: list[str] = Field(default_factory=list)
    metric: str = "macro_f1"
    type: str | None = None
    against: str | None = None

    def __str__(self) -> str:
        where = f" within {', '.join(self.within)}" if self.within else ""
        against = "" if self.against is None else f", against {self.against}"
        return f"{self.metric}{'' if self.type is None else f' of {self.type}'} between {self.between}{where}{against}"


def read_questions(given: Any) -> tuple[list[Question], list[Problem]]:
    """Return the questions of a sweep file and what is wrong with them. within may be one word."""
    found, problems = [], []
    for index, item in enumerate(given if isinstance(given, list) else []):
        if not isinstance(item, dict):
            continue
        within = item.get("within", [])
        item = item | {"within": within if isinstance(within, list) else [within]}
        wrong = [(("questions", index, *where), said) for where, said in _wrong(item)]
        problems += wrong
        found += [] if wrong else [Question(**item)]
    return found, problems


def _wrong(item: dict[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong with one question, by its keys."""
    fields = Question.model_fields
    yield from (((key,), unknown("key", key, fields)) for key in item if key not in fields)
    between = item.get("between")
    if between is None:
        yield (), f"says not what it is between; between: one of {', '.join(BETWEEN)}"
    elif between not in BETWEEN:
        yield ("between",), unknown("choice", str(between), BETWEEN)
    for name in item["within"]:
        if name not in AXES or name == between:
            yield ("within",), unknown("axis to compare within", str(name), AXES)
    for key in ("metric", "type", "against"):
        if not isinstance(item.get(key, ""), str):
            yield (key,), f"{item[key]!r} is no text; put it in quotes"


class Until(Strict):
    """What must become sure: every difference of a question; a row of `cellskew compare`.

    Sure: its interval reaches no further than half_width to each side, or leaves out all differences up to `tie`.
    """

    half_width: Annotated[float, Field(gt=0)]
    between: str
    within: str | list[str] = []
    metric: str = "macro_f1"
    type: str | None = None
    against: str | None = None
    tie: Annotated[float, Field(ge=0)] = 0.005

    @property
    def question(self) -> Question:
        within = [self.within] if isinstance(self.within, str) else self.within
        asked = {name: getattr(self, name) for name in ("between", "metric", "type", "against")}
        return Question(within=within, **asked)

    def __str__(self) -> str:
        return f"{self.question}, to ±{self.half_width:g} or beyond ±{self.tie:g}"


def looks(at_most: int) -> list[int]:
    """Return after how many splits differences are looked at: 5, 8, 12, 18, 27, ..., and last `at_most`.

    It is fixed before anything is seen, so that what looking costs can be allowed for.
    """
    found, splits = [], FIRST
    while splits * LAST <= at_most:
        found.append(splits)
        splits = math.ceil(splits * GROWTH)
    return [*found, at_most]


def problems_of_until(until: Until) -> Iterator[Problem]:
    """Yield what is wrong with an `until` by itself."""
    question = until.question
    choices = [name for name in BETWEEN if name not in ("dataset", "defects")]
    if question.between not in choices:
        yield ("between",), unknown("choice", question.between, choices)
    for name in question.within:
        if name not in WITHIN or name == question.between:
            yield ("within",), unknown("axis to compare within", name, WITHIN)
    known = list(OF_TYPE) if question.type is not None else _metrics()
    if question.metric.removeprefix("test_") not in known:
        yield ("metric",), unknown("metric", question.metric, known, "docs/metrics.md says what they are")


def _metrics() -> list[str]:
    """Return the metrics that every trial has, as screens call them."""
    import numpy as np

    from trainables import metrics

    of_three = metrics.evaluate(np.eye(3), np.arange(3), np.array([600, 100, 10]), np.array([600, 100, 10]))
    return sorted([*of_three, "aurc"])


def unanswerable(question: Question, trials: Sequence[Trial]) -> str | None:
    """Return why the trials of a sweep can't answer a question however many splits there are; None if they can."""
    between, found = question.between, {}
    for trial in trials:
        others = tuple(label for axis, label in trial.labels.items() if axis != between), trial.control
        found.setdefault(others, {}).update(dict.fromkeys(_choices(trial, between)))
    levels = dict.fromkeys(level for one in found.values() for level in one)
    if len(levels) < 2:
        return f"between {between}: the sweep has only {', '.join(levels) or 'none'}, and nothing to compare it with"
    if question.against is not None and question.against not in levels:
        return unknown(f"{between} to compare with", question.against, levels)
    if all(len(one) < 2 for one in found.values()):
        return f"between {between}: no two trials differ in {between} alone"
    return None


def _choices(trial: Trial, between: str) -> list[str]:
    """Return what a trial is among the choices of an axis; of adjustments after training it is all at once."""
    from trainables.posthoc import POSTHOC

    if between != "posthoc":
        return [trial.labels[between]]
    return ["none", *(name for name in trial.described["posthoc"] if name in POSTHOC)]
