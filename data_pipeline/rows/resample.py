"""How the training part is rebalanced by picking and repeating rows, by imbalanced-learn where it has the sampler.

Every strategy: (labels int64 [n], rng, *, ...) -> rows int64 [m], ascending, repeats allowed. It sees training labels
and a generator and nothing else (tomek: the training counts as well), so it cannot leak. Class totals depend on the
class counts alone, never on the order of the cells, and no class vanishes. Attributes that a caller must heed:
`per_epoch = True`: draw anew for each epoch;
`balanced = True`: classes are equally frequent on average, not in each draw;
`needs = "counts"`: pass `counts=` (CSR [n, G], the training cells in the order of `labels`).
"""

import functools
from collections.abc import Callable
from typing import Literal

import numpy as np
from scipy import sparse

from data_pipeline.errors import RequestError
from data_pipeline.normalise import principal_components
from data_pipeline.outside import Functions
from data_pipeline.rows.apportion import apportion, classes_in

Strategy = Callable[..., np.ndarray]
MOST_COMPARED = 500_000  # cells that are each compared with all others: 13 minutes of a core; memory stays flat


def none(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every row once."""
    return np.arange(len(labels), dtype=np.int64)


def oversample(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every class raised to the size of the largest (RandomOverSampler): all originals, then random copies."""
    return _over(labels, rng, classes_in(labels).available.max())


def undersample(labels: np.ndarray, rng: np.random.Generator, *, floor: int = 1) -> np.ndarray:
    """Every class cut to the size of the smallest (RandomUnderSampler), but no class below `floor` cells."""
    _positive("undersample", "floor", floor)
    return _under(labels, rng, max(floor, classes_in(labels).available.min()))


def threshold_undersample(labels: np.ndarray, rng: np.random.Generator, *, cells: int = 500) -> np.ndarray:
    """Classes of more than `cells` cut to `cells`, the others whole: n' = min(n, cells), as published."""
    _positive("threshold_undersample", "cells", cells)
    return _under(labels, rng, cells)


def threshold_oversample(labels: np.ndarray, rng: np.random.Generator, *, cells: int = 500) -> np.ndarray:
    """Classes of fewer than `cells` raised to `cells` by random copies, the others whole: n' = max(n, cells)."""
    _positive("threshold_oversample", "cells", cells)
    return _over(labels, rng, cells)


def square_root(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many rows as before, classes in proportion to the square roots of their sizes.

    Source: Mahajan et al. 2018, arXiv 1805.00932, section 2.2.
    """
    available = classes_in(labels).available
    wanted = apportion(np.sqrt(available), len(labels))
    kept = _under(labels, rng, wanted)
    return kept[_over(labels[kept], rng, wanted)]


def class_balanced_batches(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many rows as before, drawn with replacement, every class equally often, anew for each epoch.

    Class counts are equal to within one row, where the draws of `scbalance` make them so on average, so that a rare
    class has its share of every epoch; the feed's shuffling gives balanced batches.
    """
    classes = classes_in(labels)
    order = np.argsort(labels, kind="stable")
    starts = np.cumsum(classes.available) - classes.available
    drawn = np.repeat(np.arange(len(classes)), apportion(np.ones(len(classes)), len(labels)))
    return np.sort(order[starts[drawn] + (rng.random(len(drawn)) * classes.available[drawn]).astype(np.int64)])


def scbalance(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many rows as before, each drawn by itself, a cell in proportion to 1 / cells of its type; anew for each epoch.

    So a cell of a batch is of each of K types with probability 1 / K: rare types are over-, common ones undersampled. A
    type that no draw has hit gets one from the type with the most. Source: Cheng et al. 2023, scBalance, Communications
    Biology 6, 545, adaptive weight sampling; its code draws by torch's WeightedRandomSampler.
    """
    classes = classes_in(labels)
    order = np.argsort(labels, kind="stable")
    starts = np.cumsum(classes.available) - classes.available
    drawn = rng.integers(len(classes), size=len(labels))
    for missed in np.setdiff1d(np.arange(len(classes)), drawn):
        drawn[np.flatnonzero(drawn == np.bincount(drawn).argmax())[0]] = missed
    return np.sort(order[starts[drawn] + (rng.random(len(drawn)) * classes.available[drawn]).astype(np.int64)])


def cap_and_repeat(labels: np.ndarray, rng: np.random.Generator, *, cells: int = 500, repeats: int = 10) -> np.ndarray:
    """Classes above `cells` cut to it; each cell of a smaller class up to `repeats` times, the class not above `cells`.

    n' = min(cells, repeats x n). Within a class every cell occurs equally often, to within one.
    """
    _positive("cap_and_repeat", "cells", cells)
    _positive("cap_and_repeat", "repeats", repeats)
    classes = classes_in(labels)
    wanted = np.minimum(cells, repeats * classes.available)
    order = np.lexsort((rng.random(len(labels)), labels))
    starts = np.cumsum(classes.available) - classes.available
    place = np.arange(wanted.sum()) - np.repeat(np.cumsum(wanted) - wanted, wanted)
    return np.sort(order[np.repeat(starts, wanted) + place % np.repeat(classes.available, wanted)])


def tomek(
    labels: np.ndarray,
    rng: np.random.Generator,
    *,
    counts: sparse.csr_matrix,
    clean: Literal["auto", "majority", "all"] = "auto",
    components: int = 50,
) -> np.ndarray:
    """Tomek links cut: pairs of cells of different classes that are each other's nearest neighbour.

    Neighbours are those in the principal components of the training cells. clean: which cells of a link are removed,
    "auto" all but those of the smallest class, "majority" those of the largest, "all" both (the sampling_strategy of
    imbalanced-learn). A class that would lose all its cells keeps them. RequestError above MOST_COMPARED cells.
    """
    from imblearn.under_sampling import TomekLinks

    _positive("tomek", "components", components)
    check_compared(len(labels))
    classes = classes_in(labels)
    if len(classes) < 2:
        return none(labels, rng)
    cleaner = TomekLinks(sampling_strategy=clean)
    cleaner.fit_resample(principal_components(counts, components, rng), labels)
    rows = np.sort(cleaner.sample_indices_).astype(np.int64)
    lost = np.isin(labels, np.setdiff1d(classes.codes, labels[rows]))
    return np.union1d(rows, np.flatnonzero(lost))


def check_compared(cells: int) -> None:
    """RequestError if a strategy that looks at counts would have to compare too many cells with one another."""
    if cells > MOST_COMPARED:
        hours = 13 / 60 * (cells / MOST_COMPARED) ** 2
        raise RequestError(
            f"tomek: {cells:,} training cells, each to be compared with all others, would take about {hours:.1f} h of "
            f"a core; at most {MOST_COMPARED:,} are. Give the skew a smaller `total:`, or take another strategy"
        )


def _verified(strategy: Strategy) -> Strategy:
    """Return a strategy from outside that gives its rows in order, or RequestError if they are no rows of all types."""

    @functools.wraps(strategy)
    def verified(labels: np.ndarray, rng: np.random.Generator, **given: object) -> np.ndarray:
        rows = np.asarray(strategy(labels, rng, **given))
        wrong = None
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            wrong = f"gives {rows.dtype} of shape {list(rows.shape)}"
        elif not len(rows) or rows.min() < 0 or rows.max() >= len(labels):
            wrong = f"gives {len(rows)} rows, not all of them from 0 to {len(labels) - 1}"
        elif lost := len(np.setdiff1d(labels, labels[rows])):
            wrong = f"leaves no cell of {lost} types"
        if wrong is not None:
            raise RequestError(f"strategy {strategy.__name__}: {wrong}; it must return rows of its labels, all types")
        return np.sort(rows).astype(np.int64)

    return verified


class_balanced_batches.per_epoch = scbalance.per_epoch = True
scbalance.balanced = True
tomek.needs = "counts"
tomek.verify = lambda params: _positive("tomek", "components", params["components"])

OWN: dict[str, Strategy] = {
    "none": none,
    "oversample": oversample,
    "undersample": undersample,
    "threshold_undersample": threshold_undersample,
    "threshold_oversample": threshold_oversample,
    "square_root": square_root,
    "class_balanced_batches": class_balanced_batches,
    "scbalance": scbalance,
    "cap_and_repeat": cap_and_repeat,
    "tomek": tomek,
}
STRATEGIES: Functions[Strategy] = Functions("strategies", OWN, _verified)


def _over(labels: np.ndarray, rng: np.random.Generator, wanted: np.ndarray | int) -> np.ndarray:
    """Return rows: classes below `wanted` (one number, or one per class present) raised to it by random copies."""
    from imblearn.over_sampling import RandomOverSampler

    return _sampled(RandomOverSampler, labels, rng, np.maximum(classes_in(labels).available, wanted))


def _under(labels: np.ndarray, rng: np.random.Generator, wanted: np.ndarray | int) -> np.ndarray:
    """Return rows: classes above `wanted` (one number, or one per class present) cut to it without replacement."""
    from imblearn.under_sampling import RandomUnderSampler

    return _sampled(RandomUnderSampler, labels, rng, np.minimum(classes_in(labels).available, wanted))


def _sampled(sampler: Callable, labels: np.ndarray, rng: np.random.Generator, wanted: np.ndarray) -> np.ndarray:
    """Let an imbalanced-learn sampler pick rows, `wanted[i]` of the i-th class present.

    imbalanced-learn refuses a single class, so a lone one is joined by a stranger, which is taken out again.
    """
    codes = classes_in(labels).codes
    strangers = codes[:1] + 1 if len(codes) == 1 else codes[:0]
    targets = dict(zip(codes.tolist(), wanted.tolist(), strict=True)) | dict.fromkeys(strangers.tolist(), 1)
    fitted = sampler(sampling_strategy=targets, random_state=int(rng.integers(2**31)))
    fitted.fit_resample(np.zeros((len(labels) + len(strangers), 1), np.float32), np.concatenate([labels, strangers]))
    rows = np.sort(fitted.sample_indices_).astype(np.int64)
    return rows[rows < len(labels)]


def _positive(strategy: str, name: str, value: int) -> None:
    if value < 1:
        raise RequestError(f"{strategy}: {name} {value} is below 1; a class must keep at least one cell")
