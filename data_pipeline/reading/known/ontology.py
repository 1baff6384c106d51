"""Cell types by their ids in the Cell Ontology (CC BY 4.0), of which a snapshot lies beside this file."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from data_pipeline.errors import RequestError

SNAPSHOT = Path(__file__).with_name("cell_ontology.tsv")
RELEASE = "2026-03-26"
ID = re.compile(r"CL:\d{7}")
ROOT = "cell"


class Term(NamedTuple):
    """A type: its name, and the ids of those that it is a kind of, directly."""

    name: str
    parents: tuple[str, ...]


@cache
def terms() -> dict[str, Term]:
    """Return all types of the snapshot, by id."""
    lines = [line for line in SNAPSHOT.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    rows = (line.split("\t") for line in lines)
    return {id: Term(name, tuple(filter(None, parents.split(",")))) for id, name, parents in rows}


def is_id(text: str) -> bool:
    return ID.fullmatch(text) is not None


def tree_of(types: Mapping[str, str]) -> dict[str, str | list[str]]:
    """Return which type lies above which among some, given by name and id; a list where several do.

    Between the types and `cell`, above them all, stand those of the ontology that tell some of them from others: the
    most specific one of each set of types. So nothing counts that all have in common, nor how many steps the ontology
    takes to the same set. RequestError lists ids that aren't in the snapshot, or stand twice.
    """
    if problems := list(_problems(types)):
        raise RequestError(*problems)
    below: dict[str, set[str]] = {}
    for name, id in types.items():
        for one in _upwards(id):
            below.setdefault(one, set()).add(name)
    named = {id: name for name, id in types.items()}
    sets = {frozenset(names): id for id, names in sorted(below.items(), key=lambda one: _rank(one[0], named))}
    called = {
        names: ROOT if len(names) == len(types) and id not in named else _called(id, named)
        for names, id in sets.items()
    }
    found = {called[names]: [called[one] for one in _next_above(names, sets)] or [ROOT] for names in sets}
    return {name: above if len(above) > 1 else above[0] for name, above in found.items() if name != ROOT}


def _problems(types: Mapping[str, str]) -> Iterator[str]:
    first: dict[str, str] = {}
    for name, id in types.items():
        if id not in terms():
            yield f"{name}: {id} is no type of the Cell Ontology of {RELEASE}: mistyped, newer, or obsolete there"
        if first.setdefault(id, name) != name:
            yield f"{name} and {first[id]} are both {id}: put a type above them, `{name}: NAME`, and `NAME: {id}`"


def _upwards(id: str) -> set[str]:
    """Return a type and all that it is a kind of."""
    return {id}.union(*(_upwards(one) for one in terms()[id].parents))


def _rank(id: str, named: Mapping[str, str]) -> tuple[bool, int, str]:
    """Order types of the same set such that the last is what it is called by: one that was given, or the finest."""
    return id in named, len(_upwards(id)), id


def _called(id: str, named: Mapping[str, str]) -> str:
    """Return the name of a type: as it was given, or the ontology's, with its id where another was given that name."""
    name = terms()[id].name
    return named.get(id, f"{name} ({id})" if name in named.values() or name == ROOT else name)


def _next_above(names: frozenset[str], sets: Mapping[frozenset[str], str]) -> list[frozenset[str]]:
    """Return the smallest sets that hold more than these names and all of them."""
    larger = [one for one in sets if names < one]
    return sorted((one for one in larger if not any(other < one for other in larger)), key=sorted)
