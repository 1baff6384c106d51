"""Where in a file the numbers are: matrices that hold counts, and logarithms of counts that can be undone."""

from typing import TYPE_CHECKING

import numpy as np

from data_pipeline.reading.file import hdf5, matrix, places
from data_pipeline.reading.file.recognition import doubt, recognise
from data_pipeline.reading.source import Values

if TYPE_CHECKING:
    import h5py

FIRST_CELLS = 500  # cells looked at
SAMPLE = 200  # of them, looked at to recognise log values


def values_of(file: "h5py.Group", layer: str | None) -> Values | None:
    """Return how the numbers of a matrix (layer None: X) were made, by its first cells.

    None: neither counts nor logarithms that can be undone; or stored by columns, so that no look is quick.
    """
    element = hdf5.find_matrix(file, layer)
    if matrix.wrong(element) is not None or matrix.layout(element) == "csc":
        return None
    rows = matrix.Rows(element)
    block = rows.read(0, min(FIRST_CELLS, rows.shape[0]))
    full = block[np.flatnonzero(np.diff(block.indptr))]
    if not full.nnz:
        return None
    if np.all(full.data >= 0) and np.all(full.data == np.rint(full.data)):
        return Values() if doubt(full, hdf5.index(hdf5.find_var(file, layer))) is None else None
    guess = recognise(full[:SAMPLE])
    return None if guess is None else guess.values


def others(path: str, layer: str | None) -> list[tuple[str | None, Values]]:
    """Return the matrices other than `layer` (None: X) that can be used, and how: likely counts first."""
    with places.open_hdf5(path) as file:
        found = [(name, values_of(file, name)) for name in hdf5.layers(file) if name != layer]
    usable = [(name, values) for name, values in found if values is not None]
    return sorted(usable, key=lambda one: one[1].kind != "counts")
