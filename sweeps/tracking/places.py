"""Paths as URIs, and back: the only place that makes one of the other, so that a path may be called anything."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

SQLITE = "sqlite:///"


def sqlite_uri(file: Path) -> str:
    """Return the tracking URI of a database file."""
    path = str(file.absolute())
    return SQLITE + path.replace("%", "%25").replace("?", "%3F")  # all that SQLAlchemy reads otherwise


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a sqlite URI; None for any other."""
    if not uri.startswith(SQLITE):
        return None
    return Path(unquote(uri.removeprefix(SQLITE).partition("?")[0])).absolute()


def file_uri(folder: Path) -> str:
    """Return the URI of a folder or file of this machine."""
    return folder.absolute().as_uri()


def local_path(uri: str) -> Path | None:
    """Return the path of an artifact URI, or of a bare path as MLflow reads one; None where it is on no disk here."""
    scheme = urlsplit(uri).scheme
    if scheme == "file":
        return Path(unquote(urlsplit(uri).path))
    return Path(unquote(uri)) if scheme == "" else None
