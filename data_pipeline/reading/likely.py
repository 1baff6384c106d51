"""What a file that nobody has described yet is likely to be: which column has the types, which the donors, where
the counts are."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline.reading.file import hdf5, inspection, matrix, places
from data_pipeline.reading.file.recognition import recognise
from data_pipeline.reading.source import Source, Values

if TYPE_CHECKING:
    import h5py

DONOR_WORDS = ("donor", "patient", "individual", "subject", "participant")
FEWEST_DONORS = 3  # one each for training, validation and test
SAMPLE = 200  # cells looked at to recognise log values
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
        named = [found for found in labels if _is_named(found[0], inspection.LABEL_WORDS)]
        donors = _donors(file["obs"])
        values = _values(hdf5.find_matrix(file, layer))
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
    """Return where counts are: in X if there are some, else in the layer whose name says so, else in any."""
    there = hdf5.layers(file)
    whole = [name for name in there if _is_whole(hdf5.find_matrix(file, name))]
    if None in whole or not whole:
        return None if None in there or not there else there[0]
    return min(whole, key=lambda name: ("count" not in name.lower(), name != "raw"))


def _is_whole(element: "hdf5.Element") -> bool:
    """Tell whether the first numbers of a matrix, in whatever order it holds them, are whole and none is negative.

    Numbers that are all 0 or 1 say whether a gene is there, and are no counts.
    """
    is_dense = hasattr(element, "dtype")
    first = element[: max(1, NUMBERS // element.shape[1])] if is_dense else element["data"][:NUMBERS]
    return bool(np.all(first >= 0) and np.all(first == np.rint(first)) and (not np.any(first) or np.any(first > 1)))


def _is_named(column: str, words: tuple[str, ...]) -> bool:
    return any(word in column.lower() for word in words)


def _donors(obs: "hdf5.Element") -> list[tuple[str, int]]:
    found = []
    for name in hdf5.column_names(obs):
        if _is_named(name, DONOR_WORDS):
            values = hdf5.column(obs, name)
            if not values.isna().any() and FEWEST_DONORS <= values.nunique() <= len(values) // 10:
                found.append((name, values.nunique()))
    return found


def _values(element: "hdf5.Element") -> Values:
    """Return how the numbers were made, counts where that can't be told: opening the file says why they are none."""
    if matrix.layout(element) == "csc":
        return Values()
    rows = matrix.Rows(element)
    block = rows.read(0, min(inspection.FIRST_CELLS, rows.shape[0]))
    sample = block[np.flatnonzero(np.diff(block.indptr))[:SAMPLE]]
    if np.all(sample.data == np.rint(sample.data)):
        return Values()
    guess = recognise(sample)
    return Values() if guess is None or guess.values is None else guess.values
