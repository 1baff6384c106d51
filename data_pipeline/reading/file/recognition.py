"""Which transformation made these numbers? Told by arithmetic that only the right answer passes.

With all genes in the file, undone cells add up to one total in the right base only. With some genes left out, the
values of a cell are still whole multiples of its smallest one, which stands for one count.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from data_pipeline.normalise import row_sums
from data_pipeline.reading.source import Values

BASES = ("e", 2, 10)
SUM_TOLERANCE = 0.01  # relative: rounding of stored values
LARGEST_LOG = 25.0  # no logarithm of counts is larger
FITS = 0.8  # share of small values that must be multiples of a cell's smallest one
NO_MULTIPLES = (
    "they are no multiples of a smallest one, as scaled counts would be: normalised twice, corrected for batches or "
    "ambient RNA, or scaled by the length of genes (TPM)"
)
TWICE = "log1p taken twice"
LEAST = 100  # numbers (and counts per cell) below which whole numbers are not doubted
CELLS = 50  # likewise cells: fewer don't show how a gene varies
ONE_SIZE = 0.2  # width of what nine in ten cells add up to, as a share of the median: in counts it is above 1
EVEN = 0.05  # share of the common genes that may vary too little
WITHOUT_ONES = 0.1  # share of cells in which the smallest number may be above 1
SMALL, MANY = 12, 1000  # with so many genes expressed, the commonest one is counted more often


@dataclass(frozen=True)
class Guess:
    """What the numbers look like, in words; values: what to declare, None if it can't be; constant: told by sums.

    undo: Python that turns the stored numbers X.data back into counts, None if nothing does. sound: whether what is
    undone is counts but for their scale.
    """

    words: str
    values: Values | None
    constant: bool = False
    undo: str | None = None
    sound: bool = True


def recognise(sample: sparse.csr_matrix) -> Guess | None:
    """Return what non-negative numbers (stored rows of some cells, none of them empty) look like, or None."""
    if not sample.nnz or not np.all(np.isfinite(sample.data)) or sample.data.min() < 0:
        return None
    stored = row_sums(sample)
    if is_constant(stored):
        total = _round(np.median(stored))
        words = f"counts scaled to {total:,.0f} per cell without a logarithm (log1p of them could be declared)"
        return Guess(words, None, constant=True)
    if _are_counts(squared := sample.data.astype(np.float64) ** 2):
        return Guess("square roots of counts", None, undo="np.rint(X.data ** 2)")
    if is_constant(np.add.reduceat(squared, sample.indptr[:-1])):
        return Guess("square roots of scaled counts", None)
    if sample.data.max() > LARGEST_LOG:
        return None
    return _by_sums(sample) or _by_multiples(sample)


def _by_sums(sample: sparse.csr_matrix) -> Guess | None:
    """Return the logarithm whose undone numbers add up to one total in every cell."""
    for base in BASES:
        undone = _undone(sample, base)
        if not is_constant(row_sums(undone)):
            continue
        total = _round(np.median(row_sums(undone)))
        values = Values("log1p", base, total)
        if fit(sample, values) < FITS:
            return Guess(
                f"log1p base {base} of numbers scaled to {total:,.0f} per cell; {NO_MULTIPLES}",
                values,
                True,
                sound=False,
            )
        return Guess(f"log1p base {base} of counts per {total:,.0f}", values, True)
    if sample.data.max() < math.log(LARGEST_LOG) and is_constant(row_sums(_undone(_undone(sample, "e"), "e"))):
        return Guess(TWICE, None, constant=True)
    return None


def _by_multiples(sample: sparse.csr_matrix) -> Guess | None:
    for base in BASES:
        if _are_counts(_undone(sample, base).data):
            return Guess(f"log1p base {base} of raw counts, never scaled", None, undo=_power(base))
    scores = {base: fit(sample, Values("log1p", base)) for base in BASES}
    best = max(scores, key=scores.get)
    if scores[best] < FITS:
        return None
    if sample.data.max() < math.log(LARGEST_LOG) and fit(_undone(sample, "e"), Values("log1p")) > scores[best]:
        return Guess(TWICE, None)
    return Guess(f"log1p base {best} of counts per 10,000", Values("log1p", best))


def _are_counts(undone: np.ndarray) -> bool:
    """Return whether all values below 20 are whole numbers, and there are twos among them."""
    small = undone[undone < 20]
    whole = np.rint(small)
    return bool(np.any(whole == 2)) and bool(np.all(np.abs(small - whole) < 0.01))


def _power(base: float | str) -> str:
    return "np.rint(np.expm1(X.data))" if base == "e" else f"np.rint({base} ** X.data - 1)"


def doubt(sample: sparse.csr_matrix, names: np.ndarray) -> str | None:
    """Return why whole numbers (rows of some cells, none of them empty) may be no counts, or None.

    Counting scatters by at least the square root of the mean (Poisson), logarithms and roots made whole do not. names:
    of the genes.
    """
    if sample.nnz < LEAST or not np.all(np.isfinite(sample.data)):
        return None
    if np.ptp(sample.data) == 0:
        return f"every number that isn't 0 is {sample.data[0]:g}: this says whether a gene is there, not how often"
    if sample.shape[0] < CELLS:
        return None
    return _too_even(sample, names) or _too_small(sample) or _of_one_size(sample) or _without_ones(sample)


def _of_one_size(sample: sparse.csr_matrix) -> str | None:
    few, total, many = np.quantile(row_sums(sample), [0.05, 0.5, 0.95])
    if total < LEAST or many - few > ONE_SIZE * total:
        return None
    return (
        f"nine in ten cells add up to {few:,.0f} to {many:,.0f}: numbers scaled to one total and made whole look like "
        "this, unless cells were sampled to one depth"
    )


def _without_ones(sample: sparse.csr_matrix) -> str | None:
    least = np.minimum.reduceat(sample.data, sample.indptr[:-1])[np.diff(sample.indptr) >= LEAST]
    without = int(np.count_nonzero(least > 1))
    if len(least) < CELLS or without < WITHOUT_ONES * len(least):
        return None
    return (
        f"in {without:,} of {len(least):,} cells no gene was counted once, the smallest number is up to "
        f"{least.max():g}: scaled numbers made whole look like this"
    )


def _too_even(sample: sparse.csr_matrix, names: np.ndarray) -> str | None:
    means = np.asarray(sample.mean(axis=0, dtype=np.float64)).ravel()
    spreads = np.asarray(sample.multiply(sample).mean(axis=0, dtype=np.float64)).ravel() - means**2
    common = np.flatnonzero(means >= 1)
    even = common[spreads[common] < means[common] / 2]
    if len(even) < 3 or len(even) < EVEN * len(common):
        return None
    most = even[np.argmax(means[even])]
    return (
        f"{len(even):,} of {len(common):,} common genes vary less than counts can ({names[most]!r}: mean "
        f"{means[most]:.1f}, variance {spreads[most]:.2f}): logarithms or roots made whole look like this"
    )


def _too_small(sample: sparse.csr_matrix) -> str | None:
    genes = float(np.median(np.diff(sample.indptr)))
    if sample.data.max() > SMALL or genes < MANY:
        return None
    return (
        f"no number is larger than {sample.data.max():g}, though a cell expresses {genes:,.0f} genes: logarithms made "
        "whole look like this"
    )


def fit(sample: sparse.csr_matrix, values: Values) -> float:
    """Return the share (0..1) of small values, undone, that are within 1 % of a multiple of their cell's smallest.

    Small: up to six and a half times the smallest, where neighbouring multiples are far apart; 0 if there are none.
    """
    undone = _undone(sample, values.base)
    least = np.minimum.reduceat(undone.data, undone.indptr[:-1])
    ratios = undone.data / np.repeat(least, np.diff(undone.indptr))
    small = ratios[(ratios > 1.05) & (ratios < 6.5)]
    if not len(small):
        return 0.0
    return float(np.mean(np.abs(small - np.rint(small)) < 0.01 * small))


def _undone(sample: sparse.csr_matrix, base: float | str) -> sparse.csr_matrix:
    with np.errstate(over="ignore"):
        data = np.expm1(sample.data.astype(np.float64) * Values("log1p", base).log_base)
    return sparse.csr_matrix((data, sample.indices, sample.indptr), shape=sample.shape)


def is_constant(sums: np.ndarray) -> bool:
    """Return whether several cells add up to one total."""
    return len(sums) > 1 and math.isfinite(sums.max()) and float(np.ptp(sums)) <= SUM_TOLERANCE * float(np.median(sums))


def _round(total: float) -> float:
    return float(f"{total:.3g}")
