"""The budget of optimiser steps: the same for all skews and strategies of a split, in rounds of equal steps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trainables.budget import Budget, head_budget, main_budget, total_steps
from trainables.spec import Recipe
from trainables.training.passes import Passes


@given(st.integers(1, 50), st.integers(0, 1000))
def test_rounds_share_the_steps_out_evenly(rounds, more):
    budget = Budget(rounds + more, rounds)
    steps = [budget.steps_in(number) for number in range(rounds)]
    assert sum(steps) == budget.steps and max(steps) - min(steps) <= 1 and min(steps) >= 1


def test_steps_follow_from_the_natural_training_cells_and_epochs_from_the_rows():
    recipe = Recipe(epochs=8, batch_size=8, accumulate=2)
    assert main_budget(recipe, 700, num_rows=40) == main_budget(recipe, 700, num_rows=9000) == Budget(8 * 44, 8)
    epochs = recipe.model_copy(update={"budget": "epochs"})
    assert [main_budget(epochs, 700, num_rows=rows).steps for rows in (40, 9000)] == [8 * 3, 8 * 563]


def test_a_number_of_steps_wins_over_the_epochs():
    assert main_budget(Recipe(epochs=8, steps=101), 10**6, 10**6) == Budget(101, 8)
    assert main_budget(Recipe(epochs=8, steps=3), 10**6, 10**6) == Budget(3, 3)


def test_the_second_stage_has_rounds_as_long_as_the_first():
    recipe = Recipe(epochs=10, crt_epochs=3, batch_size=10)
    assert head_budget(recipe, 200, num_kept=15) == Budget(60, 3)
    assert head_budget(recipe.model_copy(update={"budget": "epochs"}), 200, num_kept=15) == Budget(6, 3)
    assert total_steps(recipe, 200, 15, 15) == 260


def test_what_contradicts_a_budget_is_refused():
    with pytest.raises(ValidationError, match="contradicts `budget: epochs`"):
        Recipe(budget="epochs", steps=5)
    with pytest.raises(ValidationError, match="no meaning with `budget: steps`"):
        Recipe(carry_accumulation=True)


def orders(number: int) -> np.ndarray:
    return np.random.default_rng(number).permutation(5)


def test_passes_give_every_row_once_and_go_on_within_a_batch():
    passes = Passes(orders)
    taken = np.concatenate([passes.take(4) for _ in range(5)])
    assert np.array_equal(taken, np.concatenate([orders(number) for number in range(4)]))
    assert len(passes.take(17)) == 17


@given(st.integers(1, 30), st.integers(1, 30))
def test_passes_go_on_from_any_place_as_if_they_had_never_stopped(before, after):
    whole = Passes(orders)
    whole.take(before)
    resumed = Passes(orders, whole.place)
    assert np.array_equal(resumed.take(after), whole.take(after))


def test_passes_without_rows_end():
    with pytest.raises(ValueError, match="no rows"):
        Passes(lambda number: np.zeros(0, np.int64)).take(1)
