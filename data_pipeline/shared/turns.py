"""A folder that one worker at a time changes, as the last one left it: a trial's, whose workers may share no folder.

    <uri>/<path>/turns/<number>-<id>.json    what the folder held when this worker last put it there
    <uri>/<path>/files/<sha256>              the bytes

A worker takes the next number, and puts what the one before left under it. Nobody reads a list whose number is lower
than another's, so one that was given up, and lives on, changes nothing; it learns so at its next look.
"""

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data_pipeline.atomic import publish
from data_pipeline.shared import cache, objects
from data_pipeline.shared.store import TURN, Shared

KEPT_HERE = (".lock", ".attempt", ".leave", TURN)  # signs of workers on one machine
LOOK_EVERY = 10.0  # seconds between looks at whether the end was asked for
LAST = "result.json"  # with it a folder is that of a finished trial


class Overtaken(RuntimeError):
    """Another worker has taken this trial's folder; whatever we would write there is not wanted."""


class Turn:
    """One worker's turn at a folder: `take` has it here as it was left, `check` and `save` raise Overtaken once
    another has taken it."""

    def __init__(self, shared: Shared, folder: Path) -> None:
        self.uri, self.name, self.place = shared.uri, shared.name(folder), shared.here(folder)
        self.pool, self.mine = f"{self.name}/files", ""

    def take(self) -> None:
        """Take the next turn, with the folder as it was left by the last one that the store has whole.

        Where that one worked on this machine, its folder stays: it may have rounds that it hadn't put into the store.
        """
        before = [*objects.patiently(self._turns), "0"][0]
        left = objects.patiently(lambda: self._listed(before) if self._is_here(before) else self._newest())
        self.mine = f"{int(before.split('-')[0]) + 1:06d}-{uuid.uuid4().hex[:12]}.json"
        objects.patiently(lambda: objects.put_list(self.uri, self._path(self.mine), left or {}))
        publish(self.place / TURN, self.mine.encode())

    def check(self) -> None:
        if self._turns()[:1] != [self.mine]:
            raise Overtaken(f"another worker has taken over {self.name}; this was turn {self.mine.split('-')[0]}")

    def save(self) -> None:
        """Put the folder into the store as it is, in place of what was there."""
        objects.patiently(self.check)
        names = _names(self.place)
        listing = {
            one: objects.patiently(lambda n=one: objects.put_file(self.uri, self.pool, self.place / n)) for one in names
        }
        objects.patiently(self.check)
        objects.patiently(lambda: objects.put_list(self.uri, self._path(self.mine), listing))
        with contextlib.suppress(OSError):  # what is too much does no harm
            self._tidy({entry["sha256"] for entry in listing.values()})

    def _tidy(self, named: set[str]) -> None:
        """Remove what nothing names any more, unless another has the turn now, whose list may name it."""
        turns = self._turns()
        if turns[:1] != [self.mine]:
            return
        objects.delete(self.uri, [self._path(name) for name in turns[1:]])
        there = objects.names(self.uri, self.pool)
        objects.delete(self.uri, [f"{self.pool}/{sha256}" for sha256 in there if sha256 not in named])

    def _is_here(self, turn: str) -> bool:
        mark = self.place / TURN
        return mark.exists() and mark.read_text() == turn

    def _listed(self, turn: str) -> objects.Listing | None:
        return objects.get_list(self.uri, self._path(turn))

    def _newest(self) -> objects.Listing | None:
        """Have the folder here as the newest turn left it that is whole; returns its list, None where there is none.

        A worker that lives may replace its list, and remove what the old one named, while it is read: then the new one
        is taken.
        """
        for name in self._turns():
            seen: objects.Listing | None = None
            while (listing := self._listed(name)) and listing != seen:
                with contextlib.suppress(FileNotFoundError, objects.StoreError):
                    _bring(self.uri, self.pool, listing, self.place)
                    return listing
                seen = listing
        return None

    def _turns(self) -> list[str]:
        """Return the names of all turns, the newest first."""
        return objects.names(self.uri, f"{self.name}/turns")[::-1]

    def _path(self, name: str) -> str:
        return f"{self.name}/turns/{name}"


def has_begun(shared: Shared, folder: Path, but: Sequence[str] = ()) -> bool:
    """Tell whether the store has anything of a folder, hidden files and those called as in `but` apart."""
    turn = Turn(shared, folder)

    def found(one: str) -> bool:
        return any(name[0] != "." and name not in but for name in turn._listed(one) or ())

    return objects.patiently(lambda: any(map(found, turn._turns())))


