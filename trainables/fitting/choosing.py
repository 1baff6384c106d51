"""A baseline's fit: which types have training cells, what each cell weighs, which setting validation cells prefer.

Shapes: n cells, C classes of the dataset, K of them present among the training cells.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from data_pipeline.errors import RequestError
from trainables.spec import Encoded, Fitted

Held = tuple[Encoded, np.ndarray]  # validation cells and their labels, int64 [n]
Some = TypeVar("Some", bound=Fitted)


@dataclass(frozen=True)
class Types:
    """The classes that a fit tells apart, which is all that is kept of its labels.

    present: those that have training cells, int64 [K], ascending; mix: each class's share of the weights, float64 [C],
    the class mix that is learnt.
    """

    present: np.ndarray
    mix: np.ndarray

    def spread(self, columns: np.ndarray, absent: float = 0.0) -> np.ndarray:
        """Return [n, C] of numbers [n, K] for the classes present; the others have `absent`."""
        spread = np.full((len(columns), len(self.mix)), absent)
        spread[:, self.present] = columns
        return spread

    def known(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what of validation cells with `labels` int64 [n] says something of the fit.

        The rows of classes that have training cells, int64; their places in `present`, int64; their weights, float64,
        such that the classes have the shares that they have in training: probabilities stand for that mix.
        """
        rows = np.flatnonzero(np.isin(labels, self.present))
        codes = np.searchsorted(self.present, labels[rows])
        seen = np.bincount(codes, minlength=len(self.present))
        return rows, codes, (self.mix[self.present] / np.maximum(seen, 1))[codes]


@dataclass(frozen=True)
class Targets:
    """Training labels as a fit takes them.

    codes: each cell's place in `types.present`, int64 [n]; weights: of the cells, float64 [n], with mean 1.
    """

    types: Types
    codes: np.ndarray
    weights: np.ndarray


def targets(model: str, labels: np.ndarray, num_classes: int, class_weight: np.ndarray | None = None) -> Targets:
    """Return what `model` is fitted to; RequestError without a training cell.

    labels: int64 [n]; class_weight: float [C], the weight of a cell by its class (None: all alike).
    """
    if not len(labels):
        raise RequestError(f"{model}: there is no training cell; give training a larger share of the split")
    present, codes = np.unique(labels, return_inverse=True)
    weights = np.ones(len(labels)) if class_weight is None else np.asarray(class_weight, dtype=np.float64)[labels]
    weights = weights / weights.mean()
    return Targets(Types(present, np.bincount(labels, weights, num_classes) / weights.sum()), codes, weights)


class Best:
    """The best fit so far by macro F1, then log-likelihood, on validation cells."""

    def __init__(self, encoded: Encoded, labels: np.ndarray) -> None:
        self.encoded, self.labels = encoded, labels
        self.fitted, self.score = None, (-np.inf, -np.inf)

    def meet(self, fitted: Fitted) -> bool:
        """Take the fit if it is better; tell whether it is behind in both measures: going on won't mend it."""
        found = self._score(fitted)
        is_behind = self._is_below(found)
        if found > self.score:
            self.fitted, self.score = fitted, found
        return is_behind

    def is_behind(self, fitted: Fitted) -> bool:
        """Tell whether both macro F1 and log-likelihood are below the best so far: weaker penalties won't mend it."""
        return self._is_below(self._score(fitted))

    def _score(self, fitted: Fitted) -> tuple[float, float]:
        return score(fitted.predict_proba(self.encoded), self.labels)

    def _is_below(self, found: tuple[float, float]) -> bool:
        return all(new < old for new, old in zip(found, self.score, strict=True))


def best_of(fits: Iterable[Some], held: Held) -> Some:
    """Return the fit that validation cells prefer; `fits`, made one by one, are left where one is behind the best."""
    best = Best(*held)
    for fitted in fits:
        if best.meet(fitted):
            break
    return best.fitted


def is_there(held: Held | None) -> bool:
    """Tell whether there are validation cells to choose by."""
    return held is not None and len(held[1]) > 0


def score(probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return (macro F1, mean log-likelihood) of probabilities [n, C] of cells with labels int64 [n]."""
    from trainables.metrics import evaluate

    of_truth = np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)
    scores = evaluate(probabilities, labels, np.zeros(probabilities.shape[1]))
    return round(scores["macro_f1"], 6), float(np.log(of_truth).mean())
