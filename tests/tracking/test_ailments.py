"""A database that is damaged, full, another MLflow's, or without the sweep: one sentence at once, with the way out."""

import shlex
import shutil
import sqlite3
import time
from pathlib import Path

import pytest
from fake_trials import Silent, parts, spec
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError
from typer.testing import CliRunner

from data_pipeline.errors import RequestError
from sweeps.cli import app
from sweeps.drive.converge import Request, converge
from sweeps.tracking import ailments, places
from sweeps.tracking.connection import Shut, connect, reaching
from sweeps.tracking.store import Tracker
from sweeps.tracking.uris import default_uri


def asked(command: str, storage: Path) -> str:
    """Return the problems that a command ends in."""
    ended = CliRunner().invoke(app, [*command.split(), "--storage", str(storage)])
    assert isinstance(ended.exception, RequestError), f"{command}: {ended.output}{ended.exception!r}"
    return str(ended.exception)


def refused_by_run(storage: Path) -> str:
    begin = time.monotonic()
    with pytest.raises(RequestError) as refused:
        Tracker(default_uri(storage), "small", storage, patience=60)
    assert time.monotonic() - begin < 20, "no waiting for what waiting doesn't mend"
    return str(refused.value)


@pytest.fixture
def storage(tmp_path, blank_database) -> Path:
    (tmp_path / "sweeps").mkdir()
    shutil.copyfile(blank_database, tmp_path / "mlflow.db")
    return tmp_path


@pytest.mark.parametrize("damage", ["cut off", "overwritten", "other file"])
def test_a_damaged_database_is_named_with_the_way_out(storage, damage):
    file = storage / "mlflow.db"
    content = file.read_bytes()
    damaged = {"cut off": content[:20000], "overwritten": content[:100] + b"\xff" * 9000 + content[9100:]}
    file.write_bytes(damaged.get(damage, b"hello " * 200))
    said = [asked(command, storage) for command in ("status small", "results small", "promote abc --name x")]
    for one in [*said, refused_by_run(storage)]:
        assert "mlflow.db is damaged (" in one and f"Put a copy of {file} back" in one and "move it away" in one


def test_a_database_that_was_moved_away_is_made_anew_and_nothing_trained_again(ray_here, tmp_path):
    """What the message promises."""
    before, after = tmp_path / "before", tmp_path / "after"
    assert converge(spec(), Request(storage=before), Silent(), parts()).finished == 8
    shutil.copytree(before, after, ignore=shutil.ignore_patterns("mlflow.db"))
    assert converge(spec(), Request(storage=after), Silent(), parts()).finished == 8
    trained = [[path.read_text() for path in sorted(one.glob("trials/*/trained.txt"))] for one in (before, after)]
    assert trained[0] == trained[1] == ["1\n2\n3\n"] * 8


@pytest.mark.parametrize(("revision", "way"), [("0c779009ac13", "mlflow db upgrade"), ("ffffffffffff", "pip install")])
def test_a_database_of_another_mlflow_is_refused_at_once_with_both_versions_and_the_command(storage, revision, way):
    with sqlite3.connect(storage / "mlflow.db") as database:
        (ours,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
        database.execute("UPDATE alembic_version SET version_num = ?", [revision])
    for said in (asked("status small", storage), refused_by_run(storage)):
        assert f"its tables are version {revision}, those of MLflow " in said and f"here are {ours}" in said
        assert way in said and "Start it" not in said
        if way.startswith("mlflow"):
            command = said[said.index(way) :].partition(". Or")[0]
            assert shlex.split(command)[-1] == default_uri(storage)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "database or disk is full",
            "has no room left (database or disk is full): make room on the disk of /data/x",
        ),
        ("attempt to write a readonly database", "can't be written to: make /data/x.db, and its folder, writable"),
        ("unable to open database file", "can't be opened: is /data/x.db in a folder that is there, and may this user"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_disk_without_room_or_a_file_that_may_not_be_written_is_no_server_to_start(said, told, wrapped):
    error: Exception = OperationalError("INSERT", {}, sqlite3.OperationalError(said))
    error = MlflowException(f"(raised as a result of Query-invoked autoflush)\n{error}") if wrapped else error
    with pytest.raises(Shut) as refused, reaching("sqlite:////data/x.db"):
        raise error
    assert told in str(refused.value) and "tart it" not in str(refused.value)


@pytest.mark.parametrize("place", ["mlflow.db", "file/mlflow.db"])
def test_a_place_that_can_hold_no_database_is_refused_at_once(place, tmp_path):
    """MLflow itself tries for two minutes."""
    (tmp_path / "mlflow.db").mkdir()
    (tmp_path / "file").touch()
    begin = time.monotonic()
    with pytest.raises(
        RequestError, match="can't be opened: is .*mlflow.db in a folder that is there, and may this us"
    ):
        connect(places.sqlite_uri(tmp_path / place))
    assert time.monotonic() - begin < 5


def test_a_database_that_is_locked_is_still_waited_for():
    assert ailments.told(sqlite3.OperationalError("database is locked"), "sqlite:////data/x.db") is None
    assert ailments.told("file is not a database", "http://lab:5000") is None


def test_a_deleted_experiment_is_said_to_be_and_how_it_comes_back(storage):
    tracker = Tracker(default_uri(storage), "small", storage)
    tracker.client.delete_experiment(tracker.experiment_id)
    tracker.close(10)
    for command in ("status small", "results small", "report small", "compare small --between strategy"):
        said = asked(command, storage)
        assert "the MLflow experiment 'small' was deleted; bring it back with `MLFLOW_TRACKING_URI=sqlite:///" in said
        assert f"mlflow experiments restore --experiment-id {tracker.experiment_id}`" in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("localhost:5000", "did you mean http://localhost:5000?"),
        ("./mlruns", "MLflow keeps no runs in folders of files any more"),
        ("file:///data/mlruns", "MLflow keeps no runs in folders of files any more"),
        ("http://", "write http://HOST:5000 for a server"),
        ("sqlite://x.db", "sqlite:////FOLDER/FILE.db"),
    ],
)
def test_a_store_that_is_none_is_refused_with_what_was_meant(given, said, tmp_path):
    ended = CliRunner().invoke(app, ["status", "small", "--tracking-uri", given, "--storage", str(tmp_path)])
    assert isinstance(ended.exception, RequestError) and said in str(ended.exception)
