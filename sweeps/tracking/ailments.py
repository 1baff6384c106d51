"""What MLflow and its database say when they can't go on, in a sentence with the way out."""

import re
from importlib.metadata import version
from shlex import quote

from sweeps.tracking.places import sqlite_file
from sweeps.tracking.uris import bare

SCHEMAS = re.compile(r"schema \(found version (\w+), but expected (\w+)\)")
DAMAGED = (
    "is damaged ({said}). Put a copy of {file} back; or move it away and run the sweep again: finished trials are "
    "registered anew from their folders in trials, none is trained again"
)
FULL = "database or disk is full"
CLOSED = "unable to open database file"
OF_FILES = {  # what SQLite says -> what to tell
    "disk image is malformed": DAMAGED,
    "file is not a database": DAMAGED,
    FULL: "has no room left ({said}): make room on the disk of {file}, then run again",
    "readonly database": "can't be written to: make {file}, and its folder, writable for this user",
    CLOSED: "can't be opened: is {file} in a folder that is there, and may this user read it?",
}


def is_full(error: object) -> bool:
    """Tell whether a database has no room left."""
    return FULL in str(error)


def told(error: object, uri: str) -> str | None:
    """Return what to say after "MLflow at URI" of an error that waiting doesn't help; None if it is no such error."""
    text, file = str(error), sqlite_file(uri)
    found = SCHEMAS.search(text)
    if found is not None:
        return _of_another_version(found[1], found[2], uri)
    if file is None:
        return None
    return next((told.format(said=said, file=file) for said, told in OF_FILES.items() if said in text), None)


def _of_another_version(theirs: str, ours: str, uri: str) -> str:
    here = version("mlflow")
    said = f"was made by another MLflow: its tables are version {theirs}, those of MLflow {here} here are {ours}"
    if _is_older(theirs):
        return (
            f"{said}. Keep a copy, then bring it up to date: mlflow db upgrade {quote(bare(uri))}. Or install the "
            "MLflow that made it"
        )
    return f"{said}, and know no such version: a newer MLflow made it. Install that one: pip install -U 'mlflow<4'"


def _is_older(revision: str) -> bool:
    """Tell whether MLflow here knows the way from a version of the tables to its own."""
    from pathlib import Path

    import mlflow.store.db_migrations as migrations

    return any(Path(migrations.__path__[0], "versions").glob(f"{revision}_*.py"))


def deleted(sweep: str, experiment_id: str, uri: str) -> str:
    """Return what to say of a sweep whose experiment was deleted in MLflow."""
    where = f"MLFLOW_TRACKING_URI={quote(bare(uri))}"
    return (
        f"the MLflow experiment {sweep!r} was deleted; bring it back with `{where} mlflow experiments restore "
        f"--experiment-id {experiment_id}`, or give the sweep another name"
    )
