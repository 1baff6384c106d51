"""Vectors of cells as a model's input: what somebody else's network, or one of ours at rest, has made of them."""

from typing import Any

import numpy as np
from scipy import sparse

from data_pipeline.errors import RequestError
from data_pipeline.shards.shards import iterate
from trainables.spec import Encoded

ROUNDING = 1e-6  # of a feature's mean: a spread below this is none


class Given:
    """Vectors as they come: ids = their columns, values = their numbers."""

    def __init__(self, width: int, digest: str, where: str) -> None:
        self.identity: dict[str, Any] = {"encoder": "vectors", "version": 1, "sha256": digest, "where": where}
        self.network_options: dict[str, Any] = {"num_genes": width}
        self.coverage: dict[str, Any] = {"genes": width, "known": width, "share": 1.0, "unknown": []}

    def __call__(self, counts: sparse.csr_matrix, rng: Any, totals: np.ndarray | None = None) -> Encoded:
        """Return every number of every vector; RequestError if one isn't finite. counts: the vectors [n, width]."""
        return packed(counts.toarray(), self.identity["where"])


def packed(vectors: np.ndarray, where: str) -> Encoded:
    """Return vectors, [n, width], as a model's input; RequestError if a number isn't finite."""
    number, width = vectors.shape
    if not np.isfinite(vectors).all():
        bad = int((~np.isfinite(vectors)).any(axis=1).sum())
        raise RequestError(f"{where}: the vectors of {bad} cells have numbers that are not finite (NaN or infinite)")
    ids = np.tile(np.arange(width, dtype=np.int32), number)
    return Encoded(ids, vectors.astype(np.float32).ravel(), np.arange(number + 1, dtype=np.int64) * width)


class Scaled:
    """Shards of vectors, each number brought to mean 0 and variance 1 of the cells `rows` (int64), as it is read.

    Penalties compare coefficients, and a network starts from weights that are meant for such numbers.
    """

    def __init__(self, shards: Any, rows: np.ndarray) -> None:
        self._shards, self._width = shards, shards.network_options["num_genes"]
        sums, squares = np.zeros(self._width), np.zeros(self._width)
        for part in iterate(shards, rows):
            vectors = _vectors(part, self._width)
            sums, squares = sums + vectors.sum(axis=0), squares + (vectors**2).sum(axis=0)
        self.mean = sums / max(len(rows), 1)
        deviation = np.sqrt(np.maximum(squares / max(len(rows), 1) - self.mean**2, 0))
        self.deviation = np.where(deviation > ROUNDING * np.abs(self.mean), deviation, 1.0)

    def take(self, rows: np.ndarray, *kind: type[np.integer]) -> Encoded:
        """Return the cells `rows`, scaled."""
        return scaled(self._shards.take(rows, *kind), self.mean, self.deviation)

    def __len__(self) -> int:
        return len(self._shards)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shards, name)


def scaled(part: Encoded, mean: np.ndarray, deviation: np.ndarray) -> Encoded:
    """Return vectors less a mean, over a deviation, float64 [width] each."""
    vectors = (_vectors(part, len(mean)) - mean) / deviation
    return Encoded(part.ids, vectors.astype(np.float32).ravel(), part.offsets)


def _vectors(part: Encoded, width: int) -> np.ndarray:
    return np.asarray(part.values, dtype=np.float64).reshape(-1, width)
