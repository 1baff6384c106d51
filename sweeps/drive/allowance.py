"""How much of a cluster a launch may use: hours of GPUs, of CPUs, or by the clock."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from data_pipeline.errors import RequestError
from sweeps.cluster.resources import Shape, of_trial
from sweeps.file.trials import Trial

UNITS = {"gpu-hours": 3600.0, "cpu-hours": 3600.0, "hours": 3600.0, "minutes": 60.0}


class Used(Protocol):
    """What has been used so far: GPU and CPU seconds that trials had, seconds by the clock; trials that are over."""

    given: Shape
    seconds: float
    finished: set[str]
    failed: dict[str, str]


@dataclass(frozen=True)
class Allowance:
    """amount of a unit of UNITS, for one launch."""

    amount: float
    unit: str

    @classmethod
    def of(cls, text: str) -> "Allowance":
        """Return what "40 gpu-hours", "200 cpu-hours", "12 hours" or "90 minutes" says; RequestError for anything
        else."""
        found = re.fullmatch(r"([\d.]+)\s*([a-z-]+)", text.strip().lower())
        unit = None if found is None else next((unit for unit in UNITS if unit in (found[2], f"{found[2]}s")), None)
        try:
            amount = 0.0 if unit is None else float(found[1])
        except ValueError:
            amount = 0.0
        if amount <= 0:
            raise RequestError(f'--budget {text!r}: give a number and one of {", ".join(UNITS)}, as in "40 gpu-hours"')
        return cls(amount, unit)

    def spent(self, used: Used) -> str | None:
        """Return a sentence once it is spent, None before."""
        so_far = self._of(used)
        return f"the budget of {self.amount:g} {self.unit} is spent ({so_far:.3g})" if so_far >= self.amount else None

    def less(self, used: Used) -> "Allowance":
        """Return what is left of it."""
        return replace(self, amount=max(0.0, self.amount - self._of(used)))

    def _of(self, used: Used) -> float:
        of_kind = {"gpu-hours": used.given.gpu, "cpu-hours": used.given.cpu}
        return of_kind.get(self.unit, used.seconds) / UNITS[self.unit]


def unheeded(given: Allowance | None, todo: list[Trial], nodes: list[dict[str, float]]) -> str | None:
    """Return a sentence where a launch may use so many GPU-hours and none of its trials has a GPU; else None."""
    if given is None or given.unit != "gpu-hours" or any(of_trial(trial, nodes)["gpu"] for trial in todo):
        return None
    return (
        f"--budget {given.amount:g} gpu-hours ends nothing here: no trial has a GPU, so that none of it is used; give "
        "cpu-hours, hours or minutes"
    )


def left(costs: Mapping[str, float], used: Used) -> str | None:
    """Return what the trials that are not over will take, by what those that finished took; None: nothing is left.

    costs: what each trial was expected to take, in any unit, by key.
    """
    undone = {key: cost for key, cost in costs.items() if key not in used.finished and key not in used.failed}
    if not undone:
        return None
    done = sum(cost for key, cost in costs.items() if key in used.finished)
    are_left = "1 trial is left" if len(undone) == 1 else f"{len(undone)} trials are left"
    if not done:
        return are_left
    times = sum(undone.values()) / done
    amount, unit = (used.given.gpu, "GPU") if used.given.gpu else (used.given.cpu, "CPU")
    return f"{are_left}, about {_of_time(times * amount, unit)} by what the others took"


def _of_time(seconds: float, unit: str) -> str:
    """Return so many seconds of a unit as a person would say them: 8 CPU-seconds, 3 CPU-minutes, 2.5 GPU-hours."""
    if seconds < 90:
        return f"{max(1, round(seconds))} {unit}-second" + "s" * (round(seconds) > 1)
    return f"{seconds / 60:.0f} {unit}-minutes" if seconds < 5400 else f"{seconds / 3600:.3g} {unit}-hours"
