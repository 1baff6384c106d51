"""Of a tuned model the setting counts that validation cells chose, and the table says so."""

import pandas as pd
import pytest
from made_runs import run

from sweeps.answers.deciding import cost
from sweeps.answers.deciding.ranking import rankings
from sweeps.answers.designs import Designs
from sweeps.answers.runs import results, tuning


def tried(split: int, rate: str, validation: float, test: float, **more) -> dict:
    about = {"tuned": f"learning_rate={rate}", "tuned_over": "2", "architecture": "scgpt"}
    return run("scgpt", "none", split, test, **about, validation_macro_f1=validation, **more)


def frame(*rows: dict) -> pd.DataFrame:
    plain = run("majority", "none", 0, 0.1, tuned="", tuned_over="", architecture="majority")
    return pd.DataFrame([*rows, plain])


def test_validation_cells_choose_in_each_split_and_test_cells_never():
    runs = frame(tried(0, "a", 0.6, 0.5), tried(0, "b", 0.5, 0.9), tried(1, "a", 0.3, 0.8), tried(1, "b", 0.7, 0.4))
    runs.attrs["questions"] = ["asked"]
    chosen = tuning.best(runs)
    assert list(chosen["test_macro_f1"]) == [0.5, 0.4, 0.1] and chosen.attrs == {"questions": ["asked"]}
    assert list(chosen["tuned"]) == ["learning_rate=a", "learning_rate=b", ""]
    (said,) = tuning.told(chosen)
    assert said == (
        "scgpt: tuned over 2 settings on validation cells, each choice 2 trainings: learning_rate=a (1 of 2); "
        "learning_rate=b (1 of 2)"
    )
    assert said in results.warning(chosen)
    (said,) = tuning.told(runs)
    assert said == "scgpt: all 2 settings are here, none chosen on validation cells"


def test_a_choice_costs_the_training_of_all_it_was_chosen_from():
    runs = frame(tried(0, "a", 0.6, 0.5), tried(0, "b", 0.5, 0.9, trial_seconds=50.0), tried(1, "a", 0.3, 0.8))
    chosen = tuning.best(runs).assign(posthoc="none")
    assert list(cost.seconds(chosen)) == [60.0, 10.0, 10.0] and list(chosen["trial_seconds"]) == [10.0] * 3
    (ranked,) = rankings(chosen[chosen["split"] == "0"], "test_macro_f1", Designs(chosen))
    assert ranked.best["seconds"] == 60 and list(cost.gpu_hours(chosen.assign(gpu="A"))) == [1 / 60, 1 / 360, 1 / 360]


def test_remedies_seeds_and_skews_choose_on_their_own():
    runs = frame(
        tried(0, "a", 0.6, 0.5),
        tried(0, "b", 0.5, 0.9),
        tried(0, "a", 0.1, 0.2) | {"strategy": "oversample"},
        tried(0, "b", 0.2, 0.3) | {"strategy": "oversample"},
        tried(0, "a", 0.1, 0.2) | {"seed": "1"},
        tried(0, "b", 0.2, 0.3) | {"seed": "1"},
    )
    assert [one[-1] for one in tuning.best(runs)["tuned"][:3]] == ["a", "b", "b"]


def test_of_equals_the_first_counts_and_what_is_not_finished_is_told():
    runs = frame(
        tried(0, "a", 0.5, 0.1),
        tried(0, "b", 0.5, 0.9),
        tried(1, "a", 0.4, 0.3),
        tried(1, "b", float("nan"), float("nan")) | {"status": "FAILED"},
    )
    chosen = tuning.best(runs)
    finished = chosen[(chosen["status"] == "FINISHED") & (chosen["model"] == "scgpt")]
    assert list(finished["test_macro_f1"]) == [0.1, 0.3] and len(chosen) == 4
    (said,) = tuning.told(chosen)
    assert ". 1 of 2 are among fewer: other settings aren't finished, or lack validation_macro_f1" in said


def test_a_setting_without_the_number_is_not_chosen_and_told_of():
    """Trials of an earlier version have none."""
    chosen = tuning.best(frame(tried(0, "a", float("nan"), 0.9), tried(0, "b", 0.2, 0.3)))
    assert list(chosen["test_macro_f1"]) == [0.3, 0.1] and "1 of 1 are among fewer" in next(tuning.told(chosen))


@pytest.mark.parametrize("lacks", [True, False])
def test_without_validation_cells_nothing_is_chosen_by_its_test_cells(lacks):
    runs = frame(tried(0, "a", float("nan"), 0.1), tried(0, "b", float("nan"), 0.9))
    runs = runs.drop(columns="validation_macro_f1") if lacks else runs
    chosen = tuning.best(runs)
    assert list(chosen["test_macro_f1"]) == [0.1, 0.1]
    (said,) = tuning.told(chosen)
    assert said.endswith(". 1 of 1 have no validation_macro_f1: there the first of the file counts")
