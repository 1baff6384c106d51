"""How long a sweep takes on 1, 2, 4 and 8 slots, against the ideal: trials that sleep for five seconds.

    python benchmarks/driving/makespan.py --trials 32 --out docs/figures/makespan.svg

Through the real driver, Ray Tune and the embedded MLflow. Ideal: trials x seconds / slots. Measured from the call to
its return, so with Ray's start and the registration, and from the first trial's start to the last one's end.
"""

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import cloudpickle

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

import fake_trials  # noqa: E402

from sweeps.drive.converge import converge  # noqa: E402
from sweeps.drive.request import Request  # noqa: E402

SLOTS, SECONDS = (1, 2, 4, 8), 5.0


class Clock(fake_trials.Silent):
    """Notes when the first trial started and the last one ended."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.last = 0.0

    def event(self, what: str, key: str, numbers: dict[str, Any]) -> None:
        self.last = time.monotonic()
        self.first = self.first or self.last


def sleeping(config: dict[str, Any], report: Callable, checkpoint: Path | None) -> dict[str, Any]:
    time.sleep(SECONDS)
    report({"epoch": 1, "epochs": 1, "train_loss": 0.5}, None)
    report({"epoch": 1, "final": 1, "test_macro_f1": 0.5}, None)
    return {}


def measure(trials: int, slots: int, storage: Path) -> tuple[float, float]:
    """Return the seconds of a sweep in all, and those of its trials alone."""
    sweep = fake_trials.spec(name=f"slots{slots}", splits=list(range(trials // 4)))
    parts, clock, begin = dataclasses.replace(fake_trials.parts(), run_trial=sleeping), Clock(), time.monotonic()
    outcome = converge(sweep, Request(storage=storage, num_cpus=slots), clock, parts)
    assert outcome.finished == outcome.wanted == trials, outcome
    return time.monotonic() - begin, clock.last - clock.first


def draw(found: dict[int, tuple[float, float]], trials: int, out: Path) -> None:
    """Write the plot."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    ideal = [trials * SECONDS / slots for slots in found]
    axes.plot(list(found), ideal, "k--", label="ideal")
    for place, (name, mark) in enumerate((("start to end", "o-"), ("first to last trial", "s-"))):
        axes.plot(list(found), [seconds[place] for seconds in found.values()], mark, label=name)
    axes.set(xscale="log", yscale="log", xlabel="slots", ylabel="seconds", title=f"{trials} trials of {SECONDS:.0f} s")
    axes.set_xticks(list(found), [str(slots) for slots in found], minor=False)
    axes.set_yticks(ideal, [f"{seconds:.0f}" for seconds in ideal])
    axes.minorticks_off()
    axes.legend(frameon=False)
    figure.savefig(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=32, help="a multiple of 4")
    parser.add_argument("--slots", type=int, nargs="+", default=SLOTS)
    parser.add_argument("--out", type=Path, help="where the plot goes")
    given = parser.parse_args()
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    found = {}
    for slots in given.slots:
        with tempfile.TemporaryDirectory(prefix="cellskew-makespan-") as folder:
            found[slots] = measure(given.trials, slots, Path(folder))
        ideal, (wall, trials) = given.trials * SECONDS / slots, found[slots]
        print(f"{slots} slots: ideal {ideal:.0f} s, trials {trials:.0f} s, start to end {wall:.0f} s", flush=True)
    if given.out is not None:
        draw(found, given.trials, given.out)


if __name__ == "__main__":
    main()
