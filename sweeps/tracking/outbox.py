"""Records on their way to MLflow: written to disk, sent in order by a thread, kept while the server is away.

Delivery is at least once: a record may be delivered again after a crash, so `deliver` must not mind.
"""

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

Record = dict[str, Any]
BATCH = 500  # records handed to `deliver` at once
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0  # seconds between attempts, doubled each time


class Undeliverable(Exception):
    """`deliver` could not reach its destination; the same records are tried again later."""


class Outbox:
    """A queue that survives the process. `put` never waits for the destination."""

    def __init__(self, path: Path, deliver: Callable[[list[Record]], None]) -> None:
        self.path, self._deliver = path, deliver
        self._queue: deque[Record] = deque(_read(path))
        self._changed = threading.Condition()
        self._closing = False
        self.trouble: str | None = None  # why the last attempt failed
        self.away_since: float | None = None  # time.monotonic() of the first failed attempt in a row
        self._file = path.open("a", encoding="utf-8")
        self._thread = threading.Thread(target=self._run, name="cellskew-outbox", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Return how many records have not been delivered yet."""
        return len(self._queue)

    def put(self, record: Record) -> None:
        """Append a record. It is with the operating system when this returns, so a killed process loses nothing."""
        line = json.dumps(record)
        with self._changed:
            self._queue.append(record)
            try:
                self._file.write(line + "\n")
                self._file.flush()
            except OSError as error:  # disk full: the record is still in memory, and in the trial's own history
                self.trouble = f"{self.path}: {error}"
            self._changed.notify_all()

    def drain(self, seconds: float) -> bool:
        """Wait until everything is delivered; returns whether it was, within so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue, timeout=seconds)

    def close(self, seconds: float) -> bool:
        """Deliver what is left, then stop; what can't be delivered in time stays on disk. Returns whether all was."""
        done = self.drain(seconds)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout=1)
        self._file.close()
        if done:
            self.path.unlink(missing_ok=True)
        return done

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while (batch := self._next()) is not None:
            try:
                self._deliver(batch)
            except Undeliverable as error:
                self._note_failure(str(error))
                self._wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                pause, self.trouble, self.away_since = FIRST_PAUSE, None, None
                self._forget(len(batch))

    def _next(self) -> list[Record] | None:
        """Return the oldest records, waiting for some; None when closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            return None if self._closing else list(self._queue)[:BATCH]

    def _forget(self, count: int) -> None:
        with self._changed:
            for _ in range(count):
                self._queue.popleft()
            if not self._queue:
                self._file.truncate(0)
            self._changed.notify_all()

    def _note_failure(self, said: str) -> None:
        self.trouble = said
        if self.away_since is None:
            self.away_since = time.monotonic()
        with self._changed:
            os.fsync(self._file.fileno())

    def _wait(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing, timeout=seconds)


def _read(path: Path) -> list[Record]:
    """Return the records that an earlier process left; a last line cut off by its death is dropped."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        return []
    records, whole = [], 0
    data = path.read_bytes()
    for line in data.splitlines(keepends=True):
        try:
            records.append(json.loads(line))
        except ValueError:
            break
        if not line.endswith(b"\n"):
            records.pop()
            break
        whole += len(line)
    if whole < len(data):
        os.truncate(path, whole)
    return records
