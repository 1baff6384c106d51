"""h5ad files -> labelled counts by row blocks; refuses what is not counts, with every problem at once.

X stays on disk: it passes through once when a dataset is first opened (checked, summed, hashed), later opens read the
verdict from a cache, and workers read the blocks they need.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from data_pipeline.reading import remembered, validation
from data_pipeline.reading.cells import Cells
from data_pipeline.reading.source import Source, Values

__all__ = ["Cells", "Source", "Values", "open_cells", "write_h5ad"]


def open_cells(source: Source, cache: Path | None = None) -> Cells:
    """Return the validated dataset; RequestError lists everything wrong with it.

    cache: folder that remembers validated files by path, size, time of change and options, so that a second open is
    instant, and that holds the copy by rows of a large CSC matrix (without it: a folder in the system's temporary one).
    """
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
