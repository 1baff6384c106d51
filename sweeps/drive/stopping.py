"""How a launch ends early: asked once, what runs comes to a safe point; asked twice, it ends at once."""

import contextlib
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from data_pipeline.shared.store import Shared
from data_pipeline.shared.turns import Mark, mark

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal asked for the end where whatever is being done can be dropped: the next run does it again."""


@dataclass
class Stop:
    """Whether the user, or a lost lock, asked for the end: trials in progress finish their round, no other starts.

    mark: a file that exists once the end was asked for, so that workers save the round they are in. longest: seconds
    of the longest round so far. waits: whether what is being done now comes to a safe point of its own.
    """

    mark: Path | Mark
    asked: bool = False
    why: str = ""
    longest: float | None = None
    waits: bool = False

    @classmethod
    def of(cls, sweep: str, storage: Path, shared: Shared | None) -> "Stop":
        """Return that of one launch of a sweep; shared: where workers see it without a shared folder.

        No other launch has its name: nodes keep marks of before, which must not end what runs now.
        """
        return cls(mark(storage / "sweeps" / f"{sweep}.stop-{uuid.uuid4().hex[:12]}", shared))

    def ask(self, why: str) -> None:
        """Ask, keeping the first reason."""
        if not self.asked:
            self.asked, self.why = True, why
            with contextlib.suppress(OSError):  # a full disk: trials end where their next checkpoint is due
                self.mark.touch()

    def took(self, seconds: float) -> None:
        """Note how long a round took."""
        self.longest = max(self.longest or 0.0, seconds)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let a first signal ask alone while it lasts: what is done now must come to its own end."""
        self.waits = True
        try:
            yield
        finally:
            self.waits = False

    @contextmanager
    def unmarked(self) -> Iterator[None]:
        """Have no mark before and after, whatever a process that died left."""
        self.mark.unlink(missing_ok=True)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                self.mark.unlink(missing_ok=True)


@contextmanager
def one_signal() -> Iterator[None]:
    """Let SIGTERM be as Ctrl-C while it lasts: a KeyboardInterrupt, where nobody heeds it otherwise."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    old = None
    with contextlib.suppress(ValueError):  # not in the main thread
        old = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        if old is not None:
            signal.signal(signal.SIGTERM, old)


class Signals:
    """Lets Ctrl-C or SIGTERM ask for the end while `with` lasts; a second one ends the process at once.

    clear: leaves the terminal as the next command wants it.
    """

    def __init__(self, stop: Stop, say: Callable[[str], None], clear: Callable[[], None] = lambda: None) -> None:
        self.stop, self.say, self.clear = stop, say, clear
        self.heard = 0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        with contextlib.suppress(ValueError):  # not in the main thread: nobody to press keys
            self._old = {number: signal.signal(number, self._heed) for number in SIGNALS}
        return self

    def __exit__(self, *raised: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _heed(self, number: int, frame: Any) -> None:
        self.heard += 1
        if self.heard > 1:
            self.clear()
            self.say("stopped at once; run the same command again to go on from the last checkpoints")
            os._exit(130)
        self.stop.ask(f"stopped by {'Ctrl-C' if number == signal.SIGINT else 'SIGTERM'}")
        self.say(f"stopping: {self._how_long()}; press Ctrl-C again to stop at once")
        if not self.stop.waits:
            raise Interrupted

    def _how_long(self) -> str:
        if not self.stop.waits:
            return "what isn't whole yet is left to the next run; within seconds"
        known = self.stop.longest
        took = "none has ended yet, so it can't be said how long that takes"
        if known is not None:
            took = f"up to {timedelta(seconds=max(1, round(known)))}, the longest round so far"
        return f"running trials finish and save their round ({took})"
