"""How long a network trains: optimiser steps, cut into rounds after which it is evaluated and may be saved."""

from dataclasses import dataclass

from trainables.recipe import Recipe


@dataclass(frozen=True)
class Budget:
    """`steps` optimiser steps in `rounds` rounds of equal steps, or nearly: no round differs from another by two."""

    steps: int
    rounds: int

    @property
    def per_round(self) -> float:
        return self.steps / self.rounds

    def steps_in(self, number: int) -> int:
        """Return the steps of a round, counted from 0."""
        return self._before(number + 1) - self._before(number)

    def _before(self, number: int) -> int:
        return number * self.steps // self.rounds


def steps_per_pass(recipe: Recipe, num_rows: int) -> int:
    """Return the optimiser steps in which so many rows are seen once."""
    return max(1, -(-num_rows // recipe.cells_per_step))


def main_budget(recipe: Recipe, num_natural: int, num_rows: int) -> Budget:
    """Return the budget of the training proper.

    num_natural: training cells of the split, before any skew or strategy. With `budget: steps` they alone decide, so
    that all skews, strategies and losses of a split take the same steps; or the recipe's own number does. num_rows:
    rows after skew and strategy, which decide with `budget: epochs`.
    """
    if recipe.steps is not None:
        return Budget(recipe.steps, recipe.rounds)
    seen = num_natural if recipe.budget == "steps" else num_rows
    return Budget(recipe.epochs * steps_per_pass(recipe, seen), recipe.epochs)


def head_budget(recipe: Recipe, num_natural: int, num_kept: int) -> Budget:
    """Return the budget of the second stage, whose rounds are as long as those of the first.

    num_kept: training cells after the skew, of which a balanced epoch has as many rows.
    """
    main = main_budget(recipe, num_natural, num_kept)
    return Budget(max(recipe.crt_epochs, round(recipe.crt_epochs * main.per_round)), recipe.crt_epochs)


def total_steps(recipe: Recipe, num_natural: int, num_kept: int, num_rows: int) -> int:
    """Return the optimiser steps of all stages, unless patience ends one earlier."""
    head = head_budget(recipe, num_natural, num_kept).steps if recipe.crt_epochs else 0
    return main_budget(recipe, num_natural, num_rows).steps + head
