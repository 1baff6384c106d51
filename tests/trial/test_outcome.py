"""What is drawn after the training can't fail a trial: whatever types are called."""

import json

import pandas as pd
import pytest

from sweeps.drive.launching.job import Job
from sweeps.drive.launching.worker import work
from trainables.trial import outcome

NAMES = [r"$\\bad{$", "a$b$", "x" * 300, "T/NK, =1+1\n", "细胞"]


@pytest.mark.filterwarnings("ignore:Glyph .* missing from font")
def test_types_of_any_name_are_drawn():
    matrix = pd.DataFrame(1, index=NAMES, columns=NAMES)
    assert outcome.picture(matrix).startswith(b"\x89PNG")


def test_what_cannot_be_made_is_named_and_the_rest_is_there(tmp_path):
    made = {"a.png": lambda: 1 / 0, "b.csv": lambda: b"x"}
    outcome.publish_each(tmp_path, made)
    assert json.loads((tmp_path / outcome.NOT_MADE).read_text()) == {"a.png": "ZeroDivisionError: division by zero"}
    assert (tmp_path / "b.csv").read_bytes() == b"x"
    outcome.publish_each(tmp_path, made | {"a.png": lambda: b"y"})
    assert not (tmp_path / outcome.NOT_MADE).exists()


def test_a_trial_without_its_picture_is_finished_and_says_so(tmp_path):
    def trial(config: dict, report: object, checkpoint: object) -> dict:
        outcome.publish_each(tmp_path, {"a.png": lambda: 1 / 0})
        return {"epoch": 1}

    news: list[dict] = []
    work(Job({"key": "k", "directory": str(tmp_path)}, "r", {"cpu": 1, "gpu": 0}, {}, {}), news.append, trial)
    said, final = news
    assert said["trouble"] == "a.png could not be made, the numbers are good: ZeroDivisionError: division by zero"
    assert final["final"] == {"epoch": 1}
