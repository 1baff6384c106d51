"""The door to a store of objects: bytes known by their hash, lists of them written last. Nothing torn is ever read.

An upload that was cut off leaves bytes that no list names, or that are not what a list says; either is made good by
the next upload of the same file.
"""

import contextlib
import functools
import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from pyarrow import fs

from data_pipeline.atomic import replacing
from data_pipeline.errors import RequestError

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL")  # of stores that aren't Amazon's
REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
SMALL = 1 << 26  # bytes of a file that is read at once, and so is what its hash says though it be written to meanwhile
CHUNK = 1 << 22
PAUSES = (1, 3, 10)  # seconds before the next attempt at what a store or a network refused
AWAY = 600.0  # seconds for which a trial waits for a store that doesn't answer
RIGHTS = {"read": "reading and listing", "write": "reading, writing, listing and deleting"}
PASSING = ("NETWORK_CONNECTION", "curlCode", "SLOW_DOWN", "SERVICE_UNAVAILABLE", "INTERNAL_FAILURE", "REQUEST_TIMEOUT")
Entry = dict[str, Any]  # of a file: its bytes and sha256
Listing = dict[str, Entry]  # of a file or folder: entries by name in it


class StoreError(OSError):
    """The store has not what a list of it says, or doesn't answer."""


def checked(uri: str) -> str:
    """Return the URI of a store without a slash at its end; RequestError if it is none that can be opened."""
    parts = urlsplit(uri)
    if parts.scheme == "file" and parts.path.startswith("/") and not parts.netloc:
        return uri.rstrip("/")
    if "@" in parts.netloc or parts.query:
        raise RequestError(
            "--shared: leave user, password and settings out of the URI, which is shown and stored; the environment "
            "has them, as MLflow's S3 does: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL"
        )
    if parts.scheme != "s3" or not parts.netloc:
        raise RequestError(f"--shared {uri}: give s3://BUCKET/FOLDER, a place in a bucket that exists")
    return uri.rstrip("/")


@functools.lru_cache(maxsize=8)
def opened(uri: str) -> fs.FileSystem:
    """Return what reads and writes below a URI; credentials are the environment's, or the machine's role."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return fs.SubTreeFileSystem(parts.path, fs.LocalFileSystem())
    return fs.SubTreeFileSystem(f"{parts.netloc}{parts.path}", _s3(parts.netloc))


def _s3(bucket: str) -> fs.FileSystem:
    given = next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), None)
    region = next((os.environ[name] for name in REGIONS if os.environ.get(name)), None)
    if given is None:
        return fs.S3FileSystem(region=region or fs.resolve_s3_region(bucket), allow_delayed_open=True)
    endpoint = urlsplit(given if "://" in given else f"https://{given}")
    where = {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme}
    return fs.S3FileSystem(**where, region=region or "us-east-1", allow_delayed_open=True)


def try_out(uri: str) -> None:
    """Put a small object and take it away again; RequestError if that can't be, with what can be done about it."""
    name = f"probe-{time.time_ns()}"
    try:
        write(uri, name, b"cellskew")
        read(uri, name)
        names(uri, "marks")
        delete(uri, [name])
    except OSError as error:
        raise RequestError(f"--shared {uri}: {why(error, uri, 'write')}") from error


def why(error: OSError, uri: str, verb: str) -> str:
    """Return why a store gives or takes nothing, with what can be done about it. verb: what was tried there."""
    said, bucket = str(error), urlsplit(uri).netloc
    if "NO_SUCH_BUCKET" in said or re.search(r"[Bb]ucket '[^']*' not found", said):
        return f"there is no bucket {bucket}; create it, or name one that exists"
    if any(word in said for word in ("ACCESS_DENIED", "status 403", "INVALID_ACCESS_KEY", "SIGNATURE", "ExpiredToken")):
        return (
            f"these credentials may not {verb} there, or there are none: set AWS_ACCESS_KEY_ID and "
            f"AWS_SECRET_ACCESS_KEY, or have bucket {bucket} opened to them for {RIGHTS[verb]}"
        )
    if is_away(error):
        return "the store doesn't answer; is AWS_ENDPOINT_URL right, and can this machine reach it?"
    return said.split(" (Request ID")[0]


def write(uri: str, name: str, data: bytes) -> None:
    """Put an object."""
    with _new(uri, name) as out:
        out.write(data)


def read(uri: str, name: str) -> bytes:
    """Return an object; FileNotFoundError if there is none."""
    with opened(uri).open_input_stream(name) as file:
        return file.read()


