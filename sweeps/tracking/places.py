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


def placed(recorded: str, uri: str, storage: Path | None = None) -> str:
    """Return where a run's artifacts lie now that MLflow at `uri` says were put at `recorded`.

    Ours lie in STORAGE/artifacts/SWEEP/RUN/artifacts, which goes where the folder goes: beside an embedded database
    wherever that is now; of another database under `storage`, if the folder that was recorded is gone.
    """
    path, file = local_path(recorded), sqlite_file(uri)
    if path is None or len(path.parts) < 4 or path.parts[-4::3] != ("artifacts", "artifacts"):
        return recorded
    is_embedded = file is not None and (file.parent / "artifacts").is_dir()
    root = file.parent if is_embedded else storage
    if root is None or root == path.parents[3] or (not is_embedded and path.parents[2].is_dir()):
        return recorded
    return file_uri(root.joinpath(*path.parts[-4:]))
