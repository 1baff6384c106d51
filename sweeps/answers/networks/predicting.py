"""`cellskew predict`: cells that nobody has annotated, annotated by trained models."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from data_pipeline.errors import RequestError
from data_pipeline.reading.cells import Cells
from data_pipeline.reading.file import places
from data_pipeline.reading.h5ad import check_annotated, open_cells, read_labels
from data_pipeline.reading.source import Source
from data_pipeline.tree import at_level, read_tree
from sweeps import tables
from sweeps.answers.networks import judged, written
from sweeps.answers.networks.judged import Judged
from sweeps.answers.networks.meant import Meant, check_once
from sweeps.answers.networks.readers import SUM, Reader, Wish, reader
from sweeps.answers.networks.written import UNASSIGNED, Block

if TYPE_CHECKING:
    from trainables.trial.annotator import Annotator

BLOCK = 2048  # cells encoded at once
MANY_LOW = 0.2  # of the cells with a low highest probability, which 0.05 of the validation cells have: a warning


@dataclass(frozen=True)
class Predicted:
    """What was found, and how many of the model's genes the file has (`known`); of several models, of the worst off.

    types: class, cells (predicted to be of it), probability (their mean); largest first. agreed: cells for which all of
    several models name the same type. low: share of the cells whose highest probability is lower than that of all but
    0.05 of the validation cells; NaN where none is known. doubts: of the file's numbers and genes.
    """

    wrote: list[Path]
    num_cells: int
    types: pd.DataFrame
    genes: int
    known: int
    models: int
    agreed: int
    low: float
    doubts: list[str]
    judged: Judged | None


def predict(models: Sequence[Meant], data: str, wish: Wish, progress: Callable[[int, int], None]) -> Predicted:
    """Annotate the cells of an h5ad file with the models; write what is wished for, a row per cell.

    Columns: cell_id, prediction, probability (the highest), second (the next type), entropy (of the probabilities, in
    nats), p_<class> for every class. Several models (an ensemble, Lakshminarayanan 2017, arXiv 1612.01474):
    probabilities are their means, and `agreement` the share of them that name the predicted type; they must know the
    same types. With `level` a type has the sum of the probabilities of those below it. Cells go through block by block:
    of a file of any size no more than a few numbers a cell are held, and with `evaluate` its probabilities.
    """
    from trainables.trial.annotator import open_model

    written.check(wish.out, wish.h5ad)
    check_once([str(one.folder) for one in models])
    annotators = [open_model(one.folder) for one in models]
    _check_classes(models, annotators)
    _check_unassigned(wish.sure, named := _named(wish, annotators[0]))
    cells = _open(data, wish.options)
    if wish.h5ad is not None:
        check_annotated(cells, wish.h5ad)
    labels = _labels(wish, cells, annotators[0].classes)
    readers = [reader(one, model, cells, wish) for one, model in zip(annotators, models, strict=True)]
    with written.tables(wish.out) as rows:
        seen = _Seen(readers, cells, wish.sure, labels is not None, named)
        for table in seen.through(progress):
            if rows is not None:
                rows.add(table())
    cells.counts.files.close()
    if wish.h5ad is not None:
        about = {"models": [one.name for one in models], "adjustment": [one.adjustment for one in models]}
        written.write_obs(cells, wish.h5ad, seen.named, seen.classes, about)
    found = None
    if labels is not None:
        found = judged.judge(np.concatenate(seen.kept), labels, map(str, cells.cell_ids), annotators)
    return seen.told([one for one in (wish.out, wish.h5ad) if one is not None], cells.facts["warnings"], found)


class _Seen:
    """What has been seen of the cells so far: a few numbers of each, and where they are asked for all probabilities."""

    def __init__(self, readers: Sequence[Reader], cells: Cells, sure: float, keeps: bool, named: Sequence[str]) -> None:
        """named: what each class of the models is called: several the same, and these have one probability."""
        self.readers, self.cells, self.sure, self.keeps = readers, cells, sure, keeps
        self.classes = list(dict.fromkeys(named))
        self.is_called = np.array([[one == name for name in self.classes] for one in named], dtype=np.float32)
        self.parts: list[pd.DataFrame] = []
        self.kept: list[np.ndarray] = []
        self.low = 0.0

    def through(self, progress: Callable[[int, int], None]) -> Iterator[Callable[[], pd.DataFrame]]:
        """Annotate block after block; yields what makes the table of each."""
        for start, counts in self.cells.blocks(BLOCK):
            block = self._block(start, counts)
            columns = block.columns(self.classes, self.sure)
            every = dict.fromkeys([*self.classes, UNASSIGNED])  # which a type may be called, where no cell is left so
            kinds = dict.fromkeys(("prediction", "second"), pd.CategoricalDtype(list(every)))
            self.parts.append(columns.astype(kinds))
            self.kept += [block.probabilities] if self.keeps else []
            yield lambda block=block, columns=columns: block.table(columns, self.classes)
            progress(start + counts.shape[0], self.cells.num_cells)

    def _block(self, start: int, counts: sparse.csr_matrix) -> Block:
        stop = start + counts.shape[0]
        totals = self.cells.totals[start:stop]
        finest = self.readers[0].annotator.classes
        found = [one.probabilities(start, counts, totals, finest) for one in self.readers]
        each = np.stack([probabilities @ self.is_called for probabilities, _ in found])
        self.low += np.mean([is_low.sum() for _, is_low in found])
        mean = each.mean(axis=0, dtype=np.float64).astype(np.float32)
        agreement = (each.argmax(2) == mean.argmax(1)).mean(axis=0) if len(each) > 1 else None
        return Block(self.cells.cell_ids[start:stop], mean, agreement)

    @property
    def named(self) -> pd.DataFrame:
        """What Block.columns says of all cells, types as categories."""
        return pd.concat(self.parts, ignore_index=True)

    def told(self, wrote: list[Path], doubts: list[str], found: Judged | None) -> Predicted:
        named = self.named
        types = named.groupby("prediction", observed=True)["probability"].agg(["size", "mean"])
        types = types.sort_values("size", kind="stable")[::-1].reset_index()
        types = types.set_axis(["class", "cells", "probability"], axis=1)
        worst = min(self.readers, key=lambda reader: reader.known / reader.annotator.width)
        agreed = int((named["agreement"] == 1).sum()) if "agreement" in named else len(named)
        tells = all(one.annotator.described["adjustments"]["low"] is not None for one in self.readers)
        low = self.low / max(len(named), 1) if tells else np.nan
        numbers = (worst.annotator.width, worst.known, len(self.readers), agreed, low)
        return Predicted(wrote, len(named), types, *numbers, doubts, found)


def _named(wish: Wish, annotator: "Annotator") -> list[str]:
    """Return what each class of the models is called: itself, or the type at the level that is wished for."""
    if wish.level is None and wish.tree is not None:
        raise RequestError("--tree says what lies above what: name the level that cells are wanted at, --level 1 say")
    if wish.level is None:
        return annotator.classes
    tree = annotator.described.get("tree") if wish.tree is None else read_tree(wish.tree)
    if not tree:
        raise RequestError(
            f"--level {wish.level}: the model's dataset had no `tree:` in its sweep; name one with --tree TREE.yaml"
        )
    if wish.evaluate is not None:
        raise RequestError("--evaluate looks at the types that were trained on, --level at broader ones: ask for one")
    return at_level(tree, annotator.classes, wish.level)


def _labels(wish: Wish, cells: Cells, classes: list[str]) -> np.ndarray | None:
    """Return the types that are known, str objects [n]; None where nothing is to be evaluated."""
    if wish.evaluate is None:
        return None
    labels = judged.renamed(read_labels(cells, wish.evaluate), wish.renames)
    judged.check(labels, classes, wish.evaluate)
    return labels


def _check_unassigned(sure: float, classes: list[str]) -> None:
    """RequestError where a type has the name that cells of a lower probability get."""
    if sure > 0 and UNASSIGNED in classes:
        raise RequestError(f"--least {sure:g}: a type of the training is called {UNASSIGNED}; leave the option out")


def _check_classes(models: Sequence[Meant], annotators: Sequence["Annotator"]) -> None:
    """RequestError unless all models know the same types."""
    first = set(annotators[0].classes)
    for model, other in zip(models, annotators, strict=True):
        if apart := sorted(first ^ set(other.classes)):
            named = ", ".join(apart[:6])
            raise RequestError(
                f"{model.name}: only some of the models know {named}; an ensemble's must know the same types"
            )


def _open(data: str, options: dict[str, Any]) -> Cells:
    given = {name: value for name, value in options.items() if (name, value) != ("totals", SUM)}
    return open_cells(
        Source.from_dict({"name": Path(data).stem, "paths": [places.absolute(data)], "label": None, **given})
    )


def show(found: Predicted, advice: Callable[[str], str]) -> None:
    """Print how many cells of each type were predicted, and by how much of the model; advice: see checking.show."""
    table = found.types.assign(probability=[f"{value:.2f}" for value in found.types["probability"]])
    tables.draw(table.rename(columns={"probability": "mean probability"}))
    where = f": {', '.join(map(str, found.wrote))}" if found.wrote else ""
    tables.say(f"{found.num_cells:,} cells annotated by {found.known:,} of the model's {found.genes:,} genes{where}")
    if found.models > 1:
        tables.say(
            f"{found.models} models: mean probabilities; all of them name the same type of {found.agreed:,} cells"
        )
    for doubt in found.doubts:
        tables.console().print(f"note: {advice(doubt)}")
    if found.low > MANY_LOW:
        tables.warn(
            f"probabilities are low: {found.low:.0%} of the cells have a highest one that only 5% of the trial's "
            "validation cells fell short of. They may be of types, or of a kind of data, that was not trained on"
        )
    tables.say("a model names one of the types that it was trained on, whatever the cell is; look at low probabilities")
    if found.judged is not None:
        judged.show(found.judged)
