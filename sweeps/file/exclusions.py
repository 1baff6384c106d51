"""`exclude:` in a sweep file: which trials a rule leaves out, and what it came to."""

from collections.abc import Iterator
from typing import Any

from sweeps.file.plugins import Entry, Problem, registries, shown, unknown
from sweeps.file.trials import AXES

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


def _misnamed(values: list[Any], entries: list[Entry]) -> Iterator[tuple[str, list[str]]]:
    """Yield the names in a rule that mean a kind, not one of `entries`; with the names of those of that kind."""
    for value in values:
        alike = [entry.label for entry in entries if entry.kind == value]
        if alike and value not in [entry.label for entry in entries]:
            yield value, alike


def read_rules(given: Any, found: dict[str, Any]) -> list[Problem]:
    """Check `exclude` and put it, with every value a list and names in Python's spelling, into `found`."""
    problems: list[Problem] = []
    found["exclude"] = []
    for index, rule in enumerate(given if isinstance(given, list) else []):
        if not isinstance(rule, dict):
            continue
        problems += [(("exclude", index, axis), unknown("axis", axis, AXES)) for axis in rule if axis not in AXES]
        if not rule:
            problems.append((("exclude", index), "an empty rule would leave out everything"))
        values = {axis: one if isinstance(one, list) else [one] for axis, one in rule.items()}
        found["exclude"].append({axis: [_spelt(value) for value in listed] for axis, listed in values.items()})
        problems += _unknown_values(values, index, found["dataset_names"]) + _kinds(values, index, found)
        problems += [
            (("exclude", index, "model"), said) for said in _of_models(values.get("model", []), found["models"])
        ]
    return problems


def _of_models(values: list[Any], models: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what is wrong with the models of a rule: those of the sweep are named by label."""
    from trainables import spec

    labels = list(dict.fromkeys(model["label"] for model in models))
    for value in values:
        called = dict.fromkeys(model["label"] for model in models if model["model"] == value)
        if value not in labels and called:
            yield f"no model is called {value!r} here; name {', '.join(called)}"
        elif value not in labels and value not in spec.names():
            yield unknown("model", value, [*labels, *(name for name in spec.names() if name not in labels)])


def _spelt(value: Any) -> Any:
    if isinstance(value, dict):
        return {"class_name" if key == "class" else key: one for key, one in value.items()}
    return value


def _unknown_values(values: dict[str, list[Any]], index: int, datasets: list[str]) -> list[Problem]:
    """Return the names in a rule that nothing has; labels of entries such as exponential-50 pass by their kind."""
    known = {noun: registry for _, registry, noun, _ in registries()} | {"dataset": datasets}
    problems = []
    for axis in set(values) & set(known):
        for value in values[axis]:
            kind = value.get("kind") if isinstance(value, dict) else value
            may_go_on = axis != "dataset"
            if not any(str(kind) == name or may_go_on and str(kind).startswith(f"{name}-") for name in known[axis]):
                problems.append((("exclude", index, axis), unknown(axis, kind, known[axis])))
    return problems


def _kinds(values: dict[str, list[Any]], index: int, found: dict[str, Any]) -> list[Problem]:
    """Return the names in a rule that are a kind and no entry's name: they once meant every entry of that kind."""
    problems = []
    for key, _, noun, _ in registries():
        for kind, alike in _misnamed(values.get(noun, []), found[key]):
            said = f"no {noun} is called {kind!r}; name {', '.join(alike)}, or write {{kind: {kind}}} for all of them"
            problems.append((("exclude", index, noun), said))
    return problems
