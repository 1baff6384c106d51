"""Writes one table of cells as different programs do: anndata of today, 0.7 and 0.6, R, and hands."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
from scipy import sparse

TEXT = h5py.string_dtype()


@dataclass
class Told:
    """What a file is to hold. matrix: [n, G] of any dtype; labels: what a Series is made of; where: X, raw or a layer.

    form: csr, csc, dense; messy: rows of sparse forms are unsorted, hold zeros and numbers in two parts. kind: how
    labels are stored (plain, category, nullable); unused: categories that no cell has.
    """

    matrix: np.ndarray
    labels: list
    cells: list[str]
    genes: list[str]
    form: str = "csr"
    where: str = "X"
    kind: str = "plain"
    unused: list[str] = field(default_factory=list)
    messy: bool = False
    compression: str | None = None

    @property
    def series(self) -> pd.Series:
        values = pd.Series(self.labels, dtype=None if self.labels else object)
        if self.kind == "nullable":
            with np.errstate(invalid="ignore"):
                return values.convert_dtypes(convert_floating=False)
        if self.kind != "category":
            return values
        kinds = list(dict.fromkeys(values.dropna()))
        more = [name for name in self.unused if name not in kinds] if values.dtype == object else []
        return pd.Series(pd.Categorical(values, categories=[*kinds, *more]))


def stored(told: Told) -> np.ndarray | sparse.csr_matrix | sparse.csc_matrix:
    """Return the matrix as it is to be stored."""
    if told.form == "dense":
        return told.matrix
    kind = sparse.csr_matrix if told.form == "csr" else sparse.csc_matrix
    tidy = kind(told.matrix)
    return _messy(tidy, kind) if told.messy and tidy.nnz and told.matrix.dtype != bool else tidy


def _messy(tidy: sparse.spmatrix, kind: type) -> sparse.spmatrix:
    """Return the same matrix, its rows backwards, each with a zero more, and its first number in two parts."""
    data, indices, ends = [], [], [0]
    for start, stop in zip(tidy.indptr, tidy.indptr[1:], strict=False):
        numbers, places = list(tidy.data[start:stop][::-1]), list(tidy.indices[start:stop][::-1])
        if numbers:
            numbers, places = [*numbers, 0], [*places, places[0]]
        if numbers and not data and np.isfinite(numbers[0]) and 1 < numbers[0] < 100:
            numbers, places = [numbers[0] - 1, 1, *numbers[1:]], [places[0], *places]
        data, indices = data + numbers, indices + places
        ends.append(len(data))
    return kind((np.array(data, tidy.dtype), np.array(indices, np.int32), np.array(ends, np.int32)), tidy.shape)


# anndata itself


def by_anndata(told: Told, path: Path) -> None:
    """Write with the anndata that is installed."""
    with _as_anndata_allows():
        _made(told).write_h5ad(path, compression=told.compression)


def backed(told: Told, path: Path) -> None:
    """Write by giving an AnnData a file name, from then on it lives in the file."""
    with _as_anndata_allows():
        made = _made(told)
        made.filename = path
    made.file.close()


class NotWritten(Exception):
    """anndata refuses to hold or to write this."""


@contextmanager
def _as_anndata_allows() -> Iterator[None]:
    with anndata.settings.override(allow_write_nullable_strings=True):
        try:
            yield
        except (ValueError, TypeError, KeyError, OSError, NotImplementedError) as error:
            raise NotWritten(f"{type(error).__name__} {str(error)[:80]}") from error


def _made(told: Told) -> anndata.AnnData:
    obs = pd.DataFrame({"celltype": told.series.to_numpy(object) if told.kind == "plain" else told.series.array})
    obs.index = pd.Index(told.cells, dtype=object)
    if told.kind == "plain" and all(not isinstance(value, str) for value in told.labels):
        obs["celltype"] = told.series.to_numpy()
    var = pd.DataFrame(index=pd.Index(told.genes, dtype=object))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if told.where == "X":
            return anndata.AnnData(stored(told), obs=obs, var=var)
        made = anndata.AnnData(np.full(told.matrix.shape, 0.5, np.float32), obs=obs, var=var)
        if told.where == "raw":
            made.raw = anndata.AnnData(stored(told), obs=obs[[]], var=var)
        else:
            made.layers[told.where] = stored(told)
        return made


# by hand


def as_07(told: Told, path: Path) -> None:
    """Write as anndata 0.7 did: categories beside their column, found by reference."""
    with h5py.File(path, "w") as file:
        _frame(file, "var", told.genes)
        _matrix_groups(file, told, "encoding-type", "shape", "_matrix")
        obs = _frame(file, "obs", told.cells)
        obs.attrs["column-order"] = np.array(["celltype"], dtype=object)
        _column_07(obs, told)


def _column_07(obs: h5py.Group, told: Told) -> None:
    codes, kinds = _coded(told)
    if codes is None:
        _put(obs, "celltype", _plain(told.series))
        return
    _put(obs, "__categories/celltype", kinds)
    obs["celltype"] = codes.astype(np.int8)
    obs["celltype"].attrs["categories"] = obs["__categories/celltype"].ref


def as_06(told: Told, path: Path) -> None:
    """Write as anndata 0.6 and older did: compound tables, categories in uns, h5sparse matrices."""
    codes, kinds = _coded(told)
    values = _plain(told.series) if codes is None else codes.astype(np.int8)
    kind = TEXT if values.dtype == object else values.dtype
    with h5py.File(path, "w") as file:
        file["obs"] = _records([("index", told.cells, TEXT), ("celltype", values, kind)])
        file["var"] = _records([("index", told.genes, TEXT)])
        if codes is not None:
            _put(file, "uns/celltype_categories", kinds)
        _matrix_groups(file, told, "h5sparse_format", "h5sparse_shape", "")
        if told.where == "raw":
            file.move("raw/X", "raw.X")
            del file["raw"]
            file["raw.var"] = _records([("index", told.genes, TEXT)])


def by_r(told: Told, path: Path) -> None:
    """Write as R packages do: texts of fixed width, an index called `index`, no encodings of single columns."""
    codes, kinds = _coded(told)
    with h5py.File(path, "w") as file:
        for name, names in (("obs", told.cells), ("var", told.genes)):
            file.create_group(name).attrs["_index"] = "index"
            file[name]["index"] = _fixed(names)
        _matrix_groups(file, told, "encoding-type", "shape", "_matrix")
        if codes is None:
            values = _plain(told.series)
            file["obs/celltype"] = _fixed(values) if values.dtype == object else values
            return
        column = file["obs"].create_group("celltype")
        column.attrs.update({"encoding-type": "categorical", "ordered": False})
        column["codes"] = codes.astype(np.int32)
        column["categories"] = _fixed(kinds) if kinds.dtype == object else kinds


def _put(group: h5py.Group, name: str, values: np.ndarray) -> None:
    group.create_dataset(name, data=values, dtype=TEXT if values.dtype == object else None)


def _frame(file: h5py.Group, place: str, names: list[str]) -> h5py.Group:
    group = file.create_group(place)
    group.attrs.update({"_index": "_index", "encoding-type": "dataframe", "encoding-version": "0.1.0"})
    group.attrs["column-order"] = np.array([], dtype=np.float64)
    group.create_dataset("_index", data=np.array(names, dtype=object), dtype=TEXT)
    return group


def _matrix_groups(file: h5py.File, told: Told, kind: str, shape: str, suffix: str) -> None:
    place = {"X": "X", "raw": "raw/X"}.get(told.where, f"layers/{told.where}")
    if told.where != "X":
        file["X"] = np.full(told.matrix.shape, 0.5, np.float32)
    if told.where == "raw":
        _frame(file, "raw/var", told.genes)
    matrix = stored(told)
    if told.form == "dense":
        chunked = told.compression is not None and matrix.size > 0
        file.create_dataset(place, data=matrix, compression=told.compression if chunked else None)
        return
    group = file.create_group(place)
    group.attrs.update({kind: f"{told.form}{suffix}", shape: np.array(told.matrix.shape)})
    for name in ("data", "indices", "indptr"):
        values = getattr(matrix, name)
        group.create_dataset(name, data=values, compression=told.compression if values.size else None)


def _coded(told: Told) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """Return (codes, categories), or Nones where labels are stored as they are."""
    series = told.series
    if told.kind != "category":
        return None, None
    kinds = series.cat.categories
    return series.cat.codes.to_numpy(), _plain(pd.Series(kinds))


def _plain(series: pd.Series) -> np.ndarray:
    """Return the values of a column, missing texts as writers by hand leave them."""
    values = series.to_numpy(object if pd.api.types.is_extension_array_dtype(series.dtype) else None)
    if values.dtype == object:
        return np.array(["" if pd.isna(value) else str(value) for value in values], dtype=object)
    return values


def _fixed(names: list[str] | np.ndarray) -> np.ndarray:
    return np.array([name.encode() for name in names], dtype=bytes) if len(names) else np.zeros(0, "S1")


def _records(columns: list[tuple]) -> np.ndarray:
    table = np.empty(len(columns[0][1]), dtype=[(name, kind) for name, _, kind in columns])
    for name, values, _ in columns:
        table[name] = values
    return table


WRITERS = {"anndata": by_anndata, "backed": backed, "0.7": as_07, "0.6": as_06, "R": by_r}
