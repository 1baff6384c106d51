"""Labels (and donors) and a seed -> train, validation and test rows. Made first, before any skew or resampling."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from data_pipeline.errors import RequestError
from data_pipeline.rows.donors import Coded, coded, split_donors, united
from data_pipeline.seeds import generator

FAR = 0.2  # how far, relative to what was asked, a part's share of the cells may be before a note says so
SLIGHT = 0.01  # and by how much of all cells


@dataclass(frozen=True)
class Split:
    """Row numbers of the three parts: int64, sorted, disjoint, together all rows. notes: exceptions made, in words."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    notes: list[str]


def split(
    labels: np.ndarray,
    seed: int,
    test: float = 0.2,
    validation: float = 0.1,
    donors: np.ndarray | pd.Categorical | None = None,
    fixed_test: np.ndarray | None = None,
    classes: Sequence[str] | None = None,
    twins: np.ndarray | None = None,
) -> Split:
    """Return the three parts, each class in the same proportions.

    labels: int64 [n]. donors: str [n] (or a Categorical of them), then whole donors go to a part. fixed_test: bool [n],
    then those cells are the test part and `validation` is a fraction of the others. twins: int64 [n], a number that
    cells with the same counts share; they go to one part, and so do donors that share such cells. A class too small for
    three parts goes to train first, then test, then validation, and a note says so. classes: names for the notes.
    RequestError: impossible fractions, a single donor, donors that the fixed test set has and the other cells too.
    """
    labels = np.asarray(labels, dtype=np.int64)
    _check_fractions(test, validation)
    if donors is not None and fixed_test is not None:
        _check_donors(coded(donors), fixed_test)
    rng = generator(seed, "split")
    notes: list[str] = []
    free = np.arange(len(labels)) if fixed_test is None else np.flatnonzero(~fixed_test)
    fractions = (test if fixed_test is None else 0.0, validation)
    groups = [None if given is None else given[free] for given in (donors, twins)]
    parts = _divided(labels[free], *groups, rng, fractions, notes)
    train, held, tested = (free[part] for part in parts)
    if fixed_test is not None:
        tested = np.flatnonzero(fixed_test)
    parts = [np.sort(part).astype(np.int64) for part in (train, held, tested)]
    wanted = [True, validation > 0, fixed_test is not None or test > 0]
    return Split(*parts, notes + _missing(labels, parts, wanted, classes))


def _check_fractions(test: float, validation: float) -> None:
    problems = [
        f"split: {name} is {value}, but a fraction from 0 up to (not including) 1 is needed, such as 0.2"
        for name, value in (("test", test), ("validation", validation))
        if not 0 <= value < 1
    ]
    if not problems and test + validation >= 1:
        problems = [f"split: test {test} and validation {validation} leave nothing to train on; together stay below 1"]
    if problems:
        raise RequestError(*problems)


def _check_donors(donors: Coded, fixed_test: np.ndarray) -> None:
    """RequestError if a donor has cells on both sides: a test on cells of training donors says nothing of new ones."""
    names, who = donors
    tested = np.unique(who[fixed_test])
    both = names[np.intersect1d(tested, who[~fixed_test])]
    if len(both):
        names = ", ".join(map(str, both[:10])) + (f" and {len(both) - 10} more" if len(both) > 10 else "")
        raise RequestError(
            f"split: {len(both)} of the {len(tested)} donors in the fixed test set have training cells as well "
            f"({names}), so its cells aren't of new donors. Move these donors' cells to one side, or leave out "
            "`donor:` to accept a test on cells of known donors."
        )


def _divided(
    labels: np.ndarray,
    donors: np.ndarray | pd.Categorical | None,
    twins: np.ndarray | None,
    rng: np.random.Generator,
    fractions: tuple[float, float],
    notes: list[str],
) -> list[np.ndarray]:
    """Return rows of [train, validation, test] among the cells that are free to be in any part."""
    twins = _numbered(twins)
    if donors is not None:
        parts = _by_donor(labels, coded(donors), twins, rng, fractions, notes)
    else:
        parts = _stratified(labels, twins, rng, *fractions)
    if donors is not None or twins is not None:
        notes += _missed_shares(parts, fractions)
    return parts


def _numbered(twins: np.ndarray | None) -> np.ndarray | None:
    """Return the numbers that twins share, from 0 on."""
    return None if twins is None else np.unique(twins, return_inverse=True)[1]


def _stratified(
    labels: np.ndarray, twins: np.ndarray | None, rng: np.random.Generator, test: float, validation: float
) -> list[np.ndarray]:
    """Return rows of [train, validation, test]: twins (numbers from 0 on) are drawn as one, by the first's class."""
    if twins is None:
        return stratify(labels, rng, test, validation)
    first = np.unique(twins, return_index=True)[1]
    part = np.zeros(len(first), np.int64)
    for number, chosen in enumerate(stratify(labels[first], rng, test, validation)):
        part[chosen] = number
    return [np.flatnonzero(part[twins] == number) for number in range(3)]


