"""How long each network of a sweep trains: optimiser steps, and how often it passes over the rows it trains on."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from sweeps import tables
from sweeps.drive.forecast import estimate
from sweeps.drive.forecast.shapes import Shape
from sweeps.file.trials import Trial
from trainables.spec import Recipe

MANY = 50  # passes over the same rows, from which on a plan warns


def passes(trial: Trial, shape: Shape) -> float:
    """Return how often a network's trial passes over its rows, after skew and strategy; at least so often, if these are
    known by their upper limit alone."""
    recipe = Recipe(**trial.described["recipe"])
    return estimate.steps(trial, shape) * recipe.cells_per_step / max(1, shape.num_rows)


def budgets(trials: list[Trial], found: dict[str, Shape]) -> list[dict[str, Any]]:
    """Return a row per dataset, split and network: rounds, optimizer_steps, passes, cells_per_step.

    found: shapes by trial key. Of steps and passes the fewest and most over skews and strategies.
    """
    at: dict[tuple[str, str, str], list[Trial]] = {}
    for trial in _networks(trials):
        at.setdefault((trial.dataset, trial.labels["split"], trial.called), []).append(trial)
    return [_row(place, inside, found) for place, inside in at.items()]


def _networks(trials: list[Trial]) -> Iterator[Trial]:
    return (trial for trial in trials if trial.described["recipe"] is not None)


def _row(place: tuple[str, str, str], trials: list[Trial], found: dict[str, Shape]) -> dict[str, Any]:
    recipe = Recipe(**trials[0].described["recipe"])
    steps = [estimate.steps(trial, found[trial.key]) for trial in trials]
    often = [passes(trial, found[trial.key]) for trial in trials]
    return dict(zip(("dataset", "split", "model"), place, strict=True)) | {
        "rounds": recipe.epochs + recipe.crt_epochs,
        "optimizer_steps": [min(steps), max(steps)],
        "passes": [round(min(often), 1), round(max(often), 1)],
        "cells_per_step": recipe.cells_per_step,
    }


def many_passes(trials: list[Trial], found: dict[str, Shape]) -> list[str]:
    """Return a sentence per dataset and network that passes over some rows more than MANY times; it names the worst."""
    most: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    for trial in _networks(trials):
        rows = most.setdefault((trial.dataset, trial.called), {})
        which = (trial.labels["skew"], trial.labels["strategy"])
        rows[which] = max(rows.get(which, 0.0), passes(trial, found[trial.key]))
    return [_often(*place, rows) for place, rows in most.items() if max(rows.values()) > MANY]


def _often(dataset: str, model: str, rows: dict[tuple[str, str], float]) -> str:
    (skew, strategy), often = max(rows.items(), key=lambda item: item[1])
    worst = f"{often:,.0f} times over the rows of skew {skew}, strategy {strategy}"
    many = sum(passed > MANY for passed in rows.values())
    more = f" (more than {MANY} times over those of {many} of {len(rows)} such)" if many > 1 else ""
    way_out = "`steps: N` in its recipe trains as many steps as that, whatever the split's training cells are"
    return f"{dataset}: {model} passes {worst}{more}; {way_out}"


def draw(rows: list[dict[str, Any]]) -> None:
    """Print how long each network trains, whatever the skew and strategy; a range where these decide."""
    if not rows:
        return
    told = [
        (row["model"], row["rounds"], _range(row["optimizer_steps"], ",.0f"), _range(row["passes"], ",.3g"))
        + (row["cells_per_step"],)
        for row in rows
    ]
    print()
    columns = ["network", "rounds", "optimiser steps", "passes over its rows", "cells per step"]
    tables.draw(pd.DataFrame(told, columns=columns))


def _range(ends: list[float], form: str) -> str:
    least, most = (format(end, form) for end in ends)
    return most if least == most else f"{least} to {most}"
