"""How the training part is thinned to a wanted class imbalance: labels and a generator in, row numbers out.

Every skew: (labels int64 [n], rng, *, ..., total, classes) -> rows int64 [m], ascending, without repeats. Classes are
the distinct values of `labels`; how many cells of each remain depends on the class counts and the generator, never on
the order of the cells. `total` fixes m; `classes` are the names by label, for messages. No class loses its last cell,
unless `rarefy` is asked for 0 cells. What can't be had raises RequestError, which names the class, what was wanted and
what it lacks. With one generator state the cells kept are nested: a class cut to 10 cells keeps 10 of the 50 that it
keeps when cut to 50, so levels of a skew can be compared in pairs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from data_pipeline.errors import RequestError
from data_pipeline.names import did_you_mean
from data_pipeline.rows.apportion import (
    as_many,
    at_total,
    check_enough,
    classes_in,
    curve,
    curve_keeping_short,
    draw,
)

Rank = Literal["prevalence", "seed"]
Short = Literal["shrink", "keep"]


def natural(
    labels: np.ndarray, rng: np.random.Generator, *, total: int | None = None, classes: Sequence[str] | None = None
) -> np.ndarray:
    """All cells; with `total`, so many of them in the natural proportions."""
    present = classes_in(labels, classes)
    wanted = present.available if total is None else at_total(present.available, present, total)
    return draw(labels, present, wanted, rng.random(len(labels)))


def exponential(
    labels: np.ndarray,
    rng: np.random.Generator,
    *,
    ratio: float = 10.0,
    rank: Rank = "prevalence",
    short_classes: Short = "shrink",
    total: int | None = None,
    classes: Sequence[str] | None = None,
) -> np.ndarray:
    """Class k of K in rank order gets a share proportional to ratio ** (-k / (K - 1)): largest / smallest = ratio.

    rank: "prevalence" (the commonest class stays the largest) or "seed" (drawn by the generator).
    short_classes: where a class has too few cells for the curve, "shrink" lowers the whole curve until it fits (the
    ratio is met; with `total` as nearly as whole cells allow: 100 becomes 72.5 where the smallest class gets 2 of 300
    cells, and `plan` shows it; a `total` that doesn't fit is refused); "keep" lets that class keep all it has: more
    cells, but another ratio. Source: the long-tailed CIFAR of Cui et al. 2019, arXiv 1901.05555, section 5.1.
    """
    _at_least("exponential", "ratio", ratio, 1)
    present, keys = classes_in(labels, classes), rng.random(len(labels))
    shape = float(ratio) ** (-_places(present.available, rank, rng) / max(len(present) - 1, 1))
    lay = curve if short_classes == "shrink" else curve_keeping_short
    return draw(labels, present, lay(shape, present, total), keys)


def step(
    labels: np.ndarray,
    rng: np.random.Generator,
    *,
    ratio: float = 10.0,
    fraction: float = 0.5,
    rank: Rank = "prevalence",
    short_classes: Short = "shrink",
    total: int | None = None,
    classes: Sequence[str] | None = None,
) -> np.ndarray:
    """A `fraction` of the classes (last in rank, at least one, never all) get 1 / `ratio` of what each other gets.

    `rank` and `short_classes` as in `exponential`. Source: step imbalance, Buda et al. 2018, arXiv 1710.05381, section
    3.1.
    """
    _at_least("step", "ratio", ratio, 1)
    if not 0 < fraction < 1:
        raise RequestError(f"step: fraction {fraction} is not between 0 and 1; it is the share of classes made rare")
    present, keys = classes_in(labels, classes), rng.random(len(labels))
    num_rare = min(max(1, round(fraction * len(present))), len(present) - 1)
    is_rare = _places(present.available, rank, rng) >= len(present) - num_rare
    lay = curve if short_classes == "shrink" else curve_keeping_short
    return draw(labels, present, lay(np.where(is_rare, 1 / ratio, 1.0), present, total), keys)


def rarefy(
    labels: np.ndarray,
    rng: np.random.Generator,
    *,
    class_name: str | int,
    cells: int,
    total: int | None = None,
    classes: Sequence[str] | None = None,
) -> np.ndarray:
    """The class `class_name` cut to `cells` cells, the others whole; with `total`, the others share the rest of it.

    `cells: 0` removes the class from training: the only way a class can vanish. Without `classes`, name it by its
    code.
    """
    _at_least("rarefy", "cells", cells, 0)
    present = classes_in(labels, classes)
    is_rare = np.array([name == str(class_name) for name in present.names])
    if not is_rare.any():
        near = did_you_mean(class_name, present.names)
        raise RequestError(
            f"rarefy: no training cell of class {class_name!r}; {near}there are {', '.join(present.names)}"
        )
    wanted = np.where(is_rare, cells, present.available)
    check_enough(wanted, present, f"ask for at most {present.available[is_rare][0]} cells")
    if total is not None:
        others = present.where(~is_rare)
        wanted[~is_rare] = at_total(others.available, others, total - cells)
    return draw(labels, present, wanted, rng.random(len(labels)))


def biased(
    labels: np.ndarray,
    rng: np.random.Generator,
    *,
    concentration: float = 1.0,
    around: Literal["natural", "uniform"] = "natural",
    total: int | None = None,
    classes: Sequence[str] | None = None,
) -> np.ndarray:
    """Biased sampling: class proportions drawn from a symmetric Dirichlet(`concentration`); small = strongly biased.

    around "natural": the draw is each class's sampling rate, so proportions are natural share x draw, and a large
    concentration gives the natural mix; "uniform": the draw is the proportions themselves, and a large concentration
    gives equal classes. Without `total`, as many cells are kept as the proportions allow. A class always keeps at
    least one cell.
    """
    if not concentration > 0:
        raise RequestError(f"biased: concentration {concentration} is not positive; 1 is usual, 0.1 a strong bias")
    present, keys = classes_in(labels, classes), rng.random(len(labels))
    drawn = np.maximum(rng.dirichlet(np.full(len(present), float(concentration))), 1e-12)
    shape = drawn * present.available if around == "natural" else drawn
    wanted = as_many(shape, present) if total is None else at_total(shape, present, total)
    return draw(labels, present, wanted, keys)


def match(
    labels: np.ndarray,
    rng: np.random.Generator,
    *,
    counts: dict[str, int] | str,
    scaled: bool = False,
    total: int | None = None,
    classes: Sequence[str] | None = None,
) -> np.ndarray:
    """The class counts `counts`: class name -> cells, or a catalog entry (zheng68k) whose classes bear the same names.

    Exactly those, or refused; with `scaled`, as many cells in those proportions as there are; with `total`, so many.
    """
    present = classes_in(labels, classes)
    given = _published(counts) if isinstance(counts, str) else {str(name): number for name, number in counts.items()}
    _check_named(given, present.names)
    wanted = np.array([given[name] for name in present.names], dtype=np.int64)
    if total is not None:
        wanted = at_total(wanted, present, total)
    elif scaled:
        wanted = as_many(wanted, present)
    check_enough(wanted, present, "say `scaled: true` to keep the proportions with fewer cells")
    return draw(labels, present, wanted, rng.random(len(labels)))


def _idle_of_match(params: Mapping[str, object]) -> dict[str, str]:
    is_idle = params["scaled"] and params["total"] is not None
    return {"scaled": "`total` keeps the proportions, and says how many cells"} if is_idle else {}


match.idle = _idle_of_match

SKEWS: dict[str, Callable[..., np.ndarray]] = {
    "natural": natural,
    "exponential": exponential,
    "step": step,
    "rarefy": rarefy,
    "biased": biased,
    "match": match,
}


def _places(available: np.ndarray, rank: Rank, rng: np.random.Generator) -> np.ndarray:
    """Return each class's place, 0 = largest: by prevalence (ties by label), or drawn."""
    order = np.argsort(-available, kind="stable") if rank == "prevalence" else rng.permutation(len(available))
    return np.argsort(order)


def _at_least(skew: str, name: str, value: float, least: float) -> None:
    if not value >= least:
        raise RequestError(f"{skew}: {name} {value} is below {least}")


def _check_named(given: Mapping[str, int], names: list[str]) -> None:
    """RequestError unless `given` has a positive count for every class there is, and no other."""
    problems = [f"match: no positive count for class {name!r}" for name in names if given.get(name, 0) < 1]
    problems += [f"match: no training cell of class {name!r}, which has a count" for name in given if name not in names]
    if problems:
        raise RequestError(*problems, f"the classes with training cells are {', '.join(names)}")


def _published(entry: str) -> Mapping[str, int]:
    """Return the class counts of a catalog entry: of its training part, where it has a test set of its own."""
    from data_pipeline.reading.known import catalog

    known = catalog.entries()
    if entry not in known:
        raise RequestError(f"match: no dataset {entry!r} in the catalog; known: {', '.join(sorted(known))}")
    return known[entry].classes
