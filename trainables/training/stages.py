"""The stages of a training: everything that is trainable; then, if the recipe says so, the head alone (cRT)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trainables.budget import Budget, head_budget, main_budget
from trainables.material import Material
from trainables.spec import Recipe


@dataclass(frozen=True)
class Stage:
    """One optimiser's life. rows(n): the rows of its n-th pass, int64; class_counts: what its loss is told, [C].

    name: also of its random numbers, see TrialConfig.stage_seed. head: prefix of the parameters that are made anew
    and trained alone; None: all that are trainable. recipe: its epochs are the rounds of the budget.
    """

    name: str
    rows: Callable[[int], np.ndarray]
    class_counts: np.ndarray
    budget: Budget
    recipe: Recipe
    head: str | None = None


def stages_of(recipe: Recipe, material: Material, head: str) -> list[Stage]:
    """Return the stages that the recipe asks for, in their order."""
    rows = material.training_rows(0)
    budget = main_budget(recipe, len(material.natural), len(rows))
    stages = [_stage("whole", material.training_rows, material.counts_on_average(), budget, recipe)]
    if recipe.crt_epochs:
        budget = head_budget(recipe, len(material.natural), len(material.kept))
        steady = recipe.model_copy(update={"schedule": "constant"})
        counts = material.balanced_counts  # the rows are balanced: no loss need do it again
        stages.append(_stage("head", material.balanced_rows, counts, budget, steady, head))
    return stages


def _stage(name: str, rows: Callable, counts: np.ndarray, budget: Budget, recipe: Recipe, head: str | None = None):
    return Stage(name, rows, counts, budget, recipe.model_copy(update={"epochs": budget.rounds}), head)
