"""Learning curves: how recall grows with training cells, fitted, drawn again, read backwards. Pure numbers.

The law: 1 - recall = floor + scale * cells ** -bend, all three at least 0: what is missed falls as a power of the cells
towards a floor that no number of cells takes away. Source: Cortes et al. 1994, NeurIPS 6, equation 5; Hestness et al.
2017, arXiv 1712.00409, section 2. It begins where something is found at all: sizes below (Hestness's "small data
region") aren't fitted.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from data_pipeline.seeds import generator
from trainables.metrics import Z95

SIZES = 3  # different numbers of cells, below which there is no curve
BENDS = np.geomspace(0.05, 4, 80)  # tried
BEGUN = 0.05  # recall from which on the law holds
BEYOND = 3.0  # times the largest size, beyond which a curve says nothing
DRAWS = 1000


@dataclass(frozen=True)
class Curves:
    """As many curves as the arrays have numbers, float64 [...]."""

    floor: np.ndarray
    scale: np.ndarray
    bend: np.ndarray

    def at(self, cells: np.ndarray) -> np.ndarray:
        """Return the recall with so many cells, float64 [..., K], in 0..1."""
        missed = self.floor[..., None] + self.scale[..., None] * np.asarray(cells, float) ** -self.bend[..., None]
        return np.clip(1 - missed, 0.0, 1.0)

    def needed(self, recall: float) -> np.ndarray:
        """Return how many cells give a recall, float64 [...]; inf where the floor is too high."""
        room = 1 - recall - self.floor
        with np.errstate(divide="ignore", over="ignore"):
            cells = np.exp((np.log(self.scale) - np.log(np.maximum(room, 1e-300))) / self.bend)
        return np.where(self.scale > 0, np.where(room > 0, cells, np.inf), np.where(room >= 0, 0.0, np.inf))


def fit(cells: np.ndarray, recalls: np.ndarray) -> Curves:
    """Return the curves of least squares through recalls, float64 [..., K], at so many cells, float64 [K], all > 0."""
    missed = 1 - np.asarray(recalls, float)[..., None, :]  # [..., 1, K], against [B, K]
    x = np.asarray(cells, float) ** -BENDS[:, None]
    centred = x - x.mean(-1, keepdims=True)
    scale = np.maximum((missed * centred).sum(-1) / (centred**2).sum(-1), 0.0)
    floor = missed.mean(-1) - scale * x.mean(-1)
    through_0 = np.maximum((missed * x).sum(-1) / (x**2).sum(-1), 0.0)
    scale, floor = np.where(floor < 0, through_0, scale), np.maximum(floor, 0.0)
    off = ((missed - floor[..., None] - scale[..., None] * x) ** 2).sum(-1)
    best = off.argmin(-1)[..., None]
    chosen = (np.take_along_axis(part, best, -1)[..., 0] for part in (floor, scale))
    return Curves(*chosen, BENDS[best[..., 0]])


def begun(recalls: np.ndarray) -> np.ndarray:
    """Return at which sizes, in ascending order, the law holds, bool [K]: above the last that finds next to nothing."""
    nothing = np.flatnonzero(np.asarray(recalls) < BEGUN)
    return np.arange(len(recalls)) > (nothing[-1] if len(nothing) else -1)


def again(by_split: np.ndarray, reaches: np.ndarray, name: str = "") -> np.ndarray:
    """Return mean recalls of splits drawn again, float64 [DRAWS, K]; the same draws for the same number of splits.

    by_split: float64 [splits, K]. reaches: half of each mean's 95 % interval, float64 [K]. Each split's distance from
    the mean counts as much as a normal number says (a multiplier bootstrap: Mammen 1993, Annals of Statistics 21,
    255-285), since three splits drawn with replacement have six outcomes, none of them far out; and all are spread
    together as Student's t is, until they vary as the interval says: splits share cells, and few of them hide how much
    they differ. Where all agree, what few cells leave open is drawn without regard to splits, for each `name` anew.
    """
    rng, freedom = generator(0, "splits again"), len(by_split) - 1.0
    counts = rng.standard_normal((DRAWS, len(by_split)))
    far = np.sqrt(freedom / rng.chisquare(freedom, (DRAWS, 1))) / stdtrit(freedom, 0.975)
    means, off = by_split.mean(0), by_split - by_split.mean(0)
    size = np.sqrt((off**2).sum(0))
    alone = generator(0, "cells again", name).standard_normal((DRAWS, by_split.shape[1])) / Z95
    apart = np.where(size > 1e-12, far * (counts @ off) / np.maximum(size, 1e-12), alone)
    return np.clip(means + apart * reaches, 0.0, 1.0)


def ends(values: np.ndarray, tests: int = 1) -> tuple[float, float]:
    """Return between which values 95 % of the draws lie, float64 [DRAWS]; tests: so many such at once (Bonferroni)."""
    ordered = np.sort(values)
    out = int(np.floor(len(ordered) * 0.025 / tests))
    return float(ordered[out]), float(ordered[-1 - out])
