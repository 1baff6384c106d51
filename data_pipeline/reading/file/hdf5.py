"""The tables of an h5ad file, read with h5py alone: columns of obs and var, and where its matrices are.

Understands files of every anndata version, the compound tables of 0.6 and older included. X is never read here.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    import h5py

    Element = h5py.Group | h5py.Dataset


def find_matrix(file: "h5py.Group", layer: str | None) -> "Element | None":
    """Return the h5py group or dataset of X (None), .raw ("raw") or a layer; None if the file lacks it."""
    if layer is None:
        return file.get("X")
    if layer == "raw":
        return file.get("raw/X", file.get("raw.X"))
    return file.get(f"layers/{layer}")


def find_var(file: "h5py.Group", layer: str | None) -> "Element | None":
    """Return the table of genes that belongs to `find_matrix(file, layer)`."""
    return file.get("raw/var", file.get("raw.var")) if layer == "raw" else file.get("var")


def layers(file: "h5py.Group") -> list[str | None]:
    """Return everything that `layer:` could be here; None stands for X."""
    named = list(file["layers"]) if "layers" in file else []
    return [layer for layer in (None, "raw", *named) if find_matrix(file, layer) is not None]


FILTERS = {  # registered with the HDF Group, not built into HDF5
    307: "bzip2",
    32000: "LZF",
    32001: "blosc",
    32004: "LZ4",
    32008: "bitshuffle",
    32013: "ZFP",
    32015: "zstd",
    32026: "blosc2",
}
READS_THEM = "hdf5plugin"  # the package that brings them


def lacking_filters(elements: "Iterable[Element | None]") -> dict[str, str]:
    """Return filter -> the first dataset compressed by it, of those that HDF5 can't undo here: {} if it can all."""
    found: dict[str, str] = {}
    for element in filter(None, elements):
        for dataset in [element] if hasattr(element, "dtype") else _datasets(element):
            found.update({known: dataset.name for known in _unknown_to_us(dataset) if known not in found})
    return found


def _datasets(group: "h5py.Group") -> "list[h5py.Dataset]":
    found: list[h5py.Dataset] = []
    group.visititems(lambda name, inner: found.append(inner) if hasattr(inner, "dtype") else None)
    return found


def _unknown_to_us(dataset: "h5py.Dataset") -> list[str]:
    import h5py

    steps = dataset.id.get_create_plist()
    numbers = [steps.get_filter(step)[0] for step in range(steps.get_nfilters())]
    return [FILTERS.get(number, f"filter {number}") for number in numbers if not h5py.h5z.filter_avail(number)]


def column_names(table: "Element") -> list[str]:
    """Return the columns of obs or var without its index."""
    if hasattr(table, "dtype"):  # a compound table: the first field is the index
        return list(table.dtype.names[1:])
    order = [_text(name) for name in table.attrs.get("column-order", [])]
    there = order if order else [name for name in table if name not in (_index_name(table), "__categories")]
    return [name for name in there if name in table]


def index(table: "Element") -> np.ndarray:
    """Return the names of the cells or genes, object array of str."""
    if hasattr(table, "dtype"):
        return strings(table[table.dtype.names[0]])
    return np.asarray(_decode(table[_index_name(table)]).astype(str), dtype=object)


def column(table: "Element", name: str) -> pd.Series:
    """Return one column of obs or var; missing values are NaN, categories stay categories. OSError if it is none."""
    try:
        values = _compound_column(table, name) if hasattr(table, "dtype") else _decode(table[name])
        rows = _rows(table)
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise OSError(f"column {name!r}: {error}") from error
    if len(values) != rows:
        raise OSError(f"column {name!r} has {len(values):,} values for {rows:,} rows")
    return values


def columns(table: "Element", wanted: Callable[[str], bool]) -> Iterator[tuple[str, pd.Series]]:
    """Yield the name and the values of each column whose name is wanted and that can be read."""
    for name in filter(wanted, column_names(table)):
        with suppress(OSError, KeyError, RuntimeError):
            yield name, column(table, name)


def is_table(element: "Element") -> bool:
    """Tell whether an element is a table as obs and var are: a group of columns, or records."""
    return not hasattr(element, "dtype") or element.dtype.names is not None


def _rows(table: "Element") -> int:
    names = table if hasattr(table, "dtype") else table[_index_name(table)]
    if not hasattr(names, "dtype"):  # a group: of categories, or of texts and which are missing
        names = names["codes" if "codes" in names else "values"]
    return names.shape[0]


def _index_name(table: "Element") -> str:
    return _text(table.attrs.get("_index", "index" if "index" in table else "_index"))


def _decode(element: "Element") -> pd.Series:
    """Return an encoded column (anndata's array, string-array, categorical, nullable-*) as a Series."""
    if not hasattr(element, "dtype"):  # a group
        if "codes" in element:
            return _categorical(element["codes"][()], _decode(element["categories"]))
        values = pd.Series(_plain(element["values"]), dtype=object)
        return values.mask(element["mask"][()].astype(bool))
    categories = element.attrs.get("categories")
    if categories is not None:  # anndata 0.7: a reference to the categories
        return _categorical(element[()], _decode(element.file[categories]))
    return pd.Series(_plain(element))


def _categorical(codes: np.ndarray, categories: pd.Series) -> pd.Series:
    if len(codes) and not -1 <= codes.min() <= codes.max() < len(categories):
        raise OSError(f"a column has codes from {codes.min()} to {codes.max()}, but {len(categories)} categories")
    if not categories.is_unique or categories.hasnans:
        return pd.Series([*categories, np.nan], dtype=object).take(np.asarray(codes, np.int64)).reset_index(drop=True)
    return pd.Series(pd.Categorical.from_codes(np.asarray(codes, np.int64), pd.Index(categories)))


def _compound_column(table: "Element", name: str) -> pd.Series:
    """Return a field of a compound table; its categories, if any, lie in uns."""
    values = table[name]
    place = f"uns/{name}_categories"
    if place in table.file:
        return _categorical(values, pd.Series(_plain(table.file[place])))
    return pd.Series(strings(values) if values.dtype.kind in "SO" else values)


def _plain(dataset: "h5py.Dataset") -> np.ndarray:
    values = dataset[()]
    if values.ndim != 1 or values.dtype.names is not None:
        raise OSError(f"{dataset.name} is no column")
    if named := (values.dtype.metadata or {}).get("enum"):  # HDF5's own kind of categories
        return pd.Series(values).map({number: name for name, number in named.items()}).to_numpy(object)
    return strings(values) if values.dtype.kind in "SO" else values


def strings(values: np.ndarray) -> np.ndarray:
    """Return bytes or objects as an object array of str."""
    return np.array([_text(value) for value in values], dtype=object)


def _text(value: object) -> str:
    """Return a text; what isn't UTF-8 shows as \\xfc, so that no two become one."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
