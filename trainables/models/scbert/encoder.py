"""scBERT's encoder: every gene's expression as one of six tokens, in the order of scBERT's own gene list."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from data_pipeline.shards.encoded import Encoded

VERSION = 1
TARGET_SUM = np.float32(1e4)
TOP = 5  # the highest token: 31 or more counts per 10,000
MIN_GENES = 200  # upstream drops cells in which fewer of the listed genes are expressed


@dataclass(frozen=True)
class ScbertEncoder:
    """Tokens floor(min(log2(1 + counts per 10,000), 5)) of all genes, uint8, then one 0: every cell is L tokens long.

    places: for each dataset column its place among the L - 1 genes, -1 if it has none; columns of one place are added
    up. Counts per 10,000 refer to the
    listed genes: `totals` (counts over all measured genes) less the counts of columns without a place.
    """

    places: np.ndarray
    num_genes: int
    double_log: bool
    network_options: dict[str, Any]
    coverage: dict[str, Any]

    @property
    def identity(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.places.astype("<i8").tobytes()).hexdigest()
        return {
            "encoder": "scbert",
            "version": VERSION,
            "places": digest,
            "genes": self.num_genes,
            "double_log": self.double_log,
        }

    def __call__(
        self,
        counts: sparse.csr_matrix,
        rng: np.random.Generator | np.random.RandomState | None = None,
        totals: np.ndarray | None = None,
    ) -> Encoded:
        """Return the tokens of the cells; nothing is drawn from `rng`."""
        values = self.values(counts, totals)
        tokens = np.zeros((values.shape[0], self.num_genes + 1), dtype=np.uint8)
        tokens[_rows(values), values.indices] = np.minimum(values.data, TOP)  # the cast rounds down
        length = tokens.shape[1]
        return Encoded(tokens.ravel(), None, np.arange(len(tokens) + 1, dtype=np.int64) * length)

    def values(self, counts: sparse.csr_matrix, totals: np.ndarray | None = None) -> sparse.csr_matrix:
        """Return log2(1 + counts per 10,000) of the listed genes, float32 CSR [n, L - 1]."""
        counts = sparse.csr_matrix(counts)
        rows, places = _rows(counts), self.places[counts.indices]
        kept, data = places >= 0, counts.data.astype(np.float32)
        if totals is not None:
            totals = totals - np.bincount(rows[~kept], data[~kept], counts.shape[0])
        data, rows, places = self._added_up(data[kept], rows[kept], places[kept], counts.shape[0])
        if self.double_log:
            data, totals = np.log1p(_per_10k(data, rows, counts.shape[0], totals)), None
        data = (np.log1p(_per_10k(data, rows, counts.shape[0], totals)) / np.log(2.0)).astype(np.float32)
        indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=counts.shape[0]))])
        return sparse.csr_matrix((data, places, indptr), shape=(counts.shape[0], self.num_genes))

    def _added_up(
        self, data: np.ndarray, rows: np.ndarray, places: np.ndarray, num_cells: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (counts, rows, places) with the counts of one cell and place added up."""
        if not self._repeats:
            return data, rows, places
        added = sparse.coo_matrix((data, (rows, places)), shape=(num_cells, self.num_genes)).tocsr()
        return added.data, _rows(added), added.indices

    @cached_property
    def _repeats(self) -> bool:
        there = self.places[self.places >= 0]
        return len(np.unique(there)) < len(there)

    def enough_genes(self, counts: sparse.csr_matrix, least: int = MIN_GENES) -> np.ndarray:
        """Return which cells upstream's filter would keep, bool [n]: at least `least` listed genes expressed."""
        return self.values(counts).getnnz(axis=1) >= least


def _rows(matrix: sparse.csr_matrix) -> np.ndarray:
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))


def _per_10k(data: np.ndarray, rows: np.ndarray, num_cells: int, totals: np.ndarray | None) -> np.ndarray:
    """Return data per 10,000 of its cell's total (its own sum if None), rounded in float32 as scanpy does."""
    sums = np.bincount(rows, data, num_cells) if totals is None else np.asarray(totals, dtype=np.float64)
    sums = np.where(sums > 0, sums, 1.0).astype(np.float32)
    return data / (sums / TARGET_SUM)[rows]
