"""The tables of h5ad files: cell and gene names, labels, donors; what is wrong with them, all at once.

Looks, and touches nothing: what is to be dropped or summed is decided here in row and column numbers only.
"""

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from data_pipeline.errors import RequestError
from data_pipeline.names import did_you_mean
from data_pipeline.reading.file import features, foreign, hdf5, matrix, places
from data_pipeline.reading.labels import NO_LABEL, clean
from data_pipeline.reading.source import Source

if TYPE_CHECKING:
    import h5py

DAMAGE = (OSError, KeyError, RuntimeError)  # what h5py raises where a file's inside leads nowhere
LARGEST_NUMBER = 2**53  # of a label: whole numbers above are rounded
MOST_NUMBERS = 200  # different labels; more are refused where they are numbers, or more than half of the cells
PRIMARY = "is_primary_data"  # CELLxGENE: False where a cell is a copy of another data set's
DONOR_WORDS = ("donor", "patient", "individual", "subject", "participant")
OTHER_WORDS = {"age", "sex", "gender", "batch", "sample", "phase", "stage", "tissue", "disease", "assay", "organism"}
OTHER_WORDS |= {"suspension", "ethnicity", "race", "replicate", "plate", "lane", "library", "chemistry", "doublet"}
LABEL_WORDS = ("celltype", "cell_type", "label", "annotation", "type", "class", "cluster", "louvain", "leiden")


@dataclass
class Table:
    """What the tables of one file hold; columns that are missing are None, and a problem tells why."""

    path: str
    cells: np.ndarray
    genes: np.ndarray
    labels: pd.Series | None = None
    donors: pd.Series | None = None
    totals: np.ndarray | None = None
    other: np.ndarray | None = None  # bool [G]: columns that are no genes
    problems: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


def inspect(path: str, source: Source) -> Table:
    """Return the tables of one file. RequestError if there is nothing to look at (no file, no matrix, no tables)."""
    with places.open_hdf5(path) as file:
        try:
            _check_layout(path, file, source.layer)
            _check_filters(path, file, source.layer)
            return _read_tables(path, file, source)
        except DAMAGE as error:
            raise RequestError(f"{path}: its tables can't be read {cause(error)}") from error


def cause(error: Exception) -> str:
    """Return why a file can't be read, and the way out: it is damaged, or the system says that something else is."""
    number = getattr(error, "errno", None)
    if number:
        return f"({os.strerror(number)}); its disk, or the network that it lies on, fails. Run again."
    return f"({error}); the file is damaged. Copy or fetch it again."


def _read_tables(path: str, file: "h5py.Group", source: Source) -> Table:
    var = hdf5.find_var(file, source.layer)
    genes, problem = _gene_names(path, var, source.gene_names)
    table = Table(path, hdf5.index(file["obs"]), genes, problems=[problem] if problem else [])
    table.other = features.other_features(var, genes)
    table.doubts += features.doubts(path, genes[~table.other], hdf5.column_names(var))
    _check_shape(table, matrix.shape_of(hdf5.find_matrix(file, source.layer)))
    if source.label is not None:
        table.labels = _column(table, file["obs"], source.label, "label")
        table.doubts += _copies(table, file["obs"])
    if source.donor is not None:
        table.donors = _column(table, file["obs"], source.donor, "donor")
    if source.totals is not None:
        totals = _column(table, file["obs"], source.totals, "totals")
        table.totals = None if totals is None else _numbers(table, totals, source.totals)
    return table


def _copies(table: Table, obs: "hdf5.Element") -> list[str]:
    """Return a doubt about cells that CELLxGENE calls copies of another data set's."""
    if PRIMARY not in hdf5.column_names(obs):
        return []
    copies = int(np.count_nonzero(hdf5.column(obs, PRIMARY).astype(str).str.casefold() == "false"))
    if not copies:
        return []
    return [
        f"{table.path}: obs[{PRIMARY!r}] is False for {copies:,} of {len(table.cells):,} cells: CELLxGENE has them in "
        "another data set as well, so training on one and testing on the other would meet the same cells twice"
    ]


