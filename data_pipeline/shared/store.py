"""Made files of machines that share no folder: each has its own, and what one has made the others fetch from a bucket.

    <uri>/made/<path below the storage folder>.json    what a file or a folder holds, written last
    <uri>/files/<sha256>                               the bytes; the same ones are there once
    <uri>/marks/<path>                                 that something was asked for: an end, a place

Paths are those of the driver's storage folder, `root`, everywhere; on a machine that has its files elsewhere they are
changed where they are used.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_pipeline.atomic import publish
from data_pipeline.errors import RequestError
from data_pipeline.hashes import identity_hash
from data_pipeline.shared import objects
from data_pipeline.shared.objects import Listing

NODE = "CELLSKEW_NODE_"  # begin of the variables that are a node's own, and no driver's
OWN = f"{NODE}STORAGE"  # its own folder, where that isn't where the driver's is
LIMIT = f"{NODE}GB"  # gigabytes that its own folder may hold
DEFAULT_GB = 50.0
MADE, FILES, MARKS, INPUTS = "made", "files", "marks", "inputs"
SEALS = ("manifest.json", ".whole")  # a folder that has one is whole
OF_ONE = ("checked.json", *SEALS[1:])  # files that stand for what one machine did
TURN = ".turn"  # of a trial's folder on a machine, see turns: whose turn it was left in, if it is whole


@dataclass(frozen=True)
class Shared:
    """A place in a bucket, and the storage folder that it stands for.

    own: where that folder's files lie on this machine, None: where the driver has them.
    """

    uri: str
    root: Path
    own: Path | None = None

    def on_node(self) -> "Shared":
        """Return the same, as a worker has it."""
        return replace(self, own=Path(os.environ.get(OWN, self.root)))

    def here(self, path: Path) -> Path:
        """Return where a path of the storage folder is on this machine; any other is what it is."""
        if self.own is None or not path.is_relative_to(self.root):
            return path
        return self.own / path.relative_to(self.root)

    def translated(self, given: Any) -> Any:
        """Return plain values, paths among them, with each path of the storage folder as it is on this machine."""
        if isinstance(given, dict):
            return {self.translated(key): self.translated(value) for key, value in given.items()}
        if isinstance(given, list | tuple):
            return type(given)(self.translated(one) for one in given)
        if isinstance(given, str) and self._is_ours(given):
            return str(self.here(Path(given)))
        return self.here(given) if isinstance(given, Path) else given

    def made_in(self, given: Any) -> list[Path]:
        """Return the paths of the storage folder among plain values, as the driver calls them."""
        if isinstance(given, dict):
            given = [*given, *given.values()]
        if isinstance(given, list | tuple | set):
            return list(dict.fromkeys(path for one in given for path in self.made_in(one)))
        return [Path(given)] if isinstance(given, str | Path) and self._is_ours(str(given)) else []

    def _is_ours(self, path: str) -> bool:
        return path.startswith(f"{self.root}{os.sep}")

    def name(self, path: Path) -> str:
        """Return what the store calls a path of the storage folder."""
        return path.relative_to(self.root).as_posix()

    # made files, whose path says what they hold

    def holds(self, path: Path) -> bool:
        """Tell whether the store has a file or folder, whole."""
        return objects.patiently(lambda: objects.exists(self.uri, f"{MADE}/{self.name(path)}.json"))

    def parts(self, folder: Path) -> list[Path]:
        """Return the files of a folder that the store has each for itself."""
        found = objects.patiently(lambda: objects.names(self.uri, f"{MADE}/{self.name(folder)}"))
        return [folder / name.removesuffix(".json") for name in found]

    def push(self, path: Path, also: tuple[str, ...] = (), source: Path | None = None) -> None:
        """Put a file or a folder, whole on this machine, into the store. also: files beside a folder that go with it.

        source: where it lies, if that isn't its path.
        """
        place = self.here(path) if source is None else source
        listing = {
            name: objects.patiently(lambda f=file: objects.put_file(self.uri, FILES, f))
            for name, file in _files(place, also)
        }
        if not listing:
            raise objects.StoreError(f"{place} is gone; nothing of it was put into the store")
        objects.patiently(lambda: objects.put_list(self.uri, f"{MADE}/{self.name(path)}.json", listing))

    def push_missing(self, paths: list[Path], also: tuple[str, ...] = ()) -> None:
        """Put those of the paths into the store that it lacks."""
        for path in paths:
            if path.exists() and not self.holds(path):
                self.push(path, also if path.is_dir() else ())

    def pull(self, path: Path) -> bool:
        """Have a file or folder on this machine, fetched unless it is there; tells whether it is there now."""
        place = self.here(path)
        if is_whole(place):
            return True
        listing = objects.patiently(lambda: objects.get_list(self.uri, f"{MADE}/{self.name(path)}.json"))
        if listing is None:
            return False
        fetch(self.uri, FILES, listing, place)
        return True

    def bring(self, source: Path) -> Path:
        """Have a file or folder from outside the storage folder in the store; returns its path in the storage folder.

        It is known by where it lies and when it was changed: another content is another path.
        """
        path = self.root / INPUTS / identity_hash(str(source), stamp(source)) / source.name
        if not self.holds(path):
            self.push(path, source=source)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                path.symlink_to(source)
        return path

    # marks

    def mark(self, path: Path, is_set: bool = True) -> None:
        """Set a mark, or take it away."""
        name = f"{MARKS}/{self.name(path)}"
        objects.write(self.uri, name, b"1") if is_set else objects.delete(self.uri, [name])

    def is_marked(self, path: Path) -> bool:
        return objects.exists(self.uri, f"{MARKS}/{self.name(path)}")


def tried(uri: str, root: str, seen: str) -> str | None:
    """Return why a worker on this machine can do nothing with the store, or with its own folder; None if it can.

    seen: a mark that the driver has set.
    """
    try:
        limit_gb()
        node = Shared(uri, Path(root)).on_node()
        objects.try_out(uri)
        if not node.is_marked(Path(seen)):
            return f"sees another store at {uri} than the driver; is AWS_ENDPOINT_URL the same there?"
        publish(node.here(Path(seen)), b"", durable=False)
        node.here(Path(seen)).unlink(missing_ok=True)
    except RequestError as error:
        return str(error)
    except OSError as error:
        return f"can't write to {error.filename}: {error.strerror}; name a folder there with {OWN} before `ray start`"
    return None


def limit_gb() -> float:
    """Return how many gigabytes this node's own folder may hold; RequestError where LIMIT is no such number."""
    given = os.environ.get(LIMIT) or str(DEFAULT_GB)
    with contextlib.suppress(ValueError):
        if (limit := float(given)) >= 0:
            return limit
    raise RequestError(f"has {LIMIT}={given}: set it to a number of gigabytes, or leave it out for {DEFAULT_GB:g}")


