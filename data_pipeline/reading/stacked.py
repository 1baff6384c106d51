"""Several files as one matrix of counts: rows one after the other, columns brought to one order of genes."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import sparse

from data_pipeline.reading.file import matrix
from data_pipeline.reading.file.values import undo
from data_pipeline.reading.source import Values

BLOCK = 4096  # rows per block when a whole dataset passes through


@dataclass(frozen=True)
class Part:
    """One file. columns[j]: the gene (column of the result) that file column j adds to, -1 = none; None = the same."""

    path: str
    layer: str | None
    num_rows: int
    columns: np.ndarray | None


@dataclass(eq=False)
class Files:
    """Row access over `parts`, in file rows. Holds no file open when pickled; opens them where it is used.

    scratch: folder for copies by rows of large CSC matrices. fetch: finds files, and this, without a shared folder.
    """

    parts: list[Part]
    num_genes: int
    values: Values
    scratch: Path
    fetch: Callable[[str], str] | None = None
    _open: dict[tuple[int, int], matrix.Rows] = field(default_factory=dict, repr=False)

    @property
    def starts(self) -> np.ndarray:
        """First row of each part, and the end: int64 [parts + 1]."""
        return np.concatenate([[0], np.cumsum([part.num_rows for part in self.parts])]).astype(np.int64)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": {}}

    def stored(self, number: int) -> matrix.Rows:
        """Return the matrix of one part as it is stored; each process opens its own."""
        key = (os.getpid(), number)
        if key not in self._open:
            part = self.parts[number]
            find = str if self.fetch is None else self.fetch
            self._open[key] = matrix.open_rows(find(part.path), part.layer, Path(find(str(self.scratch))))
        return self._open[key]

    def close(self) -> None:
        """Close what was opened; a later read opens it again."""
        for rows in self._open.values():
            rows.element.file.close()
        self._open.clear()

    def taken(self, number: int, block: sparse.csr_matrix) -> sparse.csr_matrix:
        """Return stored rows of a part without the numbers of columns that are no gene of the result."""
        columns = self.parts[number].columns
        if columns is None or columns.min(initial=0) >= 0:
            return block
        keep = columns[block.indices] >= 0
        ends = np.concatenate([[0], np.cumsum(keep)])[block.indptr]
        return sparse.csr_matrix((block.data[keep], block.indices[keep], ends), shape=block.shape)

    def counts(self, number: int, block: sparse.csr_matrix) -> sparse.csr_matrix:
        """Return stored rows of a part as counts in the common order of genes."""
        block = undo(block, self.values)
        columns = self.parts[number].columns
        if columns is None:
            return block
        kept = np.flatnonzero(columns >= 0)
        place = (kept, columns[kept])
        chooser = sparse.csr_matrix((np.ones(len(kept), np.float32), place), shape=(len(columns), self.num_genes))
        moved = sparse.csr_matrix(block @ chooser)
        moved.sort_indices()
        return moved

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return counts of file rows start..stop, float32 CSR."""
        starts = self.starts
        pieces = []
        for number in range(len(self.parts)):
            first, last = max(start, starts[number]), min(stop, starts[number + 1])
            if first < last:
                block = self.stored(number).read(int(first - starts[number]), int(last - starts[number]))
                pieces.append(self.counts(number, block))
        return matrix.stack(pieces, self.num_genes)

    def take(self, rows: np.ndarray) -> sparse.csr_matrix:
        """Return counts of any file rows (int64), in the order asked for."""
        starts = self.starts
        owner = np.searchsorted(starts, rows, side="right") - 1
        pieces = [
            self.counts(number, self.stored(number).take(rows[owner == number] - starts[number]))
            for number in np.unique(owner)
        ]
        if len(pieces) == 1:
            return pieces[0]
        back = np.empty(len(rows), np.int64)
        back[np.argsort(owner, kind="stable")] = np.arange(len(rows))
        return matrix.stack(pieces, self.num_genes)[back]


@dataclass(eq=False)
class Counts:
    """Counts of n cells x G genes on disk, by cell: what a worker needs of a dataset, and cheap to send to one.

    rows: file rows behind the cells, int64; None: all of them in order. offsets: int64 [n + 1], then cell i is the sum
    of rows[offsets[i]:offsets[i + 1]]; None: one row per cell.
    """

    files: Files
    num_cells: int
    rows: np.ndarray | None = None
    offsets: np.ndarray | None = None

    @property
    def num_genes(self) -> int:
        return self.files.num_genes

    @property
    def cell_of_row(self) -> np.ndarray:
        """Return the cell that each file row is of, int64 [file rows]; -1 for a row that was left out."""
        found = np.full(int(self.files.starts[-1]), -1, np.int64)
        rows = np.arange(self.num_cells) if self.rows is None else self.rows
        lengths = np.ones(self.num_cells, np.int64) if self.offsets is None else np.diff(self.offsets)
        found[rows] = np.repeat(np.arange(self.num_cells), lengths)
        return found

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return counts of cells start..stop, float32 CSR [stop - start, G]."""
        stop = min(stop, self.num_cells)
        return self.files.read(start, stop) if self.rows is None else self.take(np.arange(start, stop))

    def take(self, rows: np.ndarray) -> sparse.csr_matrix:
        """Return counts of the cells `rows` (int64, any order, repeats allowed), float32 CSR [len(rows), G]."""
        rows = np.asarray(rows, dtype=np.int64)
        if self.offsets is None:
            return self.files.take(rows if self.rows is None else self.rows[rows])
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        ends = np.concatenate([[0], np.cumsum(lengths)])
        inside = np.arange(ends[-1]) + np.repeat(self.offsets[rows] - ends[:-1], lengths)
        adder = sparse.csr_matrix((np.ones(ends[-1], np.float32), np.arange(ends[-1]), ends))
        return sparse.csr_matrix(adder @ self.files.take(self.rows[inside]))

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """Yield (first cell, counts of up to `size` cells), in order."""
        for start in range(0, self.num_cells, size):
            yield start, self.read(start, start + size)
