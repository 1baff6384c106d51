"""How many cells of each class to keep, and which: proportions become whole cells, and what can't be is refused."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline.errors import RequestError


@dataclass(frozen=True)
class Classes:
    """The classes that occur in some labels: codes (ascending), cells of each, and names for messages."""

    codes: np.ndarray
    available: np.ndarray
    names: list[str]

    def __len__(self) -> int:
        return len(self.codes)

    def where(self, chosen: np.ndarray) -> "Classes":
        """Return those for which `chosen` (bool [K]) is true."""
        names = [name for name, is_chosen in zip(self.names, chosen, strict=True) if is_chosen]
        return Classes(self.codes[chosen], self.available[chosen], names)


def classes_in(labels: np.ndarray, names: Sequence[str] | None = None) -> Classes:
    """Return the classes that occur in `labels`, named by `names[label]`, or by their code where there is no list."""
    codes, available = np.unique(labels, return_counts=True)
    if not len(codes):
        raise RequestError("there is no training cell to choose from; give training a larger share of the split")
    return Classes(codes, available, [str(code) if names is None else str(names[code]) for code in codes])


def apportion(shape: np.ndarray, total: int) -> np.ndarray:
    """Return int64 [K], each at least 1, with sum `total`, in the proportions `shape` (> 0); largest remainders first.

    A class whose quota is below one gets one cell, and the others share what is left. Needs total >= K.
    """
    counts = np.ones(len(shape), np.int64)
    free = np.ones(len(shape), bool)
    quota = shape / shape.sum() * total
    while (low := free & (quota < 1)).any():
        free &= ~low
        quota = shape / shape[free].sum() * (total - np.count_nonzero(~free)) if free.any() else quota
    counts[free] = np.floor(quota[free] + 1e-9)
    remainders = np.where(free, quota - counts, -np.inf)
    counts[np.argsort(-remainders, kind="stable")[: total - counts.sum()]] += 1
    return counts


def draw(labels: np.ndarray, classes: Classes, wanted: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return ascending rows: of class i of `classes` the `wanted[i]` cells with the smallest `keys` (float [n])."""
    order = np.lexsort((keys, labels))
    starts = np.cumsum(classes.available) - classes.available
    place = np.arange(len(labels)) - np.repeat(starts, classes.available)
    return np.sort(order[place < np.repeat(wanted, classes.available)]).astype(np.int64)


def at_total(shape: np.ndarray, classes: Classes, total: int, way_out: str = "") -> np.ndarray:
    """Return int64 [K] summing to `total` in the proportions `shape`; RequestError where cells lack."""
    check_total(total, classes)
    wanted = apportion(shape, total)
    largest = int(np.min(classes.available / shape) * shape.sum() + 1e-9)
    check_enough(wanted, classes, f"the largest total with this skew is about {largest}{way_out}")
    return wanted


def as_many(shape: np.ndarray, classes: Classes) -> np.ndarray:
    """Return int64 [K]: as many cells as there are in the proportions `shape`, of each class at least one."""
    quota = shape * np.min(classes.available / shape)
    return np.clip(np.floor(quota + 0.5).astype(np.int64), 1, classes.available)


def curve(shape: np.ndarray, classes: Classes, total: int | None) -> np.ndarray:
    """Return int64 [K]: cells per class of a curve whose largest / smallest is a promise, with the largest at shape 1.

    Without `total` the smallest class gets a whole number of cells and the others follow, so a whole ratio is met; with
    `total` each class is rounded to whole cells, which moves the ratio where the smallest has few.
    RequestError where the smallest class would have less than one cell.
    """
    if total is not None:
        check_total(total, classes)
        _check_whole(shape, shape / shape.sum() * total, classes, total)
        return at_total(shape, classes, total, "; or say `short_classes: keep`")
    smallest = np.min(classes.available / shape) * shape.min()
    _check_whole(shape, shape / shape.min() * smallest, classes, None)
    return np.floor(shape / shape.min() * np.floor(smallest + 1e-9) + 0.5).astype(np.int64)


def curve_keeping_short(shape: np.ndarray, classes: Classes, total: int | None) -> np.ndarray:
    """Return int64 [K]: a curve laid on the first class, or on `total` cells; a class below it keeps all it has."""
    if total is None:
        head = classes.available[np.argmax(shape)]
        return np.clip(np.floor(shape * head + 0.5).astype(np.int64), 1, classes.available)
    check_total(total, classes)
    wanted, short = classes.available.copy(), np.zeros(len(shape), bool)
    while not short.all():
        wanted[~short] = apportion(shape[~short], total - classes.available[short].sum())
        lacking = ~short & (wanted > classes.available)
        if not lacking.any():
            break
        wanted[lacking], short = classes.available[lacking], short | lacking
    return wanted


def check_total(total: int, classes: Classes) -> None:
    """RequestError unless there are so many cells and each class can have one."""
    if not len(classes) <= total <= classes.available.sum():
        raise RequestError(
            f"total {total} can't be had: {len(classes)} classes need at least one cell each, "
            f"and there are {classes.available.sum()} training cells; give a total between the two"
        )


def check_enough(wanted: np.ndarray, classes: Classes, way_out: str) -> None:
    """RequestError naming every class that has fewer cells than wanted, and how many it lacks."""
    problems = [
        f"class {name!r} has {there} training cells, {number} are wanted: {number - there} too few"
        for name, number, there in zip(classes.names, wanted, classes.available, strict=True)
        if number > there
    ]
    if problems:
        raise RequestError(*problems, f"way out: {way_out}")


def _check_whole(shape: np.ndarray, quota: np.ndarray, classes: Classes, total: int | None) -> None:
    """RequestError when the smallest class of a curve would have less than one cell."""
    if quota.min() >= 1 - 1e-9:
        return
    small, large = classes.names[int(np.argmin(quota))], classes.names[int(np.argmax(quota))]
    needed, given = int(np.ceil(shape.max() / shape.min())), int(quota.max())
    limit = "as many as fit the curve" if total is None else f"its part of the total of {total}"
    more = "" if total is None else f" or give a total of at least {int(np.ceil(shape.sum() / shape.min()))}"
    raise RequestError(
        f"a ratio of {shape.max() / shape.min():g} leaves class {small!r} {quota.min():.2f} of a cell: "
        f"class {large!r} would need {needed} training cells and gets {given} ({limit}), {needed - given} too few; "
        f"lower the ratio to {max(given, 1)}{more}"
    )
