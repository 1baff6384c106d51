"""How far a cell's highest probability can be trusted: reliability, and what remains if only the surest are named."""

import numpy as np

BINS = 10


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Return (mean confidence, share right, cells) of each bin of equal width that has cells, float64 [b, 3].

    confidence: highest probabilities, float [n]; right: bool [n]. Source: Guo et al. 2017, arXiv 1706.04599, section 2.
    """
    at = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    cells, sure, hits = (
        np.bincount(at, weights=part, minlength=bins) for part in (np.ones(len(at)), confidence, right)
    )
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


def _last_of_ties(ordered: np.ndarray) -> np.ndarray:
    """Return after how many cells each run of equal numbers ends, int64 [runs]."""
    return np.append(np.flatnonzero(np.diff(ordered)) + 1, len(ordered))
