"""Addresses of tracking stores: where the embedded one is, and how to keep passwords out of what is shown or stored."""

import os
import re
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote, urlsplit, urlunsplit

from data_pipeline.errors import RequestError
from sweeps.tracking.places import sqlite_file, sqlite_uri

SECRET = re.compile(r"(PASSWORD|TOKEN|SECRET|SECRET_ACCESS_KEY|API_KEY)$")  # ends of names of environment variables
IN_ADDRESS = re.compile(r"(\b[\w+.-]+://)([^/\s]+)@")
SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")


def default_uri(storage: Path) -> str:
    """Return the embedded store of a storage folder."""
    return sqlite_uri(storage / "mlflow.db")


def stores(storage: Path, given: str | None) -> list[str]:
    """Return the tracking stores where a run may be: the one given, else all that `storage`'s sweeps were run with."""
    if given is not None:
        return [_there(checked(given))]
    kept = {path.read_text(encoding="utf-8").strip() for path in sorted((storage / "sweeps").glob("*.tracking"))}
    embedded = [default_uri(storage)] if (storage / "mlflow.db").exists() else []
    if not kept and not embedded:
        return [_of_environment() or _nothing_run_in(storage)]
    return [*embedded, *sorted(kept)]


def of_sweep(storage: Path, given: str | None, sweep: str) -> str:
    """Return the tracking store to read a sweep from: the one given, that it was run with, the environment's."""
    found = given if given is not None else remembered(storage, sweep) or _of_environment()
    return _nothing_run_in(storage) if found is None else _there(checked(found))


def _there(uri: str) -> str:
    """Return the address of a store to read; RequestError for a database file that isn't there: none is made."""
    file = sqlite_file(uri)
    if file is None or file.exists():
        return uri
    raise RequestError(f"there is no database {file}, as {shown_uri(uri)} says; name the right one with --tracking-uri")


def remembered(storage: Path, sweep: str) -> str | None:
    """Return the tracking store that a sweep was run with, without its credentials; None if it wasn't run."""
    kept = storage / "sweeps" / f"{sweep}.tracking"
    if kept.exists():
        return kept.read_text(encoding="utf-8").strip()
    return default_uri(storage) if (storage / "mlflow.db").exists() else None


def store_of(storage: Path, sweep: str) -> str | None:
    """Return the URI of the store in which a sweep's nodes find one another's files; None if they share a folder."""
    kept = storage / "sweeps" / f"{sweep}.shared"
    return kept.read_text(encoding="utf-8") if kept.exists() else None


def choose(storage: Path, given: str | None, sweep: str, move: bool) -> tuple[str, str]:
    """Return the tracking store that a run of a sweep writes to, and why that one, in words.

    The one given, else that of earlier runs, else the environment's, else the one embedded in `storage`. RequestError
    if earlier runs had another and `move` doesn't say that this is meant.
    """
    if move and given is None:
        raise RequestError("--move-tracking goes on in another store: name it with --tracking-uri")
    before = remembered(storage, sweep) if (storage / "sweeps" / f"{sweep}.yaml").exists() else None
    if given is not None:
        if before is not None and not move and bare(checked(given)) != bare(before):
            raise RequestError(
                f"sweep {sweep} is kept in MLflow at {shown_uri(before)}, not at {shown_uri(given)}: leave "
                "--tracking-uri out to go on there, or say --move-tracking to go on here (finished trials are "
                "registered here from their files, none is trained again; what is there stays there)"
            )
        return checked(given), ""
    if before is not None:
        return before, "" if before == default_uri(storage) else "as before"
    found = _of_environment()
    return (default_uri(storage), "") if found is None else (found, "from MLFLOW_TRACKING_URI")


def _of_environment() -> str | None:
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    return checked(given) if given else None


def _nothing_run_in(storage: Path) -> NoReturn:
    where = "say where with --storage, or which server with --tracking-uri"
    raise RequestError(f"no sweep has been run in {storage}; {where}")


def checked(uri: str) -> str:
    """Return a tracking URI that MLflow knows how to read; RequestError for anything else, with what was meant."""
    scheme = urlsplit(uri).scheme.partition("+")[0]
    needed = {"http": "://[^/]", "https": "://[^/]", "sqlite": ":///."}.get(scheme, "://")
    if scheme in SCHEMES and re.search(needed, uri):
        return uri
    raise RequestError(
        f"the tracking URI {shown_uri(uri)!r} is none: {_meant(uri)}write http://HOST:5000 for a server, "
        "sqlite:////FOLDER/FILE.db or postgresql://USER@HOST/NAME for a database; without one, the runs are kept in "
        "the storage folder"
    )


def _meant(uri: str) -> str:
    """Return what somebody who wrote this may have meant."""
    if re.match(r"[\w.-]+:\d+(/|$)", uri):
        return f"did you mean http://{uri}? "
    if uri.startswith(("file:", "/", "./", "../")) or Path(uri).is_dir():
        return "MLflow keeps no runs in folders of files any more; "
    return ""


def bare(uri: str) -> str:
    """Return a URI as it is remembered: without password or token (a database's user stays), a file's path whole."""
    file = sqlite_file(uri)
    if file is not None:
        return sqlite_uri(file)
    parts = urlsplit(uri)
    user, _, place = parts.netloc.rpartition("@")
    keeps_user = user and parts.scheme not in ("http", "https")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}@{place}" if keeps_user else place)).rstrip("/")


def take_credentials(uri: str) -> str:
    """Return a server's URI without user and password, or token; they go where MLflow and its workers look for them."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or parts.username is None:
        return uri
    if parts.password is None:
        os.environ["MLFLOW_TRACKING_TOKEN"] = unquote(parts.username)
    else:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def shown_uri(uri: str) -> str:
    """Return the URI as it may be printed: without a password or token."""
    return IN_ADDRESS.sub(_hidden, uri)


def _hidden(found: re.Match[str]) -> str:
    user, colon, _ = found[2].partition(":")
    is_server = found[1].startswith("http")
    return f"{found[1]}{user}:***@" if colon else f"{found[1]}***@" if is_server else found[0]


def without_secrets(text: str) -> str:
    """Return a text without passwords in its addresses, and without what the environment's secret variables hold."""
    held = {value for name, value in os.environ.items() if SECRET.search(name) and len(value) > 5}
    for value in sorted(held, key=len, reverse=True):
        text = text.replace(value, "***")
    return shown_uri(text)


def harmless(text: str, uri: str) -> str:
    """Return the first line of an error without the password of `uri` or any other."""
    password = urlsplit(uri).password
    line = text.strip().splitlines()[0] if text.strip() else "no answer"
    return without_secrets(line.replace(password, "***") if password else line)[:500]
