"""How often intervals hold the truth where splits are added until it is sure (`splits: until:`), and what that saves.

    python benchmarks/numbers/stopping.py --simulations 2000

Studies as in coverage.py: two models that differ by nothing but chance and, where it says so, by a fixed gain, are
tested on splits that draw their cells anew. After 5, 8, 12, ... splits the driver's own rule decides whether to go on.
At the end: does the 95 % interval of the difference hold what it truly is, and does it leave out 0 where there is
nothing? Beside it the same rule with intervals that don't allow for looks, as if the last look had been the only one.
"""

import argparse
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from sweeps.answers import sure  # noqa: E402
from sweeps.answers.designs import Estimate  # noqa: E402
from sweeps.file.questions import Until, looks  # noqa: E402
from sweeps.statistics import intervals  # noqa: E402

AT_MOST, PART = 30, (0.2, 0.1)
ONE_DATASET = pd.Series([0.0], pd.MultiIndex.from_tuples([("d", "0")], names=["dataset", "split"]))
ROWS = ((0.02, 0.0), (0.05, 0.0), (0.1, 0.0), (0.05, 0.1), (0.05, 0.2))  # half width, gain


@dataclass(frozen=True)
class Ends:
    """Of many studies: final intervals that held the truth, that left out 0; splits on average; hopeless ends."""

    coverage: float
    found: float
    splits: float
    hopeless: float


def studies() -> ModuleType:
    """Return coverage.py, which makes the studies; under a name of its own, see there."""
    spec = importlib.util.spec_from_file_location("studies_of_coverage", HERE / "coverage.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def differences(number: int, at_most: int, seed: int = 0) -> tuple[np.ndarray, float]:
    """Return differences of macro F1, float [studies, splits], whose truth is 0; test cells per training cell."""
    made = studies()
    made.SPLITS, made.SEEDS = (at_most,), (1,)
    scores = made.redrawn(number, *PART, seed)[..., 0]
    return scores[:, 0] - scores[:, 1], made.ratio(*PART)


def ends(values: np.ndarray, ratio: float, half_width: float, gain: float, allowed: bool = True) -> Ends:
    """Return how studies with these differences, and a gain beside, end; allowed: intervals allow for the looks."""
    until = Until(half_width=half_width, between="model")
    ended = [_end(until, one + gain, ratio, allowed) for one in values]
    held = [low <= gain <= high for low, high, *_ in ended]
    found = [low > 0 or high < 0 for low, high, *_ in ended]
    return Ends(*(float(np.mean(one)) for one in (held, found, *list(zip(*ended, strict=True))[2:])))


def _end(until: Until, values: np.ndarray, ratio: float, allowed: bool) -> tuple[float, float, int, bool]:
    """Return a study's last interval, how many splits it had, and whether it ended for want of hope."""
    most = len(values)
    planned = looks(most)
    for splits in planned:
        error = intervals.redrawn(values[:splits], ratio, len(planned) if allowed else 1)
        mean, sd = float(values[:splits].mean()), float(values[:splits].std(ddof=1))
        low, high = intervals.interval(mean, error)
        estimate = Estimate(mean, splits, sd, np.nan, np.nan, error, ONE_DATASET)
        state = sure.state(until, {"same": False, "low": low, "high": high}, estimate, most)
        if state != sure.OPEN or splits == most:
            return low, high, splits, state == sure.HOPELESS
    raise AssertionError("the last look ends it")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=600, help="studies per row")
    given = parser.parse_args()
    values, ratio = differences(given.simulations, AT_MOST)
    print(f"{given.simulations} studies a row, at most {AT_MOST} splits, {len(looks(AT_MOST))} looks\n")
    heads = ("half width", "gain", "coverage", "0 left out", "splits", "for want of hope")
    print("| " + " | ".join([*heads, "coverage without allowance", "0 left out without allowance"]) + " |")
    print("| --- " * 8 + "|")
    for half_width, gain in ROWS:
        kept, naive = (ends(values, ratio, half_width, gain, allowed) for allowed in (True, False))
        cells = [half_width, gain, f"{kept.coverage:.3f}", f"{kept.found:.3f}", f"{kept.splits:.1f}"]
        cells += [f"{kept.hopeless:.2f}", f"{naive.coverage:.3f}", f"{naive.found:.3f}"]
        print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