def put_once(shared: Shared, folder: Path, but: Sequence[str] = ()) -> None:
    """Put a folder that only this machine has saved rounds or a result of into the store; but: see has_begun."""
    if (any(folder.glob("epoch-*")) or (folder / LAST).exists()) and not has_begun(shared, folder, but):
        mine = Turn(shared, folder)
        mine.take()
        mine.save()


def left(shared: Shared, folder: Path, name: str) -> bytes | None:
    """Return a file of a folder as it was left last in the store; None where that has none, or this machine left it."""
    turn = Turn(shared, folder)
    for one in turn._turns():
        if turn._is_here(one):
            return None
        if (listing := turn._listed(one)) is not None:
            return objects.get_bytes(shared.uri, turn.pool, listing[name]) if name in listing else None
    return None


def fetched(shared: Shared | None, folder: Path) -> Path:
    """Have a folder here as it was left last, where the store has it; takes no turn. Returns it."""
    if shared is not None:
        objects.patiently(Turn(shared, folder)._newest)
    return folder


def _bring(uri: str, pool: str, listing: objects.Listing, place: Path) -> None:
    """Make the folder hold what a list says, and nothing else; the result last."""
    place.mkdir(parents=True, exist_ok=True)
    (place / TURN).unlink(missing_ok=True)  # cut off from here on, it is nobody's
    for name in sorted(listing, key=lambda name: name == LAST):
        if not ((place / name).is_file() and objects.of_file(place / name) == listing[name]):
            objects.get_file(uri, pool, listing[name], place / name)
    for name in set(_names(place)) - set(listing):
        (place / name).unlink()
    for folder in sorted((path for path in place.rglob("*") if path.is_dir()), reverse=True):
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()


def _names(place: Path) -> list[str]:
    """Return the names of a folder's files that are any other machine's business."""
    listed = sorted(path.relative_to(place) for path in place.rglob("*") if path.is_file())
    mine = (path for path in listed if path.name not in KEPT_HERE and not any(p.endswith(".part") for p in path.parts))
    return [path.as_posix() for path in mine]


@contextmanager
def turn(
    shared: Shared | None, folder: Path, check: Callable[[], None], marks: tuple[Path, ...], say: Callable[[str], None]
) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """Have a turn at a folder; gives what checks that it is still ours, and what puts the folder into the store.

    check: that it is ours on this machine. marks: files that are made here once somebody has set the mark in the store.
    say: told when a store that doesn't answer is waited for; a check doesn't wait: the next one may learn it. Without a
    store there is nothing to do.
    """
    if shared is None:
        yield check, lambda: None
        return
    mine, over = Turn(shared, folder), threading.Event()

    def both() -> None:
        check()
        try:
            mine.check()
        except OSError as error:
            if not objects.is_away(error):
                raise

    watch = threading.Thread(target=_watch, args=(shared, marks, over), name="cellskew-marks", daemon=True)
    try:
        with cache.using(shared, [folder]):
            objects.waiting(mine.take, say)
            watch.start()
            with _kept_if_it_fails(mine):
                yield both, mine.save
    finally:
        over.set()
        cache.make_room(shared)


@contextmanager
def _kept_if_it_fails(mine: Turn) -> Iterator[None]:
    """Put what a trial that fails leaves, its log above all, into the store: its machine may soon be gone."""
    try:
        yield
    except Exception:
        with contextlib.suppress(OSError, Overtaken):
            mine.save()
        raise


def _watch(shared: Shared, marks: tuple[Path, ...], over: threading.Event) -> None:
    while not over.wait(LOOK_EVERY):
        for path in marks:
            with contextlib.suppress(OSError):
                if shared.is_marked(path):
                    shared.here(path).parent.mkdir(parents=True, exist_ok=True)
                    shared.here(path).touch()


class Mark:
    """A file that is made and removed as a path is, and a mark in the store with it."""

    def __init__(self, path: Path, shared: Shared) -> None:
        self.path, self.shared = path, shared

    def __str__(self) -> str:
        return str(self.path)

    def touch(self) -> None:
        """Make the file now, and the mark as soon as the store answers."""
        threading.Thread(target=self._set, name="cellskew-mark", daemon=True).start()
        self.shared.here(self.path).touch()

    def unlink(self, missing_ok: bool = False) -> None:
        self.shared.here(self.path).unlink(missing_ok=missing_ok)
        objects.patiently(lambda: self.shared.mark(self.path, is_set=False))

    def _set(self) -> None:
        with contextlib.suppress(OSError):
            objects.patiently(lambda: self.shared.mark(self.path))


def mark(path: Path, shared: Shared | None) -> Path | Mark:
    """Return what is touched to ask something of workers: a file that they see, or one with a mark in the store."""
    return path if shared is None else Mark(path, shared)
