"""A finished run's checkpoint: enough to use the model without the sweep, and a version in MLflow's registry."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import trial_config
from fake_trials import spec
from safetensors.torch import load_file

from data_pipeline.errors import RequestError
from data_pipeline.shards.shards import Shards
from sweeps.answers.networks.promote import promote
from sweeps.tracking.artifacts import Upload, upload
from sweeps.tracking.store import Tracker
from sweeps.tracking.uris import default_uri
from trainables.spec import get, names
from trainables.training import checkpoint
from trainables.trial.trial import run_trial

NETWORKS = [name for name in names() if get(name).kind == "network"]


def trained(folder: Path, model: str, **changes) -> tuple[Path, dict]:
    """Train a tiny network; returns its trial's directory, and its configuration."""
    config = trial_config(folder, model, **changes)
    run_trial(config, lambda metrics, path: None, None)
    return Path(config["directory"]), config


@pytest.mark.parametrize("model", NETWORKS)
def test_the_folder_alone_gives_the_trials_predictions(model, tmp_path):
    encoding = tmp_path / "encoding.json"
    encoding.write_text(json.dumps({"genes": ["gene0"], "learned": {}, "identity": {}}))
    directory, config = trained(tmp_path, model, encoding=str(encoding), seed=3)
    folder = directory / "checkpoint"
    described = json.loads((folder / "model.json").read_text())
    assert described["encoding"]["genes"] == ["gene0"] and described["classes"] == [f"type {n}" for n in range(4)]
    assert described["sha256"] == checkpoint.sha256(folder / "model.safetensors")
    torch.manual_seed(99)
    network = get(described["model"]).build(len(described["classes"]), weights=None, **described["options"]).eval()
    checkpoint.restore_weights(network, load_file(folder / "model.safetensors"))
    predictions = pd.read_parquet(directory / "predictions.parquet")
    shards = Shards(Path(config["shards"]))
    row_of = {name: row for row, name in enumerate(shards.cell_ids.to_pylist())}
    rows = np.array([row_of[name] for name in predictions.cell_id])
    with torch.no_grad():
        logits = network(**get(model).collate(shards.take(rows), np.arange(len(rows))))
    assert [described["classes"][k] for k in logits.argmax(1)] == predictions.prediction.tolist()


@pytest.fixture(scope="module")
def checkpoint_of(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("trained"), "scgpt")[0]


class Sweep:
    """A storage folder with one registered run of a network and one of a baseline. blank: an empty database."""

    def __init__(self, storage: Path, blank: Path) -> None:
        self.storage, self.uri = storage, default_uri(storage)
        (storage / "sweeps").mkdir(parents=True)
        shutil.copyfile(blank, storage / "mlflow.db")
        trials = [next(t for t in spec().trials() if t.model == model) for model in ("scgpt", "majority")]
        self.tracker = Tracker(self.uri, "small", storage)
        registered = self.tracker.register(trials, {}, lambda done, total: None)
        self.network, self.baseline = (registered[trial.key] for trial in trials)

    def end(self, run, status: str = "FINISHED", **tags: str) -> str:
        """End a run, have everything delivered; returns its id."""
        self.tracker.finish(run.run_id, status, {f"cellskew.{name}": value for name, value in tags.items()})
        assert self.tracker.close(20)
        return run.run_id

    def promote(self, run_id: str, name: str = "annotator", uri: str | None = None):
        return promote(run_id, name, self.storage, uri)


@pytest.fixture
def sweep(tmp_path, blank_database) -> Sweep:
    return Sweep(tmp_path / "runs", blank_database)


def versions(uri: str, name: str = "annotator") -> list:
    from mlflow import MlflowClient

    return list(MlflowClient(uri).search_model_versions(f"name = '{name}'"))


