"""`exclude:` in a sweep file: which trials a rule leaves out, and what it came to."""

from collections.abc import Iterator
from typing import Any

from sweeps.file.plugins import Entry, shown

Rule = dict[str, list[Any]]  # axis -> the values that it is about


def leaves_out(rule: Rule, found: dict[str, Any]) -> bool:
    """Tell whether a trial, by axis what it has there, agrees with all that a rule names."""
    return all(_fits(found[axis], values) for axis, values in rule.items())


def _fits(found: Any, values: list[Any]) -> bool:
    """Tell whether an axis value is one of `values`: by its name in tables, as --where has it, or some parameters."""
    if not isinstance(found, Entry):
        return found in values
    return any(
        value.items() <= found.config().items() if isinstance(value, dict) else value == found.label for value in values
    )


def told(rules: list[Rule], cells: list[dict[str, Any]]) -> list[str]:
    """Return in words how many of the trials `cells`, see `leaves_out`, each rule left out, and what is quite gone."""
    said, left = [], cells
    for index, rule in enumerate(rules):
        before, left = len(left), [cell for cell in left if not leaves_out(rule, cell)]
        is_late = any(leaves_out(rule, cell) for cell in cells)
        nothing = "nothing: rules before it do already" if is_late else "nothing: no trial is like that"
        gone = before - len(left)
        said.append(f"exclude[{index}] ({_written(rule)}) leaves out {f'{gone} trials' if gone else nothing}")
    return said + list(_vanished(cells, left))


def _written(rule: Rule) -> str:
    return ", ".join(f"{axis}: {shown(values[0] if len(values) == 1 else values)}" for axis, values in rule.items())


def _vanished(cells: list[dict[str, Any]], left: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what no trial has any more, of each axis."""
    for axis in cells[0] if cells else ():
        still = {_name(cell[axis]) for cell in left}
        gone = [name for name in dict.fromkeys(_name(cell[axis]) for cell in cells) if name not in still]
        if gone and still:
            yield f"no trial is left of {axis} {', '.join(gone)}"


def _name(value: Any) -> str:
    return value.label if isinstance(value, Entry) else str(value)


def misnamed(values: list[Any], entries: list[Entry]) -> Iterator[tuple[str, list[str]]]:
    """Yield the names in a rule that mean a kind, not one of `entries`; with the names of those of that kind."""
    for value in values:
        alike = [entry.label for entry in entries if entry.kind == value]
        if alike and value not in [entry.label for entry in entries]:
            yield value, alike
