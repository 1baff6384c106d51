"""An opened, validated dataset: names and labels in memory, counts on disk."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from scipy import sparse

from data_pipeline.reading.source import Source
from data_pipeline.reading.stacked import BLOCK, Counts


@dataclass(eq=False)
class Cells:
    """An opened, validated dataset of n cells x G genes: arrays of size n and G in memory, counts on disk.

    labels: int64 [n] into `classes` (sorted); cell_ids, donors: str objects [n]; fixed_test: bool [n] if the dataset
    brings its own test set; twins: int64 [n], a number that cells with the same counts share, if they are to stay
    together; totals: float64 [n], counts per cell over all genes measured; digest: sha256 of names,
    labels, counts and options, whatever way the file stores them. facts: what the first pass saw (`check.summarise`).
    counts: the way to the numbers; send this, rather than the whole, to workers that only read.
    """

    source: Source
    genes: list[str]
    classes: list[str]
    labels: np.ndarray
    cell_ids: np.ndarray
    donors: np.ndarray | None
    fixed_test: np.ndarray | None
    twins: np.ndarray | None
    totals: np.ndarray
    digest: str
    facts: dict = field(repr=False)
    counts: Counts = field(repr=False)

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def num_cells(self) -> int:
        return len(self.labels)

    @property
    def num_genes(self) -> int:
        return len(self.genes)

    @property
    def true_counts(self) -> bool:
        """Whether the numbers are molecules counted, not scaled values undone from logarithms."""
        return self.source.values.kind == "counts"

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return counts of cells start..stop, float32 CSR [stop - start, G]."""
        return self.counts.read(start, stop)

    def take(self, rows: np.ndarray) -> sparse.csr_matrix:
        """Return counts of the cells `rows` (int64, any order, repeats allowed), float32 CSR [len(rows), G]."""
        return self.counts.take(rows)

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """Yield (first cell, counts of up to `size` cells), in order."""
        return self.counts.blocks(size)
