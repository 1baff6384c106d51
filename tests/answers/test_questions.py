"""Questions declared in a sweep file: read with every mistake, kept with MLflow, answered as one family of tests."""

from pathlib import Path

import pandas as pd
import pytest
from fake_trials import SWEEP, spec
from test_summary import METRIC, grid, per_class

from data_pipeline.errors import RequestError
from sweeps.answers import differences
from sweeps.answers import questions as answering
from sweeps.answers.comparison import compare
from sweeps.answers.designs import Designs
from sweeps.answers.runs import results
from sweeps.file.config import parse
from sweeps.file.questions import Question
from sweeps.statistics import families
from sweeps.tracking.store import Tracker
from sweeps.tracking.uris import default_uri

FILE = SWEEP.format(name="small", splits="[0, 1]", seeds="[0]", strategies="[none]", max_failures=3)
ASKED = [Question(between="strategy", within=["model"]), Question(between="model")]


def test_a_file_may_ask_and_its_trials_stay_what_they_are():
    text = FILE + "questions: [{between: strategy, within: model, metric: recall, type: DC}, {between: model}]\n"
    found = parse(text, Path("small.yaml"))
    assert found.questions[0] == Question(between="strategy", within=["model"], metric="recall", type="DC")
    assert str(found.questions[0]) == "recall of DC between strategy within model"
    assert [trial.declared for trial in found.trials()] == [trial.declared for trial in spec().trials()]


def test_every_mistake_in_a_question_is_told_with_its_line():
    text = (
        FILE + "questions: [{betwen: strategy}, {between: stratgy, within: [model, mode]}, {between: model, type: 3}]\n"
    )
    with pytest.raises(RequestError) as caught:
        parse(text, Path("small.yaml"))
    said = str(caught.value)
    assert "questions[0].betwen: unknown key 'betwen'; did you mean between?" in said
    assert "questions[0]: says not what it is between" in said
    assert "questions[1].between: unknown choice 'stratgy'; did you mean strategy?" in said
    assert "questions[1].within: unknown axis to compare within 'mode'; did you mean model?" in said
    assert "questions[2].type: 3 is no text; put it in quotes" in said


def test_questions_are_one_family_over_the_sweep(capsys):
    runs = grid(5)
    designs = Designs(runs)
    found = answering.answer(runs, ASKED, designs)
    apart = [compare(runs, one.between, one.within, METRIC).table for one in ASKED]
    p = pd.concat([table["p"] for table in apart]).to_numpy()
    assert len(p) == 3 and pd.concat([one.table["p"] for one in found]).to_numpy().tolist() == p.tolist()
    assert pd.concat([one.table["p_holm"] for one in found]).tolist() == families.holm(p).tolist()
    assert found[1].table["p_holm"].iloc[0] > apart[1]["p_holm"].iloc[0], (
        "its own table alone would be a smaller family"
    )
    differences.show(found, "table", None, [str(one) for one in ASKED])
    said = " ".join(capsys.readouterr().out.split())
    assert "macro_f1 between strategy within model?" in said
    assert said.count("corrected for the 3 tests of all 2 tables") == 2


def test_a_question_may_be_about_one_type(tmp_path):
    runs = per_class(tmp_path, grid(3))
    (found,) = answering.answer(runs, [Question(between="model", metric="recall", type="DC")], Designs(runs))
    assert found.metric == "test_recall:DC" and found.table["mean"].tolist() == [0.5]
    with pytest.raises(RequestError, match="question f1 of DCs between model: --type: unknown cell type 'DCs'"):
        answering.answer(runs, [Question(between="model", metric="f1", type="DCs")], Designs(runs))
    with pytest.raises(RequestError, match="the sweep's file has no `questions:`"):
        answering.answer(runs, [], Designs(runs))


def test_mlflow_keeps_what_the_file_asked(tmp_path):
    (tmp_path / "sweeps").mkdir()
    tracker = Tracker(default_uri(tmp_path), "small", tmp_path)
    tracker.want(["a" * 16], ASKED)
    tracker.want(["a" * 16], ASKED)
    assert tracker.close(60)
    assert results.fetch(default_uri(tmp_path), "small").attrs["questions"] == ASKED
