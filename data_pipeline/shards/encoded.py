"""Cells as a model's input: ragged arrays, packed end to end."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class Encoded:
    """The whole input of a model for n cells, special tokens included; cell i is `offsets[i]:offsets[i + 1]`.

    ids: integers [T]; values: float32 [T], or None where the model has none; offsets: int64 [n + 1].
    """

    ids: np.ndarray
    values: np.ndarray | None
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per cell, int64 [n]."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> "Encoded":
        """Return the cells `rows` (int64 [b], repeats allowed) in that order, copied out of the (mapped) arrays."""
        rows = np.asarray(rows, dtype=np.int64)
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        source = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return Encoded(self.ids[source], None if self.values is None else self.values[source], offsets)


def concatenate(parts: list[Encoded]) -> Encoded:
    """Return the cells of `parts` one after the other."""
    lengths = np.concatenate([part.lengths for part in parts]) if parts else np.zeros(0, np.int64)
    values = None if any(part.values is None for part in parts) else np.concatenate([part.values for part in parts])
    return Encoded(np.concatenate([part.ids for part in parts]), values, np.concatenate([[0], np.cumsum(lengths)]))


# a model's input as numbers that linear methods understand: CSR [n, F]


def as_values(encoded: Encoded) -> sparse.csr_matrix:
    """Return each token's value (1 where the model has none) in the token's column."""
    return _matrix(encoded, encoded.ids, np.ones(len(encoded.ids)) if encoded.values is None else encoded.values)


def as_ranks(encoded: Encoded) -> sparse.csr_matrix:
    """Return each token's place in its cell, from 1 (first) down towards 0 (last), in the token's column."""
    return _matrix(encoded, encoded.ids, 1 - _places(encoded) / np.repeat(encoded.lengths, encoded.lengths))


def as_places(encoded: Encoded) -> sparse.csr_matrix:
    """Return each token's number in the column of its place in the cell."""
    return _matrix(encoded, _places(encoded), encoded.ids)


def _places(encoded: Encoded) -> np.ndarray:
    return np.arange(encoded.offsets[-1]) - np.repeat(encoded.offsets[:-1], encoded.lengths)


def _matrix(encoded: Encoded, columns: np.ndarray, values: np.ndarray) -> sparse.csr_matrix:
    shape = (len(encoded), int(columns.max(initial=0)) + 1)
    return sparse.csr_matrix((np.asarray(values, dtype=np.float32), columns, encoded.offsets), shape=shape)
