"""Test cells, or donors, drawn again: how much a metric would move on other ones. Pure numbers: no runs, no MLflow.

The paired bootstrap: all trials of a comparison see the same drawn cells. What is drawn are cells within their type
(the mix of the test set stays), or whole donors where there are donors; one fewer than there are, each counted
n / (n - 1) times, so that small types and few donors vary as much as they should (Rao & Wu 1988, JASA 83, 231-241).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline.seeds import generator
from sweeps.statistics.intervals import Error

DRAWS, FEWEST = 1000, 100  # an error from 100 draws is right to 7 %
AT_ONCE = 50_000_000  # numbers in memory: fewer draws where there are more cells


@dataclass(frozen=True)
class Predictions:
    """What a trial said of its test cells. cells, donors: str [n]; truth, predicted: int64 [n] into `classes`."""

    cells: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    classes: list[str]
    donors: np.ndarray | None = None


def score(tables: np.ndarray, metric: str, kept: np.ndarray | None = None) -> np.ndarray | None:
    """Return a metric of confusion matrices [..., C, C] (true class first), float [...]; None: it can't be had of them.

    metric: accuracy, balanced_accuracy, macro_precision, macro_recall, macro_f1; with kept, bool [C]: precision, recall
    or f1, the mean over those classes. A class without test cells never counts; NaN where none does.
    """
    truth, predicted, hits = tables.sum(-1), tables.sum(-2), np.diagonal(tables, axis1=-2, axis2=-1)
    if metric == "accuracy":
        return hits.sum(-1) / truth.sum(-1)
    parts = {"precision": (hits, predicted), "recall": (hits, truth), "f1": (2 * hits, truth + predicted)}
    names = parts if kept is not None else {f"macro_{name}": both for name, both in parts.items()}
    above, below = {**names, "balanced_accuracy": parts["recall"]}.get(metric, (None, None))
    if above is None:
        return None
    counts = (truth > 0) & (True if kept is None else kept)
    shares = np.divide(above, below, out=np.zeros(np.shape(above)), where=below > 0)
    with np.errstate(invalid="ignore"):
        return np.where(counts, shares, 0).sum(-1) / counts.sum(-1)


def weights(units: int, strata: np.ndarray | None, number: int, rng: np.random.Generator) -> np.ndarray:
    """Return how often each unit counts in each draw, float32 [number, units]; drawn within strata, int [units].

    A stratum of one unit keeps it in every draw.
    """
    found = np.ones((number, units), dtype=np.float32)
    kinds = np.zeros(units, dtype=np.int64) if strata is None else strata
    for kind in np.unique(kinds):
        inside = np.flatnonzero(kinds == kind)
        n = len(inside)
        if n > 1:
            found[:, inside] = rng.multinomial(n - 1, np.full(n, 1 / n), size=number) * (n / (n - 1))
    return found


class Draws:
    """One dataset's test cells or donors, drawn `number` times (None: DRAWS, or as many as memory allows).

    All its trials see the same draws; `trials` between them have all its cells. Drawn are whole donors if the trials
    have them, else cells within their type. The draws depend on the names of the cells or donors alone.
    """

    def __init__(self, trials: Sequence[Predictions], number: int | None = None) -> None:
        self.by_donor = all(trial.donors is not None for trial in trials)
        names = np.concatenate([self._names(trial) for trial in trials])
        self.units, first = np.unique(names, return_index=True)
        kinds = None if self.by_donor else np.concatenate([trial.truth for trial in trials])[first]
        number = min(DRAWS, max(FEWEST, AT_ONCE // len(self.units))) if number is None else number
        self._weights = weights(len(self.units), kinds, number, generator(0, "draws again"))
        self.freedom = len(self.units) - 1.0 if self.by_donor else _freedom(np.bincount(kinds))

    def _names(self, trial: Predictions) -> np.ndarray:
        return trial.donors if self.by_donor else trial.cells

    def tables(self, trial: Predictions) -> np.ndarray:
        """Return the confusion matrices of a trial in each draw, float [draws, C, C], true class first."""
        from scipy import sparse

        at, size = np.searchsorted(self.units, self._names(trial)), len(trial.classes)
        pairs, ones = trial.truth * size + trial.predicted, np.ones(len(trial.truth))
        each = sparse.csr_matrix((ones, (pairs, at)), (size**2, len(self.units)))
        return (each @ self._weights.T).T.reshape(-1, size, size)

    def error(self, means: np.ndarray) -> Error:
        """Return the error of a mean, from what it is in each draw, float [draws]."""
        return Error(float(np.nanstd(means, ddof=1)), self.freedom)


def _freedom(cells: np.ndarray) -> float:
    """Return degrees of freedom of a mean over types with so many test cells, int [C] (Satterthwaite).

    As if each type were told apart equally well: the rarest count most, as they do in such a mean.
    """
    cells = cells[cells > 1].astype(float)
    return float((1 / cells).sum() ** 2 / (1 / cells**2 / (cells - 1)).sum()) if len(cells) else np.nan
