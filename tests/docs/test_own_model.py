"""The model that docs/your-own-model.md shows, as a file of its own: it is found, trained and evaluated."""

import sys

import pytest
from conftest import trial_config
from documents import blocks

import trainables.models
from trainables import spec
from trainables.trial import run_trial


def test_the_example_is_a_model(tmp_path, monkeypatch):
    folder = tmp_path / "models"
    folder.mkdir()
    [block] = [block for block in blocks("python") if block.file == "nearest_centroid.py"]
    (folder / block.file).write_text(block.text)
    monkeypatch.setattr(spec, "MODELS", folder)
    monkeypatch.setattr(trainables.models, "__path__", [*trainables.models.__path__, str(folder)])
    try:
        assert spec.names() == ["nearest_centroid"]
        final = run_trial(trial_config(tmp_path, "nearest_centroid"), lambda numbers, checkpoint: None, None)
    finally:
        sys.modules.pop("trainables.models.nearest_centroid", None)
    assert final["test_macro_f1"] > 0.9, "made-up types are told apart by their marker genes"
    assert final["test_brier"] == pytest.approx(0, abs=0.3)
