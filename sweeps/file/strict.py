"""Shapes of a sweep file's mappings, checked without silent conversions; pydantic's findings in plain sentences."""

import json
import re
import typing
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from sweeps.file.plugins import Problem, against, unknown

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # of a sweep or a dataset


class Strict(BaseModel):
    """No unknown key, no silent conversion."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def shaped(model: type[Strict], value: Any, where: tuple = ()) -> tuple[Any, list[Problem]]:
    """Return (the model, or None, and problems) of a mapping."""
    try:
        return model.model_validate_json(json.dumps(value)), []
    except ValidationError as error:
        problems: list[Problem] = []
        for one in error.errors():
            place, said = _problem(one, model, value)
            if problems and problems[-1][0] == (*where, *place) and one["type"] != "missing":  # a union's next branch
                said = f"{problems.pop()[1]}, or {said.split(' ', 1)[1]}"
            problems.append(((*where, *place), said))
        return None, [one for one in problems if one[0] == where or not _is_within(one[0], problems)]


def _is_within(place: tuple, problems: list[Problem]) -> bool:
    """Tell whether something in what stands at a place is wrong: of a union's branches that one was meant."""
    return any(other[: len(place)] == place and len(other) > len(place) for other, _ in problems)


def _problem(error: dict[str, Any], model: type[Strict], value: Any) -> Problem:
    place = _place(error["loc"], value)
    if error["type"] == "extra_forbidden":
        return place, unknown("key", place[-1], _inner(model, place[:-1]).model_fields)
    if error["type"] == "missing":
        return place, f"{error['loc'][-1]}: is missing"
    return place, against(error)


def _place(loc: tuple, value: Any) -> tuple:
    """Return the steps of `loc` that lead somewhere in `value`: pydantic adds the branches of unions to it."""
    place: list[str | int] = []
    for step in loc:
        has = step in value if isinstance(value, dict) else isinstance(value, list) and isinstance(step, int)
        if has:
            place.append(step)
            value = value[step]
    return tuple(place)


def _inner(model: type[Strict], place: tuple) -> type[Strict]:
    """Return the model of the mapping at `place`: a field's own, or that of a dict's values."""
    for step in place:
        if step in model.model_fields:
            annotation = model.model_fields[step].annotation
            inner = [kind for kind in (annotation, *typing.get_args(annotation)) if _is_strict(kind)]
            model = inner[0] if inner else model
    return model


def _is_strict(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Strict)
