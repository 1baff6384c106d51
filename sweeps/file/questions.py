"""`questions:` of a sweep file: the comparisons that it is run for, declared before anything is seen."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sweeps.file.plugins import Problem, unknown
from sweeps.file.trials import AXES

BETWEEN = [axis for axis in AXES if axis not in ("split", "seed")] + ["posthoc", "defects"]


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
