"""`cellskew predict`: cells that nobody has annotated, annotated by a trained network."""

import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from trainables.trial.package import Annotator

BLOCK = 2048  # cells encoded at once
KINDS = (".parquet", ".csv")
UNASSIGNED = "unassigned"  # the prediction of a cell that had better not be named
SUM = "sum"  # of --totals: the file's own sums
ALIKE = 5.0  # how many times larger or smaller typical totals may be before they need to be declared


@dataclass(frozen=True)
class Predicted:
    """What was written, and how many of the model's genes the file has (`known`); of several models, of the worst off.

    types: class, cells (predicted to be of it), probability (their mean); largest first. agreed: cells for which all of
    several networks name the same type. doubts: of the file's numbers and genes.
    """

    out: Path
    num_cells: int
    types: pd.DataFrame
    genes: int
    known: int
    networks: int
    agreed: int
    doubts: list[str]


@dataclass(frozen=True)
class _Reader:
    """A network, and where its genes are among the file's: picks, sparse [file's genes, its genes]."""

    annotator: "Annotator"
    picks: sparse.csr_matrix

    @property
    def known(self) -> int:
        return int(np.count_nonzero(self.picks.getnnz(axis=0)))

    def probabilities(self, counts: sparse.csr_matrix, totals: np.ndarray, classes: list[str]) -> np.ndarray:
        """Return the probability of each of `classes`, float32 [n, C]."""
        chosen = sparse.csr_matrix(counts @ self.picks)
        chosen.sort_indices()
        order = [self.annotator.classes.index(name) for name in classes]
        return self.annotator.predict(chosen, totals).astype(np.float32)[:, order]


def predict(
    folders: Sequence[Path],
    data: str,
    options: dict[str, Any],
    out: Path,
    least: float,
    progress: Callable[[int, int], None],
    sure: float = 0.0,
) -> Predicted:
    """Annotate the cells of an h5ad file with the networks in `folders`; write one row per cell to `out`.

    options: of the file, as a sweep's `datasets:` has them (layer, values, gene_names, totals, ...), where totals may
    also be "sum". least: share of the model's genes that the file must have. Columns: cell_id, prediction, probability,
    p_<class> for every class. Several networks (an ensemble, Lakshminarayanan 2017, arXiv 1612.01474): probabilities
    are their means, and `agreement` the share of them that name the predicted type; they must know the same types.
    sure: cells whose highest probability is lower are UNASSIGNED, whichever type that is of.
    """
    from trainables.trial.package import open_model

    if out.suffix not in KINDS:
        raise RequestError(f"--out {out}: give a name that ends in {' or '.join(KINDS)}")
    check_once([str(folder) for folder in folders])
    annotators = [open_model(folder) for folder in folders]
    _check_classes(folders, annotators)
    _check_unassigned(sure, annotators[0].classes)
    cells = _open(data, options)
    readers = [_reader(annotator, cells, options, least) for annotator in annotators]
    table = _annotated(readers, cells, progress)
    table.loc[table["probability"] < sure, "prediction"] = UNASSIGNED
    cells.counts.files.close()
    _write(table, out)
    return _told(table, out, readers, cells.facts["warnings"])


def _told(table: pd.DataFrame, out: Path, readers: Sequence[_Reader], doubts: list[str]) -> Predicted:
    types = table.groupby("prediction", sort=False)["probability"].agg(["size", "mean"]).sort_values("size")[::-1]
    types = types.reset_index().set_axis(["class", "cells", "probability"], axis=1)
    worst = min(readers, key=lambda reader: reader.known / len(reader.annotator.genes))
    agreed = int((table["agreement"] == 1).sum()) if "agreement" in table else len(table)
    genes = len(worst.annotator.genes)
    return Predicted(out, len(table), types, genes, worst.known, len(readers), agreed, doubts)


def _check_unassigned(sure: float, classes: list[str]) -> None:
    """RequestError where a type has the name that cells of a lower probability get."""
    if sure > 0 and UNASSIGNED in classes:
        raise RequestError(f"--least {sure:g}: a type of the training is called {UNASSIGNED}; leave the option out")


def check_once(names: Sequence[str]) -> None:
    """RequestError if a network is named twice."""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RequestError(f"named twice: {', '.join(twice)}; a network that votes twice makes no ensemble surer")


def _check_classes(folders: Sequence[Path], annotators: Sequence["Annotator"]) -> None:
    """RequestError unless all networks know the same types."""
    first = set(annotators[0].classes)
    for folder, other in zip(folders, annotators, strict=True):
        if apart := sorted(first ^ set(other.classes)):
            named = ", ".join(apart[:6])
            raise RequestError(
                f"{folder}: only some of the networks know {named}; an ensemble's must know the same types"
            )


def _reader(annotator: "Annotator", cells: Cells, options: dict[str, Any], least: float) -> _Reader:
    """Return a network with its genes found in the file; RequestError where they or its totals aren't there."""
    if annotator.spec.needs_totals and "totals" not in options:
        _check_totals(annotator.described["encoding"]["totals"], cells)
    found = _Reader(annotator, chooser(annotator.genes, cells.genes))
    _check_genes(annotator.genes, cells, found.known, least)
    return found


def _annotated(readers: Sequence[_Reader], cells: Cells, progress: Callable[[int, int], None]) -> pd.DataFrame:
    """Return the table of all cells, see predict."""
    classes, parts, agreements = readers[0].annotator.classes, [], []
    for start, counts in cells.blocks(BLOCK):
        totals = cells.totals[start : start + counts.shape[0]]
        each = np.stack([reader.probabilities(counts, totals, classes) for reader in readers])
        parts.append(each.mean(axis=0, dtype=np.float64).astype(np.float32))
        agreements.append((each.argmax(2) == parts[-1].argmax(1)).mean(axis=0))
        progress(start + counts.shape[0], cells.num_cells)
    table = _table(cells.cell_ids, np.concatenate(parts), classes)
    if len(readers) > 1:
        table.insert(3, "agreement", np.concatenate(agreements))
    return table


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
def checkpoints(run_ids: list[str], folders: list[Path], storage: Path, given_uri: str | None) -> Iterator[list[Path]]:
    """Give the folders of networks, named by their runs or themselves; RequestError if none is, or one twice."""
    if not run_ids and not folders:
        raise RequestError("say which network: either --run RUN_ID or --checkpoint FOLDER; several are an ensemble")
    check_once(run_ids)
    with ExitStack() as places:
        yield [*(places.enter_context(checkpoint_of(one, storage, given_uri)) for one in run_ids), *folders]


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


def show(found: Predicted, advice: Callable[[str], str]) -> None:
    """Print how many cells of each type were predicted, and by how much of the model; advice: see checking.show."""
    table = found.types.assign(probability=[f"{value:.2f}" for value in found.types["probability"]])
    tables.draw(table.rename(columns={"probability": "mean probability"}))
    print(f"{found.num_cells:,} cells annotated by {found.known:,} of the model's {found.genes:,} genes: {found.out}")
    if found.networks > 1:
        print(
            f"{found.networks} networks: mean probabilities; all of them name the same type of {found.agreed:,} cells"
        )
    for doubt in found.doubts:
        tables.console().print(f"note: {advice(doubt)}")
    print("a network names one of the types that it was trained on, whatever the cell is; look at low probabilities")
