"""What plan says of training length: steps are those of the split, passes those over the rows that are left."""

from pathlib import Path

import numpy as np
import pytest

from sweeps.drive.forecast import budgets
from sweeps.drive.forecast.shapes import Shape
from sweeps.file import config

SWEEP = """
name: small
datasets: [pbmc68k_reduced]
skews: [natural, {kind: natural, total: 20}]
models: {scgpt: {epochs: 10, batch_size: 10}, majority: {}}
"""


def planned(text: str = SWEEP) -> tuple[list[config.Trial], dict[str, Shape]]:
    """Return trials, and shapes of 600 training cells of which the second skew leaves 20."""
    trials = config.parse(text, Path("sweep.yaml"), check_files=False).trials()
    none, natural = np.array([0]), np.array([600])
    left = {trial.key: natural if trial.labels["skew"] == "natural" else np.array([20]) for trial in trials}
    return trials, {key: Shape(["a"], natural, none, none, kept, kept, []) for key, kept in left.items()}


def test_passes_are_over_what_the_skew_leaves_and_many_are_said():
    trials, found = planned()
    (row,) = budgets.budgets(trials, found)
    assert row["optimizer_steps"] == [600, 600] and row["passes"] == [10, 300] and row["model"] == "scgpt"
    (said,) = budgets.many_passes(trials, found)
    assert said.startswith("pbmc68k_reduced: scgpt passes 300 times over the rows of skew natural-20, strategy none;")


def test_many_passes_are_one_sentence_of_a_network():
    three = SWEEP.replace("total: 20}", "total: 20}, {kind: natural, total: 40}")
    trials, found = planned(three)
    (said,) = budgets.many_passes(trials, found)
    assert "passes 300 times" in said and "(more than 50 times over those of 2 of 3 such)" in said


def test_a_recipe_of_fewer_steps_isnt_warned_of(capsys):
    trials, found = planned(SWEEP.replace("epochs: 10,", "steps: 60,"))
    (row,) = budgets.budgets(trials, found)
    assert row["passes"] == [1, 30] and budgets.many_passes(trials, found) == []
    budgets.draw([row])
    assert "1 to 30" in capsys.readouterr().out


def test_rows_known_by_their_upper_limit_alone_are_passed_over_at_least_so_often():
    trials, found = planned()
    network = next(trial for trial in trials if trial.model == "scgpt" and trial.labels["skew"] != "natural")
    shape = found[network.key]
    unknown = Shape(shape.classes, shape.train, shape.validation, shape.test, shape.kept, None, [])
    assert budgets.passes(network, unknown) == pytest.approx(300)
