"""Writes joined in one transaction: the same in MLflow as one by one, or nothing at all."""

import contextlib
import shutil
import threading
import time
from pathlib import Path

import pytest
from fake_trials import spec
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from sweeps.tracking.joint import one_transaction, works
from sweeps.tracking.kept.database import BEGAN
from sweeps.tracking.store import Tracker
from sweeps.tracking.uris import default_uri

NEWS = {"epoch": 1, "train_loss": 0.5, "val_loss": float("nan")}


def written(storage: Path, is_joint: bool, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Register a sweep, report and finish its trials in one batch; return what MLflow has of each."""
    tracker = Tracker(f"sqlite:///{storage}/mlflow.db", "small", storage)
    tracker.is_joint = tracker.delivery.is_joint = is_joint
    runs = list(tracker.register(spec().trials(), {}, lambda *count: None).values())
    records = []
    monkeypatch.setattr(tracker.outbox, "put", records.append)
    for run in runs:
        tracker.start(run.run_id, {"cellskew.digest": "d0"}, {"name": "pbmc", "digest": "d0", "source": "x.h5ad"})
        tracker.report(run.run_id, NEWS)
        tracker.report(run.run_id, NEWS | {"epoch": 2})
        tracker.finish(run.run_id, "FINISHED", {"cellskew.host": "here"})
    tracker.delivery.deliver(records)
    tracker.close()
    found = {}
    for listed in runs:
        run = tracker.client.get_run(listed.run_id)
        history = tracker.client.get_metric_history(listed.run_id, "train_loss")
        data = [(one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs]
        tags = {name: value for name, value in run.data.tags.items() if name != BEGAN}
        about = (run.info.status, run.data.params, tags, str(run.data.metrics), data)
        found[run.info.run_name] = (*about, [(point.step, point.value) for point in history])
    return found


def test_what_is_written_together_is_what_would_have_been_written_one_by_one(tmp_path, monkeypatch):
    together, alone = (written(tmp_path / str(is_joint), is_joint, monkeypatch) for is_joint in (True, False))
    assert together == alone
    assert len(together) == 8 and {one[0] for one in together.values()} == {"FINISHED"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    return MlflowClient(f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db")


def test_a_refused_write_takes_those_before_it_along(client):
    experiment = client.create_experiment("refused")
    with pytest.raises(MlflowException, match="not found"), one_transaction(client):
        client.create_run(experiment, run_name="first")
        client.update_run("0" * 32, status="FAILED")
    assert not client.search_runs([experiment])
    with one_transaction(client):
        client.create_run(experiment, run_name="second")
    assert [run.info.run_name for run in client.search_runs([experiment])] == ["second"]


def test_a_write_that_the_store_takes_back_silently_spoils_the_transaction(client):
    run_id = client.create_run("0").info.run_id
    point = Metric("x", 0.5, 1000, 1)
    client.log_batch(run_id, metrics=[point])
    with pytest.raises(MlflowException), one_transaction(client):
        client.set_tag(run_id, "before", "it")
        client.log_batch(run_id, metrics=[point])  # a duplicate: the store rolls back and writes only what is new
    assert "before" not in client.get_run(run_id).data.tags


def test_another_thread_writes_by_itself_meanwhile(client):
    run_id = client.create_run("0").info.run_id
    other = threading.Thread(target=client.set_tag, args=(run_id, "by", "another"))
    with pytest.raises(MlflowException), one_transaction(client):
        other.start()
        time.sleep(0.2)
        client.update_run("0" * 32, status="FAILED")
    other.join()
    assert client.get_run(run_id).data.tags["by"] == "another"


def test_a_store_that_joins_is_told_from_one_that_does_not(client, monkeypatch):
    assert works(client, "0")
    monkeypatch.setattr(client._tracking_client.store, "ManagedSessionMaker", object())
    assert not works(client, "0")


@pytest.mark.parametrize("named", ["ManagedSessionMaker", "other insides"])
def test_an_mlflow_with_other_insides_is_written_run_by_run(tmp_path, blank_database, monkeypatch, named):
    from sweeps.tracking import joint

    if named == "ManagedSessionMaker":
        monkeypatch.setattr(joint, "_Sessions", lambda alone: alone)  # has no `shared`
    else:
        monkeypatch.setattr(joint, "one_transaction", lambda client: contextlib.nullcontext())  # writes at once
    shutil.copyfile(blank_database, tmp_path / "mlflow.db")
    tracker = Tracker(default_uri(tmp_path), "small", tmp_path)
    assert not tracker.is_joint
    runs = list(tracker.register(spec().trials(), {}, lambda *count: None).values())
    for run in runs:
        tracker.finish(run.run_id, "FINISHED", {}, NEWS)
    assert tracker.close(60)
    assert {tracker.client.get_run(run.run_id).info.status for run in runs} == {"FINISHED"}
