"""A path is a path, whatever is in its name: in URIs of databases and artifacts, and in commands to copy."""

import shlex
import shutil
from pathlib import Path

import pandas as pd
import pytest
from fake_trials import Silent, parts, spec
from typer.testing import CliRunner

from data_pipeline.errors import RequestError
from sweeps.answers.runs.stored import Stored
from sweeps.cli import app
from sweeps.commands import running
from sweeps.drive.converge import Request, converge
from sweeps.drive.outcome import Outcome, tell
from sweeps.tracking import places, uris
from sweeps.tracking.artifacts import Upload, upload
from sweeps.tracking.kept.runs import runs_of
from sweeps.tracking.store import Tracker

ODD = ["my runs", "a#b", "a?b=c&d", "50%", "a%20b", "größe 漢字", "it's [1] {x}", "a:b@c"]


@pytest.mark.parametrize("name", ODD)
def test_a_runs_files_lie_in_its_own_folder_and_are_found_again(name, tmp_path, blank_database):
    storage = tmp_path / name
    (storage / "sweeps").mkdir(parents=True)
    shutil.copyfile(blank_database, storage / "mlflow.db")
    tracker = Tracker(uris.default_uri(storage), "small", storage)
    trials = spec().trials()[:2]
    made = storage / "trials"
    made.mkdir()
    for run in tracker.register(trials, {}, lambda done, total: None).values():
        (made / "per_class.csv").write_text(f"class,f1\n{run.key},1\n")
        upload(made, Upload(run.artifact_uri, None, with_checkpoint=False))
        assert (storage / "artifacts" / "small" / run.run_id / "artifacts" / "per_class.csv").exists()
        read = Stored(tracker.uri).per_class(pd.Series({"run_id": run.run_id, "artifact_uri": run.artifact_uri}))
        assert list(read["class"]) == [run.key]
        fetched = Path(tracker.client.download_artifacts(run.run_id, "per_class.csv", str(made)))
        assert run.key in fetched.read_text(), "and MLflow's own client finds them"
    assert len(runs_of(tracker.uri, "small")) == 2
    tracker.close(10)
    beside = [path for path in tmp_path.rglob("*") if path.is_file() and storage not in path.parents]
    assert not beside, "nothing lies beside it, though MLflow makes an empty folder for some names"


@pytest.mark.parametrize("name", ODD)
def test_uris_lead_back_to_their_paths(name):
    path = Path("/data") / name / "x.db"
    assert places.sqlite_file(places.sqlite_uri(path)) == path == places.local_path(places.file_uri(path))
    assert uris.bare(places.sqlite_uri(path)) == places.sqlite_uri(path)
    assert uris.shown_uri(places.sqlite_uri(path)) == places.sqlite_uri(path)


def test_what_older_runs_have_as_their_place_is_read_as_mlflow_reads_it():
    assert places.local_path("/data/a#b/artifacts") == Path("/data/a#b/artifacts")
    assert places.local_path("file:///data/a%23b") == Path("/data/a#b")
    assert places.local_path("mlflow-artifacts:/1/2") is None and places.local_path("s3://bucket/x") is None
    assert places.sqlite_file("sqlite:////data/x.db?timeout=3") == Path("/data/x.db")
    assert places.sqlite_file("sqlite:///x.db") == Path.cwd() / "x.db" and places.sqlite_file("http://lab") is None


def test_a_whole_sweep_in_a_folder_of_an_odd_name(ray_here, tmp_path):
    storage = tmp_path / "a #1?50%25 ö'[x]"
    outcome = converge(spec(), Request(storage=storage), Silent(), parts())
    assert outcome.finished == outcome.wanted == 8, outcome.failed
    assert len(list((storage / "artifacts" / "small").iterdir())) == 8
    said = CliRunner().invoke(app, ["status", "small", "--storage", str(storage)])
    assert "8 finished" in said.output, said.output + str(said.exception)


def test_commands_to_copy_are_quoted_as_a_shell_needs_them(tmp_path):
    storage, said = tmp_path / "my runs; rm #1", []
    store = places.sqlite_uri(storage / "mlflow.db")
    tell("small", storage, None, store, Outcome(2, finished=1, stopped="stopped"), said.append)
    commands = [line.rpartition("cellskew ")[2] for line in said if "cellskew " in line]
    assert len(commands) == 4 and all(shlex.split(command)[-1] == str(storage) for command in commands)
    (ui,) = [line for line in said if "mlflow ui" in line]
    assert shlex.split(ui)[shlex.split(ui).index("--backend-store-uri") + 1] == store


def test_a_colon_in_a_folders_name_makes_no_uri_of_it(tmp_path):
    running._check_storage(tmp_path / "run:" / "x")
    for uri in ("s3://bucket/runs", "s3:/bucket"):
        with pytest.raises(RequestError, match="give a folder, not a URI"):
            running._check_storage(Path(uri))
