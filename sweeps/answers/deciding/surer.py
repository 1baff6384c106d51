"""What would make a difference surer: more splits, or more cells. Pure numbers: no runs, no MLflow."""

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from sweeps.answers.deciding.ranking import Difference
from sweeps.statistics.intervals import LEAST

MOST = 50  # splits of the same cells: what more of them could bring is little
FARTHEST = 10.0  # times the cells, beyond which a guess from so few splits says nothing


@dataclass(frozen=True)
class Need:
    """splits: so many, in all, would do; else cells: so many times the cells, at as many splits. Both None: no hope."""

    splits: int | None = None
    cells: float | None = None


def needed(difference: Difference) -> Need:
    """Return what it would take for the interval of a difference to leave out 0, if it is what it now seems.

    The error of a mean over n splits has a part that n makes smaller and a part that it doesn't, as splits share cells
    (or test cells are fixed): only more cells do, in proportion to one over their number.
    """
    error, n, sd = difference.estimate.error, difference.estimate.n, difference.estimate.sd
    if not error.size > 0 or not difference.mean > 0:
        return Need()
    datasets = difference.estimate.by_split.index.get_level_values("dataset").nunique()
    shrinking = min(sd**2 / datasets / n, error.size**2)
    lasting = error.size**2 - shrinking
    for splits in range(max(n + 1, LEAST), MOST + 1):
        if difference.mean > _quantile(splits - 1.0, difference) * np.sqrt(lasting + shrinking * n / splits):
            return Need(splits=splits)
    times = (_quantile(error.freedom, difference) * error.size / difference.mean) ** 2
    return Need(cells=float(times)) if times <= FARTHEST else Need()


def _quantile(freedom: float, difference: Difference) -> float:
    return float(stdtrit(freedom, 1 - 0.025 / difference.tests / difference.estimate.error.looks))
