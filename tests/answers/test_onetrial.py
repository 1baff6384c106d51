"""`cellskew trial`: a trial is found by the begin of its key, shown whole, and trained again without a trace."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import trial_config
from fake_trials import spec
from mlflow import MlflowClient
from typer.testing import CliRunner

from data_pipeline.errors import RequestError
from data_pipeline.shared.store import Shared
from data_pipeline.shared.turns import Turn
from sweeps import cli
from sweeps.answers import onetrial
from sweeps.commands import trial as command
from sweeps.drive.launching.rerun import told_of
from sweeps.drive.launching.worker import TOLD
from sweeps.tracking.kept.database import StoredRun
from sweeps.tracking.kept.runs import trials_like
from sweeps.tracking.uris import default_uri
from trainables.trial.trial import run_trial


@pytest.fixture
def registered(tracker, tmp_path):
    """A sweep of eight trials, of which the first has failed after two epochs."""
    trials = spec().trials()
    known = tracker.register(trials, {}, lambda done, total: None)
    first = known[trials[0].key]
    tracker.start(first.run_id, {"cellskew.host": "here"})
    for epoch in (1, 2):
        tracker.report(first.run_id, {"epoch": epoch, "train_loss": 1.0 / epoch, "val_macro_f1": 0.25 * epoch})
    why = {"cellskew.reason": "ValueError: no such gene", "cellskew.traceback": 'File "x.py"\nValueError: no such gene'}
    tracker.finish(first.run_id, "FAILED", why)
    assert tracker.close(60)
    folder = tmp_path / "trials" / trials[0].key
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text("".join(f"line {n}\n" for n in range(50)))
    return trials


def ask(storage: Path, *words: str) -> str:
    done = CliRunner().invoke(cli.app, ["trial", *words, "--storage", str(storage)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_a_failed_trial_is_shown_whole(registered, tmp_path):
    key = registered[0].key
    said = ask(tmp_path, key[:8], "--log", "3")
    for wanted in (
        f"{key} {registered[0].name}",
        "of sweep small: FAILED",
        "on here",
        "recipe.epochs: 3",
        "\nValueError: no such gene",
        'File "x.py"',
        "line 47\nline 48\nline 49\n",
        f"cellskew trial {key} --rerun --here --storage {tmp_path}",
    ):
        assert wanted in said, wanted
    assert "line 46" not in said and [line.split() for line in said.splitlines() if line[:2] == "2 "] == [
        ["2", "0.5000", "0.5000"]
    ]
    told = json.loads(ask(tmp_path, registered[0].name, "--json"))
    assert told["key"] == key and told["history"]["train_loss"] == {"1": 1.0, "2": 0.5}
    assert (told["status"], told["reason"]) == ("FAILED", "ValueError: no such gene")


def test_the_log_of_a_trial_on_a_machine_that_shares_no_folder_is_the_one_that_it_left_last(registered, tmp_path):
    key, uri = registered[0].key, f"file://{tmp_path}/bucket"
    mine = Turn(Shared(uri, tmp_path, tmp_path / "node"), tmp_path / "trials" / key)
    mine.take()
    (mine.place / "log.txt").write_text("said on the node\n")
    mine.save()
    shutil.rmtree(tmp_path / "node")
    assert "said on the node" not in ask(tmp_path, key)
    (tmp_path / "sweeps" / "small.shared").write_text(uri)
    assert "said on the node" in ask(tmp_path, key)
    shutil.rmtree(tmp_path / "bucket")
    assert "line 49" in ask(tmp_path, key), "what is here, if the store is away"


def test_a_trial_is_found_by_any_name_and_by_no_other_that_looks_alike(registered, tmp_path):
    uri, name = default_uri(tmp_path), """mlp·it's "big"; 100 % \\ T_细胞😀·s0"""
    for trial, called in zip(registered, (name, name.replace("_", "x")), strict=False):
        ((_, run),) = trials_like(uri, trial.key)
        MlflowClient(uri).update_run(run.run_id, name=called)
    ((_, found),) = trials_like(uri, name)
    assert found.name == name and found.tags["cellskew.trial"] == registered[0].key


def test_an_ambiguous_begin_names_the_trials_and_an_unknown_one_the_way_out(registered, tmp_path):
    firsts = [trial.key[0] for trial in registered]
    shared = next((first for first in firsts if firsts.count(first) > 1), None)
    if shared is not None:
        with pytest.raises(RequestError, match=f"{firsts.count(shared)} trials have a key that begins with '{shared}'"):
            ask(tmp_path, shared)
    with pytest.raises(RequestError, match="no trial has a key that begins with 'zz', or that name"):
        ask(tmp_path, "zz")
    with pytest.raises(RequestError, match="no worker of this machine's storage has had it yet"):
        ask(tmp_path, registered[0].key, "--rerun", "--here")