def is_whole(place: Path) -> bool:
    """Tell whether a made file or folder is there: a file appears whole, a folder is once it has a seal.

    A link is the driver's, to what lies outside of its storage folder.
    """
    return place.is_file() or (place.is_symlink() and place.exists()) or any((place / name).exists() for name in SEALS)


def stamp(path: Path) -> list[Any]:
    """Return what changes when a file, or one of a folder's, does: name, bytes and time of change of each."""
    return [[name, (state := file.stat()).st_size, state.st_mtime_ns] for name, file in _files(path)]


def _files(place: Path, also: tuple[str, ...] = ()) -> Iterator[tuple[str, Path]]:
    """Yield (name in the folder, path) of a folder's files, seals last; of a file "" and itself."""
    if place.is_file():
        yield "", place
        return
    listed = [path.relative_to(place).as_posix() for path in sorted(place.rglob("*")) if path.is_file()]
    kept = [name for name in listed if name.split("/")[-1] not in OF_ONE and not name.endswith(".part")]
    for name in [*also, *sorted(kept, key=lambda name: name in SEALS)]:
        yield name, place / name


def fetch(uri: str, pool: str, listing: Listing, place: Path) -> None:
    """Have the files of a list at `place`, each by rename and checked, seals last; what is right there stays."""
    for name, entry in listing.items():
        target = place / name if name else place
        if not (target.is_file() and objects.of_file(target) == entry):
            objects.patiently(lambda e=entry, t=target: objects.get_file(uri, pool, e, t))
    if not {"", SEALS[0]} & set(listing):
        publish(place / SEALS[1], b"")


def forget(place: Path) -> None:
    """Remove a made file or folder, or a trial's, from this machine; what says that it is whole first."""
    for name in (*SEALS, TURN):
        (place / name).unlink(missing_ok=True) if place.is_dir() else None
    shutil.rmtree(place, ignore_errors=True) if place.is_dir() else place.unlink(missing_ok=True)
