"""A file of made-up counts of an atlas's size, some types of it rare, and a pretrained folder that knows its genes."""

import sys
from pathlib import Path

import numpy as np
from scipy import sparse

from gpu_parts.scene import ROOT

NUM_TYPES, MARKERS = 11, 60  # types; genes that a type reads more of
OFFICIAL = {"embsize": 512, "nheads": 8, "d_hid": 512, "nlayers": 12}


def write(path: Path, num_cells: int, num_genes: int, reads: int, seed: int = 0) -> list[str]:
    """Write cells of about `reads` reads, by log-normal totals and gene frequencies; return the genes' names."""
    import anndata
    import pandas as pd

    rng = np.random.default_rng(seed)
    share = 0.75 ** np.arange(NUM_TYPES)
    types = rng.choice(NUM_TYPES, num_cells, p=share / share.sum())
    types[: 3 * NUM_TYPES] = np.arange(3 * NUM_TYPES) % NUM_TYPES
    totals = rng.lognormal(np.log(reads), 0.3, num_cells).astype(np.int64) + 1
    common = 1 / (np.arange(num_genes) + 0.02 * num_genes)
    rows, columns = [], []
    for number in range(NUM_TYPES):
        weights = common.copy()
        weights[rng.choice(num_genes, min(MARKERS, num_genes // 4), replace=False)] *= 8
        of = np.flatnonzero(types == number)
        rows.append(np.repeat(of, totals[of]))
        bounds = np.cumsum(weights / weights.sum())
        columns.append(np.minimum(np.searchsorted(bounds, rng.random(len(rows[-1]))), num_genes - 1))
    where = (np.concatenate(rows), np.concatenate(columns))
    counts = sparse.coo_matrix((np.ones(len(where[0]), np.float32), where), shape=(num_cells, num_genes)).tocsr()
    genes = [f"GENE{number}" for number in range(num_genes)]
    obs = pd.DataFrame({"cell_type": [f"type {number}" for number in types]}, index=[f"c{n}" for n in range(num_cells)])
    anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=genes)).write_h5ad(path)
    return genes


def write_scgpt(parent: Path, genes: list[str], **sizes: int) -> Path:
    """Write random weights in the official file's layout, of its size if none is given."""
    sys.path.insert(0, str(ROOT / "tests"))
    from scgpt_folder import folder_args, write_folder

    return write_folder(parent, genes, args=folder_args(**(sizes or OFFICIAL)))
