"""`cellskew predict --evaluate`: how many cells whose types are known were found, in the numbers of a trial."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from data_pipeline.errors import RequestError
from data_pipeline.hashes import of_names
from data_pipeline.names import did_you_mean
from data_pipeline.reading.labels import Renames
from sweeps import tables
from trainables import metrics
from trainables.trial.confidence import aurc

if TYPE_CHECKING:
    from trainables.trial.annotator import Annotator


NUMBERS = ("precision", "recall", "f1")
MANY_MET = 0.05  # of the training cells; names of cells that have nothing to do with each other agree now and then


@dataclass(frozen=True)
class Judged:
    """numbers: every metric of a trial's test cells, by name; types: see metrics.per_class. unknown: cells by type that
    no model knows; unlabelled: cells of which nothing is said. Neither kind is in the numbers. trained_on: the share of
    a sample of a model's training cells whose names are among these cells'."""

    numbers: dict[str, float]
    types: pd.DataFrame
    unknown: dict[str, int]
    unlabelled: int
    trained_on: float


def renamed(labels: np.ndarray, renames: Renames) -> np.ndarray:
    """Return labels (str objects [n]) by their new names; "" for those that are left out."""
    names = dict(renames)
    return np.array([names.get(label, label) for label in labels], dtype=object)


def check(labels: np.ndarray, classes: list[str], column: str) -> None:
    """RequestError if no label is a type that the models know: said before any cell is annotated."""
    found = set(labels) - {""}
    if found & set(classes):
        return
    there, known = ", ".join(sorted(found)[:5]) or "none", ", ".join(classes[:5])
    raise RequestError(
        f"--evaluate {column}: none of its values ({there}) is a type that was trained on ({known}, ...); "
        f"{did_you_mean(min(found, default=''), classes)}name another column, or rename with --map"
    )


def judge(
    probabilities: np.ndarray, labels: np.ndarray, cell_ids: Iterable[str], annotators: Sequence["Annotator"]
) -> Judged:
    """Return how right probabilities, float [n, C], are. labels: str objects [n], "" where nothing is known.

    Types are rare or common by the training cells of the models, of several their mean.
    """
    classes = annotators[0].classes
    place = {name: number for number, name in enumerate(classes)}
    known = np.array([label in place for label in labels], dtype=bool)
    truth = np.array([place[label] for label in labels[known]], dtype=np.int64)
    cells = {name: _trained_on(annotators, classes, name) for name in ("natural", "train")}
    seen = probabilities[known]
    numbers = metrics.evaluate(seen, truth, cells["natural"], cells["train"])
    numbers["aurc"] = aurc(seen.max(axis=1), seen.argmax(axis=1) == truth)
    others = Counter(labels[~known])
    here = of_names(cell_ids)
    samples = [one.described.get("some_cells") or [] for one in annotators]
    met = max(len(here.intersection(sample)) / max(len(sample), 1) for sample in samples)
    return Judged(numbers, metrics.per_class(seen, truth, classes, cells), others, others.pop("", 0), met)


def _trained_on(annotators: Sequence["Annotator"], classes: list[str], part: str) -> np.ndarray:
    """Return the training cells of each class, int64 [C]."""
    each = [dict(zip(one.classes, one.described["cells"][part], strict=True)) for one in annotators]
    return np.rint([np.mean([cells[name] for cells in each]) for name in classes]).astype(np.int64)


def _open(types: pd.DataFrame, name: str) -> list[str]:
    """Return a number of each type with its interval, see metrics.per_class."""
    ends = zip(types[name], *(types[end] for end in metrics.ends_of(name)), strict=True)
    return [f"{value:.3f}" + ("" if np.isnan(low) else f" [{low:.2f}, {high:.2f}]") for value, low, high in ends]


def show(found: Judged) -> None:
    """Print the metrics as a trial has them, then each type, what is not in them, and what makes them worthless."""
    if found.trained_on > MANY_MET:
        tables.warn(
            f"by their names {found.trained_on:.0%} of the cells that were trained on are in this file: the numbers "
            "below are too good, and say nothing of new cells. Evaluate on cells that the model has not seen"
        )
    rows = [{"metric": name, "value": f"{value:.4f}"} for name, value in found.numbers.items()]
    tables.draw(pd.DataFrame(rows))
    types = found.types[found.types["test"] > 0]
    tables.draw(types[["class", "test", "predicted"]].assign(**{name: _open(types, name) for name in NUMBERS}))
    tables.say(
        "[95 %] of a type: what so many cells leave open (Wilson; of F1 by its counts), not what other data would"
    )
    if found.unknown:
        named = ", ".join(f"{name} ({cells:,})" for name, cells in sorted(found.unknown.items()))
        tables.say(
            f"{sum(found.unknown.values()):,} cells are of types that were not trained on, and in no number: {named}"
        )
    if found.unlabelled:
        tables.say(f"{found.unlabelled:,} cells have no label, and are in no number")
