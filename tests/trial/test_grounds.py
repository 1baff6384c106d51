"""What a trial records of the cells that its numbers rest on, so that tables know how sure they are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import made_up_cells, trial_config

from data_pipeline.rows.generated import GeneratedCells
from trainables.config import read
from trainables.material import open_material
from trainables.trial.trial import run_trial


def with_donors(fixed_test: bool) -> GeneratedCells:
    """Made-up cells of ten donors; fixed_test: the last two donors' cells are a test set of their own."""
    cells = made_up_cells()
    who = np.arange(cells.num_cells) % 10
    found = type("Cells", (GeneratedCells,), {})(cells.digest, cells.counts, cells.labels, cells.classes, cells.totals)
    object.__setattr__(found, "donors", np.array([f"donor {n}" for n in who], dtype=object))
    object.__setattr__(found, "fixed_test", who >= 8 if fixed_test else None)
    return found


def test_a_trial_records_the_cells_before_the_skew_and_not_those_it_was_left(tmp_path):
    skew = {"kind": "exponential", "ratio": 20}
    final = run_trial(trial_config(tmp_path, "majority", skew=skew), lambda *said: None, None)
    assert (final["test_cells"], final["natural_cells"], final["fixed_test"]) == (60, 210, 0)
    assert final["train_cells"] < 210 and "test_donors" not in final


@pytest.mark.parametrize("fixed_test", [False, True])
def test_donors_and_a_fixed_test_set_are_recorded(tmp_path, fixed_test):
    config = trial_config(tmp_path, "majority", cells=with_donors(fixed_test))
    final = run_trial(config, lambda *said: None, None)
    predictions = pd.read_parquet(Path(config["directory"]) / "predictions.parquet")
    assert final["test_donors"] == predictions["donor"].nunique() == 2
    assert final["fixed_test"] == fixed_test and final["natural_donors"] == 7


def test_a_trial_keeps_twins_in_one_part(tmp_path):
    cells = replace(made_up_cells(), twins=np.arange(300) % 100)
    material = open_material(read(trial_config(tmp_path, "majority", cells=cells)))
    parts = [set(cells.twins[rows]) for rows in (material.natural, material.validation, material.test)]
    assert all(parts) and len(set().union(*parts)) == 100 == sum(map(len, parts))
