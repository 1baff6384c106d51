"""Addresses of tracking stores: where the embedded one is, and how to keep passwords out of what is shown or stored."""

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from data_pipeline.errors import RequestError

SECRET = re.compile(r"(PASSWORD|TOKEN|SECRET|SECRET_ACCESS_KEY|API_KEY)$")  # ends of names of environment variables
IN_ADDRESS = re.compile(r"(://[^/\s:@]*):[^/\s@]+@")


def default_uri(storage: Path) -> str:
    """Return the embedded store of a storage folder."""
    return f"sqlite:///{storage.absolute()}/mlflow.db"


def stores(storage: Path, given: str | None) -> list[str]:
    """Return the tracking stores where a run may be: the one given, else all that `storage`'s sweeps were run with."""
    if given is not None:
        return [given]
    kept = {path.read_text().strip() for path in sorted((storage / "sweeps").glob("*.tracking"))}
    embedded = [default_uri(storage)] if (storage / "mlflow.db").exists() else []
    if not kept and not embedded:
        raise _nothing_run_in(storage)
    return [*embedded, *sorted(kept)]


def of_sweep(storage: Path, given: str | None, sweep: str) -> str:
    """Return the tracking store of a sweep: the one given, the one it was run with, else the storage's own."""
    if given is not None:
        return given
    kept = storage / "sweeps" / f"{sweep}.tracking"
    if kept.exists():
        return kept.read_text().strip()
    if not (storage / "mlflow.db").exists():
        raise _nothing_run_in(storage)
    return default_uri(storage)


def _nothing_run_in(storage: Path) -> RequestError:
    where = "say where with --storage, or which server with --tracking-uri"
    return RequestError(f"no sweep has been run in {storage}; {where}")


def take_credentials(uri: str) -> str:
    """Return a server's URI without user and password, which go where MLflow and its workers look for them."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or parts.username is None:
        return uri
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
    if parts.password is not None:
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def shown_uri(uri: str) -> str:
    """Return the URI as it may be printed: without a password."""
    parts = urlsplit(uri)
    if parts.password is None:
        return uri
    return urlunsplit(parts._replace(netloc=f"{parts.username}:***@{parts.netloc.rpartition('@')[2]}"))


def without_secrets(text: str) -> str:
    """Return a text without passwords in its addresses, and without what the environment's secret variables hold."""
    held = {value for name, value in os.environ.items() if SECRET.search(name) and len(value) > 5}
    for value in sorted(held, key=len, reverse=True):
        text = text.replace(value, "***")
    return IN_ADDRESS.sub(r"\1:***@", text)


def harmless(text: str, uri: str) -> str:
    """Return the first line of an error without the password of `uri` or any other."""
    password = urlsplit(uri).password
    line = text.strip().splitlines()[0] if text.strip() else "no answer"
    return without_secrets(line.replace(password, "***") if password else line)[:500]
