"""How sure a mean over splits is. Pure numbers: no runs, no MLflow.

The unit of replication is the split: trial seeds within a split are averaged before anything here is called. Splits of
one dataset share cells, so that their spread alone makes a mean look surer than it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit, logit, stdtr, stdtrit  # scipy.stats takes a second to import

LEAST = 3  # splits, below which there is no interval and no p
FEW = 5  # splits, below which a table warns
LOWER = ("ece", "brier", "aurc", "loss", "seconds", "memory", "size")  # words of metrics' names of which less is better
BOUNDED = ("accuracy", "precision", "recall", "f1", "auroc", "auprc", "gmean", "ece")  # what lies in 0..1, by name
BOUNDED += ("aurc", "named", "coverage", "single")
SPANS = {"mcc": (-1.0, 1.0), "kappa": (-1.0, 1.0), "brier": (0.0, 2.0)}


@dataclass(frozen=True)
class Error:
    """Standard error of a mean and its degrees of freedom; NaN: there can be none.

    looks: its splits were added until something was sure, which was looked at so many times, as fixed beforehand. Then
    an interval has 1 / looks of the 5 %, so that it holds at all looks at once, however they hang together and whatever
    made an end: repeated confidence intervals (Jennison & Turnbull 1989, J. R. Stat. Soc. B 51, 305-361) by equal
    spending (Lan & DeMets 1983, Biometrika 70, 659-663) and Bonferroni's inequality.
    """

    size: float
    freedom: float
    looks: int = 1


NONE = Error(np.nan, np.nan)


def redrawn(values: np.ndarray, ratio: float, looks: int = 1) -> Error:
    """Return the error of the mean of `values`, float [n splits], each of which drew its test cells anew.

    ratio: test cells per training cell of a split, before any skew, of the types that the values are about (see
    ratio_of_types): the variance is enlarged by it for the cells that splits share (Nadeau & Bengio 2003, Machine
    Learning 52, eq. 9). What trial seeds add is not shared, but is taken to be: with one seed, and many test cells, the
    interval is too wide, never too narrow. NONE under three splits, or without any spread.
    """
    if len(values) < LEAST or not np.isfinite(ratio) or (sd := values.std(ddof=1)) <= 1e-12:
        return NONE
    return Error(float(sd * np.sqrt(1 / len(values) + ratio)), len(values) - 1.0, looks)


def ratio_of_types(test: np.ndarray, train: np.ndarray) -> float:
    """Return test cells per training cell, int [C] each, of a mean over types; NaN if no type has both.

    Types count by the variance that so many test cells leave, 1 / test, so that the rarest decide; whole cells give
    these another ratio than the split has (1 of 6 cells, where a tenth is tested).
    """
    test, train = (np.asarray(cells, dtype=float)[(test > 0) & (train > 0)] for cells in (test, train))
    return float((1 / train).sum() / (1 / test).sum()) if len(test) else np.nan


def resampled(values: np.ndarray, drawn: Error) -> Error:
    """Return the error of the mean of `values`, float [n splits], all of which were tested on the same cells or donors.

    drawn: the error of that mean when those are drawn again, see resampling. To it is added what training again changes
    (the splits' own variance / n). NONE under three splits, or where neither varies.
    """
    if len(values) < LEAST or not np.isfinite(drawn.size):
        return NONE
    again = Error(float(values.std(ddof=1) / np.sqrt(len(values))), len(values) - 1.0, drawn.looks)
    return _sum([drawn, again])


def pooled(errors: Sequence[Error]) -> Error:
    """Return the error of the mean of independent means with these errors: of these datasets, not of datasets at large.

    NONE if one of them is.
    """
    return _sum([replace(error, size=error.size / len(errors)) for error in errors])


def wider(one: Error, other: Error) -> Error:
    """Return the error that makes the wider interval; NONE if either is."""
    reaches = [reach(error) for error in (one, other)]
    if np.isnan(reaches).any():
        return NONE
    return one if reaches[0] >= reaches[1] else other


def _sum(errors: Sequence[Error]) -> Error:
    """Return the error of a sum of independent parts; degrees of freedom by Welch and Satterthwaite."""
    parts, freedom = np.array([error.size for error in errors]) ** 2, np.array([error.freedom for error in errors])
    total = parts.sum()
    if not total > 1e-24:
        return NONE
    looks = max(error.looks for error in errors)
    return Error(float(np.sqrt(total)), float(total**2 / (parts**2 / freedom).sum()), looks)


def reach(error: Error, tests: int = 1) -> float:
    """Return half of a mean's 95 % interval, NaN where there is none; of `tests` such that hold all at once."""
    return float(stdtrit(error.freedom, 1 - 0.025 / tests / error.looks)) * error.size if error.size > 0 else np.nan


def has_best(metric: str) -> bool:
    """Tell whether more, or less, of a metric is better: not of a coverage, which is promised to be so much."""
    return "coverage" not in metric.partition(":")[0].split("_")


def sign(metric: str) -> int:
    """Return 1 if more of a metric is better, else -1."""
    return -1 if set(metric.partition(":")[0].partition(".")[0].split("_")) & set(LOWER) else 1


def span(metric: str) -> tuple[float, float] | None:
    """Return the least and the largest value that a metric can have, None where there is no such."""
    words = metric.partition(":")[0].removeprefix("test_").removeprefix("val_").split(".")[0].split("_")
    if set(words) & set(BOUNDED):
        return 0.0, 1.0
    return next((SPANS[word] for word in words if word in SPANS), None)


def interval(
    mean: float, error: Error, within: tuple[float, float] | None = None, tests: int = 1
) -> tuple[float, float]:
    """Return the 95 % confidence interval (low, high) of a mean, NaN where there is none.

    within: the ends of the metric's scale; the interval is then made on that scale's logit, so that it stays inside.
    tests: so many intervals hold all at once in 95 % (Bonferroni).
    """
    half = reach(error, tests)
    if within is None or np.isnan(half):
        return mean - half, mean + half
    low, high = within
    share = (mean - low) / (high - low)
    if not 0 < share < 1:
        return np.nan, np.nan
    on_logit = half / (high - low) / (share * (1 - share))
    ends = expit(logit(share) + np.array([-on_logit, on_logit]))
    return tuple(float(low + (high - low) * end) for end in ends)


def of_difference(mean: float, error: Error, metric: str, tests: int = 1) -> tuple[float, float]:
    """Return the interval of a mean of differences, as `interval`; no further than two values of the metric can be."""
    least, most = span(metric) or (-np.inf, np.inf)
    low, high = (min(max(end, least - most), most - least) for end in interval(mean, error, tests=tests))
    return low, high


def p_value(mean: float, error: Error) -> float:
    """Return the two-sided p of a mean of differences against 0, by Student's t, times looks; NaN without an error."""
    if not error.size > 0:
        return np.nan
    return float(min(1.0, error.looks * 2 * stdtr(error.freedom, -abs(mean) / error.size)))
