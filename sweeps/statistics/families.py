"""Many tests at once: Holm's correction, and datasets as units where there are enough of them. Pure numbers."""

import numpy as np

DATASETS = 6  # from which on datasets are units: the least of which a signed-rank test can tell anything at 5 %


def holm(p: np.ndarray) -> np.ndarray:
    """Return p values float [m] corrected for their number by Holm's step-down method; NaN stays and isn't counted."""
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]
    corrected = np.full(len(p), np.nan)
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def signed_rank(differences: np.ndarray) -> float:
    """Return the exact two-sided p of Wilcoxon's signed-rank test of float [n datasets]; zeros are dropped.

    The distribution is that of all 2^n signs of the ranks as they are, ties at their mean rank. Wilcoxon 1945.
    """
    values = differences[differences != 0]
    if not len(values):
        return 1.0
    sizes = np.abs(values)
    ranks = np.array([(np.sum(sizes < size) + (np.sum(sizes <= size) + 1)) / 2 for size in sizes])
    doubled = np.rint(2 * ranks).astype(int)  # ranks of ties are halves
    ways = np.ones(1)
    for rank in doubled:
        ways = np.pad(ways, (0, rank)) + np.pad(ways, (rank, 0))
    up = doubled[values > 0].sum()
    tail = min(ways[: up + 1].sum(), ways[up:].sum()) / ways.sum()
    return float(min(1.0, 2 * tail))
