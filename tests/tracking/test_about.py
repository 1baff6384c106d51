"""MLflow's own page of a sweep: a note with the answer, its file, names that begin with the choice, durations."""

import json
import time
from collections import Counter

import pytest
from fake_trials import spec
from mlflow import MlflowClient

from sweeps.answers import above
from sweeps.answers.designs import Designs
from sweeps.answers.runs import results
from sweeps.tracking import about, joint
from sweeps.tracking.uris import default_uri

OPENED = "?workflowType=machine_learning&viewStateShareKey=cellskew"


def counted(method, told):
    def call(*given, **named):
        told[method.__name__] += 1
        return method(*given, **named)

    return call


def registered(storage, tracker_class):
    tracker = tracker_class(default_uri(storage), "small", storage)
    known = tracker.register(spec().trials(), {}, lambda done, total: None)
    return tracker, next(iter(known.values()))


def test_the_note_and_the_files_are_written_once_and_renewed(tmp_path):
    from sweeps.tracking.store import Tracker

    (tmp_path / "sweeps").mkdir()
    tracker, _ = registered(tmp_path, Tracker)
    assert tracker.close(60)
    uri = default_uri(tmp_path)
    for answer in ("can't tell", "x" * 9000, "answer: scgpt · none"):
        page = about.describe(uri, "small", ["question", answer], {"small.yaml": "name: small\n", "answer.txt": answer})
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("small")
    assert experiment.tags["mlflow.note.content"] == "answer: scgpt · none\n\nquestion"
    assert page == f"http://127.0.0.1:5000/#/experiments/{experiment.experiment_id}/runs{OPENED}"
    place = about.place_of(uri, "small")
    assert place.at == page and place.serve == f"mlflow ui --backend-store-uri {uri} --host 127.0.0.1"
    assert place.run("r1") == f"http://127.0.0.1:5000/#/experiments/{experiment.experiment_id}/runs/r1"
    view = json.loads(experiment.tags["mlflow.sharedViewState.cellskew"])
    assert view["orderByKey"] == view["selectedColumns"][0] == "metrics.`mean_macro_f1`"
    mine = experiment.tags["cellskew.about"]
    assert sorted(file.path for file in client.list_artifacts(mine)) == ["answer.txt", "small.yaml"]
    named = [run.info.run_name for run in client.search_runs([experiment.experiment_id])]
    assert named.count("about small") == 1
    assert len(results.fetch(uri, "small")) == len(spec().trials()), "no table has it"


def test_a_server_is_linked_to_without_its_password():
    for said in ("me:secret@", "token@", ""):
        page = about.link(f"https://{said}mlflow.example/", "7")
        assert page == "https://mlflow.example/#/experiments/7/runs" + OPENED, (
            "a browser asks for whatever stands before the @"
        )


def test_a_run_begins_when_its_training_does_and_keeps_that_when_it_goes_on(tmp_path):
    from sweeps.tracking.store import Tracker

    (tmp_path / "sweeps").mkdir()
    tracker, run = registered(tmp_path, Tracker)
    assert tracker.is_joint and joint.works(tracker.client, tracker.experiment_id)
    before = tracker.client.get_run(run.run_id).info.start_time
    time.sleep(0.2)
    tracker.start(run.run_id, {})
    assert tracker.outbox.settle(60)
    began = tracker.client.get_run(run.run_id).info.start_time
    assert began >= before + 200
    tracker.report(run.run_id, {"epoch": 1, "train_loss": 1.0})
    time.sleep(0.2)
    tracker.start(run.run_id, {})
    assert tracker.close(60)
    assert MlflowClient(default_uri(tmp_path)).get_run(run.run_id).info.start_time == began


def test_names_begin_with_what_is_chosen():
    names = [trial.name for trial in spec().trials()]
    assert all(name.startswith(("scgpt·none·", "majority·none·")) for name in names) and len(set(names)) == len(names)


@pytest.mark.parametrize("together", [True, False])
def test_each_choice_has_a_run_above_its_trials_made_once_and_renewed(tmp_path, monkeypatch, together):
    from sweeps.tracking.store import Tracker

    if not together:  # as of a server
        monkeypatch.setattr(joint, "works", lambda *asked: False)

    (tmp_path / "sweeps").mkdir()
    tracker, run = registered(tmp_path, Tracker)
    uri, runs = default_uri(tmp_path), results.fetch(default_uri(tmp_path), "small")
    mine = runs[runs["model"] == run.tags["cellskew.model"]].assign(status="FINISHED", test_macro_f1=0.5)
    told = Counter()
    for name in ("log_metric", "set_tag"):
        monkeypatch.setattr(MlflowClient, name, counted(getattr(MlflowClient, name), told))
    for value in (0.5, 0.7):
        one = mine.assign(test_macro_f1=value, **{"test_macro_f1.logit_adjust": value + 0.1})
        about.summarise(uri, "small", above.summaries(one, Designs(one)))
    choices = len(mine.groupby(above.AXES))
    assert told == {"set_tag": len(mine) + choices}, "once per trial and choice, not once per number or every time"
    assert tracker.close(60)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("small").experiment_id
    found = {one.info.run_id: one for one in client.search_runs([experiment], "tags.`cellskew.summary` != ''")}
    parents = {client.get_run(run_id).data.tags["mlflow.parentRunId"] for run_id in mine["run_id"]}
    assert set(found) == parents and len(found) == choices
    first = next(iter(found.values()))
    assert first.info.run_name.startswith(f"{run.tags['cellskew.model']}·") and first.info.status == "FINISHED"
    assert first.data.metrics["mean_macro_f1"] == 0.7 and first.data.metrics["mean_macro_f1.logit_adjust"] > 0.79
    assert first.data.metrics["splits"] >= 1 and "test_macro_f1" not in first.data.metrics, "it is no trial's"
    assert not any(name in first.data.tags for name in ("cellskew.trial", "cellskew.model")), "queries go by these"
    assert len(results.fetch(uri, "small")) == len(spec().trials()), "no table has it"
    summaries = "tags.`cellskew.summary` != ''"
    for one, are_gone in ((mine.assign(model="another"), True), (mine, False)):
        about.summarise(uri, "small", above.summaries(one, Designs(one)))
        shown = {run.info.run_id for run in client.search_runs([experiment], summaries)}
        assert len(shown) == choices, "what the file has no longer is not among what MLflow shows"
        assert bool(parents - shown) == are_gone
        marked = [client.get_run(run_id).data.tags.get("cellskew.superseded") for run_id in parents]
        assert all(marked) if are_gone else not any(marked)
    again = {client.get_run(run_id).data.tags["mlflow.parentRunId"] for run_id in mine["run_id"]}
    assert again == parents, "under another label for a while, and back"
