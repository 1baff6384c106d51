"""The embedded database read directly, while another process writes it."""

import contextlib
import sqlite3
import uuid
from pathlib import Path

from fake_trials import spec

from sweeps.tracking.kept import database
from sweeps.tracking.uris import default_uri

CONNECT = sqlite3.connect


class Meanwhile:
    """A connection after whose every question another one tries to register a run, a copy of `run`."""

    def __init__(self, inner: sqlite3.Connection, path: Path, run: tuple) -> None:
        self.inner, self.path, self.run = inner, path, run

    def execute(self, statement: str, *more: object) -> list:
        found = self.inner.execute(statement, *more).fetchall()
        copy = (uuid.uuid4().hex, *self.run[1:])
        with contextlib.suppress(sqlite3.OperationalError), CONNECT(self.path, timeout=0) as other:
            other.execute(f"INSERT INTO runs VALUES ({', '.join('?' * len(copy))})", copy)
            other.execute("INSERT INTO tags VALUES ('cellskew.trial', 'k', ?)", [copy[0]])
        return found

    def close(self) -> None:
        self.inner.close()


def test_a_run_registered_in_between_is_not_half_seen(tracker, tmp_path, monkeypatch):
    (known,) = tracker.register(spec().trials()[:1], {}, lambda done, total: None).values()
    path = tmp_path / "mlflow.db"
    with CONNECT(path) as reading:
        run = reading.execute("SELECT * FROM runs").fetchone()
    monkeypatch.setattr(sqlite3, "connect", lambda *about, **how: Meanwhile(CONNECT(*about, **how), path, run))
    found = database.read_runs(default_uri(tmp_path), "small")
    assert known.run_id in [one.run_id for one in found]


def test_a_database_of_another_schema_is_left_to_mlflow(tracker, tmp_path):
    tracker.register(spec().trials()[:1], {}, lambda done, total: None)
    assert len(database.read_runs(default_uri(tmp_path), "small")) == 1
    with CONNECT(tmp_path / "mlflow.db") as changed:
        changed.execute("UPDATE alembic_version SET version_num = 'other'")
    assert database.read_runs(default_uri(tmp_path), "small") is None
    assert database.read_tags(default_uri(tmp_path), "small") is None
