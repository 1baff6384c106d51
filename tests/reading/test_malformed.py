"""Files that no program of today writes so: refused in a sentence, or read as what they say; never cut or guessed."""

import errno
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from h5ad_files import COUNTS, TYPES, source, write

from data_pipeline.errors import RequestError
from data_pipeline.reading import likely
from data_pipeline.reading.file import matrix
from data_pipeline.reading.h5ad import open_cells

TEXT = h5py.string_dtype()


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> bytes:
    donors = np.array([f"d{number % 6}" for number in range(90)], dtype=object)
    return write(tmp_path_factory.mktemp("h5ad") / "a.h5ad", obs={"celltype": TYPES, "donor_id": donors}).read_bytes()


def changed(path, sound: bytes, place: str, values, **kind):
    """Return a file with something else at one place; values: None takes it away."""
    path.write_bytes(sound)
    with h5py.File(path, "a") as file:
        attributes = dict(file[place].attrs)
        del file[place]
        if values is not None:
            file.create_dataset(place, data=values, **kind).attrs.update(attributes)
    return path


@pytest.mark.parametrize(
    ("place", "values", "words"),
    [
        ("X", np.full((90, 40), b"a"), "X is a matrix of text, not of numbers"),
        ("X", np.ones(90), "X is an array of shape (90,), not cells x genes"),
        ("X", np.ones((90, 40, 2)), "X is an array of shape (90, 40, 2), not cells x genes"),
        ("X", 1.0, "X is an array of shape (), not cells x genes"),
        ("X", h5py.Empty("f4"), "X is an array of shape None"),
        ("X", np.ones((90, 40), complex), "X is a matrix of complex128, not of numbers"),
        ("X", np.zeros((90, 40), dtype=[("a", "f4")]), "not of numbers"),
        ("X", np.ones((80, 40)), "the matrix has 80 x 40 values but there are 90 cells and 40 genes"),
        ("X/data", None, "X is a sparse matrix without data"),
        ("X/data", np.ones((COUNTS.nnz, 1)), "X is a sparse matrix without data"),
        ("X/data", np.full(COUNTS.nnz, b"a"), "X is a matrix of text, not of numbers"),
        ("X/indices", COUNTS.indices + 0.5, "it names column"),
        ("X/indptr", COUNTS.indptr + 0.5, "its pointers don't fit 90 lines"),
        ("X/indptr", np.full(91, np.nan), "its pointers don't fit 90 lines"),
        ("obs", np.ones(3), "obs is no table of columns"),
        ("obs/celltype", np.ones((90, 2)), "/obs/celltype is no column"),
        ("obs/celltype", np.arange(50) % 3, "column 'celltype' has 50 values for 90 rows"),
        ("obs/celltype", np.arange(150) % 3, "column 'celltype' has 150 values for 90 rows"),
        ("obs/celltype", np.zeros(90, dtype=[("a", "i4")]), "/obs/celltype is no column"),
        ("obs/celltype", None, "obs has no column 'celltype'"),
        ("var/_index", np.full(30, b"g"), "the matrix has 90 x 40 values but there are 90 cells and 30 genes"),
    ],
)
def test_what_cannot_be_read_is_one_sentence_with_the_file(tmp_path, sound, place, values, words):
    path = changed(tmp_path / "a.h5ad", sound, place, values)
    with pytest.raises(RequestError) as refused:
        open_cells(source(path))
    assert len(refused.value.problems) == 1 and words in str(refused.value) and str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"encoding-type": "coo_matrix"}, "X is a matrix stored as 'coo', not csr, csc or dense"),
        ({"shape": "abc"}, "doesn't say how many cells and genes it has"),
        ({"shape": [90, 40, 1]}, "doesn't say how many cells and genes it has"),
    ],
)
def test_a_matrix_that_says_something_else_is_refused(tmp_path, sound, attributes, words):
    path = tmp_path / "a.h5ad"
    path.write_bytes(sound)
    with h5py.File(path, "a") as file:
        file["X"].attrs.update(attributes)
    with pytest.raises(RequestError, match=words):
        open_cells(source(path))


