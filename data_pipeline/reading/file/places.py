"""Where a file lies: a path on this machine, or a URI (s3://..., gs://..., memory://...) that fsspec opens."""

import shutil
from contextlib import suppress
from functools import cache
from pathlib import Path

from data_pipeline.errors import RequestError
from data_pipeline.names import nearest
from data_pipeline.reading.file import foreign
from data_pipeline.shared import objects

HDF5 = b"\x89HDF\r\n\x1a\n"
SUFFIXES = (".h5ad", ".h5", ".hdf5")  # of files that somebody may have meant


def is_uri(path: str) -> bool:
    return "://" in path


def absolute(path: str | Path) -> str:
    """Return the path from the root, with ~ filled in; a URI as it is."""
    return str(path) if is_uri(str(path)) else str(Path(path).expanduser().absolute())


def stamp(path: str) -> tuple[int, str]:
    """Return (bytes, time or tag of the last change); OSError if there is no such file."""
    if not is_uri(path):
        state = Path(path).stat()
        return state.st_size, str(state.st_mtime_ns)
    system, inside = _remote(path)
    state = system.info(inside)
    changed = next((state[key] for key in ("ETag", "etag", "mtime", "LastModified", "created") if key in state), "")
    return int(state["size"] or 0), str(changed)


def open_hdf5(path: str):
    """Return the h5py.File; RequestError says why it is none and what to do."""
    import h5py

    _plug_in()
    if is_uri(path):
        return _open_remote(path)
    where = Path(path)
    if where.is_dir():
        raise RequestError(f"{path}: is a folder, not an h5ad file; {foreign.of_folder(where)}.")
    if not where.exists():
        raise RequestError(f"{path}: no such file. {_nearby(where)}")
    try:
        return h5py.File(path, "r", locking=False)
    except PermissionError as error:
        raise RequestError(f"{path}: may not be read by this user ({error.strerror}).") from error
    except OSError as error:
        with where.open("rb") as file:
            head = file.read(foreign.LONGEST)
        raise RequestError(_why_not_hdf5(path, head, where.stat().st_size, error)) from error


def fetch(path: str, to: Path) -> None:
    """Copy a file's bytes to `to`; OSError if that can't be."""
    if is_uri(path):
        system, inside = _remote(path)
        system.get_file(inside, str(to))
        return
    shutil.copyfile(path, to)


@cache
def _plug_in() -> None:
    """Let HDF5 read what zstd, blosc and others have compressed, where the package that does is installed."""
    with suppress(ImportError):
        import hdf5plugin  # noqa: F401


def _nearby(where: Path) -> str:
    parent = where.parent
    if where.is_symlink():
        return f"It is a link to {where.readlink()}, which isn't there."
    if not parent.is_dir():
        return f"The folder {parent} doesn't exist either."
    near = nearest(where.name, [file.name for file in parent.iterdir() if file.suffix in SUFFIXES], least=0.5)
    return f"Did you mean {parent / near}?" if near else f"The folder {parent} exists; check the name."


def _why_not_hdf5(path: str, head: bytes, size: int, error: OSError) -> str:
    if size == 0:
        return f"{path}: is empty (0 bytes). Fetch it again."
    if head.startswith(HDF5):
        return f"{path}: is cut off or damaged at {size:,} bytes ({error}). Copy or fetch it again."
    return f"{path}: {foreign.of_bytes(head)}."


def _remote(path: str):
    """Return (file system, path inside it); of an s3:// URI pyarrow's, which needs no other package."""
    import fsspec

    if path.startswith("s3://"):
        from fsspec.implementations.arrow import ArrowFSWrapper

        uri, inside = path.rsplit("/", 1)
        return ArrowFSWrapper(objects.opened(uri)), inside
    try:
        return fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise RequestError(f"{path}: can't be opened: {error}.") from error


def _open_remote(path: str):
    import h5py

    system, inside = _remote(path)
    if not system.exists(inside):
        raise RequestError(f"{path}: no such file, or no right to see it.")
    if system.isdir(inside):
        raise RequestError(f"{path}: is a folder, not an h5ad file; name one of the files in it.")
    file = system.open(inside, "rb", block_size=1 << 22)
    try:
        return h5py.File(file, "r")
    except OSError as error:
        file.seek(0)
        raise RequestError(_why_not_hdf5(path, file.read(foreign.LONGEST), system.size(inside), error)) from error
