"""Where a file lies: a path on this machine, or a URI (s3://..., gs://..., memory://...) that fsspec opens."""

from contextlib import suppress
from functools import cache
from pathlib import Path

from data_pipeline.errors import RequestError
from data_pipeline.names import nearest

MAGIC = {
    b"\x1f\x8b": "a gzip file: unpack it with gunzip first",
    b"PK\x03\x04": "a zip file: unpack it first",
    b"BZh": "a bzip2 file: unpack it first",
    b"\xfd7zXZ": "an xz file: unpack it first",
    b"RDX": "an R file",
    b"%%Matrix": "a Matrix Market file",
}
HDF5 = b"\x89HDF\r\n\x1a\n"


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
    return int(state["size"]), str(changed)


def open_hdf5(path: str):
    """Return the h5py.File; RequestError says why it is none and what to do."""
    import h5py

    _plug_in()
    if is_uri(path):
        return _open_remote(path)
    where = Path(path)
    if where.is_dir():
        raise RequestError(f"{path}: is a folder, not an h5ad file; {_folder_hint(where)}.")
    if not where.exists():
        raise RequestError(f"{path}: no such file. {_nearby(where)}")
    try:
        return h5py.File(path, "r", locking=False)
    except PermissionError as error:
        raise RequestError(f"{path}: may not be read by this user ({error.strerror}).") from error
    except OSError as error:
        with where.open("rb") as file:
            head = file.read(8)
        raise RequestError(_why_not_hdf5(path, head, where.stat().st_size, error)) from error


@cache
def _plug_in() -> None:
    """Let HDF5 read what zstd, blosc and others have compressed, where the package that does is installed."""
    with suppress(ImportError):
        import hdf5plugin  # noqa: F401


def _folder_hint(folder: Path) -> str:
    names = sorted(file.name for file in folder.iterdir())
    files = [name for name in names if name.endswith(".h5ad")]
    if files:
        return f"name one of the files in it: {', '.join(files[:5])}"
    if {".zgroup", ".zattrs", "zarr.json"} & set(names):
        return "it is a zarr store: convert it with anndata.io.read_zarr(...).write_h5ad('cells.h5ad')"
    if any(name.startswith("matrix.mtx") for name in names):
        return "it is 10x Genomics output: convert it with scanpy.read_10x_mtx(...).write_h5ad('cells.h5ad')"
    return "no .h5ad file is in it"


def _nearby(where: Path) -> str:
    parent = where.parent
    if not parent.is_dir():
        return f"The folder {parent} doesn't exist either."
    near = nearest(where.name, [file.name for file in parent.iterdir()], least=0.5)
    return f"Did you mean {parent / near}?" if near else f"The folder {parent} exists; check the name."


def _why_not_hdf5(path: str, head: bytes, size: int, error: OSError) -> str:
    if size == 0:
        return f"{path}: is empty (0 bytes). Fetch it again."
    if head == HDF5:
        return f"{path}: is cut off or damaged at {size:,} bytes ({error}). Copy or fetch it again."
    kind = next((name for magic, name in MAGIC.items() if head.startswith(magic)), "some other format")
    return f"{path}: isn't an h5ad file (it looks like {kind}). Write one with adata.write_h5ad('cells.h5ad')."


def _remote(path: str):
    """Return (file system, path inside it)."""
    import fsspec

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
        raise RequestError(_why_not_hdf5(path, file.read(8), system.size(inside), error)) from error
