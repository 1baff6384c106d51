"""Vectors of cells from elsewhere: each cell gets its own, by name; what can't be matched is named."""

import pickle
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from data_pipeline.errors import RequestError
from data_pipeline.reading.vectors import open_vectors

NAMES = np.array([f"c{number}" for number in range(7)], dtype=object)
VECTORS = np.arange(21, dtype=np.float32).reshape(7, 3) - 4


def write(path: Path, rows: list[int], obsm: bool = False, x: object = None) -> str:
    vectors = VECTORS[rows] if x is None else x
    table = ad.AnnData(np.zeros((len(rows), 2), np.float32) if obsm else vectors, pd.DataFrame(index=NAMES[rows]))
    if obsm:
        table.obsm["X_uce"] = vectors
    table.write_h5ad(path)
    return str(path)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_each_cell_has_its_own_whatever_order_the_file_has(form, tmp_path):
    path = write(tmp_path / "x.h5ad", [5, 0, 3, 6, 1, 2, 4], x=form(VECTORS[[5, 0, 3, 6, 1, 2, 4]]))
    found = open_vectors([path], None, NAMES, "hash", "d")
    assert found.width == 3 and np.array_equal(found.read(0, 7).toarray(), VECTORS)
    assert np.array_equal(pickle.loads(pickle.dumps(found)).read(2, 5).toarray(), VECTORS[2:5])


def test_obsm_of_several_files_is_one(tmp_path):
    paths = [write(tmp_path / "a.h5ad", [6, 2, 0], obsm=True), write(tmp_path / "b.h5ad", [1, 3, 4, 5], obsm=True)]
    found = open_vectors(paths, "X_uce", NAMES[[0, 5, 6, 1]], "hash", "d")
    assert np.array_equal(found.read(0, 4).toarray(), VECTORS[[0, 5, 6, 1]])


def test_missing_cells_are_named(tmp_path):
    path = write(tmp_path / "x.h5ad", [0, 1, 2, 3, 4])
    with pytest.raises(
        RequestError, match=r"d: 2 of 7 cells have no vector in .*x\.h5ad: c5, c6\. Cells are matched by"
    ):
        open_vectors([path], None, NAMES, "hash", "d")


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_cells_that_are_there_twice_and_a_matrix_that_is_not_there_are_refused(tmp_path):
    path = write(tmp_path / "x.h5ad", [0, 1, 1, 2, 3, 4, 5, 6])
    with pytest.raises(RequestError, match="1 cells are there twice: c1"):
        open_vectors([path], None, NAMES, "hash", "d")
    path = write(tmp_path / "y.h5ad", list(range(7)), obsm=True)
    with pytest.raises(RequestError, match="no obsm 'X_uec'; did you mean X_uce.*there are: X_uce"):
        open_vectors([path], "X_uec", NAMES, "hash", "d")
    path = write(tmp_path / "z.h5ad", list(range(7)), x=sparse.csc_matrix(VECTORS))
    with pytest.raises(RequestError, match="X is a matrix stored by columns; store one row per cell"):
        open_vectors([path], None, NAMES, "hash", "d")
