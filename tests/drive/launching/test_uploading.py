"""Files for a server's store are the driver's to send: a slot isn't held meanwhile, nor credentials needed there."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from ray import cloudpickle

from data_pipeline import sameness
from data_pipeline.shared.store import OWN, Shared
from data_pipeline.shared.turns import Turn, left
from sweeps.cluster import nodes
from sweeps.drive.launching import uploading, worker
from sweeps.drive.launching.job import Job
from sweeps.drive.launching.rerun import told_of
from sweeps.drive.launching.uploading import Uploads
from sweeps.tracking.artifacts import Upload, make_place, probe, upload

ROOT = Path(__file__).parents[3]
SECRET = "hunter2-and-more"
WAITS = {worker.UPLOAD: worker.WAITS}


def job(directory: Path) -> Job:
    to = Upload("mlflow-artifacts:/1/r/artifacts", "http://127.0.0.1:9", with_checkpoint=False)
    return Job({"key": directory.name, "directory": str(directory)}, "run", {}, {}, {}, upload=to)


def test_a_worker_leaves_what_goes_to_a_server_to_the_driver(tmp_path):
    sent, begin = [], time.monotonic()
    worker.work(job(tmp_path / "k"), sent.append, lambda config, report, checkpoint: {"test_macro_f1": 0.5})
    assert sent[-1]["lacking"] == WAITS and time.monotonic() - begin < 5, "it asks no server"


def wait_for(happened) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_files_go_in_order_and_a_store_that_is_away_is_waited_for_and_told(tmp_path, monkeypatch):
    away = threading.Event()
    away.set()
    monkeypatch.setattr(uploading, "PAUSES", (0.01,) * 3_000)
    monkeypatch.setattr(
        uploading, "try_upload", lambda folder, to, arrived: {"upload": "refused"} if away.is_set() else {}
    )
    arrived, said = [], []
    uploads = Uploads(lambda job: arrived.append(job.key), said.append)
    uploads.put(job(tmp_path / "whole"), {})
    uploads.put(job(tmp_path / "other"), {"confusion.png": "no font"})
    for key in ("a", "b", "c"):
        uploads.put(job(tmp_path / key), WAITS)
    wait_for(lambda: said)
    assert "can't be uploaded now, and wait; the numbers go on: refused" in said[0] and not arrived
    away.clear()
    wait_for(lambda: len(arrived) == 3)
    uploads.close(30)
    assert arrived == ["a", "b", "c"] and said[1:] == ["files are uploaded again"]


def test_an_upload_that_was_refused_goes_on_with_the_next_file(tmp_path, monkeypatch):
    trial, target, copied, arrived = tmp_path / "trial", tmp_path / "target", [], set()
    (trial / "checkpoint").mkdir(parents=True)
    for name in ("a.yaml", "b.csv", "checkpoint/best.safetensors"):
        (trial / name).touch()

    def copy(source, to):
        copied.append(source.name)
        if len(copied) % 2 == 0:
            raise OSError("too many requests")

    monkeypatch.setattr("shutil.copyfile", copy)
    for _ in range(2):
        with pytest.raises(OSError, match="too many"):
            upload(trial, Upload(str(target), None, with_checkpoint=True), arrived)
    upload(trial, Upload(str(target), None, with_checkpoint=True), arrived)
    assert copied == ["a.yaml", "b.csv", "b.csv", "best.safetensors", "best.safetensors"]


@pytest.mark.parametrize("seconds", [0.1, 30])
def test_what_waits_at_the_end_or_at_a_stop_is_left_to_be_mended(tmp_path, monkeypatch, seconds):
    monkeypatch.setattr(uploading, "try_upload", lambda folder, to, arrived: {"upload": "refused"})
    arrived = []
    uploads = Uploads(arrived.append, lambda said: None)
    uploads.put(job(tmp_path / "a"), WAITS)
    begin, asked = time.monotonic(), threading.Event()
    threading.Timer(0.1, asked.set).start()
    uploads.close(seconds, asked.is_set)
    assert not arrived and time.monotonic() - begin < 5


@pytest.mark.parametrize("is_log", [True, False])
def test_files_that_can_never_arrive_hold_up_no_other_trials(tmp_path, monkeypatch, is_log):
    def refuse(folder, to, arrived=None):
        if folder.name == "damaged":
            raise OSError("not those that were stored")

    monkeypatch.setattr(uploading, "PAUSES", (0.001,))
    monkeypatch.setattr(uploading, "upload_log", refuse)
    monkeypatch.setattr(worker, "upload", refuse)
    arrived, said = [], []
    uploads = Uploads(lambda job: arrived.append(job.key), said.append)
    for key in ("damaged", "a", "damaged", "b"):
        (tmp_path / key).mkdir(exist_ok=True)
        uploads.put_log(job(tmp_path / key)) if is_log and key == "damaged" else uploads.put(job(tmp_path / key), WAITS)
    wait_for(lambda: arrived == ["a", "b"])
    uploads.close(0.0)
    assert arrived == ["a", "b"] and len([one for one in said if "not those" in one]) == 2


def test_at_the_end_each_log_is_tried_once_for_a_while(tmp_path, monkeypatch):
    sent, begun, go_on = [], threading.Event(), threading.Event()

    def send(folder, to):
        sent.append(folder.name)
        begun.set()
        go_on.wait(30)
        raise OSError("refused")

    monkeypatch.setattr(uploading, "upload_log", send)
    for seconds, expected in ((30.0, ["a", "b", "c"]), (-1.0, ["a"])):
        sent.clear(), begun.clear(), go_on.clear()
        monkeypatch.setattr(uploading, "AFTER", seconds)
        uploads = Uploads(lambda job: None, lambda said: None)
        for key in "abc":
            uploads.put_log(job(tmp_path / key))
        assert begun.wait(30)
        threading.Timer(0.05, go_on.set).start()
        uploads.close(0.0)
        assert sent == expected


def test_logs_alone_hold_a_sweeps_end_up_no_longer_than_after_a_stop(tmp_path, monkeypatch):
    """On a full disk each run ended two minutes later."""
    monkeypatch.setattr(uploading, "upload_log", lambda folder, to: 1 / 0)
    monkeypatch.setattr(uploading, "AFTER", 0.05)
    uploads, began = Uploads(lambda job: None, lambda said: None), time.monotonic()
    uploads.put_log(job(tmp_path / "a"))
    uploads.close(20.0)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("shared", [True, False])
def test_the_log_of_a_trial_that_failed_arrives_though_its_node_is_gone(tmp_path, monkeypatch, shared):
    def fail(config, report, checkpoint):
        print("no such gene: XYZ")
        raise ValueError("all is lost")

    to = make_place(Upload(str(tmp_path / "runs" / "1" / "r" / "artifacts"), None, with_checkpoint=False))
    store = f"file://{tmp_path}/bucket" if shared else None
    given, sent = replace(job(tmp_path / "driver" / "trials" / "k"), upload=to, shared=store), []
    monkeypatch.setenv(OWN, str(tmp_path / "node"))
    worker.work(given, sent.append, fail)
    assert sent[-1]["failed"] == "ValueError: all is lost" and given.directory.exists() != shared
    shutil.rmtree(tmp_path / "node", ignore_errors=True)
    uploads = Uploads(lambda job: None, lambda said: None)
    for _ in range(2):
        uploads.put_log(given)
    uploads.close(0.0)
    for folder in (given.directory, tmp_path / "runs/1/r/artifacts"):
        said = (folder / "log.txt").read_text()
        assert "no such gene: XYZ" in said and "ValueError: all is lost" in said
    assert told_of(given.directory)["key"] == "k", "so that it can be run alone on the driver's machine"


def test_a_log_that_this_machine_left_is_not_replaced_by_an_older_one(tmp_path):
    folder, shared = tmp_path / "driver" / "trials" / "k", Shared(f"file://{tmp_path}/bucket", tmp_path / "driver")
    mine = Turn(shared, folder)
    mine.take()
    (folder / "log.txt").write_text("first")
    mine.save()
    assert left(shared, folder, "log.txt") is None
    elsewhere = replace(shared, own=tmp_path / "node")
    assert left(elsewhere, folder, "log.txt") == b"first" and left(elsewhere, folder, "log.1.txt") is None


def test_a_worker_begins_with_the_drivers_credentials_and_settings(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    monkeypatch.setenv("UNRELATED", "x")
    file = tmp_path / "begin"
    file.write_bytes(cloudpickle.dumps(nodes.beginning()))
    code = "import json, os, sys; from ray import cloudpickle; cloudpickle.loads(open(sys.argv[1], 'rb').read())(); "
    code += "import sweeps; print(json.dumps([sweeps.__path__[0], dict(os.environ)]))"
    bare = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", code, file], cwd=tmp_path, env=bare, capture_output=True, text=True)
    place, found = json.loads(ended.stdout)
    assert place == str(ROOT / "sweeps") and sameness.places() == [str(ROOT)]
    assert found["MLFLOW_TRACKING_PASSWORD"] == SECRET and "UNRELATED" not in found
    assert found["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0", "our own settings are there, too"


def test_a_store_that_takes_no_file_is_told_before_the_first_trial_has_trained(tmp_path, monkeypatch):
    def refuse(to: Upload) -> None:
        raise OSError("no bucket of that name")

    monkeypatch.setattr(uploading, "probe", refuse)
    said: list[str] = []
    Uploads(lambda job: None, said.append).try_store(job(tmp_path / "a"))
    wait_for(lambda: said)
    assert said[0].startswith("files of trials can't be put where MLflow has them, mlflow-artifacts:/1/r/artifacts: ")
    assert "no bucket of that name" in said[0] and "stay in the storage folder" in said[0]


def test_a_folder_of_runs_is_made_by_the_driver_and_a_machine_that_does_not_see_it_copies_into_no_void(tmp_path):
    to = Upload(str(tmp_path / "runs" / "1" / "r" / "artifacts"), None, with_checkpoint=False)
    given, sent = replace(job(tmp_path / "k"), upload=to), []
    worker.work(given, sent.append, lambda config, report, checkpoint: {"test_macro_f1": 0.5})
    assert f"does not see {tmp_path / 'runs' / '1'}" in sent[-1]["lacking"]["upload"]
    assert not (tmp_path / "runs").exists()
    probe(make_place(to))
    worker.work(given, sent.append, lambda config, report, checkpoint: {"test_macro_f1": 0.5})
    assert sent[-1]["lacking"] == {}
    assert "log.txt" in [path.name for path in (tmp_path / "runs/1/r/artifacts").iterdir()]
    assert [path.name for path in (tmp_path / "runs/1").iterdir()] == ["r"], "the probe leaves nothing"
