"""Geneformer's encoder: a cell's genes in the order of their expression relative to the gene's median."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from data_pipeline.encoded import Encoded

VERSION = 1
TARGET_SUM = 10_000
CHUNK = 128  # cells sorted together
PLACE = np.uint64(0xFFFF)  # the bits of a sort key that hold a gene's place: fewer genes than that per cell
LAST = np.uint64(0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True)
class GeneformerEncoder:
    """Gene tokens in descending order of counts per 10,000 / median, cut to `max_length`; equal ones in gene order.

    places: for each dataset column its gene's number, -1 if the vocabulary lacks it; columns of one gene are summed.
    tokens, medians: per gene. specials: the tokens put before and after the genes (none, or `<cls>` and `<eos>`).
    """

    places: np.ndarray
    tokens: np.ndarray
    medians: np.ndarray
    specials: tuple[list[int], list[int]]
    max_length: int
    network_options: dict[str, Any]
    coverage: dict[str, Any]

    @property
    def identity(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for array, kind in ((self.places, "<i8"), (self.tokens, "<i8"), (self.medians, "<f8")):
            digest.update(array.astype(kind).tobytes())
        return {
            "encoder": "geneformer",
            "version": VERSION,
            "genes": digest.hexdigest(),
            "specials": self.specials,
            "max_length": self.max_length,
        }

    def __call__(
        self,
        counts: sparse.csr_matrix,
        rng: np.random.Generator | np.random.RandomState | None = None,
        totals: np.ndarray | None = None,
    ) -> Encoded:
        """Return the tokens of the cells, uint16 (int32 for larger vocabularies); nothing is drawn from `rng`.

        totals: counts per cell over all measured genes (upstream's n_counts). A cell without any known gene has only
        the special tokens, or none at all.
        """
        counts = sparse.csr_matrix(counts)
        totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel() if totals is None else totals
        genes = self._genes(counts)
        offsets, lengths = genes.indptr.astype(np.int64), np.diff(genes.indptr)
        per_cell = np.where(totals > 0, totals, 1.0).astype(np.float64)
        expression = genes.data / np.repeat(per_cell, lengths) * TARGET_SUM / self.medians[genes.indices]
        order = descending(expression, offsets)
        room = self.max_length - sum(map(len, self.specials))
        if lengths.max(initial=0) > room:
            order = order[np.arange(len(order)) - np.repeat(offsets[:-1], lengths) < room]
        return self._with_specials(self.tokens[genes.indices[order]], np.minimum(lengths, room))

    def _genes(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        """Return the positive counts of the known genes, float64 CSR [n, known], sorted by gene within a cell."""
        columns = np.flatnonzero(self.places >= 0)
        ones = np.ones(len(columns))
        shape = (len(self.places), len(self.tokens))
        collect = sparse.csr_matrix((ones, (columns, self.places[columns])), shape=shape)
        genes = sparse.csr_matrix(counts.astype(np.float64) @ collect)
        genes.eliminate_zeros()
        genes.sort_indices()
        return genes

    def _with_specials(self, ranked: np.ndarray, lengths: np.ndarray) -> Encoded:
        """Return the ranked genes of all cells with the special tokens put in."""
        before, after = self.specials
        offsets = np.concatenate([[0], np.cumsum(lengths + len(before) + len(after))]).astype(np.int64)
        ids = np.empty(offsets[-1], dtype=np.int64)
        is_gene = np.ones(len(ids), dtype=bool)
        for shift, token in enumerate(before):
            ids[offsets[:-1] + shift], is_gene[offsets[:-1] + shift] = token, False
        for shift, token in enumerate(reversed(after)):
            ids[offsets[1:] - 1 - shift], is_gene[offsets[1:] - 1 - shift] = token, False
        ids[is_gene] = ranked
        return Encoded(
            ids.astype(np.uint16 if self.network_options["num_tokens"] <= 65536 else np.int32), None, offsets
        )


def descending(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the order, int64 [T], that sorts each ragged row of positive float64 from high to low; ties keep theirs.

    Rows of like length are sorted together, as a padded matrix of integers: the upper 48 bits of a value, turned
    around, and its place, which numpy sorts several times faster than it finds an order. The few rows where 48 bits
    don't tell two values apart are sorted again in full.
    """
    lengths = np.diff(offsets)
    order = np.empty(len(values), dtype=np.int64)
    keys = ~values.view(np.uint64) & ~PLACE  # positive floats sort as their bits do
    by_length = np.argsort(lengths, kind="stable")
    by_length = by_length[lengths[by_length] > 0]
    for chunk in np.array_split(by_length, max(1, len(by_length) // CHUNK)):
        width, start = np.arange(lengths[chunk].max(initial=0)), offsets[chunk][:, None]
        inside = width < lengths[chunk][:, None]
        source = np.where(inside, start + width, 0)
        packed = np.sort(np.where(inside, keys[source] | width.astype(np.uint64), LAST), axis=1)
        ranked = start + (packed & PLACE).astype(np.int64)
        sorted_values = values[np.where(inside, ranked, 0)]
        for row in np.flatnonzero(((sorted_values[:, 1:] > sorted_values[:, :-1]) & inside[:, 1:]).any(axis=1)):
            size = lengths[chunk[row]]
            exact = np.argsort(-values[start[row, 0] : start[row, 0] + size], kind="stable")
            ranked[row, :size] = start[row, 0] + exact
        order[source[inside]] = ranked[inside]
    return order
