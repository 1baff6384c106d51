"""h5ad files -> labelled counts by row blocks; refuses what is not counts, with every problem at once.

X stays on disk: it passes through once when a dataset is first opened (checked, summed, hashed), later opens read the
verdict from a cache, and workers read the blocks they need.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from data_pipeline.atomic import delivering
from data_pipeline.errors import RequestError
from data_pipeline.names import did_you_mean
from data_pipeline.reading import labels, remembered, validation
from data_pipeline.reading.cells import Cells
from data_pipeline.reading.file import hdf5, places
from data_pipeline.reading.source import Source, Values
from data_pipeline.shared import objects

__all__ = ["Cells", "Source", "Values", "open_cells", "read_labels", "write_annotated", "write_h5ad"]


def open_cells(source: Source, cache: Path | None = None) -> Cells:
    """Return the validated dataset; RequestError lists everything wrong with it.

    cache: folder that remembers validated files by path, size, time of change and options, so that a second open is
    instant, and that holds the copy by rows of a large CSC matrix (without it: a folder in the system's temporary one).
    """
    try:
        return _open(source, cache)
    except OSError as error:
        uri = next(filter(places.is_uri, source.all_paths), None)
        if uri is None or "AWS" not in str(error):
            raise
        raise RequestError(f"{uri}: {objects.why(error, uri, 'read')}") from error


def _open(source: Source, cache: Path | None) -> Cells:
    if cache is None:
        return validation.validate(source, Path(tempfile.gettempdir()) / f"cellskew-{os.getuid()}")
    cache = Path(cache).absolute()
    known = remembered.recall(source, cache)
    if known is None:
        known = validation.validate(source, cache)
        remembered.remember(known, cache)
    return known


def write_h5ad(path: Path, counts: sparse.csr_matrix, genes: np.ndarray, obs: pd.DataFrame) -> None:
    """Write counts (CSR [n, G]) with their cells (index of obs) and genes as an h5ad file."""
    import anndata

    cells = anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=pd.Index(genes.astype(str))))
    cells.write_h5ad(path, compression="gzip")


def read_labels(cells: Cells, column: str) -> np.ndarray:
    """Return what a column of obs says of each cell of a dataset of one file: str objects [n], "" where nothing.

    RequestError if there is no such column.
    """
    path = cells.source.paths[0]
    with places.open_hdf5(path) as file:
        known = hdf5.column_names(file["obs"])
        if column not in known:
            meant = did_you_mean(column, known)
            raise RequestError(f"{path}: has no obs[{column!r}]; {meant}there are: {', '.join(known) or 'none'}")
        said = hdf5.column(file["obs"], column)
    texts = np.array(["" if pd.isna(one) else labels.clean(one) for one in said], dtype=object)
    of_row = cells.counts.cell_of_row
    found = np.full(cells.num_cells, "", dtype=object)
    rows = np.flatnonzero(of_row >= 0)[::-1]  # of several rows of a cell the first counts
    found[of_row[rows]] = texts[rows]
    return np.where(np.isin(found, list(labels.NO_LABEL)), "", found)


def write_annotated(cells: Cells, out: Path, columns: pd.DataFrame, about: dict[str, Any]) -> None:
    """Write a copy of a dataset's one file with more columns of obs, [n]; rows that are no cell of it have none.

    The copy is the file's bytes, so matrices of any size cost no memory. Columns of the same name are replaced. about:
    what `uns["cellskew"]` is to hold.
    """
    path, of_row = cells.source.paths[0], cells.counts.cell_of_row
    with delivering(out) as part:
        places.fetch(path, part)
        _add(part, {name: _of_rows(columns[name], of_row) for name in columns}, about)


def check_annotated(cells: Cells, out: Path) -> None:
    """RequestError if `out` is the dataset's file itself, or this one's tables are too old for columns to be added."""
    path = cells.source.paths[0]
    if places.absolute(path) == places.absolute(out):
        raise RequestError(f"{out} is the file that is annotated; name another: it is written whole or not at all")
    with places.open_hdf5(path) as file:
        if hasattr(file["obs"], "dtype"):
            raise RequestError(
                f"{path}: its obs is a table of an anndata older than 0.7, which takes no more columns; read the file "
                "and write it once with today's anndata"
            )


def _of_rows(column: pd.Series, of_row: np.ndarray) -> Any:
    """Return a column of cells as one of file rows, as anndata writes it."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes = np.append(column.cat.codes.to_numpy(), -1)[of_row]
        return pd.Categorical.from_codes(codes, column.cat.categories)
    lacking = False if column.dtype == bool else np.nan
    return np.append(column.to_numpy(), lacking)[of_row].astype(column.dtype)


def _add(part: Path, columns: dict[str, Any], about: dict[str, Any]) -> None:
    import h5py
    from anndata.io import write_elem

    with h5py.File(part, "r+", locking=False) as file:
        obs = file["obs"]
        order = hdf5.column_names(obs)
        for name, values in columns.items():
            if name in obs:
                del obs[name]
            write_elem(obs, name, values)
        obs.attrs["column-order"] = np.array([*(one for one in order if one not in columns), *columns], dtype=object)
        if "uns/cellskew" in file:
            del file["uns/cellskew"]
        write_elem(file, "uns/cellskew", about)
