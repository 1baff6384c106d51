"""A trial on two GPUs, through Ray: one trial's record and numbers, also when one of its processes dies."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import ray
from conftest import local_ray
from fake_trials import Silent
from fault_tools import descendants, name_of

from sweeps.drive.converge import converge
from sweeps.drive.launching import helpers
from sweeps.drive.launching.helpers import together
from sweeps.drive.launching.worker import PASSING
from sweeps.drive.request import Request
from sweeps.file import config

SWEEP = """
name: on-{gpus}
datasets: [pbmc68k_reduced]
genes: {{select: hvg, n: 60}}
models: {{geneformer: {{size: tiny, epochs: 12, dropout: 0.0}}}}
losses: [weighted]
resources: {{geneformer: {{gpu: {gpus}}}}}
checkpoint_every: 1
"""
EPOCHS = 12


def test_one_gpu_needs_no_helper():
    assert together(print, {"gpu": 0.5, "cpu": 1.0}) is print


def test_a_finished_trial_starts_no_helper(tmp_path):
    (tmp_path / "result.json").write_text('{"final": {}}')
    run = together(lambda config, report, checkpoint: {"told": 1}, {"gpu": 2.0, "cpu": 2.0})
    assert run({"directory": str(tmp_path)}, None, None) == {"told": 1}


def test_a_helper_that_died_is_an_outside_cause():
    died = helpers._cause(ray.exceptions.RayActorError())
    assert isinstance(died, PASSING) and "a helper on another GPU of this trial died" in str(died)


@pytest.fixture
def two_gpus(monkeypatch):
    """A Ray that believes in two GPUs; it computes on CPUs."""
    monkeypatch.setenv("CELLSKEW_SIMULATED_GPUS", "1")
    ray.shutdown()
    local_ray(CPU=2, GPU=2)
    yield
    ray.shutdown()


def run(storage: Path, gpus: int) -> tuple[dict[str, str], dict[str, list[float]]]:
    """Return tags and histories of the one trial of a sweep."""
    from mlflow import MlflowClient

    spec = config.parse(SWEEP.format(gpus=gpus), Path("sweep.yaml"))
    outcome = converge(spec, Request(storage=storage), Silent())
    assert outcome.finished == outcome.wanted == 1, outcome.failed
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name(f"on-{gpus}").experiment_id])
    histories = {name: client.get_metric_history(found.info.run_id, name) for name in found.data.metrics}
    return found.data.tags, {name: [one.value for one in points] for name, points in histories.items()}


def kill_a_helper(killed: list[int], storage: Path) -> None:
    """Kill the process on the second GPU once a checkpoint is there."""
    while not list(storage.glob("trials/*/epoch-*")):
        time.sleep(0.05)
    for pid in descendants(os.getpid()):
        if name_of(pid).startswith("ray::Helper"):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)


@pytest.mark.faults
def test_two_gpus_come_to_what_one_does_though_a_helper_is_killed(tmp_path, two_gpus):
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_helper, args=(killed, tmp_path / "two"), daemon=True)
    killer.start()
    tags, two = run(tmp_path / "two", 2)
    killer.join(5)
    assert len(killed) == 1, "a trial of two has one helper"
    assert tags["cellskew.gpus"] == "2" and "a helper on another GPU of this trial died" in str(tags)
    _, one = run(tmp_path / "one", 1)
    assert len(two["val_loss"]) == EPOCHS
    for name in ("train_loss", "val_loss", "val_macro_f1", "test_macro_f1", "test_brier"):
        assert two[name] == pytest.approx(one[name], abs=1e-5), name
