"""How a launch ends early: once asked, epochs in progress are finished; asked twice, it ends at once."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Stop:
    """Whether the user, or a lost lock, asked for the end: trials in progress finish their epoch, no other starts.

    mark: a file that exists once the end was asked for, so that workers save the epoch they are in.
    """

    mark: Path
    asked: bool = False
    why: str = ""

    def ask(self, why: str) -> None:
        """Ask, keeping the first reason."""
        if not self.asked:
            self.asked, self.why = True, why
            with contextlib.suppress(OSError):  # a full disk: trials end where their next checkpoint is due
                self.mark.touch()

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


@contextmanager
def heeding_signals(stop: Stop, on_first: Callable[[], None], on_second: Callable[[], None]) -> Iterator[None]:
    """Let Ctrl-C (or SIGTERM) ask for the end after the running epochs; a second one ends the process at once."""

    def heed(number: int, frame: Any) -> None:
        if stop.asked and stop.why.startswith("stopped"):
            on_second()
            os._exit(130)
        stop.ask(f"stopped by {'Ctrl-C' if number == signal.SIGINT else 'SIGTERM'}")
        on_first()

    old = {}
    with contextlib.suppress(ValueError):  # not in the main thread: nobody to press keys
        old = {number: signal.signal(number, heed) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
