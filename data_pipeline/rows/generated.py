"""Cells that a strategy made of training cells: kept on disk as counts, read like an opened dataset."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse

from data_pipeline.atomic import publish
from data_pipeline.normalise import row_sums

NUMBERS = {"data": np.float32, "indices": np.int32, "indptr": np.int64, "labels": np.int64, "totals": np.float64}


@dataclass(frozen=True)
class GeneratedCells:
    """Cells that a strategy made, in memory, with the face of an opened dataset.

    counts CSR float32 [n, G]; labels int64 [n] into `classes`; totals float64 [n]: counts per cell over all genes
    measured, those that the file leaves out included; digest: of all these numbers, so that cells made anew elsewhere
    are encoded anew unless they are the same.
    """

    digest: str
    counts: sparse.csr_matrix
    labels: np.ndarray
    classes: list[str]
    totals: np.ndarray
    donors: None = None
    fixed_test: None = None
    twins: None = None

    @property
    def num_cells(self) -> int:
        return len(self.labels)

    @property
    def cell_ids(self) -> list[str]:
        return [f"generated-{number}" for number in range(self.num_cells)]

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        return self.counts[start:stop]


def save_cells(path: Path, counts: sparse.csr_matrix, labels: np.ndarray, totals: np.ndarray) -> None:
    """Publish made cells as one npz file."""
    arrays = {"data": counts.data, "indices": counts.indices, "indptr": counts.indptr}
    arrays |= {"labels": labels, "totals": totals}
    data = io.BytesIO()
    np.savez(data, shape=np.array(counts.shape), **{name: arrays[name].astype(kind) for name, kind in NUMBERS.items()})
    publish(path, data.getvalue())


def load_cells(path: Path, classes: list[str]) -> GeneratedCells:
    """Return what `save_cells` wrote."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in (*NUMBERS, "shape")}
    digest = hashlib.sha256("\n".join(classes).encode())
    for array in arrays.values():
        digest.update(np.ascontiguousarray(array))
    counts = sparse.csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), shape=tuple(arrays["shape"]))
    return GeneratedCells(digest.hexdigest(), counts, arrays["labels"], classes, arrays["totals"])


def totals_of(made: sparse.csr_matrix, sources: np.ndarray, real: sparse.csr_matrix, totals: np.ndarray) -> np.ndarray:
    """Return counts per made cell over all genes measured, float64 [m].

    A file may hold some of the genes only; a made cell then has as much outside the file, relative to what is inside,
    as the real cell (`real` CSR [n, G], `totals` [n]) that lent it its library size.
    """
    inside, own = (row_sums(sparse.csr_matrix(counts)) for counts in (real, made))
    ratio = np.divide(totals, inside, out=np.ones(len(inside)), where=inside > 0)
    return own * ratio[sources]
