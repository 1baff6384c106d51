"""A matrix on disk, by rows: CSR, CSC or dense, compressed or not, always handed out as canonical float32 CSR.

CSC has its numbers by gene. A small one is turned round in memory; a large one is written once as CSR into a scratch
folder, in passes over pieces of it, so that memory stays flat.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import sparse

from data_pipeline.atomic import replacing
from data_pipeline.errors import FULL, of_disk
from data_pipeline.reading.file import hdf5, places

PIECE = 4_000_000  # numbers read at once: 48 MB with their indices
GAP = 16_384  # unwanted numbers that are cheaper to read than to skip
COLUMNS_PIECE = 16_000_000  # numbers of a large CSC matrix turned round at once: 400 MB
SMALL = 2_000_000  # numbers of a CSC matrix that is simply loaded
BLOCK = 4096  # rows written at once
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)
SPARSE = ("data", "indices", "indptr")
EXACT = 2**24  # whole numbers from here on are rounded by float32


def layout(element) -> str:
    """Return "csr", "csc" or "dense"."""
    if hasattr(element, "dtype"):
        return "dense"
    encoding = element.attrs.get("encoding-type", element.attrs.get("h5sparse_format", "csr"))
    return (encoding.decode() if isinstance(encoding, bytes) else str(encoding)).removesuffix("_matrix")


def shape_of(element) -> tuple[int, int]:
    """Return (cells, genes) as the file states them."""
    if hasattr(element, "dtype"):
        return tuple(int(size) for size in element.shape)
    shape = element.attrs["shape"] if "shape" in element.attrs else element.attrs["h5sparse_shape"]
    return int(shape[0]), int(shape[1])


def wrong(element) -> str | None:
    """Return what an element is that can't be a matrix of numbers, in words; None for one that is."""
    numbers = element if hasattr(element, "dtype") else element.get("data")
    if hasattr(element, "dtype"):
        if element.shape is None or len(element.shape) != 2:
            return f"an array of shape {element.shape}, not cells x genes"
    elif layout(element) not in ("csr", "csc"):
        return f"a matrix stored as {layout(element)!r}, not csr, csc or dense"
    elif lacking := [name for name in SPARSE if len(getattr(element.get(name), "shape", None) or ()) != 1]:
        return f"a sparse matrix without {' and '.join(lacking)}; the file is damaged"
    elif np.size(element.attrs.get("shape", element.attrs.get("h5sparse_shape", ()))) != 2:
        return "a sparse matrix that doesn't say how many cells and genes it has; the file is damaged"
    if numbers.dtype.kind in "biuf":
        return None
    return f"a matrix of {'text' if numbers.dtype.kind in 'SO' else numbers.dtype}, not of numbers"


def open_rows(path: str, layer: str | None, scratch: Path) -> "Rows":
    """Return row access to a matrix of an h5ad file. `scratch`: folder for the CSR copy of a large CSC matrix."""
    element = hdf5.find_matrix(places.open_hdf5(path), layer)
    rows = _rows(element, path, layer, scratch)
    rows.kind = (element if hasattr(element, "dtype") else element["data"]).dtype
    return rows


def _rows(element, path: str, layer: str | None, scratch: Path) -> "Rows":
    if layout(element) != "csc":
        return Rows(element)
    if element["data"].shape[0] <= SMALL:
        return Rows(element, _sparse(element).tocsr())
    copy = _by_rows(element, path, layer, Path(scratch))
    rows = Rows(places.open_hdf5(str(copy))["X"])
    rows.note = (
        f"{path}: is stored by gene (CSC); a copy by cell is kept at {copy} ({copy.stat().st_size / 1e9:.1f} GB)"
    )
    return rows


