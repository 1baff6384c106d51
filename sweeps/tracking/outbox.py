"""Records on their way to MLflow: written to disk, sent in order by a thread, kept while the server is away.

What was delivered is noted behind it in the same file, so that after a crash at most the last batch is sent again:
`deliver` must not mind. None is dropped: a run whose news are refused time and again is set aside in a file of its own,
which the next process tries again.
"""

import contextlib
import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from sweeps.tracking.records import Record, Refused, clean, line_of, refused_path, taken_up
from sweeps.tracking.uris import without_secrets

MANY = 50  # records whose delivery takes seconds, so that it is said
FIRST_BATCH, BATCH = 4, 500  # records handed to `deliver` at once: at first, at most
LONG = 5.0  # seconds: after an attempt that took longer, half as many are next, so that a slow server is seen to move
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0  # seconds between attempts, doubled each time
MOST_REFUSALS = 8  # of one run's news, a minute in all, while those of others, or a probe, are taken


class Undeliverable(Exception):
    """`deliver` could not reach its destination; the same records are tried again later."""


@dataclass(frozen=True)
class Strike:
    """How often a run's news were refused in a row, why last, and when (time.monotonic()) they are tried again."""

    times: int
    why: str
    due: float


class Outbox:
    """A queue that survives the process. `put` never waits for the destination."""

    def __init__(self, path: Path, deliver: Callable[[list[Record]], Refused | None]) -> None:
        self.path, self._deliver = path, deliver
        self._queue: dict[int, Record] = dict(enumerate(taken_up(path)))  # by number, in order
        self._next_number = len(self._queue)
        self._size = FIRST_BATCH
        self._strikes: dict[str, Strike] = {}
        self.aside: Refused = {}  # runs whose news wait in the other file, and why
        self._changed = threading.Condition()
        self._closing = False
        self.trouble: str | None = None  # why the last attempt failed
        self.away_since: float | None = None  # time.monotonic() of the first failed attempt in a row
        self._torn = False  # the last line was cut off, by a full disk
        self._file = path.open("a", encoding="utf-8")
        self._thread = threading.Thread(target=self._run, name="cellskew-outbox", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Return how many records have been neither delivered nor set aside yet."""
        return len(self._queue)

    def put(self, record: Record) -> None:
        """Append a record. It is with the operating system when this returns, so a killed process loses nothing."""
        record = clean(record)
        with self._changed:
            if not self._follows_aside(record):
                number, self._next_number = self._next_number, self._next_number + 1
                self._queue[number] = record
                self._write(line_of(number, record))
                self._changed.notify_all()

    def _follows_aside(self, record: Record) -> bool:
        """Put news of a run whose earlier ones are set aside behind them; False if they aren't, or it can't be."""
        why = self.aside.get(record.get("run", ""))
        return why is not None and self._write_aside([record], why)

    def _write(self, line: str) -> None:
        try:
            self._file.write("\n" + line if self._torn else line)
            self._file.flush()
            self._torn = False
        except OSError as error:  # disk full: the record is still in memory, and in the trial's own history
            self.trouble, self._torn = f"{self.path}: {error}", True

    def drain(self, seconds: float) -> bool:
        """Wait until everything is delivered or set aside; False once nothing was for so many seconds."""
        return self._while_it_moves(lambda: not self._queue, seconds)

    def settle(self, seconds: float) -> bool:
        """Wait until everything has been tried and the rest refused at least once; False as `drain`."""
        return self._while_it_moves(
            lambda: all(record.get("run") in self._strikes for record in self._queue.values()), seconds
        )

    def _while_it_moves(self, is_done: Callable[[], bool], seconds: float) -> bool:
        """Wait until is_done; returns whether it is, and gives up once no record has left the queue for `seconds`."""
        with self._changed:
            gone = -1
            while not is_done() and self._gone() > gone:
                gone = self._gone()
                self._changed.wait_for(lambda before=gone: is_done() or self._gone() > before, timeout=seconds)
            return is_done()

    def _gone(self) -> int:
        return self._next_number - len(self._queue)

    def close(self, seconds: float) -> bool:
        """Deliver what is left, then stop; what can't be delivered in time stays on disk. Returns whether all was."""
        done = self.drain(seconds)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout=1)
        with self._changed:
            self._file.close()
        if done:
            self.path.unlink(missing_ok=True)
        return done and not self.aside

    # the thread

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._closing:
            try:
                self._attempt()
                pause = FIRST_PAUSE
            except Exception as error:  # away, or a fault of ours: said and tried again, so that the thread can't die
                self._note_failure(str(error) if isinstance(error, Undeliverable) else _described(error))
                self._wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE)

    def _attempt(self) -> None:
        batch, begin = self._next(), time.monotonic()
        try:
            refused = self._deliver(list(batch.values())) or {} if batch else {}
        finally:
            self._size = _next_size(self._size, time.monotonic() - begin)
        self.away_since, self.trouble = None, next(iter(refused.values()), None)
        self._forget(batch, refused)

    def _next(self) -> dict[int, Record]:
        """Return the oldest records that are due, waiting for some; none when closing."""
        with self._changed:
            while not self._closing:
                if batch := self._due():
                    return batch
                waits = [strike.due for strike in self._strikes.values()]
                self._changed.wait(max(0.0, min(waits) - time.monotonic()) if waits else None)
            return {}

    def _due(self) -> dict[int, Record]:
        now = time.monotonic()
        held = {run for run, strike in self._strikes.items() if strike.due > now}
        due = ((number, record) for number, record in self._queue.items() if record.get("run") not in held)
        return dict(itertools.islice(due, min(self._size, BATCH)))

    def _forget(self, batch: dict[int, Record], refused: Refused) -> None:
        """Drop what was delivered, keep what was refused for another time. A closed file is the next process's."""
        with self._changed:
            if self._file.closed:
                return
            for run in {record.get("run") for record in batch.values()} - set(refused):
                self._strikes.pop(run, None)
            left = [number for number, record in batch.items() if record.get("run") not in refused]
            for run, why in refused.items():
                left += self._strike(run, why)
            self._acknowledge(left)
            self._changed.notify_all()

    def _acknowledge(self, numbers: Collection[int]) -> None:
        """Take records off the queue, and note so in the file."""
        for number in numbers:
            del self._queue[number]
        if not self._queue:
            with contextlib.suppress(OSError):
                self._file.truncate(0)
                self._torn = False
        elif numbers:
            last = max(numbers)
            waits = list(itertools.takewhile(lambda number: number < last, self._queue))
            self._write(json.dumps({"delivered": last, "but": waits}) + "\n")

    def _strike(self, run: str, why: str) -> list[int]:
        """Note a refusal; returns the numbers of the run's records if they went into the other file."""
        times = self._strikes[run].times + 1 if run in self._strikes else 1
        if times < MOST_REFUSALS:
            due = time.monotonic() + min(FIRST_PAUSE * 2 ** (times - 1), LONGEST_PAUSE)
            self._strikes[run] = Strike(times, why, due)
            return []
        numbers = [number for number, record in self._queue.items() if record.get("run") == run]
        if not self._write_aside([self._queue[number] for number in numbers], why):
            return []
        self._strikes.pop(run, None)
        self.aside[run] = why
        return numbers

    def _write_aside(self, records: list[Record], why: str) -> bool:
        """Append records to the file of refused ones; False if that can't be written, so that they must stay here."""
        try:
            with refused_path(self.path).open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(record | {"refused": why}) + "\n" for record in records)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self.trouble = f"{refused_path(self.path)}: {error}"
            return False
        return True

    def _note_failure(self, said: str) -> None:
        self.trouble = said
        if self.away_since is None:
            self.away_since = time.monotonic()
        with self._changed, contextlib.suppress(OSError):
            if not self._file.closed:
                os.fsync(self._file.fileno())

    def _wait(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing, timeout=seconds)


def _next_size(size: int, seconds: float) -> int:
    """Return how many records an attempt has after one of `size` that took so many seconds."""
    return max(1, size // 2) if seconds > LONG else min(2 * size, BATCH) if seconds < LONG / 2 else size


def _described(error: Exception) -> str:
    return without_secrets(f"{type(error).__name__}: {error}")[:500]
