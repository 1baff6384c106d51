"""`cellskew predict`: cells that nobody has annotated, annotated by a trained network."""

import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from data_pipeline.atomic import deliver
from data_pipeline.errors import RequestError
from data_pipeline.genes import chooser, looks_ensembl
from data_pipeline.reading.cells import Cells
from data_pipeline.reading.file import places
from data_pipeline.reading.h5ad import open_cells
from data_pipeline.reading.source import Source
from data_pipeline.spreadsheets import to_csv
from sweeps import tables
from sweeps.answers.networks import promote

BLOCK = 2048  # cells encoded at once
KINDS = (".parquet", ".csv")
SUM = "sum"  # of --totals: the file's own sums
ALIKE = 5.0  # how many times larger or smaller typical totals may be before they need to be declared


@dataclass(frozen=True)
class Predicted:
    """What was written, and how many of the model's genes the file has (`known`).

    types: class, cells (predicted to be of it), probability (their mean); largest first.
    """

    out: Path
    num_cells: int
    types: pd.DataFrame
    genes: int
    known: int


def predict(
    folder: Path, data: str, options: dict[str, Any], out: Path, least: float, progress: Callable[[int, int], None]
) -> Predicted:
    """Annotate the cells of an h5ad file with the network in `folder`; write one row per cell to `out`.

    options: of the file, as a sweep's `datasets:` has them (layer, values, gene_names, totals, ...), where totals may
    also be "sum". least: share of the model's genes that the file must have. Columns: cell_id, prediction, probability,
    p_<class> for every class.
    """
    from trainables.trial.package import open_model

    if out.suffix not in KINDS:
        raise RequestError(f"--out {out}: give a name that ends in {' or '.join(KINDS)}")
    annotator = open_model(folder)
    cells = _open(data, options)
    if annotator.spec.needs_totals and "totals" not in options:
        _check_totals(annotator.described["encoding"]["totals"], cells)
    picks = chooser(annotator.genes, cells.genes)
    known = int(np.count_nonzero(picks.getnnz(axis=0)))
    _check_genes(annotator.genes, cells, known, least)
    parts = []
    for start, counts in cells.blocks(BLOCK):
        stop = start + counts.shape[0]
        chosen = sparse.csr_matrix(counts @ picks)
        chosen.sort_indices()
        parts.append(annotator.predict(chosen, cells.totals[start:stop]).astype(np.float32))
        progress(stop, cells.num_cells)
    cells.counts.files.close()
    table = _table(cells.cell_ids, np.concatenate(parts), annotator.classes)
    _write(table, out)
    types = table.groupby("prediction", sort=False)["probability"].agg(["size", "mean"]).sort_values("size")[::-1]
    types = types.reset_index().set_axis(["class", "cells", "probability"], axis=1)
    return Predicted(out, len(table), types, len(annotator.genes), known)


def _open(data: str, options: dict[str, Any]) -> Cells:
    given = {name: value for name, value in options.items() if (name, value) != ("totals", SUM)}
    return open_cells(
        Source.from_dict({"name": Path(data).stem, "paths": [places.absolute(data)], "label": None, **given})
    )


def _check_totals(trained: dict[str, Any], cells: Cells) -> None:
    """RequestError where the file's own sums may not be what totals were in training; nobody has said that they are."""
    typical = float(np.median(cells.totals))
    if trained["column"] is None and trained["median"] / ALIKE <= typical <= trained["median"] * ALIKE:
        return
    was = "the sum of the file" if trained["column"] is None else f"the column {trained['column']!r}"
    raise RequestError(
        f"{cells.source.paths[0]}: this network goes by a cell's counts over all genes measured. In training that was "
        f"{was} (median {trained['median']:,.0f}); this file's own sums have a median of {typical:,.0f}. Name the "
        f"column of obs that holds the totals with --totals, or say --totals {SUM} if the file has every gene measured"
    )


def _check_genes(wanted: list[str], cells: Cells, known: int, least: float) -> None:
    if known >= least * len(wanted) and known:
        return
    kinds = {True: "Ensembl ids", False: "symbols"}
    ours, theirs = looks_ensembl(wanted), looks_ensembl(cells.genes)
    names = f"; the model knows {kinds[ours]}, the file has {kinds[theirs]}" if ours != theirs else ""
    raise RequestError(
        f"{cells.source.paths[0]}: has {known:,} of the model's {len(wanted):,} genes ({known / len(wanted):.0%}; the "
        f"model has {', '.join(wanted[:3])}, ..., the file {', '.join(cells.genes[:3])}, ...), {least:.0%} are needed"
        f"{names}. Name the column of var that has them with --gene-names, or lower --min-genes: genes that are not "
        "there count as not expressed."
    )


def _table(cell_ids: np.ndarray, probabilities: np.ndarray, classes: list[str]) -> pd.DataFrame:
    best = probabilities.argmax(1)
    named = pd.DataFrame({"cell_id": cell_ids, "prediction": np.array(classes, dtype=object)[best]})
    named["probability"] = probabilities[np.arange(len(best)), best]
    return pd.concat([named, pd.DataFrame(probabilities, columns=[f"p_{name}" for name in classes])], axis=1)


def _write(table: pd.DataFrame, out: Path) -> None:
    if out.suffix == ".csv":
        deliver(out, to_csv(table).encode())
        return
    data = io.BytesIO()
    table.to_parquet(data, index=False)
    deliver(out, data.getvalue())


@contextmanager
def checkpoint_of(run_id: str, storage: Path, given_uri: str | None) -> Iterator[Path]:
    """Give the folder `checkpoint` of a finished network's run while `with` lasts: where it lies, or a copy."""
    registry, run = promote.find(run_id, storage, given_uri)
    link = promote.linked(run, storage)
    if link is not None:
        yield link
        return
    if not registry.has_artifact(run, promote.MODEL_FOLDER):
        raise RequestError(
            f"{run.name} has no checkpoint among its artifacts: its sweep says `tracking: {{checkpoints: none}}`. "
            f"Where its trial was run it may lie in STORAGE/trials/{run.key}/{promote.MODEL_FOLDER}: give that with "
            "--checkpoint"
        )
    with tempfile.TemporaryDirectory(prefix="cellskew-") as scratch:
        yield registry.fetch_artifact(run, promote.MODEL_FOLDER, Path(scratch))


def show(found: Predicted) -> None:
    """Print how many cells of each type were predicted, and by how much of the model."""
    table = found.types.assign(probability=[f"{value:.2f}" for value in found.types["probability"]])
    tables.draw(table.rename(columns={"probability": "mean probability"}))
    print(f"{found.num_cells:,} cells annotated by {found.known:,} of the model's {found.genes:,} genes: {found.out}")
    print("a network names one of the types that it was trained on, whatever the cell is; look at low probabilities")
