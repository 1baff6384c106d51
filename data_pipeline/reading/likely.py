"""What a file that nobody has described yet is likely to be: which column has the types, which the donors, where
the counts are."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline.reading.file import hdf5, inspection, layers, matrix, places
from data_pipeline.reading.source import Source, Values

if TYPE_CHECKING:
    import h5py

FEWEST_DONORS = 3  # one each for training, validation and test
NUMBERS = 100_000  # looked at to see whether a matrix holds counts


@dataclass(frozen=True)
class Likely:
    """labels, donors: (column of obs, number of values), the likeliest first; layer, values: as in Source.

    A column is among `labels` if its name says so, among `donors` if its name says so and every cell has one.
    """

    labels: list[tuple[str, int]]
    donors: list[tuple[str, int]]
    layer: str | None
    values: Values


def look(path: str, layer: str | None = None) -> Likely:
    """Return what is likely of an h5ad file; layer: where its numbers are, None: to be found out.

    RequestError if the file has no tables or no matrix.
    """
    with places.open_hdf5(path) as file:
        if layer is None:
            layer = _layer(file)
    inspection.inspect(path, Source("file", (path,), None, layer))
    with places.open_hdf5(path) as file:
        labels = inspection.label_columns(file["obs"])
        named = [found for found in labels if inspection.is_named(found[0], inspection.LABEL_WORDS)]
        donors = _donors(file["obs"])
        values = layers.values_of(file, layer) or Values()  # if they are none, opening the file says why
    return Likely([found for found in named if found not in donors], donors, layer, values)


def donor_doubts(path: str) -> list[str]:
    """Return that a file has columns which are likely of donors, where nobody has named one."""
    with places.open_hdf5(path) as file:
        found = _donors(file["obs"])
    if not found:
        return []
    shown = ", ".join(f"{name} ({number:,} values)" for name, number in found[:3])
    return [
        f"{path}: obs has {shown}: without `donor: {found[0][0]}` cells of one donor are in training and in test, and "
        "the numbers say nothing of new donors"
    ]


def _layer(file: "h5py.Group") -> str | None:
    """Return where counts are: in X if there are some, else in the layer whose name says so, else in any.

    Without counts: where logarithms of them are, X first.
    """
    there = [name for name in hdf5.layers(file) if matrix.wrong(hdf5.find_matrix(file, name)) is None]
    whole = [name for name in there if _is_whole(hdf5.find_matrix(file, name))]
    if not whole:
        usable = [name for name in there if layers.values_of(file, name) is not None]
        return [*usable, *there, None][0]
    if None in whole:
        return None
    return min(whole, key=lambda name: ("count" not in name.lower(), name != "raw"))


def _is_whole(element: "hdf5.Element") -> bool:
    """Tell whether the first numbers of a matrix, in whatever order it holds them, are whole and none is negative.

    Numbers that are all 0 or 1 say whether a gene is there, and are no counts.
    """
    is_dense = hasattr(element, "dtype")
    first = element[: max(1, NUMBERS // element.shape[1])] if is_dense else element["data"][:NUMBERS]
    return bool(np.all(first >= 0) and np.all(first == np.rint(first)) and (not np.any(first) or np.any(first > 1)))


def _donors(obs: "hdf5.Element") -> list[tuple[str, int]]:
    found = []
    for name, values in hdf5.columns(obs, lambda name: inspection.is_named(name, inspection.DONOR_WORDS)):
        if not values.isna().any() and FEWEST_DONORS <= values.nunique() <= len(values) // 10:
            found.append((name, values.nunique()))
    return found
