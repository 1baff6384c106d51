"""Cells that a strategy made of training cells: kept on disk as counts, read like an opened dataset."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse

from data_pipeline.atomic import publish


@dataclass(frozen=True)
class GeneratedCells:
    """Cells that a strategy made, in memory, with the face of an opened dataset.

    as_published: the values are shares that sum to 1, taken for counts per 10,000 as they stand (defect scvi_unscaled).
    """

    digest: str
    counts: sparse.csr_matrix
    labels: np.ndarray
    classes: list[str]
    as_published: bool = False
    donors: None = None
    fixed_test: None = None

    @property
    def num_cells(self) -> int:
        return len(self.labels)

    @property
    def totals(self) -> np.ndarray:
        sums = np.asarray(self.counts.sum(1), dtype=np.float64).ravel()
        return np.full_like(sums, 1e4) if self.as_published else sums

    @property
    def cell_ids(self) -> list[str]:
        return [f"generated-{number}" for number in range(self.num_cells)]

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        return self.counts[start:stop]

    def save(self, path: Path) -> None:
        """Publish counts and labels as one npz file."""
        counts, data = sparse.csr_matrix(self.counts, dtype=np.float32), io.BytesIO()
        arrays = {"data": counts.data, "indices": counts.indices, "indptr": counts.indptr}
        np.savez(data, labels=self.labels, shape=np.array(counts.shape), **arrays)
        publish(path, data.getvalue())

    @classmethod
    def load(cls, path: Path, digest: str, classes: list[str], as_published: bool = False) -> "GeneratedCells":
        """Return what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            counts = sparse.csr_matrix((file["data"], file["indices"], file["indptr"]), shape=tuple(file["shape"]))
            return cls(digest, counts, file["labels"].astype(np.int64), classes, as_published)
