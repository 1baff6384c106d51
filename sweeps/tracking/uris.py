"""Addresses of tracking stores: where the embedded one is, and how to keep passwords out of what is shown or stored."""

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

SECRET = re.compile(r"(PASSWORD|TOKEN|SECRET|SECRET_ACCESS_KEY|API_KEY)$")  # ends of names of environment variables
IN_ADDRESS = re.compile(r"(://[^/\s:@]*):[^/\s@]+@")


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