def test_keys_that_begin_alike_are_told_apart(monkeypatch, tmp_path):
    runs = [StoredRun(f"r{n}", f"n{n}", "FINISHED", n, n, "", {"cellskew.trial": key}) for n, key in enumerate(KEYS)]
    monkeypatch.setattr(onetrial, "stores", lambda storage, given: ["sqlite:///x"])
    like = lambda asked: [("s", run) for run in runs if run.tags["cellskew.trial"].startswith(asked)]  # noqa: E731
    monkeypatch.setattr(onetrial, "trials_like", lambda uri, asked: like(asked))
    with pytest.raises(RequestError, match="2 trials have a key that begins with 'ab': abcd n0; abce n2. Write more"):
        onetrial.find("ab", tmp_path, None)
    assert onetrial.find("abce", tmp_path, None).run.run_id == "r2", "the one that was trained last"


KEYS = ["abcd", "abce", "abce"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rerun"], "say --rerun --here"),
        (["--debug"], "--here, --debug, --from-scratch and --keep belong to --rerun"),
    ],
)
def test_what_does_not_go_together_is_refused(words, said, tmp_path):
    with pytest.raises(RequestError, match=said):
        ask(tmp_path, "abc", *words)


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A finished trial's folder, and its final numbers, as MLflow would have them."""
    config = trial_config(tmp_path, "majority")
    final = run_trial(config, lambda *told: None, None)
    folder = Path(config["directory"])
    (folder / TOLD).write_text(json.dumps(config))
    numbers = {name: value for name, value in final.items() if isinstance(value, int | float)}
    run = StoredRun("r", "the trial", "FINISHED", 1, 2, "", {"cellskew.trial": "abcd"}, {}, numbers)
    found = onetrial.Found(run, "small", "sqlite:///x", folder)
    monkeypatch.setattr(onetrial, "find", lambda *about: found)
    return folder, numbers


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir() if path.is_file()}


def test_a_rerun_gives_the_recorded_numbers_and_touches_nothing(trained, tmp_path):
    folder, numbers = trained
    before = content(folder)
    said = ask(tmp_path, "abcd", "--rerun", "--here", "--keep", str(tmp_path / "kept"))
    value = numbers["test_macro_f1"]
    assert f"test_macro_f1 {value:.6f}, recorded {value:.6f}\n" in said and "from the start" in said
    assert content(folder) == before and (tmp_path / "kept" / "per_class.csv").exists()
    with pytest.raises(RequestError, match="is there already; name a new folder"):
        ask(tmp_path, "abcd", "--rerun", "--here", "--keep", str(tmp_path / "kept"))


def test_a_rerun_reads_where_the_storage_lies_now(tmp_path):
    told = {"directory": "/old/runs/trials/abcd", "shards": "/old/runs/shards/k", "weights": "/w/scGPT", "epochs": 2}
    folder = tmp_path / "moved" / "trials" / "abcd"
    folder.mkdir(parents=True)
    (folder / TOLD).write_text(json.dumps(told))
    here = {"directory": str(folder), "shards": str(tmp_path / "moved" / "shards" / "k")}
    assert told_of(folder) == told | here


@pytest.mark.parametrize("debug", [False, True])
def test_a_rerun_that_fails_shows_where_and_opens_the_debugger_if_asked(debug, trained, tmp_path, monkeypatch):
    secret = "hunter2"

    def fails(*about: object) -> None:
        raise ValueError(f"no such gene in http://ann:{secret}@lab/x")

    opened: list[str] = []
    monkeypatch.setattr("trainables.trial.trial.run_trial", fails)
    monkeypatch.setattr("pdb.post_mortem", lambda at: opened.append(at.tb_frame.f_code.co_name))
    words = ["trial", "abcd", "--rerun", "--here", *(["--debug"] if debug else [])]
    done = CliRunner().invoke(cli.app, [*words, "--storage", str(tmp_path)])
    assert done.exit_code == 1 and "ValueError: no such gene" in done.output and "in fails" in done.output
    assert "hunter2" not in done.output
    assert opened == (["_rerun"] if debug else []), "the debugger starts from there and goes down to the error"
    assert command.trial.__doc__