def test_an_uploaded_checkpoint_becomes_one_version_however_often_it_is_promoted(
    sweep, checkpoint_of, tmp_path, monkeypatch
):
    from mlflow.artifacts import download_artifacts

    upload(checkpoint_of, Upload(sweep.network.artifact_uri, None, with_checkpoint=True))
    run_id = sweep.end(sweep.network)
    first, again = sweep.promote(run_id), sweep.promote(run_id, uri=sweep.uri)
    assert (first.version, first.new, again.new) == ("1", True, False)
    assert dataclasses.replace(first, new=False) == again
    (version,) = versions(sweep.uri)
    assert version.run_id == run_id and version.tags["cellskew.model"] == "scgpt"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sweep.uri)
    folder = Path(download_artifacts("models:/annotator/1", dst_path=str(tmp_path / "downloaded")))
    for name in ("model.json", "model.safetensors"):
        assert checkpoint.sha256(folder / name) == checkpoint.sha256(checkpoint_of / "checkpoint" / name)


def test_a_version_that_is_used_with_another_adjustment_is_not_taken_for_this_one(sweep, checkpoint_of):
    upload(checkpoint_of, Upload(sweep.network.artifact_uri, None, with_checkpoint=True))
    run_id = sweep.end(sweep.network)
    assert promote(run_id, "annotator", sweep.storage, None, "temperature").new
    assert not promote(run_id, "annotator", sweep.storage, None, "temperature").new
    with pytest.raises(RequestError, match="annotator/1 is this run already, used with the adjustment temperature"):
        sweep.promote(run_id)


def test_a_linked_checkpoint_stays_where_it_is(sweep, checkpoint_of):
    from mlflow import MlflowClient

    link = str(checkpoint_of / "checkpoint")
    run_id = sweep.end(sweep.network, checkpoint=link)
    assert sweep.promote(run_id).place == link
    (version,) = versions(sweep.uri)
    assert version.tags["cellskew.checkpoint"] == link
    listed = MlflowClient(sweep.uri).list_artifacts(run_id, "checkpoint")
    assert [found.path for found in listed] == ["checkpoint/model.json"]


def test_what_can_not_be_promoted_is_refused_and_leaves_nothing(sweep, checkpoint_of, tmp_path):
    finished = sweep.network.run_id
    sweep.tracker.finish(finished, "FINISHED", {})
    baseline = sweep.end(sweep.baseline)
    for run_id, name, said in (
        ("0" * 32, "annotator", "has no trial's run '0000.*--by run_id"),
        ("no id at all/..", "annotator", "has no trial's run"),
        (baseline, "annotator", "an earlier version trained it, which kept none of a baseline"),
        (finished, "annotator", r"no checkpoint among its artifacts: .*checkpoints: none.*Say upload or link"),
        (finished, "a/b", "--name 'a/b': use up to 100 letters"),
        (finished, "", "--name '': use up to 100 letters"),
    ):
        with pytest.raises(RequestError, match=said):
            sweep.promote(run_id, name)
    assert versions(sweep.uri) == []
    with pytest.raises(RequestError, match="no sweep has been run in"):
        promote(finished, "annotator", tmp_path / "elsewhere", None)


def test_an_unfinished_run_is_refused_with_its_reason(sweep):
    run_id = sweep.end(sweep.network, "FAILED", reason="the loss is nan")
    with pytest.raises(RequestError, match=r"is FAILED \(the loss is nan\), not FINISHED; .*cellskew resume small"):
        sweep.promote(run_id)


def test_a_link_that_leads_nowhere_is_refused(sweep):
    run_id = sweep.end(sweep.network, checkpoint="/nowhere/checkpoint")
    with pytest.raises(RequestError, match="linked to, not uploaded, and /nowhere/checkpoint is not there"):
        sweep.promote(run_id)


def test_a_server_that_is_away_is_named_without_its_password(tmp_path, monkeypatch):
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    with pytest.raises(
        RequestError, match="MLflow at http://127.0.0.1:9 doesn't answer: connection refused. Start it"
    ) as caught:
        promote("0" * 32, "annotator", tmp_path, "http://me:s3cret@127.0.0.1:9")
    assert "s3cret" not in str(caught.value)
