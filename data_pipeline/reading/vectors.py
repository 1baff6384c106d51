"""One vector per cell that somebody else has made: `obsm` of the dataset's files, or X of a file of embeddings."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy import sparse

from data_pipeline.errors import RequestError
from data_pipeline.names import did_you_mean
from data_pipeline.reading.file import hdf5, matrix, places

NAMED = 5  # missing cells that a message names


@dataclass(eq=False)
class Vectors:
    """Row access to vectors of n cells. rows: int64 [n], each cell's row in `paths` laid end to end; starts: of each.

    obsm: name of the matrix in obsm; None: X. digest: what stands for the files' contents. fetch: finds a file where
    machines share no folder. Opens files where it is used, and holds none open when pickled.
    """

    paths: list[str]
    obsm: str | None
    rows: np.ndarray
    starts: np.ndarray
    width: int
    digest: str
    fetch: Callable[[str], str] | None = None
    _open: dict[tuple[int, int], matrix.Rows] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": {}}

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return the vectors of cells start..stop, float32 CSR [stop - start, width]."""
        wanted = self.rows[start:stop]
        found = np.zeros((len(wanted), self.width), np.float32)
        of_file = np.searchsorted(self.starts, wanted, side="right") - 1
        for number in np.unique(of_file):
            mine = np.flatnonzero(of_file == number)
            found[mine] = self._stored(int(number)).take(wanted[mine] - self.starts[number]).toarray()
        return sparse.csr_matrix(found)

    def _stored(self, number: int) -> matrix.Rows:
        key = (os.getpid(), number)
        if key not in self._open:
            path = self.paths[number] if self.fetch is None else self.fetch(self.paths[number])
            self._open[key] = matrix.Rows(_element(places.open_hdf5(path), self.obsm))
        return self._open[key]


def open_vectors(paths: list[str], obsm: str | None, cell_ids: np.ndarray, digest: str, dataset: str) -> Vectors:
    """Return the vectors of the cells `cell_ids` (str [n]), matched by name, whatever order the files have.

    RequestError if there is no such matrix, it has no row for some cell, or two for one.
    """
    names, widths = [], []
    for path in paths:
        with places.open_hdf5(path) as file:
            names.append(_names(file, path))
            widths.append(_width(file, path, obsm))
    if len(set(widths)) > 1:
        raise RequestError(
            f"{dataset}: obsm {obsm} has vectors of {' and '.join(map(str, widths))} numbers in its files"
        )
    rows = _rows(np.concatenate(names), cell_ids, dataset, " and ".join(paths))
    starts = np.concatenate([[0], np.cumsum([len(part) for part in names[:-1]])]).astype(np.int64)
    return Vectors(list(paths), obsm, rows, starts, widths[0], digest)


def _names(file: object, path: str) -> np.ndarray:
    table = file.get("obs")
    if table is None:
        raise RequestError(f"{path}: has no obs, so no names of cells; write it with anndata")
    return hdf5.index(table)


def _element(file: object, obsm: str | None) -> object:
    return file.get("X") if obsm is None else file.get(f"obsm/{obsm}")


def _width(file: object, path: str, obsm: str | None) -> int:
    """Return how many numbers a vector has; RequestError if there are none that can be read by rows."""
    element, there = _element(file, obsm), sorted(file["obsm"]) if "obsm" in file else []
    if element is None and obsm is None:
        raise RequestError(f"{path}: has no X, where one vector per cell was to be")
    if element is None:
        listed = ", ".join(there) or "none"
        raise RequestError(f"{path}: has no obsm {obsm!r}; {did_you_mean(obsm, there)}there are: {listed}")
    what = matrix.wrong(element) or ("a matrix stored by columns" if matrix.layout(element) == "csc" else None)
    if what is not None:
        raise RequestError(f"{path}: {'X' if obsm is None else f'obsm {obsm}'} is {what}; store one row per cell")
    return matrix.shape_of(element)[1]


def _rows(names: np.ndarray, cell_ids: np.ndarray, dataset: str, where: str) -> np.ndarray:
    place = {name: row for row, name in enumerate(names)}
    if len(place) < len(names):
        listed, times = np.unique(names.astype(str), return_counts=True)
        raise RequestError(f"{where}: {int((times > 1).sum())} cells are there twice: {_some(listed[times > 1])}")
    missing = [name for name in cell_ids if name not in place]
    if missing:
        raise RequestError(
            f"{dataset}: {len(missing):,} of {len(cell_ids):,} cells have no vector in {where}: {_some(missing)}. "
            "Cells are matched by name (the index of obs): give every cell a vector, under the dataset's names"
        )
    return np.array([place[name] for name in cell_ids], dtype=np.int64)


def _some(names: object) -> str:
    listed = [str(name) for name in names[:NAMED]]
    return ", ".join(listed) + (", ..." if len(names) > NAMED else "")
