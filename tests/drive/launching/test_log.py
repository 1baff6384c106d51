"""What is said in a worker is in the trial's folder, whoever said it; a log costs the trial nothing."""

import logging
import os
import subprocess
import sys
import warnings

import pytest

from sweeps.drive.launching import log
from sweeps.drive.launching.job import Job
from sweeps.drive.launching.worker import work


def job(folder) -> Job:
    return Job({"key": "k", "name": "a·b", "directory": str(folder)}, "r", {"cpu": 1, "gpu": 0}, {}, {})


def test_everything_that_is_said_is_in_the_log_and_secrets_are_not(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2secret")

    def trial(config: dict, report: object, checkpoint: object) -> dict:
        print("printed")
        os.write(1, b"by a library in C\n")
        subprocess.run([sys.executable, "-c", "import sys; print('by a child', file=sys.stderr)"], check=True)
        logging.getLogger("lib").info("logged with hunter2secret")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("warned", stacklevel=1)
        return {"epoch": 1}

    news: list[dict] = []
    work(job(tmp_path), news.append, trial)
    text = (tmp_path / log.LOG).read_text()
    for said in ("INFO cellskew: a·b (", "printed\n", "by a library in C\n", "by a child\n", "UserWarning: warned"):
        assert said in text
    assert "INFO lib: logged with ***\n" in text and "hunter2secret" not in text
    print("afterwards")
    assert capfd.readouterr().out == "afterwards\n" and "afterwards" not in (tmp_path / log.LOG).read_text()
    assert news[-1]["final"] == {"epoch": 1} and logging.getLogger().level != logging.INFO


def test_a_failed_trial_leaves_its_traceback_in_the_log(tmp_path):
    def trial(config: dict, report: object, checkpoint: object) -> dict:
        raise ValueError("no such gene")

    work(job(tmp_path), lambda news: None, trial)
    text = (tmp_path / log.LOG).read_text()
    assert "ended by an error" in text and 'raise ValueError("no such gene")' in text
    work(job(tmp_path), lambda news: None, trial)
    assert (tmp_path / log.LOG).read_text().count("ended by an error") == 2, "attempts follow one another"


def test_a_killed_worker_leaves_its_last_words(tmp_path):
    code = (
        "import os, pathlib\nfrom sweeps.drive.launching.log import logged\n"
        f"with logged(pathlib.Path({str(tmp_path)!r}), 'begins'):\n    print('last words', flush=True); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": ":".join(sys.path)}, check=False)
    assert (tmp_path / log.LOG).read_text().endswith("last words\n")


def test_a_long_log_is_put_away_and_another_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "MOST", 1000)
    with log.logged(tmp_path, "begins"):
        for part in range(3):
            os.write(1, bytes([65 + part]) * 600 + b"\n")
            log.turn(tmp_path)
    assert (tmp_path / log.BEFORE).read_text().endswith("B" * 600 + "\n")
    assert (tmp_path / log.LOG).read_text() == "C" * 600 + "\n"


@pytest.mark.parametrize("what", ["a file", "nothing"])
def test_a_log_that_cannot_be_written_costs_nothing(what, tmp_path):
    folder = tmp_path / "file" / "below"
    if what == "a file":
        (tmp_path / "file").touch()
    with log.logged(folder, "begins"):
        done = True
    assert done and not folder.exists()
