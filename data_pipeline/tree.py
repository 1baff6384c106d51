"""A tree of cell types, `name: parent` or `name: id in the Cell Ontology` a line: read, asked what lies below."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from data_pipeline.errors import RequestError
from data_pipeline.names import did_you_mean
from data_pipeline.reading.known import ontology
from data_pipeline.reading.labels import clean

Tree = Mapping[str, str | list[str]]  # a type -> the one above it, of an ontology perhaps several; the root has none


def read_tree(path: str | Path) -> dict[str, str | list[str]]:
    """Return the tree of a YAML file, `name: parent` a line, the root as a parent alone or with an empty one.

    `name: CL:0000084` says which type of the Cell Ontology it is; what lies above it is the ontology's, up to `cell`,
    see ontology.tree_of. RequestError lists names that stand twice, circles, several roots, unknown ids.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        given, node = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RequestError(f"{path}: can't be read as a tree of cell types: {str(error).splitlines()[0]}") from error
    if not isinstance(given, dict) or not given:
        raise RequestError(f"{path}: is no tree of cell types; write one `type: the type above it` a line")
    said = {clean(str(name)): clean(str(parent)) for name, parent in given.items() if parent is not None}
    tree = {name: parent for name, parent in said.items() if not ontology.is_id(parent)}
    lines = Counter(clean(key.value) for key, _ in node.value)
    twice = [
        f"{name}: stands {number} times; a type has one type above it" for name, number in lines.items() if number > 1
    ]
    above, wrong = _of_ontology({name: id for name, id in said.items() if name not in tree})
    twice += [
        f"{name}: the Cell Ontology says what lies above it; leave the line out" for name in tree if name in above
    ]
    if problems := [*twice, *wrong] or list(_problems(tree | above, {clean(str(name)) for name in given})):
        raise RequestError(*(f"{path}: {problem}" for problem in problems))
    return tree | above


def _of_ontology(types: Mapping[str, str]) -> tuple[dict[str, str | list[str]], tuple[str, ...]]:
    """Return (the tree above types that are given by id, what is wrong with the ids)."""
    try:
        return ontology.tree_of(types) if types else {}, ()
    except RequestError as error:
        return {}, error.problems


def _problems(tree: Tree, named: set[str]) -> Iterator[str]:
    roots = (named | _names(tree)) - set(tree)
    for name in tree:
        path = [name]
        while len(above := parents(tree, path[-1])) == 1 and above[0] not in path:
            path += above
        if above == [name]:
            yield f"{' -> '.join([*path, name])} is a circle; a type can't lie above itself"
    if len(roots) > 1:
        yield f"has {len(roots)} roots ({', '.join(sorted(roots)[:5])}); give them one type above all, such as `cell`"


def tree_problems(tree: Tree, classes: Sequence[str], where: str) -> list[str]:
    """Return a sentence per type of a dataset that isn't in the tree, with the nearest name that is."""
    known = _names(tree)
    return [
        f"{where}: tree: {name!r} is missing; {did_you_mean(name, known)}add a line `{name}: the type above it`, or "
        f"`{name}: CL:...`, its id in the Cell Ontology"
        for name in classes
        if name not in known
    ]


def is_nested(tree: Tree, classes: Sequence[str]) -> bool:
    """Tell whether any class lies above another."""
    return bool(tree) and bool(below(tree, classes).sum() > len(classes))


def below(tree: Tree, classes: Sequence[str]) -> np.ndarray:
    """Return bool [C, C]: [i, j] where class j is class i or lies below it; RequestError if the tree lacks one."""
    lines = _lines(tree, classes)
    return np.array([[name in line for line in lines] for name in classes])


def ancestors(tree: Tree, classes: Sequence[str]) -> np.ndarray:
    """Return bool [C, N]: of N types of the tree but its root, which a class is or lies below; else as `below`."""
    every = sorted(tree)
    return np.array([[name in line for name in every] for line in _lines(tree, classes)])


def _lines(tree: Tree, classes: Sequence[str]) -> list[set[str]]:
    if problems := tree_problems(tree, classes, "the dataset"):
        raise RequestError(*problems)
    return [set(_line(tree, name)) for name in classes]


def _line(tree: Tree, name: str) -> Iterator[str]:
    yield name
    for one in parents(tree, name):
        yield from _line(tree, one)


def parents(tree: Tree, name: str) -> list[str]:
    """Return the types right above one, none above the root."""
    above = tree.get(name, [])
    return [above] if isinstance(above, str) else list(above)


def at_level(tree: Tree, classes: Sequence[str], level: int) -> list[str]:
    """Return for each class the type at that level which it is or lies below: 1 is right below the root.

    A class that lies higher stays what it is. RequestError if the tree lacks a class, if none lies so deep, or where a
    class lies below several types of that level, as of an ontology it may.
    """
    if problems := tree_problems(tree, classes, "the model's types"):
        raise RequestError(*problems)
    paths = {name: list(_paths(tree, name)) for name in classes}
    deepest = max(len(path) for found in paths.values() for path in found) - 1
    if level > deepest:
        raise RequestError(f"--level {level}: the deepest types of the tree are at level {deepest}")
    found = {name: sorted({path[min(level, len(path) - 1)] for path in paths[name]}) for name in classes}
    problems = [
        f"--level {level}: {name} lies below {' and '.join(kinds)}, not below one type there; take a deeper level, or "
        "name a tree with one type above each: --tree TREE.yaml"
        for name, kinds in found.items()
        if len(kinds) > 1
    ]
    if problems:
        raise RequestError(*problems)
    return [found[name][0] for name in classes]


def _paths(tree: Tree, name: str) -> Iterator[list[str]]:
    """Yield every way from the root to a type, both included."""
    above = parents(tree, name)
    if not above:
        yield [name]
    yield from ([*path, name] for one in above for path in _paths(tree, one))


def _names(tree: Tree) -> set[str]:
    return set(tree).union(*(parents(tree, name) for name in tree))


def hierarchical(table: np.ndarray, sets: np.ndarray) -> dict[str, float]:
    """Return hierarchical precision, recall and F1 of cells counted by true and predicted class, int [C, C].

    sets: `ancestors`. Precision is the share of the predicted types, those above them included, that are true; recall
    that of the true ones that are predicted; both over all cells. Source: Kiritchenko et al. 2005, equation 1.
    """
    shared = sets.astype(np.int64) @ sets.T.astype(np.int64)
    depth = np.diag(shared)
    hits, truth, predicted = (table * shared).sum(), table.sum(axis=1) @ depth, table.sum(axis=0) @ depth
    shares = (hits / predicted if predicted else 0.0, hits / truth if truth else 0.0)
    f1 = 2 * hits / (predicted + truth) if predicted + truth else 0.0
    return dict(
        zip(
            ("hierarchical_precision", "hierarchical_recall", "hierarchical_f1"), map(float, (*shares, f1)), strict=True
        )
    )
