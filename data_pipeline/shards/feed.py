"""Shards and row numbers -> batches, in an order that depends on (seed, pass) alone: any pass can be redone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.seeds import generator

ALL = slice(None)
POOL = 50  # batches per pool within which cells are sorted by length, as Hugging Face's group_by_length


@dataclass(frozen=True)
class Batch:
    """inputs: what the network takes; labels int64 [b]; rows int64 [b]: which cells these are.

    shared: the rows of the batch that these are a part of; None: these are all.
    """

    inputs: dict[str, Any]
    labels: np.ndarray
    rows: np.ndarray
    shared: np.ndarray | None = None

    @property
    def whole(self) -> np.ndarray:
        """The rows of the whole batch."""
        return self.rows if self.shared is None else self.shared


@dataclass(frozen=True)
class Feed:
    """Batches of cells. shards: anything with take(rows) and lengths; collate(encoded, rows) -> dict of tensors."""

    shards: Any
    labels: np.ndarray
    collate: Callable[..., dict[str, Any]]
    batch_size: int

    def order(
        self, rows: np.ndarray, seed: int, number: int, length_aware: bool = False, shuffle: bool = True
    ) -> np.ndarray:
        """Return the rows in the order of pass `number`; `length_aware` keeps cells of like length together in pools.

        `shuffle=False` is there for the published defect: the same order in every pass.
        """
        rng = generator(seed, "order", number if shuffle else 0)
        order = rows[rng.permutation(len(rows))]
        return self._by_length(order, rng) if length_aware else order

    def longest_first(self, rows: np.ndarray) -> np.ndarray:
        """Return the places of `rows`, longest cells first, so that a batch that doesn't fit fails at once."""
        return np.argsort(-self.shards.lengths[rows], kind="stable")

    def num_batches(self, num_rows: int) -> int:
        return -(-num_rows // self.batch_size)

    def _by_length(self, order: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Sort pools of POOL batches by length, then shuffle the batches."""
        pool = POOL * self.batch_size
        pools = [order[start : start + pool] for start in range(0, len(order), pool)]
        order = np.concatenate([p[np.argsort(-self.shards.lengths[p], kind="stable")] for p in pools] or [order])
        full = len(order) // self.batch_size * self.batch_size
        shuffled = rng.permutation(order[:full].reshape(-1, self.batch_size))
        return np.concatenate([shuffled.ravel(), order[full:]])

    def batches(self, order: np.ndarray) -> Iterator[Batch]:
        """Yield the rows cut to batches, the last as long as is left."""
        for start in range(0, len(order), self.batch_size):
            yield self.batch(order[start : start + self.batch_size])

    def batch(self, rows: np.ndarray, part: slice = ALL) -> Batch:
        """Return the cells `rows` as one batch, or a part of it, which may be empty and has no inputs then."""
        mine = rows[part]
        inputs = self.collate(self.shards.take(mine), np.arange(len(mine))) if len(mine) else {}
        return Batch(inputs, self.labels[mine], mine, rows)
