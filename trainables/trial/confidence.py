"""How far a cell's highest probability can be trusted, and what to do about it: cells left unnamed, sets of types.

ABSTAINING[name](val_probabilities [v, C], val_labels int [v], test_probabilities [n, C]) is chosen on validation cells;
test labels are never seen. The round of training was chosen on the same validation cells, which flatters them a little.
"""

from collections.abc import Callable

import numpy as np

from trainables.metrics import bin_of

BINS = 10
PRECISION = 0.95  # of the named cells, on validation cells
LEVEL = 0.9  # of a type's cells, whose set is to hold the type


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Return (mean confidence, share right, cells) of each bin of equal width that has cells, float64 [b, 3].

    confidence: highest probabilities, float [n]; right: bool [n]. Source: Guo et al. 2017, arXiv 1706.04599, section 2.
    """
    at, parts = bin_of(confidence, bins), (np.ones(len(confidence)), confidence, right)
    cells, sure, hits = (np.bincount(at, weights=part, minlength=bins) for part in parts)
    there = cells > 0
    return np.column_stack([sure[there] / cells[there], hits[there] / cells[there], cells[there]])


def risks(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the share of mistakes among the 1, 2, ..., n surest cells, float64 [n]; of equally sure cells the mean.

    Source: Geifman & El-Yaniv 2017, arXiv 1705.08500, equations 1 and 2.
    """
    order = np.argsort(-confidence, kind="stable")
    mistakes, ends = np.cumsum(~np.asarray(right, dtype=bool)[order]), _last_of_ties(confidence[order])
    number = np.arange(1, len(order) + 1)
    expected = np.interp(number, np.concatenate([[0], ends]), np.concatenate([[0], mistakes[ends - 1]]))
    return expected / number


def aurc(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the area under the risk-coverage curve, the mean of `risks`; less is better (arXiv 1805.08206)."""
    return float(risks(confidence, right).mean())


def threshold(confidence: np.ndarray, right: np.ndarray, precision: float = PRECISION) -> float:
    """Return the lowest confidence from which on so large a share of cells is right; inf if there is none."""
    if not len(confidence):
        return np.inf
    order = np.argsort(-confidence, kind="stable")
    ends = _last_of_ties(confidence[order])
    enough = np.flatnonzero(np.cumsum(np.asarray(right, dtype=bool)[order])[ends - 1] / ends >= precision)
    return float(confidence[order][ends[enough[-1]] - 1]) if len(enough) else np.inf


def abstain(val_probabilities: np.ndarray, val_labels: np.ndarray, test_probabilities: np.ndarray) -> np.ndarray:
    """Which test cells are named, bool [n]; the others are unassigned, their highest probability being too low.

    The threshold is the lowest at which 95 % of the validation cells that are named are right (as selective
    classification does, Geifman & El-Yaniv 2017, arXiv 1705.08500, without its bound: rare types haven't the cells).
    What the same threshold gives on test cells is reported, and by type with a threshold of its own.
    """
    sure, right = val_probabilities.max(1), val_probabilities.argmax(1) == val_labels
    return test_probabilities.max(1) >= threshold(sure, right)


def conformal(val_probabilities: np.ndarray, val_labels: np.ndarray, test_probabilities: np.ndarray) -> np.ndarray:
    """Sets of types, bool [n, C], that hold the true one for 90 % of the cells of every type.

    Split-conformal, class-conditional: a type is in the set if its probability isn't lower than that of all but the
    least tenth of its own validation cells; with under nine of these it is in every set. Holds on average over splits
    for cells like the validation cells. Source: Vovk 2012, arXiv 1209.2673, section 4 (label conditional).
    """
    least = np.array([_least(val_probabilities[val_labels == c, c]) for c in range(val_probabilities.shape[1])])
    return test_probabilities >= least


def _least(own: np.ndarray) -> float:
    """Return the probability from which on a type is in sets, by its validation cells' own, float [v]; -inf: always."""
    place = int(np.ceil((len(own) + 1) * LEVEL - 1e-9))
    return float(np.sort(own)[len(own) - place]) if place <= len(own) else -np.inf


ABSTAINING: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "abstain": abstain,
    "conformal": conformal,
}


def _last_of_ties(ordered: np.ndarray) -> np.ndarray:
    """Return after how many cells each run of equal numbers ends, int64 [runs]."""
    return np.append(np.flatnonzero(np.diff(ordered)) + 1, len(ordered))
