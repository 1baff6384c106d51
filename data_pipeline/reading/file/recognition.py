"""Which transformation made these numbers? Told by arithmetic that only the right answer passes.

With all genes in the file, undone cells add up to one total in the right base only. With some genes left out, the
values of a cell are still whole multiples of its smallest one, which stands for one count.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from data_pipeline.reading.source import Values

BASES = ("e", 2, 10)
SUM_TOLERANCE = 0.01  # relative: rounding of stored values
LARGEST_LOG = 25.0  # no logarithm of counts is larger


@dataclass(frozen=True)
class Guess:
    """What the numbers look like, in words; values: what to declare, None if it can't be; constant: told by sums."""

    words: str
    values: Values | None
    constant: bool = False


def recognise(sample: sparse.csr_matrix) -> Guess | None:
    """Return what non-negative numbers (stored rows of some cells, none of them empty) look like, or None."""
    if not sample.nnz or not np.all(np.isfinite(sample.data)) or sample.data.min() < 0:
        return None
    stored = _sums(sample)
    if is_constant(stored):
        total = _round(np.median(stored))
        words = f"counts scaled to {total:,.0f} per cell without a logarithm (log1p of them could be declared)"
        return Guess(words, None, constant=True)
    if sample.data.max() > LARGEST_LOG:
        return None
    for base in BASES:
        sums = _sums(_undone(sample, base))
        if is_constant(sums):
            total = _round(np.median(sums))
            return Guess(f"log1p base {base} of counts per {total:,.0f}", Values("log1p", base, total), constant=True)
    return _by_multiples(sample)


def _by_multiples(sample: sparse.csr_matrix) -> Guess | None:
    for base in BASES:
        if _are_counts(_undone(sample, base).data):
            return Guess(f"log1p base {base} of raw counts, never scaled; undo it: {_code(base)}", None)
    scores = {base: fit(sample, Values("log1p", base)) for base in BASES}
    best = max(scores, key=scores.get)
    if scores[best] < 0.8:
        return None
    return Guess(f"log1p base {best} of counts per 10,000", Values("log1p", best))


def _are_counts(undone: np.ndarray) -> bool:
    """Return whether all values below 20 are whole numbers, and there are twos among them."""
    small = undone[undone < 20]
    whole = np.rint(small)
    return bool(np.any(whole == 2)) and bool(np.all(np.abs(small - whole) < 0.01))


def _code(base: float | str) -> str:
    power = "np.expm1(adata.X.data)" if base == "e" else f"{base} ** adata.X.data - 1"
    return f"adata.X.data = ({power}).round()"


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


def _sums(sample: sparse.csr_matrix) -> np.ndarray:
    return np.asarray(sample.sum(axis=1, dtype=np.float64)).ravel()


def is_constant(sums: np.ndarray) -> bool:
    """Return whether several cells add up to one total."""
    return len(sums) > 1 and math.isfinite(sums.max()) and float(np.ptp(sums)) <= SUM_TOLERANCE * float(np.median(sums))


def _round(total: float) -> float:
    return float(f"{total:.3g}")
