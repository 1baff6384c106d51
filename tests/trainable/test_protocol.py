"""Defects: named, explained, applied one at a time, and each really changes what it says."""

import numpy as np
import pytest
from conftest import trial_config

from trainables.config import read
from trainables.material import open_material
from trainables.protocol import DEFECTS, apply, defects_of
from trainables.spec import get, names
from trainables.trial.trial import run_trial

SKEWED = {"kind": "natural"}


def material(tmp_path, model: str, *defects: str, **changes):
    return open_material(read(trial_config(tmp_path, model, defects=list(defects), **changes)))


def test_every_defect_says_where_it_stands_and_names_real_models():
    for defect in DEFECTS.values():
        assert "ipynb" in defect.where or "network" in defect.where
        assert len(defect.explanation) > 30
        assert set(defect.models or ()) <= set(names())


@pytest.mark.parametrize("name", DEFECTS)
def test_every_option_and_recipe_value_of_a_defect_exists_and_differs_from_the_default(name):
    defect = DEFECTS[name]
    for model in defect.models or ():
        spec = get(model)
        options, recipe = apply([name], {}, {})
        defaults = spec.options().model_dump()
        assert all(spec.options(**options).model_dump()[key] != defaults[key] for key in options)
        corrected = spec.recipe(None, "official").model_dump()
        assert not recipe or any(corrected[key] != value for key, value in recipe.items())


def test_corrected_has_none_paper_all_and_a_list_just_those():
    assert defects_of("scgpt", "none", "corrected", []) == []
    assert set(defects_of("geneformer", "scvi", "paper", [])) == {
        "resample_before_split",
        "epoch_budget",
        "select_on_test",
        "select_by_loss",
        "geneformer_column_tokens",
        "geneformer_undertrained",
        "scvi_unscaled",
    }
    chosen = ["geneformer_undertrained", "scgpt_unshuffled", "scvi_unscaled"]
    assert defects_of("scgpt", "none", "corrected", chosen) == ["scgpt_unshuffled"]
    assert defects_of("scgpt", "scvi", "corrected", chosen) == ["scgpt_unshuffled", "scvi_unscaled"]


def test_resampling_before_the_split_puts_copies_of_training_cells_into_validation(tmp_path):
    changes = {"strategy": {"kind": "oversample"}, "skew": {"kind": "exponential", "ratio": 20}}
    sound = material(tmp_path / "sound", "majority", **changes)
    assert not np.isin(sound.validation, sound.training_rows(0)).any()
    flawed = material(tmp_path / "flawed", "majority", "resample_before_split", **changes)
    assert np.isin(flawed.validation, flawed.training_rows(0)).mean() > 0.5
    assert not np.isin(flawed.test, flawed.training_rows(0)).any()


def test_an_unstratified_validation_set_has_the_same_size_and_shares_no_cell_with_training(tmp_path):
    sound = material(tmp_path / "sound", "scgpt")
    flawed = material(tmp_path / "flawed", "scgpt", "unstratified_validation")
    assert len(flawed.validation) == len(sound.validation)
    assert set(flawed.kept) | set(flawed.validation) == set(sound.kept) | set(sound.validation)
    assert not np.isin(flawed.validation, flawed.kept).any()
    assert set(flawed.validation) != set(sound.validation)


def test_an_unstratified_validation_cell_is_not_among_rows_that_were_fixed_beforehand(tmp_path):
    """Rows chosen by counts are chosen before the defect: none of them may end up on both sides."""
    sound = material(tmp_path / "sound", "scgpt")
    np.save(tmp_path / "rows.npy", np.repeat(sound.kept, 2))
    config = trial_config(tmp_path, "scgpt", defects=["unstratified_validation"], rows=str(tmp_path / "rows.npy"))
    flawed = open_material(read(config))
    trained = flawed.training_rows(0)
    assert np.isin(flawed.validation, sound.kept).any() and not np.isin(flawed.validation, trained).any()
    assert set(trained) == set(flawed.kept)


def test_a_bootstrap_of_items_sees_about_two_thirds_of_the_cells(tmp_path):
    flawed = material(tmp_path, "scbert", "scbert_bootstrap_items")
    rows = flawed.training_rows(0)
    assert len(rows) == len(flawed.kept) and 0.5 < len(np.unique(rows)) / len(rows) < 0.75  # 1 - 1/e = 0.63
    assert not np.array_equal(rows, flawed.training_rows(1))
    assert len(np.unique(flawed.test)) < len(flawed.test)


def test_the_test_set_that_is_the_training_set(tmp_path):
    flawed = material(tmp_path, "scgpt", "scgpt_test_is_training")
    assert np.isin(flawed.kept, flawed.test).all()


def test_the_test_set_that_is_the_training_set_holds_the_copies_that_oversampling_made(tmp_path):
    """Upstream evaluates the file it trains on, and that is the resampled one."""
    names = ("scgpt_test_is_training", "resample_before_split")
    for number, defects in enumerate((names, names[:1])):
        flawed = material(tmp_path / str(number), "scgpt", *defects, strategy={"kind": "oversample"})
        trained = np.concatenate([flawed.training_rows(0), flawed.validation])
        assert np.array_equal(np.sort(flawed.test), np.sort(trained)) and len(np.unique(trained)) < len(trained)


def test_selecting_on_test_cells_reports_their_loss_as_validation(tmp_path):
    reports: list[dict] = []
    config = trial_config(tmp_path, "scbert", defects=["select_on_test"])
    run_trial(config, lambda numbers, _: reports.append(numbers), None)
    final = reports[-1]
    best = max(reports[:-1], key=lambda m: m["val_macro_f1"])
    assert final["test_accuracy"] == pytest.approx(best["val_accuracy"])
