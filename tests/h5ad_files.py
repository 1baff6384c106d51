"""Small h5ad files for tests: 90 cells, 40 genes, three types."""

import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from conftest import counts_like
from scipy import sparse

from data_pipeline.reading.h5ad import Source

COUNTS, LABELS = counts_like(90, 40, 3)
TYPES = np.array(["B", "NK", "T"], dtype=object)[LABELS]
CELLS = [f"cell{i}" for i in range(90)]
GENES = [f"GENE{i}" for i in range(40)]


def write(path: Path, x=COUNTS, obs: dict | None = None, genes=GENES, cells=None, **parts) -> Path:
    """Write a small h5ad: 90 cells, 40 genes, three types unless told otherwise."""
    cells = CELLS[: x.shape[0]] if cells is None else cells
    obs = pd.DataFrame({"celltype": TYPES[: x.shape[0]]} if obs is None else obs, index=cells)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*names are not unique")
        made = anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=genes))
    for name, value in parts.get("layers", {}).items():
        made.layers[name] = value
    if "raw" in parts:
        made.raw = anndata.AnnData(parts["raw"], obs=obs, var=pd.DataFrame(index=genes))
    made.write_h5ad(path, compression=parts.get("compression"))
    return path


def source(path: Path, **options) -> Source:
    return Source(**{"name": "small", "paths": (str(path),), "label": "celltype", **options})


def log1p(counts: sparse.csr_matrix, base: float = np.e, target: float = 1e4) -> sparse.csr_matrix:
    """Return log_base(1 + counts scaled to `target` per cell), float32."""
    scaled = counts.multiply(target / counts.sum(axis=1)).tocsr().astype(np.float64)
    scaled.data = np.log1p(scaled.data) / np.log(base)
    return scaled.astype(np.float32)
