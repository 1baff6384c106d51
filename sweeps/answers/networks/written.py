"""Annotated cells on their way to files: a table (.parquet, .csv) block by block, columns of a copied h5ad."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import entr

from data_pipeline.atomic import replacing, writing
from data_pipeline.errors import RequestError
from data_pipeline.reading.cells import Cells
from data_pipeline.reading.h5ad import write_annotated
from data_pipeline.spreadsheets import to_csv

KINDS = (".parquet", ".csv")
ROWS = 65_536  # of a table that are held before they are written
UNASSIGNED = "unassigned"  # the prediction of a cell that had better not be named
PREFIX = "cellskew_"  # of columns of obs


@dataclass(frozen=True)
class Block:
    """Some cells, one after the other. probabilities float32 [n, C]; agreement float64 [n], None of a single model."""

    cell_ids: np.ndarray
    probabilities: np.ndarray
    agreement: np.ndarray | None

    def columns(self, classes: list[str], sure: float) -> pd.DataFrame:
        """Return a row per cell: prediction, probability, second, entropy, agreement; see predicting.predict."""
        rows, names = np.arange(len(self.probabilities)), np.array([*classes, UNASSIGNED], dtype=object)
        first = self.probabilities.argmax(axis=1)
        others = self.probabilities.copy()
        others[rows, first] = -1
        highest = self.probabilities[rows, first]
        found = {"prediction": names[np.where(highest < sure, len(classes), first)], "probability": highest}
        found |= {} if self.agreement is None else {"agreement": self.agreement}
        found["second"] = names[others.argmax(axis=1) if len(classes) > 1 else np.full(len(rows), len(classes))]
        found["entropy"] = entr(self.probabilities.astype(np.float64)).sum(axis=1).astype(np.float32)
        return pd.DataFrame(found)

    def table(self, columns: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
        """Return those columns after the cells' names, and before a column p_<class> for each class."""
        scores = pd.DataFrame(self.probabilities, columns=[f"p_{name}" for name in classes])
        return pd.concat([pd.DataFrame({"cell_id": self.cell_ids}), columns, scores], axis=1)


class Rows:
    """Rows of a table on their way to the file `part`, which is to be `out`: so many at once."""

    def __init__(self, part: Path, out: Path) -> None:
        self.part, self.out, self.waiting, self.writer = part, out, [], None

    def add(self, table: pd.DataFrame) -> None:
        self.waiting.append(table)
        if sum(map(len, self.waiting)) >= ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left."""
        self._flush()
        if self.writer is not None:
            with writing(self.out):
                self.writer.close()

    def _flush(self) -> None:
        if self.waiting:
            table, self.waiting = pd.concat(self.waiting, ignore_index=True), []
            with writing(self.out):
                (self._csv if self.out.suffix == ".csv" else self._parquet)(table)

    def _csv(self, table: pd.DataFrame) -> None:
        text = to_csv(table, header=not self.part.exists())
        with self.part.open("a", encoding="utf-8", newline="") as file:
            file.write(text)

    def _parquet(self, table: pd.DataFrame) -> None:
        import pyarrow as arrow
        import pyarrow.parquet as parquet

        made = arrow.Table.from_pandas(table, preserve_index=False)
        self.writer = parquet.ParquetWriter(self.part, made.schema) if self.writer is None else self.writer
        self.writer.write_table(made)


@contextmanager
def tables(out: Path | None) -> Iterator[Rows | None]:
    """Give what takes rows for a table, which is there whole once `with` ends; None where none is asked for."""
    if out is None:
        yield None
        return
    with ExitStack() as last:
        with writing(out):
            part = last.enter_context(replacing(out))
        rows = Rows(part, out)
        yield rows
        rows.close()


def check(out: Path | None, h5ad: Path | None) -> None:
    """RequestError for names that don't say what is to be written, or are folders."""
    for one in filter(None, (out, h5ad)):
        if one.is_dir():
            raise RequestError(f"{one} can't be written: it is a folder. Name another place")
    if out is not None and out.suffix not in KINDS:
        raise RequestError(f"--out {out}: give a name that ends in {' or '.join(KINDS)}")
    if h5ad is not None and h5ad.suffix != ".h5ad":
        raise RequestError(f"--h5ad {h5ad}: give a name that ends in .h5ad")


def write_obs(cells: Cells, out: Path, named: pd.DataFrame, classes: list[str], about: dict[str, Any]) -> None:
    """Write a copy of the cells' file with columns of obs, PREFIX before each: type, probability, second, ...

    named: see Block.columns, of all cells. Types are categories, all that the model knows, and `unassigned`.
    """
    is_unassigned = (named["prediction"] == UNASSIGNED).to_numpy() & (UNASSIGNED not in classes)
    kinds = [*classes, UNASSIGNED] if is_unassigned.any() else classes
    found = pd.DataFrame({f"{PREFIX}type": pd.Categorical(named["prediction"], categories=kinds)})
    found[f"{PREFIX}probability"] = named["probability"]
    found[f"{PREFIX}second"] = pd.Categorical(named["second"], categories=classes)
    found[f"{PREFIX}entropy"] = named["entropy"]
    found[f"{PREFIX}unassigned"] = is_unassigned
    if "agreement" in named:
        found[f"{PREFIX}agreement"] = named["agreement"]
    write_annotated(cells, out, found, about)
