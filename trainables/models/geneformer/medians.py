"""Geneformer's gene medians, learnt from training cells where no published ones are at hand."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import sparse

from trainables.models.geneformer.encoder import TARGET_SUM

FIT_VALUES = 50_000_000  # counts kept at once: about a gigabyte


def fit_encoder(blocks: Iterable[tuple[sparse.csr_matrix, np.ndarray]], genes: list[str]) -> dict[str, Any]:
    """Return {"medians": per gene the median of its non-zero counts per 10,000} over training cells; 0: never seen.

    blocks: (counts CSR [n, G], totals [n] over all measured genes). Of training sets with more than FIT_VALUES non-zero
    counts every second cell is taken (or every fourth, ...): medians need no more.
    """
    kept: list[sparse.csr_matrix] = []
    seen, stride = 0, 1
    for counts, totals in blocks:
        rows = np.arange(-seen % stride, counts.shape[0], stride)
        seen += counts.shape[0]
        kept.append(_per_10k(sparse.csr_matrix(counts)[rows], np.asarray(totals)[rows]))
        while sum(part.nnz for part in kept) > FIT_VALUES and stride < seen:
            kept, stride = [sparse.vstack(kept, format="csr")[::2]], 2 * stride
    cells = sparse.vstack(kept, format="csc") if kept else sparse.csc_matrix((0, len(genes)))
    columns = np.split(cells.data, cells.indptr[1:-1])
    return {"medians": [float(np.median(column)) if len(column) else 0.0 for column in columns]}


def _per_10k(counts: sparse.csr_matrix, totals: np.ndarray) -> sparse.csr_matrix:
    """Return counts per 10,000, float64, without stored zeros."""
    shares = counts.astype(np.float64)
    shares.data *= np.repeat(TARGET_SUM / np.where(totals > 0, totals, 1.0), np.diff(shares.indptr))
    shares.eliminate_zeros()
    return shares
