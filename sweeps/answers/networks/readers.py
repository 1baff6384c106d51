"""What trained models read of a file of new cells: their genes among its genes, or vectors in their place."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from data_pipeline.errors import RequestError
from data_pipeline.genes import chooser, looks_ensembl
from data_pipeline.reading.cells import Cells
from data_pipeline.reading.file import places
from data_pipeline.reading.labels import Renames
from data_pipeline.reading.vectors import Vectors, open_vectors
from sweeps.answers.networks.meant import Meant

if TYPE_CHECKING:
    from trainables.trial.annotator import Annotator

SUM = "sum"  # of --totals: the file's own sums
ALIKE = 5.0  # how many times larger or smaller typical totals may be before they need to be declared


@dataclass(frozen=True)
class Wish:
    """What is asked of an annotation, beside the models and the file.

    options: of the file, as a sweep's `datasets:` has them (layer, values, gene_names, totals, ...), where totals may
    also be "sum". out: a table to write; h5ad: a copy of the file to write. min_genes: share of a model's genes that
    the file must have. sure: cells whose highest probability is lower are UNASSIGNED. evaluate: column of obs with
    types that are known, `renames` what they are called instead. embeddings, obsm: where vectors are, for models that
    read these. level: of a tree of types, at which cells are named; tree: a file that has it, None: the training's.
    """

    options: dict[str, Any] = field(default_factory=dict)
    out: Path | None = None
    h5ad: Path | None = None
    min_genes: float = 0.5
    sure: float = 0.0
    evaluate: str | None = None
    renames: Renames = ()
    embeddings: Path | None = None
    obsm: str | None = None
    level: int | None = None
    tree: Path | None = None


@dataclass(frozen=True)
class Reader:
    """A model, and where what it reads is in the file: picks of genes, sparse [file's, its], or vectors of cells."""

    annotator: "Annotator"
    adjustment: str
    picks: sparse.csr_matrix | None
    vectors: Vectors | None

    @property
    def known(self) -> int:
        return self.annotator.width if self.picks is None else int(np.count_nonzero(self.picks.getnnz(axis=0)))

    def probabilities(
        self, start: int, counts: sparse.csr_matrix, totals: np.ndarray, classes: list[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the probability of each of `classes`, float32 [n, C]; whether a cell's highest, before any adjustment,
        is low, bool [n]. counts, totals: of the cells from `start` on."""
        logits = self.annotator.logits(self._seen(start, counts), totals)
        least = self.annotator.described["adjustments"]["low"]
        highest = self.annotator.probabilities(logits).max(axis=1)
        is_low = highest < (np.nan if least is None else least)
        order = [self.annotator.classes.index(name) for name in classes]
        return self.annotator.probabilities(logits, self.adjustment).astype(np.float32)[:, order], is_low

    def _seen(self, start: int, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        if self.vectors is not None:
            return self.vectors.read(start, start + counts.shape[0])
        chosen = sparse.csr_matrix(counts @ self.picks)
        chosen.sort_indices()
        return chosen


def reader(annotator: "Annotator", model: Meant, cells: Cells, wish: Wish) -> Reader:
    """Return a model with what it reads found in the file; RequestError where that or its totals aren't there."""
    if annotator.given is not None:
        return Reader(annotator, model.adjustment, None, _vectors(annotator, cells, wish))
    if wish.embeddings or wish.obsm:
        raise RequestError("--embeddings and --obsm name vectors of cells, and this model reads counts: leave them out")
    if annotator.needs_totals and "totals" not in wish.options:
        _check_totals(annotator.described["encoding"]["totals"], cells)
    found = Reader(annotator, model.adjustment, chooser(annotator.genes, cells.genes), None)
    _check_genes(annotator.genes, cells, found.known, wish.min_genes)
    return found


def _vectors(annotator: "Annotator", cells: Cells, wish: Wish) -> Vectors:
    """Return the vectors of the new cells; RequestError if there are none, or of another width than in training."""
    obsm = annotator.given.get("obsm") if wish.obsm is None and wish.embeddings is None else wish.obsm
    if obsm is None and wish.embeddings is None:
        raise RequestError(
            "this model reads vectors from a file of embeddings, not counts: name that of the new cells with "
            "--embeddings FILE.h5ad, or with --obsm NAME where they are in the file itself"
        )
    path = cells.source.paths[0] if wish.embeddings is None else places.absolute(wish.embeddings)
    try:
        found = open_vectors([path], obsm, cells.cell_ids, "", Path(cells.source.paths[0]).name)
    except RequestError as error:
        ways = "; the network that made those of the training has to make them: name them with --obsm or --embeddings"
        raise RequestError(*(problem.rstrip(".") + ways for problem in error.problems)) from error
    if found.width != annotator.width:
        raise RequestError(
            f"{path}: its vectors have {found.width} numbers, those of the training had {annotator.width}; they must "
            "be made by the same network"
        )
    return found


def _check_totals(trained: dict[str, Any], cells: Cells) -> None:
    """RequestError where the file's own sums may not be what totals were in training; nobody has said that they are."""
    typical = float(np.median(cells.totals))
    if trained["column"] is None and trained["median"] / ALIKE <= typical <= trained["median"] * ALIKE:
        return
    was = "the sum of the file" if trained["column"] is None else f"the column {trained['column']!r}"
    raise RequestError(
        f"{cells.source.paths[0]}: this model goes by a cell's counts over all genes measured. In training that was "
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
