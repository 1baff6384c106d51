"""Files and folders that appear whole or not at all: written beside their place, brought to disk, then renamed."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipeline.errors import of_disk


def publish(path: Path, data: bytes, durable: bool = True) -> None:
    """Write `data` to `path` by rename: a reader sees the whole file or none.

    durable: also survive a loss of power; what is worth nothing afterwards (a heartbeat) does without.
    """
    with replacing(path, durable=durable) as part:
        part.write_bytes(data)


def deliver(out: Path, data: bytes) -> None:
    """Write what a person asked for to the place that they named; RequestError if that can't be."""
    with delivering(out) as part:
        part.write_bytes(data)


@contextmanager
def delivering(out: Path) -> Iterator[Path]:
    """Give a name to write what a person asked for to, see `replacing`; RequestError if that can't be."""
    with writing(out), replacing(out) as part:
        yield part


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Say of what goes wrong meanwhile, RequestError, that the place that a person named can't be written."""
    try:
        yield
    except OSError as error:
        said = "it is a folder" if out.is_dir() else error.strerror or str(error)
        raise of_disk(error)(f"{out} can't be written: {said}. Name another place") from error


@contextmanager
def replacing(path: Path, *, alone: bool = False, durable: bool = True) -> Iterator[Path]:
    """Give a name beside `path` to write a file or a folder to, which takes the place of `path` once `with` ends.

    After an error nothing of it stays, and `path` is what it was. alone: nobody else writes `path` now, so whatever a
    killed attempt has left beside it is removed first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if alone:
        for left in path.parent.glob(f".{path.name}.*.part*"):
            _remove(left)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        yield part
        if durable:
            for written in [*part.rglob("*"), part]:
                _to_disk(written)
        if part.is_dir() and path.is_dir():  # a folder takes the place of a folder; a file never does
            shutil.rmtree(path)
        part.replace(path)
    except BaseException:
        _remove(part)
        raise
    if durable:
        with contextlib.suppress(OSError):  # some file servers don't know the like; the files themselves are safe
            _to_disk(path.parent)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
