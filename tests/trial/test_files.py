"""What is drawn and tabled after the training can't fail a trial, whatever types are called, and is made later."""

import json
from pathlib import Path

import pandas as pd
import pytest
from conftest import trial_config

from sweeps.drive.launching.job import Job
from sweeps.drive.launching.worker import work
from trainables.config import read
from trainables.trial import files
from trainables.trial.trial import run_trial

NAMES = [r"$\\bad{$", "a$b$", "x" * 300, "T/NK, =1+1\n", "细胞"]


@pytest.mark.filterwarnings("ignore:Glyph .* missing from font")
def test_types_of_any_name_are_drawn():
    matrix = pd.DataFrame(1, index=NAMES, columns=NAMES)
    assert files.picture(matrix).startswith(b"\x89PNG")


def test_what_cannot_be_made_is_named_and_the_rest_is_there(tmp_path):
    made = {"a.png": lambda: 1 / 0, "b.csv": lambda: b"x"}
    assert files.publish_each(tmp_path, made) == {"a.png": "ZeroDivisionError: division by zero"}
    assert json.loads((tmp_path / files.NOT_MADE).read_text()) == {"a.png": "ZeroDivisionError: division by zero"}
    assert (tmp_path / "b.csv").read_bytes() == b"x"
    assert files.publish_each(tmp_path, made | {"a.png": lambda: b"y"}) == {}
    assert not (tmp_path / files.NOT_MADE).exists()


def fail(*given: object) -> bytes:
    raise ValueError("no such colour")


def test_files_that_could_not_be_made_cost_no_number_and_are_made_later_without_training(tmp_path, monkeypatch):
    config = trial_config(tmp_path, "majority")
    undisturbed = run_trial(config, lambda *told: None, None)
    folder = Path(config["directory"])
    wanted = {name: (folder / name).read_bytes() for name in files.FILES}
    config["directory"] = str(tmp_path / "again")
    folder = tmp_path / "again"
    with monkeypatch.context() as patch:
        for name in ("picture", "_predictions"):
            patch.setattr(files, name, fail)
        patch.setattr(files.metrics, "per_class", fail)
        disturbed = run_trial(config, lambda *told: None, None)
        lacking = {"per_class.csv", "confusion_matrix.png", "predictions.parquet"}
        assert set(files.missing(folder)) == lacking and not any((folder / name).exists() for name in lacking)
        assert set(files.make_missing(read(config))) == lacking, "still"
    tested = [{name: value for name, value in one.items() if name[:5] == "test_"} for one in (disturbed, undisturbed)]
    assert tested[0] == tested[1] and len(tested[0]) > 20
    assert files.make_missing(read(config)) == {} == files.missing(folder)
    assert not (folder / files.EVALUATED).exists()
    assert {name: (folder / name).read_bytes() for name in lacking} == {name: wanted[name] for name in lacking}


def test_a_trial_without_its_picture_is_finished_and_says_so(tmp_path):
    def trial(config: dict, report: object, checkpoint: object) -> dict:
        files.publish_each(tmp_path, {"a.png": lambda: 1 / 0})
        return {"epoch": 1}

    news: list[dict] = []
    work(Job({"key": "k", "directory": str(tmp_path)}, "r", {"cpu": 1, "gpu": 0}, {}, {}), news.append, trial)
    (final,) = news
    assert final["lacking"] == {"a.png": "ZeroDivisionError: division by zero"} and final["final"] == {"epoch": 1}
