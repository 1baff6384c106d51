"""Controls: models trained on shuffled labels. What they reach is chance; who beats it has seen labels it must not see.

They are no choices: `results.choose` sets them apart, and tables, comparisons and answers are made without them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sweeps.answers.runs.looks import looks_at
from sweeps.statistics import intervals

SHOWN = ("dataset", "model", "split", "seed", "control", "status", "key", "test_per_train", "looks")
METRIC, CHANCE, BESIDE = "test_balanced_accuracy", "test_chance", "test_macro_f1"
EQUAL = 1e-9  # further above chance than rounding


@dataclass(frozen=True)
class Control:
    """One model on one dataset, trained on shuffled labels: its balanced accuracy over splits beside chance.

    low, high: 95 %, for all of a sweep's controls at once; NaN under three splits, or if no split differs from another.
    """

    dataset: str
    model: str
    splits: int
    mean: float
    low: float
    high: float
    chance: float
    macro_f1: float

    @property
    def leaks(self) -> bool:
        """Tell whether chance is beaten by more than the interval, or on every split alike."""
        if self.splits < intervals.LEAST:
            return False
        return (self.mean if np.isnan(self.low) else self.low) > self.chance + EQUAL

    def __str__(self) -> str:
        within = "" if np.isnan(self.low) else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.model} on {self.dataset} {self.mean:.3f}{within}"


def apart(runs: pd.DataFrame) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Return the runs that are choices, and plain records of those that are controls."""
    is_control = runs.get("control", pd.Series("", index=runs.index)) != ""
    columns = [name for name in (*SHOWN, METRIC, CHANCE, BESIDE) if name in runs]
    return runs[~is_control], runs.loc[is_control, columns].to_dict("records")


def controls(runs: pd.DataFrame) -> list[Control]:
    """Return the finished controls of the datasets and models that the runs have, see results.choose."""
    found = pd.DataFrame(list(runs.attrs.get("controls", ())))
    if found.empty or not {METRIC, CHANCE} <= set(found):
        return []
    mine = found["model"].isin(runs["model"]) & found["dataset"].isin(runs["dataset"])
    groups = found[mine & (found["status"] == "FINISHED")].groupby(["dataset", "model"], sort=False)
    return [_control(*names, group, groups.ngroups) for names, group in groups]


def _control(dataset: str, model: str, group: pd.DataFrame, tests: int) -> Control:
    by_split = group.groupby("split", sort=False)[[METRIC, CHANCE, BESIDE, "test_per_train"]].mean()
    values, mean = by_split[METRIC].to_numpy(), float(by_split[METRIC].mean())
    error = intervals.redrawn(values, float(by_split["test_per_train"].mean()), looks_at(group))
    low, high = intervals.interval(mean, error, intervals.span(METRIC), tests)
    chance, beside = float(by_split[CHANCE].mean()), float(by_split[BESIDE].mean())
    return Control(dataset, model, len(values), mean, low, high, chance, beside)


def sentences(runs: pd.DataFrame) -> Iterator[str]:
    """Yield what the controls reached, and whether that is chance: the sweep's sanity line."""
    found = controls(runs)
    if not found:
        return
    yield "chance, as models reach it that are trained on shuffled labels: macro F1 " + ", ".join(
        f"{one.macro_f1:.3f} ({one.model}, {one.dataset})" for one in found
    )
    few = [one for one in found if one.splits < intervals.LEAST]
    leaking = [one for one in found if one.leaks]
    if leaking:
        yield f"sanity: FAILS, {_named(leaking)} where chance is {leaking[0].chance:.3f}; see the warning"
    elif few:
        yield f"sanity: can't tell; {intervals.LEAST} splits with shuffled labels are needed for an interval"
    else:
        said = f"sanity: passes; on shuffled labels no model's balanced accuracy is above chance: {_named(found)}"
        blind = max((one.high - one.chance for one in found if not np.isnan(one.high)), default=np.nan)
        yield said if np.isnan(blind) else f"{said}. A leak that lifts it by less than {blind:.2f} may not show"


def leak(runs: pd.DataFrame) -> str | None:
    """Return what must stand above every table if a control beats chance, or None."""
    leaking = [one for one in controls(runs) if one.leaks]
    if not leaking:
        return None
    return (
        f"WARNING: trained on shuffled labels, still better than chance (balanced accuracy, chance "
        f"{leaking[0].chance:.3f}): {_named(leaking)}. Something of the test cells' labels reaches the training: the "
        "numbers of these models are not to be trusted until it is found"
    )


def _named(found: list[Control]) -> str:
    return "; ".join(map(str, found))