@pytest.mark.parametrize("place", ["X/indices", "X/indptr"])
def test_whole_numbers_may_be_stored_as_others(tmp_path, sound, place):
    with h5py.File(changed(tmp_path / "b.h5ad", sound, "obs/donor_id", None)) as file:
        values = file[place][()].astype(float)
    cells = open_cells(source(changed(tmp_path / "a.h5ad", sound, place, values)))
    assert np.array_equal(cells.read(0, 90).toarray(), COUNTS.toarray())


def test_categories_of_one_name_are_one_type_and_one_without_a_name_is_none(tmp_path, sound):
    path = tmp_path / "a.h5ad"
    for names, kinds in ((["B", "B", "T"], ["B", "T"]), ([1.0, np.nan, 2.0], ["1", "2"])):
        text = {} if names[0] != "B" else {"dtype": TEXT}
        path.write_bytes(sound)
        with h5py.File(path, "a") as file:
            codes = np.arange(90) % 3
            del file["obs/celltype"]
            column = file.create_group("obs/celltype")
            column.attrs.update({"encoding-type": "categorical", "encoding-version": "0.2.0", "ordered": False})
            column["codes"] = codes
            column.create_dataset("categories", data=names, **text)
        cells = open_cells(source(path, unlabelled="drop"))
        assert cells.classes == kinds and cells.num_cells == (90 if "B" in kinds else 60)


def test_names_that_are_no_utf8_stay_apart(tmp_path, sound):
    names = np.array(["Müller".encode("latin-1"), "Möller".encode("latin-1"), b"B"] * 30)
    cells = open_cells(source(changed(tmp_path / "a.h5ad", sound, "obs/celltype", names)))
    assert cells.classes == ["B", "M\\xf6ller", "M\\xfcller"]


def test_a_column_that_nobody_asked_for_may_be_broken(tmp_path, sound):
    path = changed(tmp_path / "a.h5ad", sound, "obs/donor_id", np.arange(50))
    assert open_cells(source(path)).num_cells == 90 and likely.look(str(path)).labels == [("celltype", 3)]
    path = changed(tmp_path / "b.h5ad", sound, "obs/donor_id", None)
    assert open_cells(source(path)).num_cells == 90, "a column that is listed, and gone"


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 3), (errno.EROFS, 2)])
def test_a_disk_that_takes_no_copy_by_cell_is_no_damage_of_the_file(tmp_path, monkeypatch, number, code):
    def full(element: h5py.Group, target: Path) -> None:
        raise OSError(number, "Can't synchronously write data")

    monkeypatch.setattr(matrix, "SMALL", 0)
    monkeypatch.setattr(matrix, "_turn_round", full)
    path = write(tmp_path / "a.h5ad", COUNTS.tocsc())
    with pytest.raises(RequestError) as refused:
        open_cells(source(path), tmp_path / "cache")
    said = str(refused.value)
    assert f"its copy by cell can't be written to {tmp_path / 'cache'}: {os.strerror(number)}" in said
    assert "damaged" not in said and refused.value.exit_code == code
    monkeypatch.setattr(matrix, "_turn_round", lambda element, target: element["nothing"])
    with pytest.raises(RequestError, match="the file is damaged"):
        open_cells(source(path), tmp_path / "cache")


def test_a_disk_or_network_that_fails_is_no_damage_of_the_file(tmp_path, sound, monkeypatch):
    def fails(rows: matrix.Rows, start: int, stop: int) -> None:
        raise OSError(errno.ESTALE, "Can't synchronously read data")

    path = tmp_path / "a.h5ad"
    path.write_bytes(sound)
    monkeypatch.setattr(matrix.Rows, "read", fails)
    with pytest.raises(
        RequestError, match="can't be read from cell 0 on .Stale file handle.; its disk, or the network"
    ):
        open_cells(source(path))


def test_numbers_that_hdf5_has_names_for_are_these_names(tmp_path, sound):
    kind = h5py.enum_dtype({"B": 0, "NK": 1, "T": 2}, basetype="i")
    cells = open_cells(source(changed(tmp_path / "a.h5ad", sound, "obs/celltype", np.arange(90) % 3, dtype=kind)))
    assert cells.classes == ["B", "NK", "T"]
    truth = changed(tmp_path / "b.h5ad", sound, "obs/celltype", np.arange(90) % 2 == 0)
    assert open_cells(source(truth)).classes == ["False", "True"]
