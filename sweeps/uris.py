"""Addresses of tracking stores: where the embedded one is, and how to keep passwords out of what is shown or stored."""

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit


def default_uri(storage: Path) -> str:
    """Return the embedded store of a storage folder."""
    return f"sqlite:///{storage.absolute()}/mlflow.db"


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


def harmless(text: str, uri: str) -> str:
    """Return the first line of an error without the password of `uri`."""
    password = urlsplit(uri).password
    line = text.strip().splitlines()[0] if text.strip() else "no answer"
    return (line.replace(password, "***") if password else line)[:500]
