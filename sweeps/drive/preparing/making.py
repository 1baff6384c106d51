"""What a preparation's tasks make of counts: genes, what encoders learn, cells, rows, distances. One file each."""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from data_pipeline.atomic import publish
from data_pipeline.genes import select_hvg
from data_pipeline.reading.stacked import Counts
from data_pipeline.rows import choice
from data_pipeline.rows.distances import Measured, distance_report
from data_pipeline.rows.generated import load_cells, save_cells, totals_of
from data_pipeline.rows.resample import STRATEGIES
from data_pipeline.seeds import generator
from data_pipeline.shards.shards import Shards
from data_pipeline.spreadsheets import to_csv
from trainables import spec as registry


@dataclass(frozen=True)
class Readable:
    """What tasks read of a dataset: the way to its counts, and totals and labels of its n cells."""

    counts: Counts
    totals: np.ndarray
    labels: np.ndarray
    classes: list[str]
    true_counts: bool

    def blocks(self, rows: np.ndarray, columns: np.ndarray | None = None) -> Iterator[tuple[sparse.csr_matrix, Any]]:
        """Yield (counts CSR, totals) of the cells `rows` (int64, ascending), by blocks; columns: of these genes."""
        for start, counts in self.counts.blocks():
            first, last = np.searchsorted(rows, [start, start + counts.shape[0]])
            if first < last:
                chosen = counts[rows[first:last] - start]
                chosen = chosen if columns is None else sparse.csr_matrix(chosen[:, columns])
                yield chosen, self.totals[rows[first:last]]


def fit_genes(path: Path, cells: Readable, rows: np.ndarray, number: int) -> None:
    """Publish the columns of the highly variable genes of the cells `rows`, int64 .npy."""
    blocks = lambda: (counts for counts, _ in cells.blocks(rows))  # noqa: E731
    save_array(path, select_hvg(blocks, cells.counts.num_genes, number, true_counts=cells.true_counts))


def fit_encoder(
    path: Path, cells: Readable, rows: np.ndarray, columns: Path | None, genes: list[str], model: str
) -> None:
    """Publish what a model's encoder learns from the cells `rows`, JSON. columns: file of the genes it sees."""
    chosen = None if columns is None else np.load(columns, allow_pickle=False)
    seen = genes if chosen is None else [genes[column] for column in chosen]
    learned = registry.get(model).fit_encoder(cells.blocks(rows, chosen), seen)
    publish(path, json.dumps({} if learned is None else learned).encode())


def make_cells(
    path: Path, cells: Readable, kept: np.ndarray, synthesizer: Callable[..., Any], strategy: dict, rng: tuple
) -> None:
    """Publish the cells that a strategy makes of its training cells `kept`. rng: seed and stages."""
    params = {name: value for name, value in strategy.items() if name != "kind"}
    if getattr(synthesizer, "of_small_classes", False):
        kept = kept[np.bincount(cells.labels[kept])[cells.labels[kept]] < params["cells"]]
    counts = cells.counts.take(kept)
    rng, labels = generator(*rng), cells.labels[kept]
    made = choice.call(synthesizer, counts, labels, rng, params=params, classes=cells.classes)
    totals = totals_of(made.counts, made.sources, counts, cells.totals[kept])
    if params.get("unscaled"):  # shares that sum to 1, taken for counts per 10,000 as they stand (defect scvi_unscaled)
        totals = np.full(len(totals), 1e4)
    save_cells(path, made.counts, made.labels, totals)


def rows_by_counts(path: Path, cells: Readable, kept: np.ndarray, strategy: dict, seed: tuple) -> None:
    """Publish the rows of a strategy that looks at counts, int64 .npy."""
    context = {"counts": cells.counts.take(kept), "classes": cells.classes}
    save_array(path, choice.resample(cells.labels, kept, strategy, seed, **context))


def distances(
    path: Path, cells: Readable, kept: np.ndarray, made: Path, encoded: tuple[Path, Path], model: str, rng: tuple
) -> None:
    """Publish how far made cells are from the training cells of their classes, CSV. encoded: shards of both."""
    generated = load_cells(made, cells.classes)
    rows = kept[np.isin(cells.labels[kept], generated.labels)]
    features = registry.get(model).features
    everything = np.arange(generated.num_cells)
    parts = [features(Shards(folder).take(of)) for folder, of in zip(encoded, (rows, everything), strict=True)]
    counts = [cells.counts.take(rows), generated.counts]
    genes = [part.getnnz(axis=1) for part in counts]
    real = Measured(cells.labels[rows], cells.totals[rows], genes[0], parts[0])
    own = Measured(generated.labels, generated.totals, genes[1], parts[1])
    publish(path, to_csv(distance_report(real, own, cells.classes, generator(*rng))).encode())


def save_array(path: Path, array: np.ndarray) -> None:
    """Publish an array as .npy."""
    data = io.BytesIO()
    np.save(data, array, allow_pickle=False)
    publish(path, data.getvalue())


def looks_at_counts(strategy: dict[str, Any]) -> bool:
    """Tell whether a strategy of rows needs the counts of the training cells."""
    return getattr(STRATEGIES.get(strategy["kind"]), "needs", None) == "counts"
