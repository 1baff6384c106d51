"""Files larger than memory should be: opening and reading keeps memory flat."""

import subprocess
import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

CELLS, GENES, NONZERO = 200_000, 2_000, 300
OPEN = """
import resource, sys
from pathlib import Path
from data_pipeline.reading.h5ad import Source, open_cells
import numpy, pandas, h5py, scipy.sparse, pyarrow.parquet
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
cells = open_cells(Source("large", (sys.argv[1],), "celltype"), Path(sys.argv[2]))
assert sum(block.nnz for _, block in cells.blocks()) == int(sys.argv[3])
print(peak() - before)
"""


def write_large(path: Path, encoding: str) -> None:
    """Write 60 million numbers, 480 MB, as CSR or CSC without holding them."""
    lines, width, per_line = (CELLS, GENES, NONZERO) if encoding == "csr" else (GENES, CELLS, CELLS * NONZERO // GENES)
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs.update(
            {"encoding-type": f"{encoding}_matrix", "encoding-version": "0.1.0", "shape": [CELLS, GENES]}
        )
        data = group.create_dataset("data", (CELLS * NONZERO,), "f4")
        indices = group.create_dataset("indices", (CELLS * NONZERO,), "i4")
        group["indptr"] = np.arange(lines + 1, dtype=np.int64) * per_line
        together = max(1, 3_000_000 // per_line)
        for start in range(0, lines, together):
            count = min(together, lines - start)
            inside = slice(start * per_line, (start + count) * per_line)
            data[inside] = rng.geometric(0.4, count * per_line)
            offsets = np.linspace(0, width - per_line, count).astype(int)
            indices[inside] = (offsets[:, None] + np.arange(per_line)).ravel()
        types = pd.Categorical(rng.integers(0, 12, CELLS).astype(str))
        anndata.io.write_elem(file, "obs", pd.DataFrame({"celltype": types}, index=[f"c{i}" for i in range(CELLS)]))
        anndata.io.write_elem(file, "var", pd.DataFrame(index=[f"G{i}" for i in range(GENES)]))


@pytest.mark.slow
@pytest.mark.parametrize(("encoding", "limit"), [("csr", 200), ("csc", 500)])
def test_memory_stays_flat(tmp_path, encoding, limit):
    """limit in MB: arrays of the cells, a block, and for CSC one piece of columns; the matrix alone has 480 MB."""
    path = tmp_path / "large.h5ad"
    write_large(path, encoding)
    assert path.stat().st_size > 480e6
    command = [sys.executable, "-c", OPEN, str(path), str(tmp_path / "cache"), str(CELLS * NONZERO)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert float(ran.stdout) < limit