def _check_filters(path: str, file: "h5py.Group", layer: str | None) -> None:
    needed = (file["obs"], hdf5.find_var(file, layer), hdf5.find_matrix(file, layer))
    lacking = hdf5.lacking_filters(needed)
    if lacking:
        named = " and ".join(f"{name} ({where})" for name, where in lacking.items())
        raise RequestError(
            f"{path}: is compressed with {named}, which HDF5 reads with a plug-in only. Install it on every machine "
            f"that reads the file (pip install {hdf5.READS_THEM}), or write the file anew where it can be read: "
            "adata.write_h5ad('cells.h5ad', compression='gzip')."
        )


def _check_layout(path: str, file: "h5py.Group", layer: str | None) -> None:
    other = foreign.of_groups(path, file)
    if other is not None:
        raise RequestError(f"{path}: {other}.")
    for part in ("obs", "var"):
        if not hdf5.is_table(file[part]):
            raise RequestError(f"{path}: {part} is no table of columns; the file is damaged. Fetch it again.")
    wanted = "X" if layer is None else f"layer {layer!r}"
    element = hdf5.find_matrix(file, layer)
    if element is None:
        there = ["X (leave `layer:` out)" if name is None else name for name in hdf5.layers(file)]
        hint = f"It has: {', '.join(there)}; name one with `layer:`." if there else "It has no matrix at all."
        raise RequestError(f"{path}: has no {wanted}. {hint}")
    wrong = matrix.wrong(element)
    if wrong is not None:
        raise RequestError(f"{path}: {wanted} is {wrong}. Write the counts there, or name another place with `layer:`.")


def _check_shape(table: Table, shape: tuple[int, int]) -> None:
    if shape != (len(table.cells), len(table.genes)):
        raise RequestError(
            f"{table.path}: the matrix has {shape[0]:,} x {shape[1]:,} values but there are {len(table.cells):,} cells "
            f"and {len(table.genes):,} genes; the file is damaged."
        )
    for count, noun in ((shape[0], "cells"), (shape[1], "genes")):
        if count == 0:
            table.problems.append(f"{table.path}: has no {noun} (0 x {max(shape)} values). Check how it was written.")


def _gene_names(path: str, var: "hdf5.Element", name: str | None) -> tuple[np.ndarray, str | None]:
    if name is None:
        return hdf5.index(var), None
    columns = hdf5.column_names(var)
    if name not in columns:
        return hdf5.index(var), f"{path}: var has no column {name!r} (gene_names); {_choices(name, columns)}"
    return np.asarray(hdf5.column(var, name).astype(str), dtype=object), None


def _choices(name: str, columns: list[str]) -> str:
    return f"{did_you_mean(name, columns)}It has: {', '.join(columns[:20]) if columns else 'no columns'}."


def _column(table: Table, obs: "hdf5.Element", name: str, role: str) -> pd.Series | None:
    columns = hdf5.column_names(obs)
    if name in columns:
        return hdf5.column(obs, name)
    hint = _label_hint(obs, name, columns) if role == "label" else _choices(name, columns)
    table.problems.append(f"{table.path}: obs has no column {name!r} ({role}); {hint}")
    return None


def _label_hint(obs: "hdf5.Element", name: str, columns: list[str]) -> str:
    likely = label_columns(obs)
    if not likely:
        return f"{_choices(name, columns)} None of them looks like cell types."
    return f"columns that could be labels: {', '.join(f'{key} ({n} values)' for key, n in likely[:6])}."


