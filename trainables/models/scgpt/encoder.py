"""Raw counts -> scGPT's tokens: each expressed gene with its bin of 1..50 within the cell, `<cls>` first.

As scgpt.preprocess.Preprocessor and scgpt.tokenizer.tokenize_and_pad_batch of github.com/bowang-lab/scGPT (MIT),
worked on whole blocks of cells. What is drawn there (into which of several bins an equal count falls, which genes an
over-long cell keeps) follows here from the cell's own counts, see ties.py, so that a cell's input is the same wherever
it stands. With numpy's legacy generator it is drawn as upstream does: one number per expressed gene, then the cuts.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from data_pipeline.errors import RequestError
from data_pipeline.shards.encoded import Encoded, concatenate
from trainables.models.scgpt import ties

CHUNK = 256  # cells worked on at once: arrays that stay in the processor's cache, and in memory that isn't given back
SMALL = 64  # counts below are told apart by counting
MOST = 65535  # above, two whole numbers may have the same float32 logarithm
VERSION = 2  # raise it when the same counts and generator give other tokens
TARGET_SUM = np.float32(1e4)
Rng = np.random.Generator | np.random.RandomState


@dataclass(frozen=True)
class ScgptEncoder:
    """Call it with raw counts (CSR [n, G]); `totals` isn't used: totals are over the known genes.

    columns: known genes' columns, ascending; places: which of the genes each of them adds to, None: each is its own;
    ids: the genes' tokens; cls: the token each cell begins with;
    max_length: tokens per cell at most, `<cls>` included: longer cells keep a random part, in the order drawn;
    draw: which of the cell's draws, see `redrawn`.
    """

    columns: np.ndarray
    ids: np.ndarray
    cls: int
    num_genes: int
    n_bins: int
    max_length: int
    include_zero: bool
    network_options: dict[str, Any]
    coverage: dict[str, Any]
    draw: int = 0
    places: np.ndarray | None = None
    identity: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        vocabulary = [self.columns.tolist(), self.ids.tolist(), self.cls, self.num_genes]
        vocabulary += [] if self.places is None else [self.places.tolist()]
        identity = {"encoder": "scgpt", "version": VERSION, "n_bins": self.n_bins, "max_length": self.max_length}
        identity |= {"include_zero": self.include_zero, "draw": self.draw, **self.network_options}
        identity["vocabulary"] = hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()
        object.__setattr__(self, "identity", identity)

    def redrawn(self, draw: int) -> "ScgptEncoder":
        """Return the encoder that gives every cell another draw of its ties; 0 is this one's."""
        return replace(self, draw=draw)

    def __call__(self, counts: sparse.csr_matrix, rng: Rng | None = None, totals: np.ndarray | None = None) -> Encoded:
        """Return the tokens; a legacy RandomState is drawn from as upstream does, a Generator isn't."""
        counts = sparse.csr_matrix(counts)
        starts = range(0, max(1, counts.shape[0]), CHUNK)
        binned = [self._binned(self._known(counts[start : start + CHUNK]), rng) for start in starts]
        return concatenate([self.tokens(part, rng) for part in binned])  # upstream cuts cells after all are binned

    def _binned(self, known: sparse.csr_matrix, rng: Rng | None) -> sparse.csr_matrix:
        """Return the bins of the known genes' counts, in their places."""
        offsets = known.indptr.astype(np.int64)
        values, whole = log_normalised(known.data, offsets), whole_numbers(known.data)
        draw = rng.random if is_upstreams(rng) else lambda size: self._shares(known, offsets)
        bins = bin_values(values, offsets, self.n_bins, draw, whole)
        return sparse.csr_matrix((bins, known.indices, known.indptr), known.shape)

    @cached_property
    def _keys(self) -> np.ndarray:
        return ties.keys_of(self.ids)

    def _shares(self, known: sparse.csr_matrix, offsets: np.ndarray) -> np.ndarray:
        """Return a number in [0, 1) for each of the counts, float32 [T], that follows from its cell's counts."""
        keys = np.take(self._keys, known.indices)
        seeds = ties.seeds_of(keys, known.data, offsets, self.draw)
        return (ties.numbers_of(keys, seeds, offsets) >> np.uint32(8)) * np.float32(2**-24)

    def _known(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        """Return the known genes' counts, worked on in place, without stored zeros, genes in column order."""
        if counts.shape[1] != self.num_genes:
            raise ValueError(f"the encoder was made for {self.num_genes} genes, the counts have {counts.shape[1]}")
        known = counts if len(self.columns) == self.num_genes else counts[:, self.columns]
        if self.places is not None:
            picks = (np.ones(len(self.places), np.float32), (np.arange(len(self.places)), self.places))
            known = known @ sparse.csr_matrix(picks, shape=(len(self.places), len(self.ids)))
        known = sparse.csr_matrix(known, dtype=np.float32)
        known.eliminate_zeros()
        known.sort_indices()
        if known.nnz and not (known.data.min() > 0 and np.isfinite(known.data).all()):
            raise RequestError("the counts hold negative or missing values; scGPT's bins are defined for counts only")
        return known

    def tokens(self, bins: sparse.csr_matrix, rng: Rng | None = None) -> Encoded:
        """Return `<cls>` (value 0) and the genes of each cell with their bins, over-long cells cut."""
        num_cells, num_known = bins.shape
        if self.include_zero:
            lengths, columns, values = np.full(num_cells, num_known), None, bins.toarray().ravel()
            columns = np.tile(np.arange(num_known), num_cells)
        else:
            lengths, columns, values = np.diff(bins.indptr), bins.indices, bins.data
        offsets = np.concatenate([[0], np.cumsum(lengths + 1)]).astype(np.int64)
        is_gene = np.ones(offsets[-1], dtype=bool)
        is_gene[offsets[:-1]] = False
        ids = np.full(offsets[-1], self.cls, dtype=np.int32)
        ids[is_gene] = self.ids[columns]
        levels = np.zeros(offsets[-1], dtype=np.float32)
        levels[is_gene] = values
        return cut(Encoded(ids, levels, offsets), self.max_length, rng, self.draw)


def is_upstreams(rng: Rng | None) -> bool:
    """Tell whether it is numpy's legacy generator, from which upstream draws."""
    return isinstance(rng, np.random.RandomState)


def log_normalised(counts: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return log(1 + counts per 10,000 of the cell), float32 [T], for the ragged rows `offsets` of positive counts."""
    return np.log1p(normalised(counts, offsets))


def normalised(counts: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return counts per 10,000 of the cell, float32 [T], rounded as scanpy does: x / (total / 10,000)."""
    totals = np.zeros(len(offsets) - 1)
    filled = np.diff(offsets) > 0
    if filled.any():
        totals[filled] = np.add.reduceat(counts, offsets[:-1][filled], dtype=np.float64)
    return counts / np.repeat(totals.astype(np.float32) / TARGET_SUM, np.diff(offsets))


def whole_numbers(counts: np.ndarray) -> np.ndarray | None:
    """Return positive counts as int64 [T], or None if they aren't whole numbers of moderate size."""
    if counts.max(initial=0) > MOST:
        return None
    whole = counts.astype(np.int64)
    return whole if np.array_equal(whole, counts) else None


def bin_values(
    values: np.ndarray,
    offsets: np.ndarray,
    n_bins: int,
    draw: Callable[[int], np.ndarray],
    counts: np.ndarray | None = None,
) -> np.ndarray:
    """Return each value's bin within its row, int64 [T] in 1..n_bins-1, for ragged rows of positive float32 values.

    The edges are the row's quantiles at n_bins - 1 even steps, repeats included. A value that equals k edges gets a
    uniformly drawn bin of the last k; draw(T) gives a number in [0, 1) per value, whether needed or not, as upstream
    draws them. counts: the whole numbers that the values grow with, if there are any: equal ones are then found by
    counting.
    """
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    if counts is None:
        bits = values.view(np.uint32).astype(np.int64)  # positive floats sort as their bits do
        keys, inverse, repeats = np.unique((rows << 32) | bits, return_inverse=True, return_counts=True)
        distinct = (keys & 0xFFFFFFFF).astype(np.uint32).view(np.float32)
    else:
        keys, inverse, repeats = distinct_counts(rows, counts, len(offsets) - 1)
        distinct = np.empty(len(keys), dtype=np.float32)
        distinct[inverse] = values
    edges = edges_of(np.repeat(distinct, repeats), offsets, n_bins)
    reached, passed = _edges_below(distinct, keys >> 32, edges)
    upper, lower = reached[inverse], passed[inverse]
    return np.ceil(draw(len(values)) * (lower - upper) + upper).astype(np.int64)


def distinct_counts(rows: np.ndarray, counts: np.ndarray, num_rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what np.unique does of (row << 32 | count): keys ascending, each value's place in them, repeats.

    Most counts are small, and small ones are told apart by counting, without a sort.
    """
    small = counts < SMALL
    places = rows[small] * SMALL + counts[small]
    table = np.bincount(places, minlength=num_rows * SMALL)
    found = np.flatnonzero(table)
    large, large_inverse, large_repeats = np.unique(
        (rows[~small] << 32) | counts[~small], return_inverse=True, return_counts=True
    )
    keys = np.concatenate([(found // SMALL << 32) | found % SMALL, large])
    order = np.argsort(keys, kind="stable")
    rank = np.empty(len(keys), dtype=np.int64)
    rank[order] = np.arange(len(keys))
    at = np.zeros(len(table), dtype=np.int64)
    at[found] = rank[: len(found)]
    inverse = np.empty(len(counts), dtype=np.int64)
    inverse[small], inverse[~small] = at[places], rank[len(found) :][large_inverse]
    return keys[order], inverse, np.concatenate([table[found], large_repeats])[order]


def edges_of(ascending: np.ndarray, offsets: np.ndarray, n_bins: int) -> np.ndarray:
    """Return each row's quantiles, float64 [n, n_bins - 1], with numpy.quantile's own rounding; empty rows give 0."""
    lengths = np.diff(offsets)[:, None]
    place = (lengths - 1) * np.linspace(0, 1, n_bins - 1)
    below = np.floor(place).astype(np.int64)
    share = place - below
    last = np.maximum(lengths - 1, 0)
    start = offsets[:-1, None]
    padded = np.append(ascending, np.float32(0))  # so that empty rows at the end have something to point at
    low = padded[start + np.clip(below, 0, last)]
    high = padded[start + np.clip(below + 1, 0, last)]
    step = high - low  # in float32, as numpy does it
    edges = np.where(share >= 0.5, high - step * (1 - share), low + step * share)
    return np.where(lengths > 0, edges, 0.0)


def _edges_below(values: np.ndarray, rows: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (number of the row's edges <= value, number < value) for each value, int64."""
    at_most, below = np.zeros(len(values), np.int64), np.zeros(len(values), np.int64)
    for edge in edges.T:
        edge = edge[rows]
        at_most += edge <= values
        below += edge < values
    return at_most, below


def cut(encoded: Encoded, max_length: int, rng: Rng | None, draw: int = 0) -> Encoded:
    """Return the cells with at most `max_length` tokens: `<cls>` and a random part of the genes, in the order drawn."""
    lengths = encoded.lengths
    long = np.flatnonzero(lengths > max_length)
    if not len(long):
        return encoded
    kept = np.minimum(lengths, max_length)
    offsets = np.concatenate([[0], np.cumsum(kept)])
    source = np.arange(offsets[-1]) + np.repeat(encoded.offsets[:-1] - offsets[:-1], kept)
    for cell in long:
        genes = slice(encoded.offsets[cell] + 1, encoded.offsets[cell + 1])
        if is_upstreams(rng):
            drawn = rng.choice(lengths[cell] - 1, max_length - 1, replace=False)
        else:
            drawn = _own_order(encoded.ids[genes], encoded.values[genes], draw)[: max_length - 1]
        source[offsets[cell] + 1 : offsets[cell + 1]] = genes.start + drawn
    return Encoded(encoded.ids[source], encoded.values[source], offsets)


def _own_order(ids: np.ndarray, bins: np.ndarray, draw: int) -> np.ndarray:
    """Return a random order of one cell's genes that follows from their tokens and bins."""
    keys, whole = ties.keys_of(ids), np.array([0, len(ids)])
    return np.argsort(ties.numbers_of(keys, ties.seeds_of(keys, bins, whole, draw), whole), kind="stable")
