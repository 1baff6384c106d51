"""MLflow's embedded database, read directly: thousands of runs in a tenth of the time that its client takes."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sweeps.tracking.places import sqlite_file

SCHEMAS = {"dc11669786a5"}  # alembic's names of the tables' shapes that this file was tried with: MLflow 3.17
BEGAN = "cellskew.began"  # tag of a run on a server, which counts its own time from registration on: see StoredRun


@dataclass(frozen=True)
class StoredRun:
    """A trial's run. started: when its training began, ms, or when it was registered; params: those of its split.

    metrics: the last value of each.
    """

    run_id: str
    name: str
    status: str
    started: int
    ended: int | None
    artifact_uri: str
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


def as_told(run: StoredRun) -> StoredRun:
    """Return a run with the status that its driver gave it, or will, and the time at which its training began.

    MLflow makes every run RUNNING; what it hears first of one, its parameters with it, is that it is SCHEDULED.
    """
    status = "SCHEDULED" if run.status == "RUNNING" and not run.params else run.status
    return replace(run, status=status, started=_ms(run.tags.get(BEGAN)) or run.started)


def _ms(time: str | None) -> int | None:
    """Return a tag's time in ms; None of none, and of what a person has made of the tag."""
    try:
        return round(datetime.fromisoformat(time).timestamp() * 1000) if time else None
    except ValueError:
        return None


class NoSuchSweep(LookupError):
    """The database has no experiment of that name; args: those that it has."""


class DeletedSweep(LookupError):
    """The experiment was deleted, which MLflow can undo; args: its id."""


def read_runs(uri: str, sweep: str) -> list[StoredRun] | None:
    """Return the trials' runs of a sweep that aren't deleted, the oldest first.

    None where MLflow must be asked: uri is no sqlite file, its tables are not those of SCHEMAS, or it is locked.
    """
    return _asked(uri, lambda database: _read(database, sweep))


def _asked(uri: str, ask: Callable[[sqlite3.Connection], Any]) -> Any:
    """Return what `ask` finds in the database; None if it is no sqlite file of a schema known here, or is locked."""
    path = sqlite_file(uri)
    if path is None:
        return None
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=20)) as database:
            return ask(database) if _schema(database) in SCHEMAS else None
    except (sqlite3.DatabaseError, ValueError):
        return None


def _schema(database: sqlite3.Connection) -> str:
    return next(iter(database.execute("SELECT version_num FROM alembic_version")), ("",))[0]


def read_tags(uri: str, sweep: str) -> dict[str, str] | None:
    """Return the tags of a sweep's experiment; None where MLflow must be asked, as in `read_runs`."""
    which = "experiment_id = (SELECT experiment_id FROM experiments WHERE name = ? AND workspace = 'default')"
    return _asked(
        uri, lambda database: dict(database.execute(f"SELECT key, value FROM experiment_tags WHERE {which}", [sweep]))
    )


def read_params(uri: str, run_ids: list[str]) -> dict[str, dict[str, str]] | None:
    """Return all params of runs, by run id; None where MLflow must be asked, as in `read_runs`."""

    def ask(database: sqlite3.Connection) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {run_id: {} for run_id in run_ids}
        for run_id in run_ids:
            found[run_id].update(database.execute("SELECT key, value FROM params WHERE run_uuid = ?", [run_id]))
        return found

    return _asked(uri, ask)


def _read(database: sqlite3.Connection, sweep: str) -> list[StoredRun]:
    database.execute("BEGIN")  # all of it as it is at one moment, though runs are being registered
    known = "FROM experiments WHERE workspace = 'default' AND lifecycle_stage"
    names = dict(database.execute(f"SELECT name, experiment_id {known} = 'active'"))
    for (deleted,) in database.execute(f"SELECT experiment_id {known} = 'deleted' AND name = ?", [sweep]):
        raise DeletedSweep(deleted)
    if sweep not in names:
        raise NoSuchSweep(*names)
    active = f"FROM runs WHERE experiment_id = {int(names[sweep])} AND lifecycle_stage = 'active'"
    about = "run_uuid, name, status, start_time, end_time, artifact_uri"
    found = {row[0]: StoredRun(*row) for row in database.execute(f"SELECT {about} {active} ORDER BY start_time")}
    inside = f"WHERE run_uuid IN (SELECT run_uuid {active})"
    for run_id, key, value in database.execute(f"SELECT run_uuid, key, value FROM tags {inside}"):
        found[run_id].tags[key] = value
    of_split = f"{inside} AND key LIKE 'split.%'"
    for run_id, key, value in database.execute(f"SELECT run_uuid, key, value FROM params {of_split}"):
        found[run_id].params[key] = value
    last = f"SELECT run_uuid, key, value, is_nan FROM latest_metrics {inside}"
    for run_id, key, value, is_nan in database.execute(last):
        found[run_id].metrics[key] = float("nan") if is_nan else value
    return [as_told(run) for run in found.values() if "cellskew.trial" in run.tags]
