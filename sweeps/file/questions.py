"""`questions:` of a sweep file: the comparisons that it is run for, declared before anything is seen."""

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
        place, within = ("questions", index), item.get("within", [])
        item = item | {"within": within if isinstance(within, list) else [within]}
        fields = Question.model_fields
        wrong = [((*place, key), unknown("key", key, fields)) for key in item if key not in fields]
        if "between" not in item:
            wrong.append((place, f"says not what it is between; between: one of {', '.join(BETWEEN)}"))
        elif item["between"] not in BETWEEN:
            wrong.append(((*place, "between"), unknown("choice", str(item["between"]), BETWEEN)))
        for name in item["within"]:
            if name not in AXES or name == item.get("between"):
                wrong.append(((*place, "within"), unknown("axis to compare within", str(name), AXES)))
        texts = [key for key in ("metric", "type", "against") if not isinstance(item.get(key, ""), str)]
        wrong += [((*place, key), f"{item[key]!r} is no text; put it in quotes") for key in texts]
        problems += wrong
        found += [] if wrong else [Question(**item)]
    return found, problems
