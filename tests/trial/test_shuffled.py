"""A trial on shuffled labels reaches chance, leaves nothing to be used, and keeps its cells per type."""

import numpy as np
import pytest
from conftest import trial_config

from trainables.config import read
from trainables.material import open_material
from trainables.trial import run_trial


@pytest.mark.parametrize("model", ["knn", "mlp"])
def test_on_shuffled_labels_a_model_is_as_good_as_chance(model, tmp_path):
    recipe = {"epochs": 6, "learning_rate": 0.01} if model == "mlp" else {}
    config = trial_config(tmp_path, model, recipe=recipe)
    true = run_trial(config, lambda *said: None, None)
    config |= {"control": "shuffled_labels", "directory": str(tmp_path / "control")}
    shuffled = run_trial(config, lambda *said: None, None)
    assert true["test_macro_f1"] > 0.9 and "test_chance" not in true
    assert shuffled["test_chance"] == 0.25
    assert abs(shuffled["test_balanced_accuracy"] - 0.25) < 0.2
    assert not (tmp_path / "control" / "checkpoint").exists(), "nobody is to use it"


def test_training_and_validation_cells_exchange_labels_and_test_cells_keep_theirs(tmp_path):
    config = trial_config(tmp_path, "majority")
    plain, control = (open_material(read(config | more)) for more in ({}, {"control": "shuffled_labels"}))
    for part in ("kept", "validation"):
        rows = getattr(plain, part)
        assert np.array_equal(rows, getattr(control, part))
        assert np.array_equal(plain.counts(rows), control.counts(rows))
        assert (plain.labels[rows] != control.labels[rows]).mean() > 0.4
    assert np.array_equal(plain.labels[plain.test], control.labels[control.test])
    again = open_material(read(config | {"control": "shuffled_labels"}))
    other = open_material(read(config | {"control": "shuffled_labels", "seed": 1}))
    assert np.array_equal(again.labels, control.labels) and not np.array_equal(other.labels, control.labels)
