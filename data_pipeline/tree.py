"""A tree of cell types, `name: parent` a line: read, held against a dataset's types, asked what lies below what."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from data_pipeline.errors import RequestError
from data_pipeline.names import did_you_mean
from data_pipeline.reading.labels import clean

Tree = Mapping[str, str]  # a type -> the one above it; the root has none


def read_tree(path: str | Path) -> dict[str, str]:
    """Return the tree of a YAML file, `name: parent` a line, the root as a parent alone or with an empty one.

    RequestError lists names that stand twice, circles, and several roots.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        given, node = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RequestError(f"{path}: can't be read as a tree of cell types: {str(error).splitlines()[0]}") from error
    if not isinstance(given, dict) or not given:
        raise RequestError(f"{path}: is no tree of cell types; write one `type: the type above it` a line")
    tree = {clean(str(name)): clean(str(parent)) for name, parent in given.items() if parent is not None}
    lines = Counter(clean(key.value) for key, _ in node.value)
    twice = [
        f"{name}: stands {number} times; a type has one type above it" for name, number in lines.items() if number > 1
    ]
    if problems := [*twice, *_problems(tree, {clean(str(name)) for name in given})]:
        raise RequestError(*(f"{path}: {problem}" for problem in problems))
    return tree


def _problems(tree: Tree, named: set[str]) -> Iterator[str]:
    roots = (named | set(tree.values())) - set(tree)
    for name in tree:
        path = [name]
        while path[-1] in tree and tree[path[-1]] not in path:
            path.append(tree[path[-1]])
        if path[-1] in tree and tree[path[-1]] == name:
            yield f"{' -> '.join([*path, name])} is a circle; a type can't lie above itself"
    if len(roots) > 1:
        yield f"has {len(roots)} roots ({', '.join(sorted(roots)[:5])}); give them one type above all, such as `cell`"


def tree_problems(tree: Tree, classes: Sequence[str], where: str) -> list[str]:
    """Return a sentence per type of a dataset that isn't in the tree, with the nearest name that is."""
    known = {*tree, *tree.values()}
    return [
        f"{where}: tree: {name!r} is missing; {did_you_mean(name, known)}add a line `{name}: the type above it`"
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
    while True:
        yield name
        if name not in tree:
            return
        name = tree[name]


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