def label_columns(obs: "hdf5.Element") -> list[tuple[str, int]]:
    """Return (column, number of values) for columns of obs that could be cell types, the likeliest first.

    Numbers are only taken for types, as those of clusters are, where their column's name says so.
    """
    found = []
    for name, values in hdf5.columns(obs, may_be_types):
        kinds = values.nunique()
        texts = isinstance(values.dtype, pd.CategoricalDtype) or values.dtype == object
        numbered = values.dtype.kind in "iu" and is_named(name, LABEL_WORDS)
        if 2 <= kinds <= max(2, min(500, len(values) // 2)) and (texts or numbered):
            rank = next((i for i, word in enumerate(LABEL_WORDS) if word in name.lower()), len(LABEL_WORDS))
            found.append((rank + (0 if texts else 100), name, kinds))
    return [(name, kinds) for _, name, kinds in sorted(found)]


def may_be_types(name: str) -> bool:
    """Tell whether a column's name says nothing else than types: donors, age, batch and so on are none."""
    if is_named(name, LABEL_WORDS[:2]):
        return True
    return not is_named(name, DONOR_WORDS) and not OTHER_WORDS & set(re.split(r"[^a-z]+", name.lower()))


def is_named(column: str, words: tuple[str, ...]) -> bool:
    """Tell whether one of the words is in a column's name."""
    return any(word in column.lower() for word in words)


def _numbers(table: Table, totals: pd.Series, name: str) -> np.ndarray | None:
    numbers = pd.to_numeric(totals, errors="coerce").to_numpy(np.float64)
    bad = int(np.count_nonzero(~(np.isfinite(numbers) & (numbers >= 0))))
    if bad:
        table.problems.append(f"{table.path}: obs[{name!r}] (totals) has {bad:,} cells without a number of 0 or more.")
        return None
    return numbers


# labels


def label_strings(table: Table, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Return (labels as str objects, bool mask of cells that have one); notes problems in the table."""
    values = table.labels
    if values is None:
        return np.full(len(table.cells), "", object), np.ones(len(table.cells), bool)
    if values.dtype.kind == "f" and not _whole(values):
        table.problems.append(
            f"{table.path}: obs[{source.label!r}] holds continuous numbers ({values.nunique():,} different ones, "
            f"{values.min():.4g} to {values.max():.4g}), not cell types."
        )
        return np.full(len(values), "", object), np.ones(len(values), bool)
    texts = _as_strings(values)
    labelled = ~(values.isna().to_numpy() | np.isin(texts, list(NO_LABEL)))
    _check_labelled(table, source, labelled)
    _check_kinds(table, source, len(set(texts[labelled])))
    return texts, labelled


def _check_kinds(table: Table, source: Source, kinds: int) -> None:
    """Note labels of too many kinds: numbers that measure something, or names of single cells."""
    numeric = table.labels.dtype.kind in "iuf"
    if kinds > (MOST_NUMBERS if numeric else max(MOST_NUMBERS, len(table.cells) // 2)):
        what = "numbers that measure something" if numeric else "names of cells"
        table.problems.append(
            f"{table.path}: obs[{source.label!r}] has {kinds:,} different values in {len(table.cells):,} cells: {what} "
            "rather than cell types."
        )


def _whole(values: pd.Series) -> bool:
    present = values.dropna()
    return bool(np.all(np.abs(present) < LARGEST_NUMBER) and np.all(present == np.rint(present)))


def _as_strings(values: pd.Series) -> np.ndarray:
    """Return cleaned names, "" where there is none."""
    codes, kinds = pd.factorize(values)
    names = [
        int(kind) if isinstance(kind, float | np.floating) and float(kind).is_integer() else kind for kind in kinds
    ]
    return np.array([*map(clean, names), ""], dtype=object)[codes]


def _check_labelled(table: Table, source: Source, labelled: np.ndarray) -> None:
    missing = np.flatnonzero(~labelled)
    if len(missing) and source.unlabelled is None:
        table.problems.append(
            f"{table.path}: {len(missing):,} of {len(labelled):,} cells have no label in obs[{source.label!r}] "
            f"(first: {quoted(table.cells[missing])}). Label them, or leave them out with `unlabelled: drop`."
        )


def quoted(names: np.ndarray, most: int = 3) -> str:
    """Return the first few names for a message."""
    return ", ".join(repr(str(name)) for name in names[:most]) + (", ..." if len(names) > most else "")


def donor_strings(table: Table, source: Source) -> np.ndarray:
    """Return the donor of each cell as str objects; notes cells without one in the table."""
    values = table.donors
    if values is None:
        return np.full(len(table.cells), "", object)
    texts = _as_strings(values)
    missing = np.flatnonzero(values.isna().to_numpy() | np.isin(texts, list(NO_LABEL)))
    if len(missing):
        table.problems.append(
            f"{table.path}: {len(missing):,} cells have no donor in obs[{source.donor!r}] (first: "
            f"{quoted(table.cells[missing])}). Fill them in, or leave out `donor:`."
        )
    return texts
