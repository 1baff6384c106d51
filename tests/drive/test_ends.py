"""How a sweep ends: by a signal, by a lost cluster, by a full disk; each in a sentence, with its own exit code."""

import contextlib
import dataclasses
import errno
import itertools
import os
import signal
import sqlite3
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from fake_trials import drive, faults, parts, spec
from sqlalchemy.exc import OperationalError
from typer.testing import CliRunner

from data_pipeline.errors import NoRoomError, RequestError
from sweeps import cli
from sweeps.cluster import nodes
from sweeps.drive import converge
from sweeps.drive.before import check_writable
from sweeps.drive.launching import launch
from sweeps.drive.launching.news import _too_many
from sweeps.drive.outcome import Outcome, first_compared, tell
from sweeps.drive.stopping import Interrupted, Signals, Stop, one_signal
from sweeps.drive.workshop import Closed
from sweeps.file import config
from sweeps.tracking import registration
from sweeps.tracking.connection import asking


def test_sigterm_ends_the_preparation_as_ctrl_c_does_and_is_given_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), one_signal():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.fixture
def stop(tmp_path: Path) -> Stop:
    return Stop(tmp_path / "stop")


@pytest.mark.parametrize(("number", "why"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_a_first_signal_drops_what_can_be_dropped(stop, number, why):
    said: list[str] = []
    before = signal.getsignal(number)
    with pytest.raises(Interrupted), Signals(stop, said.append):
        os.kill(os.getpid(), number)
    assert stop.why == f"stopped by {why}" and stop.mark.exists()
    assert said == [
        "stopping: what isn't whole yet is left to the next run; within seconds; press Ctrl-C again to stop at once"
    ]
    assert signal.getsignal(number) is before


def test_a_first_signal_waits_for_what_is_trained_and_says_how_long(tmp_path):
    said: list[str] = []
    for took in ((), (3.2, 754.0, 12.0)):
        stop = Stop(tmp_path / "stop")
        with Signals(stop, said.append), stop.waiting():
            for seconds in took:
                stop.took(seconds)
            os.kill(os.getpid(), signal.SIGTERM)
    assert "finish and save their round (none has ended yet, so it can't be said how long" in said[0]
    assert "finish and save their round (up to 0:12:34, the longest round so far)" in said[1]


def test_a_second_signal_ends_at_once(stop, monkeypatch):
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    with Signals(stop, lambda said: None), stop.waiting():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
    assert ended == [130]


def test_ray_leaves_sigterm_to_us_and_its_processes_do_not_heed_it(monkeypatch):
    """Ray takes SIGTERM as it starts; one that comes meanwhile must be heard by whoever had it before."""
    heard: list[str] = []
    masks: list[set] = []

    def init(*about: object, **how: object) -> None:
        signal.signal(signal.SIGTERM, lambda *given: sys.exit(15))
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))  # processes started now inherit it
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)  # no other thread takes it

    monkeypatch.setattr(nodes.ray, "init", init)
    monkeypatch.setattr(nodes.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(nodes.ray, "shutdown", lambda: None)
    monkeypatch.setattr(nodes, "_nodes", lambda: [])
    monkeypatch.setattr(nodes, "node_types", lambda: [])
    old = signal.signal(signal.SIGTERM, lambda *given: heard.append("ours"))
    try:
        with contextlib.suppress(SystemExit), nodes.running_ray(None):
            pass
    finally:
        signal.signal(signal.SIGTERM, old)
    assert heard == ["ours"] and signal.SIGTERM in masks[0]
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("open_datasets", "cellskew: stopped by SIGTERM; run the same command again to go on"),
        ("prepare", "stopped by SIGTERM; go on: cellskew resume small"),
    ],
)
def test_a_signal_in_the_preparation_is_an_end_in_words_and_exit_code_1(stage, said, ray_here, tmp_path, monkeypatch):
    times = itertools.count()

    def asked(*given: object) -> None:
        if next(times) == 0:  # several groups are prepared at once, and a second signal ends the process
            os.kill(os.getpid(), signal.SIGTERM)
        raise Closed

    monkeypatch.setattr(converge, "real_parts", lambda *shared: dataclasses.replace(parts(), **{stage: asked}))
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(spec().given))
    found = CliRunner().invoke(cli.app, ["run", str(tmp_path / "small.yaml"), "--storage", str(tmp_path)])
    assert found.exit_code == 1, found.output
    assert said in found.output and "stopping: " in found.output
    assert not list(tmp_path.glob("sweeps/*.stop-*")) and not (tmp_path / "sweeps" / "small.lock").exists()


def test_a_sweep_that_goes_wrong_is_stopped_and_says_which_reason_repeats(ray_here, tmp_path):
    faults(tmp_path, {"run": "scgpt", "epoch": 2, "kind": "raise"})
    outcome = drive(tmp_path, spec(splits="[0, 1, 2]"), max_failed=2, max_concurrent=1)
    assert len(outcome.failed) == 2 and not outcome.is_complete and not outcome.is_broken
    assert outcome.finished + outcome.interrupted <= 3, "baselines of the first split, and one; no other was begun"
    why = "stopped: 2 trials failed (--max-failed 2), 2 for one reason: ValueError: loss is not finite in epoch 2"
    assert outcome.stopped == why


def test_reasons_that_differ_in_numbers_are_one():
    reasons = ["OSError: no room", "ValueError: loss in epoch 3\nrows 1", "ValueError: loss in epoch 12", ""]
    assert _too_many(reasons, 4).endswith(", 2 for one reason: ValueError: loss in epoch 3")
    assert "each for a reason of its own, the first: a" in _too_many(["a", "b"], 2)
    assert _too_many(["a\nb"], 1) == "1 trial failed (--max-failed 1): a"


