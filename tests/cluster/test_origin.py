"""What a run says of its code and machine, and what it never says: secrets."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sweeps.cluster import origin
from sweeps.drive.launching import worker
from sweeps.drive.launching.job import Job
from sweeps.tracking import uris

ROOT = Path(__file__).parents[2]


def test_code_from_a_checkout_has_its_commit():
    said = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if said.returncode:
        pytest.skip("these tests are not in a git checkout")
    found = origin.code()
    assert found["mlflow.source.git.commit"] == said.stdout.strip()
    assert f"commit {said.stdout.strip()}" in found["cellskew.code"]


def test_installed_code_inside_another_repository_has_only_its_version(tmp_path):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    installed = tmp_path / "site-packages" / "sweeps" / "cluster"
    installed.mkdir(parents=True)
    shutil.copy(ROOT / "sweeps" / "cluster" / "origin.py", installed)
    assert list(origin.code.__wrapped__(installed)) == ["cellskew.code_hash", "cellskew.code"]


def test_the_machine_and_its_packages_are_named():
    found = origin.machine()
    assert found["host"] and f"{os.cpu_count()} cores" in found["machine"]
    assert "torch " in origin.packages()["cellskew.packages"]


def test_no_secret_of_the_environment_or_of_an_address_is_said(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2-and-more")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abcdefghij")
    text = "ftp://me:pw@host/x refused hunter2-and-more, abcdefghij; http://host:5000/a@b stays"
    assert uris.without_secrets(text) == "ftp://me:***@host/x refused ***, ***; http://host:5000/a@b stays"


def job_in(directory: Path) -> Job:
    return Job({"directory": str(directory)}, "run", resources={}, tags={}, data={})


def test_a_trials_failure_and_trouble_hold_no_secret(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2-and-more")
    monkeypatch.setattr(worker, "TRAIN_PAUSES", (0.0,))
    sent: list[dict] = []

    def fail(config, report, checkpoint):
        raise ConnectionError("no answer from ftp://me:s3cret@host, tried hunter2-and-more")

    worker.work(job_in(tmp_path), sent.append, fail)
    assert [list(news)[0] for news in sent] == ["trouble", "failed"] and sent[1]["cause"] == "outside"
    assert "s3cret" not in str(sent) and "hunter2" not in str(sent)
    assert sent[1]["failed"] == "ConnectionError: no answer from ftp://me:***@host, tried ***"


@pytest.mark.parametrize(
    ("error", "times"),
    [
        (PermissionError("no"), 1),
        (ValueError("no"), 1),
        (OSError(28, "full"), 2),
        (MemoryError(), 2),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), 2),  # torch's, where several GPUs sum their gradients
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 2),
    ],
)
def test_only_what_may_pass_of_itself_is_tried_again(error, times, monkeypatch, tmp_path):
    monkeypatch.setattr(worker, "TRAIN_PAUSES", (0.0,))
    calls = []

    def fail(config, report, checkpoint):
        calls.append(1)
        raise error

    worker.work(job_in(tmp_path), lambda news: None, fail)
    assert len(calls) == times


def test_memory_that_torch_could_not_get_on_a_cpu_is_blamed_on_the_machine():
    assert worker.cause(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")) == "outside"
    assert worker.cause(RuntimeError("size mismatch")) == "trial"
