"""Many tests at once: Holm's correction, and datasets as units where there are enough of them. Pure numbers.

Ranks of choices over datasets: is there a difference at all, and which?
"""

from collections.abc import Hashable, Sequence

import numpy as np
from scipy.special import fdtrc

DATASETS = 6  # from which on datasets are units: the least of which a signed-rank test can tell anything at 5 %


def holm(p: np.ndarray, asked: Sequence[Hashable] | None = None) -> np.ndarray:
    """Return p values float [m] corrected for their number by Holm's step-down method; NaN stays and isn't counted.

    asked: what each tests; those that test the same have the same p, and are one test.
    """
    if asked is not None:
        once = {question: at for at, question in enumerate(asked) if not np.isnan(p[at])}
        corrected = dict(zip(once, holm(p[list(once.values())]), strict=True))
        return np.where(np.isnan(p), np.nan, [corrected.get(question, np.nan) for question in asked])
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]
    corrected = np.full(len(p), np.nan)
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each of float [n], the least 1; ties share their mean rank."""
    return np.array([(np.sum(values < value) + (np.sum(values <= value) + 1)) / 2 for value in values])


def friedman(table: np.ndarray) -> float:
    """Return the p of Friedman's test that all choices are alike, of their ranks float [blocks, choices].

    By the F of Iman & Davenport 1980 (Commun. Stat. A 9, 571-595), as Demšar 2006 advises, since chi-square is too
    cautious with few blocks; ties within blocks are allowed for, as the ranks' own variance is taken.
    """
    blocks, choices = table.shape
    within = float(((table - (choices + 1) / 2) ** 2).sum())
    between = float(blocks * ((table.mean(0) - (choices + 1) / 2) ** 2).sum())
    if within <= 1e-12:
        return 1.0
    left = within - between
    freedom = choices - 1.0, (choices - 1.0) * (blocks - 1.0)
    return float(fdtrc(*freedom, (blocks - 1) * between / left)) if left > 1e-12 else 0.0


def critical_difference(choices: int, blocks: int, looks: int = 1) -> float:
    """Return how far apart two mean ranks over blocks must be to differ, 95 % for all pairs at once (Nemenyi 1963).

    Demšar 2006, equation on page 10: q sqrt(k (k + 1) / 6 N), q of the studentised range, over sqrt 2.
    """
    from scipy.stats import studentized_range  # takes a second to import

    q = float(studentized_range.ppf(1 - 0.05 / looks, choices, np.inf)) / np.sqrt(2)
    return q * float(np.sqrt(choices * (choices + 1) / (6 * blocks)))


def signed_rank(differences: np.ndarray) -> float:
    """Return the exact two-sided p of Wilcoxon's signed-rank test of float [n datasets]; zeros are dropped.

    The distribution is that of all 2^n signs of the ranks as they are, ties at their mean rank. Wilcoxon 1945.
    """
    values = differences[differences != 0]
    if not len(values):
        return 1.0
    doubled = np.rint(2 * ranks(np.abs(values))).astype(int)  # ranks of ties are halves
    ways = np.ones(1)
    for rank in doubled:
        ways = np.pad(ways, (0, rank)) + np.pad(ways, (rank, 0))
    up = doubled[values > 0].sum()
    tail = min(ways[: up + 1].sum(), ways[up:].sum()) / ways.sum()
    return float(min(1.0, 2 * tail))
