"""Geneformer's encoder: a cell's genes in the order of their expression relative to the gene's median."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from data_pipeline.normalise import row_sums
from data_pipeline.shards.encoded import Encoded

VERSION = 1
TARGET_SUM = 10_000
CHUNK = 128  # cells sorted together
ROUNDS = 16  # of swaps between neighbours; counts need about 3
LAST = np.uint32(0xFFFFFFFF)


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
        totals = row_sums(counts) if totals is None else np.asarray(totals)
        genes = self._genes(counts)
        ranked = self._ranked(genes, np.where(totals > 0, totals, 1.0).astype(np.float64))
        return self._with_specials(ranked, genes.indptr.astype(np.int64))

    def _genes(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        """Return the positive counts of the known genes, CSR [n, known], genes in order within a cell."""
        known = self.places >= 0
        if np.array_equal(self.places, np.arange(len(self.places))):
            genes = counts
        elif np.array_equal(self.places[known], np.arange(known.sum())):
            genes = counts[:, known]
        else:
            columns = np.flatnonzero(known)
            shape = (len(self.places), len(self.tokens))
            collect = sparse.csr_matrix((np.ones(len(columns)), (columns, self.places[columns])), shape=shape)
            genes = sparse.csr_matrix(counts.astype(np.float64) @ collect)
        if genes.data.min(initial=1) > 0 and genes.has_sorted_indices:
            return genes
        genes = genes.copy() if genes is counts else genes
        genes.eliminate_zeros()
        genes.sort_indices()
        return genes

    def _ranked(self, genes: sparse.csr_matrix, totals: np.ndarray) -> np.ndarray:
        """Return the tokens of all positive genes, cell by cell, highest expression first: [nnz of `genes`]."""
        kind = np.uint16 if self.network_options["num_tokens"] <= 65536 else np.int32
        tokens, offsets = self.tokens.astype(kind), genes.indptr.astype(np.int64)
        ranked = np.empty(genes.nnz, dtype=kind)
        for start in range(0, genes.shape[0], CHUNK):
            inside = offsets[start : start + CHUNK + 1]
            part, lengths = slice(inside[0], inside[-1]), np.diff(inside)
            columns = genes.indices[part]
            expression = genes.data[part] / np.repeat(totals[start : start + CHUNK], lengths) * TARGET_SUM
            expression /= np.take(self.medians, columns)
            np.take(np.take(tokens, columns), descending(expression, inside - inside[0]), out=ranked[part], mode="clip")
        return ranked

    def _with_specials(self, ranked: np.ndarray, indptr: np.ndarray) -> Encoded:
        """Return the ranked tokens of all cells, those beyond `max_length` cut, with the special tokens put in."""
        before, after = self.specials
        room, starts, lengths = self.max_length - len(before) - len(after), indptr[:-1], np.diff(indptr)
        if lengths.max(initial=0) > room:
            ranked = ranked[np.arange(len(ranked)) - np.repeat(starts, lengths) < room]
            lengths = np.minimum(lengths, room)
        offsets = np.concatenate([[0], np.cumsum(lengths + len(before) + len(after))]).astype(np.int64)
        if not before and not after:
            return Encoded(ranked, None, offsets)
        ids, is_gene = np.empty(offsets[-1], dtype=ranked.dtype), np.ones(offsets[-1], dtype=bool)
        for shift, token in enumerate(before):
            ids[offsets[:-1] + shift], is_gene[offsets[:-1] + shift] = token, False
        for shift, token in enumerate(reversed(after)):
            ids[offsets[1:] - 1 - shift], is_gene[offsets[1:] - 1 - shift] = token, False
        ids[is_gene] = ranked
        return Encoded(ids, None, offsets)


def descending(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the order, int32 [T], that sorts each ragged row of positive float64 from high to low; ties keep theirs.

    Rows are sorted together, as a padded matrix of 32-bit keys: as many leading bits of the value (as float32, turned
    around) as there is room for beside the value's place in its row. numpy sorts such keys several times faster than
    it finds an order. Neighbours that these bits don't tell apart are then put right by their full values.
    """
    lengths = np.diff(offsets)
    width = np.arange(lengths.max(initial=0), dtype=np.uint32)
    if not len(width):
        return np.zeros(0, dtype=np.int32)
    place_bits = np.uint32(max(1, int(width[-1]).bit_length()))
    place = (np.uint32(1) << place_bits) - np.uint32(1)
    with np.errstate(over="ignore", under="ignore"):
        keys = values.astype(np.float32).view(np.uint32)  # positive floats sort as their bits do
    top = keys.max()
    excess = int(top - keys.min()).bit_length() - (32 - int(place_bits))
    keys = ((top - keys) >> np.uint32(max(0, excess))) << place_bits
    inside = width < lengths[:, None].astype(np.uint32)
    packed = np.full(inside.shape, LAST)
    packed[inside] = keys
    packed |= width
    packed.sort(axis=1)
    keys = packed[inside]
    order = (keys & place).view(np.int32)
    order += np.repeat(offsets[:-1].astype(np.int32), lengths)
    alike = np.flatnonzero((keys[1:] ^ keys[:-1]) <= place)
    row = np.searchsorted(offsets, np.stack([alike, alike + 1]), side="right")
    if _put_right(order, alike[row[0] == row[1]], values):
        return order
    return np.lexsort((-values, np.repeat(np.arange(len(lengths)), lengths))).astype(np.int32)


def _put_right(order: np.ndarray, alike: np.ndarray, values: np.ndarray) -> bool:
    """Swap neighbours (order[i], order[i + 1]), i in `alike`, until none is the smaller value before the larger.

    False where that takes more than a few rounds: where many values of a row are almost, but not quite, the same.
    """
    for _ in range(ROUNDS):
        wrong = alike[values[order[alike]] < values[order[alike + 1]]]
        if not len(wrong):
            return True
        first = wrong[np.diff(wrong, prepend=-2) > 1]  # no position is part of two swaps
        order[first], order[first + 1] = order[first + 1], order[first]
    return False