def exists(uri: str, name: str) -> bool:
    return _size(uri, name) is not None


def names(uri: str, folder: str) -> list[str]:
    """Return the names of the objects below a folder, without it, in order."""
    found = opened(uri).get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True))
    return sorted(one.path.removeprefix(f"{folder}/") for one in found if one.type == fs.FileType.File)


def delete(uri: str, listed: list[str]) -> None:
    """Remove objects, those that are there."""
    for name in listed:
        with contextlib.suppress(FileNotFoundError):
            opened(uri).delete_file(name)


def put_list(uri: str, name: str, listing: Listing) -> None:
    """Put a list of files, with a hash of its own: half of one is none."""
    write(uri, name, json.dumps({"files": listing, "sha256": _digest(listing)}).encode())


def get_list(uri: str, name: str) -> Listing | None:
    """Return a list of files; None if there is none, or half of one."""
    try:
        found = json.loads(read(uri, name))
        return found["files"] if found["sha256"] == _digest(found["files"]) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _digest(listing: Listing) -> str:
    return hashlib.sha256(json.dumps(listing, sort_keys=True).encode()).hexdigest()


def put_file(uri: str, pool: str, path: Path) -> Entry:
    """Put a file's bytes into a pool, unless they are there; returns its entry. StoreError if it changed meanwhile."""
    if path.stat().st_size <= SMALL:
        data = path.read_bytes()
        entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        if _size(uri, f"{pool}/{entry['sha256']}") != len(data):
            write(uri, f"{pool}/{entry['sha256']}", data)
        return entry
    entry = of_file(path)
    name = f"{pool}/{entry['sha256']}"
    if _size(uri, name) != entry["bytes"]:
        with path.open("rb") as file, _new(uri, name) as out:
            sent = _copied(file, out)
        if sent != entry:
            delete(uri, [name])
            raise StoreError(f"{path} was written to while it was uploaded")
    return entry


def get_file(uri: str, pool: str, entry: Entry, to: Path) -> None:
    """Have a file of a pool at `to`, by rename; StoreError if it isn't what its entry says.

    It is on disk then: what says that a folder is whole must not outlast, in a loss of power, what is in it.
    """
    with replacing(to) as part:
        with opened(uri).open_input_stream(f"{pool}/{entry['sha256']}") as file, part.open("wb") as out:
            came = _copied(file, out)
        if came != entry:
            raise StoreError(f"{uri}/{pool}/{entry['sha256']}: {came['bytes']} bytes came, not those that were stored")


def get_bytes(uri: str, pool: str, entry: Entry) -> bytes:
    """Return a file of a pool, one that memory has room for; StoreError if it isn't what its entry says."""
    name = f"{pool}/{entry['sha256']}"
    data = read(uri, name)
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise StoreError(f"{uri}/{name}: {len(data)} bytes came, not those that were stored")
    return data


def of_file(path: Path) -> Entry:
    """Return the entry of a file on this machine."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _copied(file: BinaryIO, out: BinaryIO) -> Entry:
    digest, size = hashlib.sha256(), 0
    while data := file.read(CHUNK):
        out.write(data)
        digest.update(data)
        size += len(data)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _size(uri: str, name: str) -> int | None:
    found = opened(uri).get_file_info(name)
    return found.size if found.type == fs.FileType.File else None


def _new(uri: str, name: str) -> Any:
    system = opened(uri)
    if isinstance(system.base_fs, fs.LocalFileSystem):  # a bucket has no folders to make
        system.create_dir(str(Path(name).parent))
    return system.open_output_stream(name)


def patiently(ask: Callable[[], Any]) -> Any:
    """Return what the store answers, asked again after each of PAUSES; its last error is raised."""
    for pause in PAUSES:
        try:
            return ask()
        except OSError:
            time.sleep(pause)
    return ask()


def is_away(error: OSError) -> bool:
    """Tell whether an error says that the store doesn't answer now, rather than that it won't give or take."""
    return any(word in str(error) for word in PASSING)


def waiting(ask: Callable[[], Any], say: Callable[[str], None]) -> Any:
    """Return what the store answers, waited for while it doesn't answer, AWAY seconds at most; that is said once."""
    until, told = time.monotonic() + AWAY, False
    while True:
        try:
            return ask()
        except OSError as error:
            if not is_away(error) or time.monotonic() > until:
                raise
            if not told:
                say(f"waits for the store, which doesn't answer: {str(error).split(' (Request ID')[0]}")
                told = True
        time.sleep(PAUSES[-1])