def stratify(labels: np.ndarray, rng: np.random.Generator, test: float, validation: float) -> list[np.ndarray]:
    """Return rows of [train, validation, test], drawn within each class."""
    counts = np.bincount(labels)
    in_test = quota(counts, test, spare=1 + (counts > 2) * (validation > 0))
    in_validation = quota(counts, validation, spare=1 + in_test)
    order = np.lexsort((rng.permutation(len(labels)), labels))
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    kind = labels[order]
    is_test = place < in_test[kind]
    is_validation = ~is_test & (place < (in_test + in_validation)[kind])
    return [order[~is_test & ~is_validation], order[is_validation], order[is_test]]


def quota(counts: np.ndarray, fraction: float, spare: int | np.ndarray) -> np.ndarray:
    """Return cells per class for a part, int64 [C]: `fraction` of each, within one cell, and of all together exactly.

    Each class gives at least one cell if it has more than `spare`, the cells it must leave to other parts. Largest
    remainders first; the total is missed only where such single cells exceed it, or too few cells are left.
    """
    room = np.maximum(counts - spare, 0)
    exact = counts * fraction
    least = np.minimum(room, np.maximum(np.floor(exact), fraction > 0)).astype(np.int64)
    left = int(round(counts.sum() * fraction)) - int(least.sum())
    remainder = np.where(least < np.minimum(room, np.ceil(exact)), exact - least, -1.0)
    best = np.argsort(-remainder, kind="stable")[: max(left, 0)]
    least[best[remainder[best] > 0]] += 1
    return least


def _by_donor(
    labels: np.ndarray,
    donors: Coded,
    twins: np.ndarray | None,
    rng: np.random.Generator,
    fractions: tuple[float, float],
    notes: list[str],
) -> list[np.ndarray]:
    """Return rows of [train, validation, test] with whole donors in each, as far as there are enough of them."""
    test, validation = fractions
    who = _units(donors, twins, notes)
    number = int(who.max(initial=-1)) + 1
    if number < 2 and test > 0:
        raise RequestError(_one_unit(donors))
    if number > (test > 0) + (validation > 0):
        return _named(donors, split_donors(labels, who, rng, test, validation), notes)
    parts = _named(donors, split_donors(labels, who, rng, test, 0.0), notes)
    if validation > 0:
        notes.append(f"validation cells are of training donors: there are only {number} donors to split")
        inner = _numbered(None if twins is None else twins[parts[0]])
        inside = _stratified(labels[parts[0]], inner, rng, 0.0, min(validation / (1 - test), 0.5))
        parts[0], parts[1] = parts[0][inside[0]], parts[0][inside[1]]
    return parts


def _units(donors: Coded, twins: np.ndarray | None, notes: list[str]) -> np.ndarray:
    """Return each cell's donor as a number, the same for donors that share cells under two names."""
    names, who = donors
    if twins is None:
        return who
    unit_D = united(who, twins)
    for unit in np.flatnonzero(np.bincount(unit_D) > 1):
        notes.append(f"donors that share cells stay together: {', '.join(map(str, names[unit_D == unit]))}")
    return unit_D[who]


def _one_unit(donors: Coded) -> str:
    names = donors[0]
    if len(names) == 1:
        return (
            f"split: all cells are of one donor ({str(names[0])!r}), so none can be held out as test; leave "
            "out `donor:` to split by cells."
        )
    return (
        f"split: all {len(names)} donors share cells with the same counts, so none can be held out as test. Keep the "
        "first of such cells with `twins: drop`, or split as if they were different with `twins: ignore`."
    )


def _missed_shares(parts: list[np.ndarray], fractions: tuple[float, float]) -> list[str]:
    """Return a note for each part whose share of the cells is far from the one asked for."""
    of = sum(map(len, parts))
    test, validation = fractions
    notes = []
    for name, part, asked in (("validation", parts[1], validation), ("test", parts[2], test)):
        share = len(part) / max(of, 1)
        if asked > 0 and abs(share - asked) > max(FAR * asked, SLIGHT):
            notes.append(f"{name} has {share:.0%} of the cells, {asked:.0%} were asked for")
    return notes


def _named(donors: Coded, parts: list[np.ndarray], notes: list[str]) -> list[np.ndarray]:
    names, who = donors
    for role, part in zip(("validation", "test"), parts[1:], strict=True):
        if len(part):
            notes.append(f"{role} donors: {', '.join(map(str, names[np.unique(who[part])]))}")
    return parts


def _missing(
    labels: np.ndarray, parts: list[np.ndarray], wanted: list[bool], classes: Sequence[str] | None
) -> list[str]:
    """Return a note for each class that lacks cells in a part that was asked for."""
    most = int(labels.max(initial=-1)) + 1
    counts = np.array([np.bincount(labels[part], minlength=most) for part in parts])
    notes = []
    for kind in np.flatnonzero(counts.sum(axis=0)):
        named = zip(("training", "validation", "test"), counts[:, kind], wanted, strict=True)
        lacking = [name for name, part, want in named if want and not part]
        if lacking:
            name = repr(classes[kind]) if classes is not None else str(kind)
            total = int(counts[:, kind].sum())
            cells = "1 cell" if total == 1 else f"{total:,} cells"
            notes.append(f"class {name} has {cells}: none in {' or '.join(lacking)}")
    return notes
