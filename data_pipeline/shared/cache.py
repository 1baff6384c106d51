"""What a node keeps of the store: what was used longest ago goes first, nothing that is being used, never the driver's.

<own folder>/.used/<hash>    its text: the name of a made file or folder, or a trial's; its time: when it was used last
"""

import contextlib
import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from data_pipeline.errors import RequestError
from data_pipeline.hashes import identity_hash
from data_pipeline.shared.store import DEFAULT_GB, Shared, forget, limit_gb

USED = ".used"


@contextmanager
def using(node: Shared, paths: list[Path]) -> Iterator[None]:
    """Have what lies at the paths, on this machine or yet to come, stay while it lasts."""
    with ExitStack() as held:
        for path in paths:
            held.enter_context(_locked(note(node, path), fcntl.LOCK_SH))
        yield


def note(node: Shared, path: Path) -> Path:
    """Note that something of the store is used now; returns the note."""
    name = node.name(path)
    kept = node.here(node.root) / USED / identity_hash(name)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(name, encoding="utf-8")  # in place, never by rename: others' locks are on this very file
    return kept


def pull(node: Shared, path: Path) -> bool:
    """Fetch a made file or folder for all workers of this machine, which wait for one of them; see Shared.pull."""
    with _locked(note(node, path).with_suffix(".pull"), fcntl.LOCK_EX):
        return node.pull(path)


def make_room(node: Shared) -> None:
    """Remove what was used longest ago from a node's own folder until it is within its limit, or all is in use."""
    own, limit = node.here(node.root), DEFAULT_GB * 1e9
    if any((own / "sweeps").glob("*.yaml")):  # a driver's folder, which has everything
        return
    with contextlib.suppress(RequestError):  # said when the node was tried: a trained trial doesn't fail of it
        limit = limit_gb() * 1e9
    kept = {path: own / name for path in _oldest_first(own / USED) if (name := _named(path))}
    sizes = {path: _size(place) for path, place in kept.items()}
    total = sum(sizes.values())
    for path, place in kept.items():
        if total <= limit:
            return
        with contextlib.suppress(BlockingIOError), _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
            forget(place)
            total -= sizes[path]


def _oldest_first(notes: Path) -> list[Path]:
    listed = [path for path in notes.glob("*") if not path.suffix]
    return sorted(listed, key=lambda path: path.stat().st_mtime_ns)


def _named(kept: Path) -> str | None:
    """Return what a note is of; None while it is being written."""
    name = kept.read_text(encoding="utf-8")
    return name if identity_hash(name) == kept.name else None


def _size(place: Path) -> int:
    """Return the bytes of a file, or of a folder's; what goes away meanwhile is none."""
    found = 0
    for path in [place, *place.rglob("*")]:
        with contextlib.suppress(OSError):
            found += path.stat().st_size if path.is_file() else 0
    return found


@contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file.fileno(), how)
        yield
