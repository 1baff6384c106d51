"""How often the interval of `cellskew needs` holds the number of cells that is needed.

    python benchmarks/numbers/curves.py --simulations 300

Made-up sweeps, whose truth is known: recall follows a power law in training cells; each split has luck of its own, each
size of a split too, and all splits of a sweep share some, as they share cells; 15 test cells of the type in a split.
coverage: intervals that hold the true number; about: the median of the estimates; open: intervals that end beyond three
times the cells that were tried, of which nothing is said.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from sweeps.statistics import curves, intervals  # noqa: E402
from sweeps.statistics.curves import BEYOND, Curves  # noqa: E402
from trainables.metrics import wilson  # noqa: E402

TESTED, RATIO = 15, 0.3  # test cells of the type in a split; test cells per training cell
LUCK, OF_SIZE, SHARED = 0.05, 0.03, 0.03  # sd of recall: of a split, of a size in it, of what all splits share
RECALL = 0.7
LAWS = {  # floor, scale, bend; training cells that are tried
    "steep": ((0.0, 1.5, 0.8), (2, 5, 10, 20, 40)),
    "flat": ((0.05, 1.2, 0.6), (3, 10, 30, 60)),
    "to a floor": ((0.2, 1.0, 0.7), (5, 10, 20, 40, 80)),
}


@dataclass(frozen=True)
class Rates:
    """Of many made-up sweeps: see above."""

    coverage: float
    about: float
    open: float


def law(name: str) -> tuple[Curves, np.ndarray]:
    """Return the true curve and the sizes that are tried, float [K]."""
    parts, sizes = LAWS[name]
    return Curves(*map(np.array, parts)), np.array(sizes, dtype=float)


def sweep(
    truth: Curves, sizes: np.ndarray, splits: int, rng: np.random.Generator, spread: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return recalls by split and size, and half of each mean's 95 % interval. spread: times the luck."""
    luck = rng.normal(0, SHARED) + rng.normal(0, LUCK, (splits, 1)) + rng.normal(0, OF_SIZE, (splits, len(sizes)))
    recalls = rng.binomial(TESTED, np.clip(truth.at(sizes) + spread * luck, 0, 1)) / TESTED
    return recalls, np.array([_reach(values) for values in recalls.T])


def _reach(values: np.ndarray) -> float:
    """Return what sweeps.answers.deciding.needs takes: the design's, or what a split's test cells leave open."""
    known = intervals.reach(intervals.redrawn(values, RATIO))
    low, high = (float(end) for end in wilson(values.mean() * TESTED, TESTED))
    return known if np.isfinite(known) else max(values.mean() - low, high - values.mean())


def rates(name: str, splits: int, simulations: int, spread: float = 1.0) -> Rates:
    """Return how intervals do in so many made-up sweeps of so many splits."""
    rng, (truth, sizes) = np.random.default_rng(splits), law(name)
    needed, held, about, ends = float(truth.needed(RECALL)), 0, [], []
    for _ in range(simulations):
        recalls, reaches = sweep(truth, sizes, splits, rng, spread)
        on = curves.begun(recalls.mean(0))
        low, high = curves.ends(curves.fit(sizes[on], curves.again(recalls[:, on], reaches[on])).needed(RECALL))
        about.append(float(curves.fit(sizes[on], recalls[:, on].mean(0)).needed(RECALL)))
        held, ends = held + (low <= needed <= high), [*ends, high]
    return Rates(held / simulations, float(np.median(about)), float(np.mean(np.array(ends) > BEYOND * sizes[-1])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=300)
    parser.add_argument("--spread", type=float, default=1.0, help="times the luck of splits")
    given = parser.parse_args()
    print(f"recall {RECALL}: law, true cells, splits, coverage, about, open")
    for name in LAWS:
        for splits in (3, 5, 10):
            found = rates(name, splits, given.simulations, given.spread)
            needed = float(law(name)[0].needed(RECALL))
            print(f"{name:10} {needed:5.1f} {splits:3} {found.coverage:.3f} {found.about:5.1f} {found.open:.2f}")


if __name__ == "__main__":
    main()
