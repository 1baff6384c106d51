"""What a baseline has learnt, taken apart into arrays and plain values, and put together again: nothing is pickled.

It is a dataclass whose fields are arrays, plain values (numbers, texts, None, dicts of them) and such dataclasses.
"""

from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

import numpy as np


def taken_apart(learnt: Any, within: str = "") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the plain values (JSON-able) of a dataclass by name; `learnt.mix` is one within another."""
    arrays: dict[str, np.ndarray] = {}
    plain: dict[str, Any] = {}
    for field in fields(learnt):
        name, value = within + field.name, getattr(learnt, field.name)
        if isinstance(value, np.ndarray):
            arrays[name] = np.ascontiguousarray(value)
        elif is_dataclass(value):
            more = taken_apart(value, f"{name}.")
            arrays, plain = arrays | more[0], plain | more[1]
        else:
            plain[name] = value.item() if isinstance(value, np.generic) else value
    return arrays, plain


def put_together(kind: type, arrays: dict[str, np.ndarray], plain: dict[str, Any], within: str = "") -> Any:
    """Return the dataclass `kind` that was taken apart; KeyError if something of it is missing."""
    hints, found = get_type_hints(kind), {}
    for field in fields(kind):
        name, hint = within + field.name, hints[field.name]
        inner = next((one for one in (hint, *get_args(hint)) if is_dataclass(one)), None)
        if name in arrays:
            found[field.name] = arrays[name]
        elif name in plain or inner is None:
            found[field.name] = plain[name]
        else:
            found[field.name] = put_together(inner, arrays, plain, f"{name}.")
    return kind(**found)