class Rows:
    """Row access: `read` a range, `take` any rows; float32 CSR, columns sorted, no stored zero.

    OSError if the file is damaged. `whole`: the matrix itself where it is held in memory. note: what its user should
    know, or None. kind: dtype in the file.
    """

    def __init__(self, element, whole: sparse.csr_matrix | None = None) -> None:
        self.element, self.whole = element, whole
        self.note: str | None = None
        self.kind: np.dtype | None = None
        self.shape = shape_of(element)
        if whole is not None:
            self.ends = whole.indptr.astype(np.int64)
        elif layout(element) == "csr":
            self.ends = _checked_ends(element)
        else:
            self.ends = np.arange(self.shape[0] + 1, dtype=np.int64) * self.shape[1]
        self._gap = GAP if whole is not None else max(GAP, _chunk(element))

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return rows start..stop."""
        if self.whole is not None:
            return _canonical(self.whole[start:stop])
        if hasattr(self.element, "dtype"):
            return self._read_dense(start, stop)
        first, last = int(self.ends[start]), int(self.ends[stop])
        data = _float32(self.element["data"][first:last])
        indices = _checked_indices(self.element["indices"][first:last], self.shape[1])
        indptr = (self.ends[start : stop + 1] - first).astype(np.int32)
        return _canonical(sparse.csr_matrix((data, indices, indptr), shape=(stop - start, self.shape[1])))

    def _read_dense(self, start: int, stop: int) -> sparse.csr_matrix:
        step = max(1, PIECE // max(1, self.shape[1]))
        pieces = [
            sparse.csr_matrix(_float32(self.element[at : min(at + step, stop)])) for at in range(start, stop, step)
        ]
        return stack(pieces, self.shape[1])

    def take(self, rows: np.ndarray) -> sparse.csr_matrix:
        """Return the rows (int64) in the order asked for, repeats allowed; the file is read once, forwards."""
        wanted, place = np.unique(np.asarray(rows, dtype=np.int64), return_inverse=True)
        pieces = [self.read(int(run[0]), int(run[-1]) + 1)[run - run[0]] for run in self._runs(wanted)]
        stacked = stack(pieces, self.shape[1])
        return stacked if np.array_equal(place, np.arange(len(wanted))) else stacked[place]

    def _runs(self, wanted: np.ndarray) -> Iterator[np.ndarray]:
        """Yield `wanted` (sorted) in groups to be read in one go: small gaps are read through, no group is large."""
        if not len(wanted):
            return
        begins = self.ends[wanted]
        apart = begins[1:] - self.ends[wanted[:-1] + 1] > self._gap
        full = begins[1:] // PIECE != begins[:-1] // PIECE
        yield from np.split(wanted, np.flatnonzero(apart | full) + 1)


def _float32(numbers: np.ndarray) -> np.ndarray:
    """Return the numbers as float32, which keeps whole ones below EXACT; what is too large for it becomes infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(numbers, dtype=np.float32)


def stack(pieces: list[sparse.csr_matrix], num_genes: int) -> sparse.csr_matrix:
    """Return blocks of rows one below the other; no blocks give no rows."""
    if not pieces:
        return sparse.csr_matrix((0, num_genes), dtype=np.float32)
    return pieces[0] if len(pieces) == 1 else sparse.csr_matrix(sparse.vstack(pieces, format="csr"))


def _canonical(block: sparse.csr_matrix) -> sparse.csr_matrix:
    block.sum_duplicates()
    if not np.all(block.data):
        block.eliminate_zeros()
    return block


def _chunk(element) -> int:
    """Return the numbers that are decompressed together: skipping fewer costs more than reading them."""
    if hasattr(element, "dtype"):
        return element.chunks[0] * element.shape[1] if element.chunks else 0
    return element["data"].chunks[0] if element["data"].chunks else 0


def _checked_ends(element) -> np.ndarray:
    """Return where rows (CSR) or columns (CSC) begin and end, int64; OSError if that can't be."""
    lines = shape_of(element)[0 if layout(element) == "csr" else 1]
    given = element["indptr"][()]
    with np.errstate(invalid="ignore"):
        ends = given.astype(np.int64)
    stored = min(element["data"].shape[0], element["indices"].shape[0])
    if (
        len(ends) != lines + 1
        or ends[0] != 0
        or ends[-1] > stored
        or np.any(np.diff(ends) < 0)
        or np.any(ends != given)
    ):
        raise OSError(f"its pointers don't fit {lines:,} lines and {stored:,} stored numbers")
    return ends


def _checked_indices(indices: np.ndarray, limit: int) -> np.ndarray:
    if len(indices) and not 0 <= indices.min() <= indices.max() < limit:
        raise OSError(f"it names column {indices.max():,}, but there are {limit:,}")
    found = np.asarray(indices, dtype=np.int32)
    if np.any(found != indices):
        raise OSError(f"it names column {indices[np.argmax(found != indices)]:g}, which is no whole number")
    return found