def test_a_number_that_nobody_has_named_may_run_a_sweep(monkeypatch):
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(registration.getpass, "getuser", nobody)
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    assert registration._user() == "uid 4711"


@pytest.mark.parametrize(
    ("error", "code", "said", "has_traceback"),
    [
        (RequestError("too few cells"), 2, "cellskew: too few cells", False),
        (NoRoomError("no room on /x"), 3, "cellskew: no room on /x", False),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 3, "No space left on device", False),
        (KeyError("ours"), 3, "KeyError: 'ours'", True),
    ],
)
def test_whatever_ends_a_command_has_its_exit_code_and_a_sentence(
    monkeypatch, capsys, error, code, said, has_traceback
):
    def app() -> None:
        raise error

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown = capsys.readouterr().err
    assert ended.value.code == code and said in shown and ("Traceback" in shown) is has_traceback
    assert ("run the same command again" in shown) is not isinstance(error, RequestError)


def test_a_full_disk_is_no_wrong_request(tmp_path, monkeypatch):
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(NoRoomError, match="can't be written to: No space left on device. Make it writable, or make"):
        check_writable(tmp_path)


@pytest.mark.parametrize(("said", "kind"), [("database or disk is full", NoRoomError), ("locked", RequestError)])
def test_a_database_without_room_is_no_wrong_request(said, kind):
    with pytest.raises(RequestError) as caught, asking("sqlite:////x/mlflow.db"):
        raise OperationalError("INSERT", {}, sqlite3.OperationalError(said))
    assert type(caught.value) is kind


@pytest.mark.parametrize("kind", [OSError, ValueError])  # a traceback goes with one of ours
def test_no_secret_is_in_what_a_fault_says(kind, monkeypatch, capsys):
    def app() -> None:
        said = "s3cret-token", "hunter2"
        raise kind("can't reach https://{}@lab/x or http://ann:{}@lab/x".format(*said))

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit):
        cli.main()
    shown = capsys.readouterr().err
    assert "s3cret" not in shown and "hunter2" not in shown and "lab/x" in shown


def test_the_last_node_lost_is_a_value_and_its_code_says_run_again(monkeypatch, tmp_path: Path):
    stop = Stop(tmp_path / "stop")

    def fit(*about: object) -> None:
        stop.ask(launch.LOST)
        raise RuntimeError(stop.why)

    monkeypatch.setattr(launch, "_fit", fit)
    monkeypatch.setattr(launch, "cluster_is_gone", lambda: True)
    job = SimpleNamespace(key="k", cost=1.0, upload=None)
    settings = launch.Settings(lambda *about: {})
    coming = SimpleNamespace(jobs=[job], failed=[], is_over=lambda: True)
    tally = launch.train(coming, SimpleNamespace(sweep="small"), lambda *about: None, stop, tmp_path, settings)
    assert not tally.finished and stop.why == "Ray lost its last node"
    assert (
        Outcome(wanted=1, stopped=stop.why).is_broken and not Outcome(wanted=1, stopped="stopped by Ctrl-C").is_broken
    )


def test_ctrl_c_after_the_last_trial_is_no_reason_to_go_on(monkeypatch, tmp_path):
    """Neither while records are delivered, nor while the table is drawn: the sweep is complete."""
    done, said = Outcome(wanted=2, finished=2, stopped="stopped by Ctrl-C"), []
    tell("small", tmp_path, None, "sqlite:///x", done, said.append)
    assert "go on" not in "\n".join(said)

    def pressed(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(converge, "converge", lambda *given, **more: done)
    monkeypatch.setattr("sweeps.commands.running._conclude", pressed)
    (tmp_path / "small.yaml").write_text("name: small\ndatasets: [pbmc68k_reduced]\nmodels: {majority: {}}\n")
    ended = CliRunner().invoke(cli.app, ["run", str(tmp_path / "small.yaml"), "--storage", str(tmp_path / "runs")])
    assert ended.exit_code == 0 and "cellskew results small" in ended.output


def test_what_to_type_next_has_no_password_and_names_what_is_left_over():
    said = []
    uri = "http://ann:hunter2-and-more@mlflow:5000"
    tell("small", Path("here"), uri, uri, Outcome(wanted=4, finished=1, failed={"a": "no memory"}), said.append)
    text = "\n".join(said)
    assert "hunter2" not in text and "--tracking-uri http://mlflow:5000\n" in text, "it can be typed as it stands"
    assert "a node was lost; go on: cellskew resume small --storage here" in text


@pytest.mark.parametrize(
    ("more", "command"),
    [
        ("strategies: [none, oversample]\nlosses: [cross_entropy, weighted]", "--between strategy --within model\n"),
        ("losses: [cross_entropy, weighted]", "--between loss --within model\n"),
        ("", "--between model\n"),
        ("exclude: [{model: majority}]", None),
    ],
)
def test_what_to_compare_next_is_something_that_the_sweep_has(more, command):
    text = f"name: s\ndatasets: [pbmc68k_reduced]\nmodels: {{majority: {{}}, knn: {{}}}}\n{more}\n"
    asked, said = first_compared(config.parse(text, Path("s.yaml")).trials()), []
    tell("s", Path("cellskew-runs"), None, "sqlite:///x", Outcome(1, finished=1, compared=asked), said.append)
    printed = "\n".join(said)
    assert ("cellskew compare" not in printed) if command is None else (f"cellskew compare s {command}" in printed)


def test_a_storage_folder_whose_name_is_no_text_is_refused_in_words():
    with pytest.raises(RequestError, match=r"'/data/b\\udcff' has a name that isn't UTF-8.*with --storage"):
        check_writable(Path("/data/b\udcff"))