def _sparse(element, first: int = 0, last: int | None = None) -> sparse.csc_matrix:
    """Return columns first..last of a CSC matrix."""
    num_rows, num_genes = shape_of(element)
    last = num_genes if last is None else last
    ends = _checked_ends(element)[first : last + 1]
    data = _float32(element["data"][ends[0] : ends[-1]])
    indices = _checked_indices(element["indices"][ends[0] : ends[-1]], num_rows)
    return sparse.csc_matrix((data, indices, ends - ends[0]), shape=(num_rows, last - first))


# a large CSC matrix, turned round once


def _by_rows(element, path: str, layer: str | None, scratch: Path) -> Path:
    """Return an HDF5 file with the matrix as CSR, made by rename if it isn't there."""
    identity = json.dumps([path, layer, places.stamp(path)])
    target = scratch / f"by-rows-{hashlib.sha256(identity.encode()).hexdigest()[:24]}.h5"
    if target.exists():
        return target
    try:
        with replacing(target) as part:
            _turn_round(element, part)
    except OSError as error:
        if error.errno not in (*FULL, *CLOSED):
            raise  # of the file that is read
        needed = element["data"].shape[0] * 16 / 1e9  # pieces and the whole, 8 bytes a number each
        raise of_disk(error)(
            f"{path}: is stored by gene (CSC), and its copy by cell can't be written to {scratch}: "
            f"{os.strerror(error.errno)}. It takes about {needed:.2f} GB there while it is made; name another folder "
            "(TMPDIR where nothing is stored, else --storage), or write the file by cell: adata.X = adata.X.tocsr()"
        ) from error
    return target


def _turn_round(element, target: Path) -> None:
    """Write the CSC matrix as CSR: each piece of columns becomes CSR, then blocks of rows gather from the pieces."""
    import h5py

    num_rows, num_genes = shape_of(element)
    beside = target.with_name(f"{target.name}.pieces")
    try:
        with h5py.File(beside, "w") as pieces, h5py.File(target, "w") as out:
            ends = np.zeros(num_rows + 1, np.int64)
            for first, last in _column_pieces(element):
                ends += _write_piece(pieces.create_group(str(first)), _sparse(element, first, last).tocsr())
            whole = out.create_group("X")
            whole.attrs.update({"encoding-type": "csr_matrix", "shape": [num_rows, num_genes]})
            whole.create_dataset("indptr", data=ends)
            whole.create_dataset("data", (int(ends[-1]),), "f4")
            whole.create_dataset("indices", (int(ends[-1]),), "i4")
            for start in range(0, num_rows, BLOCK):
                _gather_rows(whole, pieces, ends, start, min(start + BLOCK, num_rows))
    finally:
        beside.unlink(missing_ok=True)


def _column_pieces(element) -> list[tuple[int, int]]:
    """Return ranges of columns with about COLUMNS_PIECE numbers each."""
    ends = _checked_ends(element)
    cuts = np.searchsorted(ends, np.arange(0, ends[-1], COLUMNS_PIECE), side="left")
    cuts = np.unique(np.concatenate([[0], cuts, [len(ends) - 1]]))
    return list(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True))


def _write_piece(group, piece: sparse.csr_matrix) -> np.ndarray:
    """Store one piece of columns as CSR; return its row pointers."""
    group.attrs["width"] = piece.shape[1]
    for name in ("data", "indices", "indptr"):
        group.create_dataset(name, data=getattr(piece, name))
    return piece.indptr.astype(np.int64)


def _gather_rows(whole, pieces, ends: np.ndarray, start: int, stop: int) -> None:
    blocks = []
    for name in sorted(pieces, key=int):
        group = pieces[name]
        indptr = group["indptr"][start : stop + 1].astype(np.int64)
        inside = slice(int(indptr[0]), int(indptr[-1]))
        part = (group["data"][inside], group["indices"][inside], indptr - indptr[0])
        blocks.append(sparse.csr_matrix(part, shape=(stop - start, int(group.attrs["width"]))))
    block = sparse.hstack(blocks, format="csr")
    whole["data"][int(ends[start]) : int(ends[stop])] = block.data
    whole["indices"][int(ends[start]) : int(ends[stop])] = block.indices
