"""What a person sees while a sweep runs: a live picture on a terminal, a plain line every ten seconds elsewhere."""

import fcntl
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import compress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from data_pipeline.names import shown
from sweeps import pace, tables
from sweeps.file.trials import SEPARATOR, Trial

METRIC = "test_macro_f1"
INTERVAL = 10.0  # seconds between plain lines
KEEP_EVERY = 2.0
SHOWN = 8  # running trials
ECHO = 5  # columns left free: a terminal writes ^C behind the picture, which must not go on in another line
COMMAND = re.compile(r"\b(cellskew|mlflow) [a-z]")  # to be copied, so never broken


class Progress:
    """Counts trials done, running and failed, guesses the time left, remembers the best; a request.Screen.

    keep: a file that holds the guess while trials run, for `cellskew status`, and what taught it, for the next driver.
    Ends with `with`, or `end`. Steps may be counted by many threads.
    """

    def __init__(self, console: Console, keep: Path | None = None) -> None:
        self.console, self.keep, self.kept = console, keep, 0.0
        self.steps: dict[str, tuple[int, int]] = {}  # that have begun: how many are done, of how many
        self.names: dict[str, str] = {}
        self.short: dict[str, str] = {}  # what tells them apart
        self.kinds: dict[str, str] = {}  # key -> model's label
        self.costs: dict[str, float] = {}
        self.done: dict[str, str] = {}  # key -> finished | failed | interrupted
        self.running: dict[str, str] = {}
        self.share: dict[str, float] = {}  # of a trial's epochs that are over
        self.starts: dict[str, float] = {}
        self.ended: list[pace.Ended] = []
        self.taught = [] if keep is None else pace.taught(keep)  # by trials that ended before
        self.best: tuple[float, str] | None = None
        self.before, self.cores, self.printed = 0, 0.0, 0.0
        self.began = time.monotonic()
        self.live: Live | None = None
        self.drawing = threading.RLock()  # a second Ctrl-C ends the picture wherever the first thread is
        self.outbox: Callable[[], Any] | None = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *raised: object) -> None:
        self.end()

    def say(self, text: str) -> None:
        """Print a line, above the live picture if there is one; on a terminal broken between words, commands never."""
        for line in text.split("\n") if self.console.is_terminal else [text]:
            whole = not self.console.is_terminal or COMMAND.search(line) or not line.strip()
            said = (
                line
                if whole
                else tables.wrapped(line, self.console.width, first=" " * (len(line) - len(line.lstrip())))
            )
            self.console.print(said, highlight=False, markup=False)

    def count(self, what: str, done: int, total: int) -> None:
        """Tell how far a step has come: in the picture, elsewhere rarely, and at its end."""
        if self.console.is_terminal:
            self.steps[what] = done, total
            if done == total:
                self.passed(what)
            self._draw()
            return
        now = time.monotonic()
        if done == total or now - self.printed > INTERVAL:
            self.printed = now
            self.say(f"{what}: {done} of {total}")

    def passed(self, what: str) -> None:
        """Take a step out of the picture, of whose end nothing is said."""
        self.steps.pop(what, None)

    def begin(
        self, trials: list[Trial], finished: int, costs: dict[str, float], cores: float, trouble: Callable[[], Any]
    ) -> None:
        """Start showing `trials` and no others.

        costs: seconds that each is expected to take of a CPU core; cores: how many there are, 0 where GPUs train.
        """
        self.end()  # an earlier round's
        self.done, self.running, self.share = {}, {}, {}
        self.names = {trial.key: trial.name for trial in trials}
        self.short = _told_apart(self.names)
        self.kinds = {trial.key: trial.called for trial in trials}
        self.costs = {trial.key: costs[trial.key] for trial in trials}
        self.before, self.cores, self.outbox = finished, cores, trouble
        self.began = self.printed = time.monotonic()
        if self.console.is_terminal:
            self._draw()

    def event(self, what: str, key: str, numbers: dict[str, Any]) -> None:
        """Take in news of a trial."""
        if what == "started":
            self.running[key] = ""
            self.starts[key] = time.monotonic()
        elif what == "epoch":
            self.running[key] = f"round {numbers.get('epoch', '?')}/{numbers.get('epochs', '?')}"
            self.share[key] = numbers.get("epoch", 0) / max(numbers.get("epochs", 1), 1)
        elif what == "trouble":
            self.say(f"goes on in spite of: {self.names[key]}: {numbers['reason'][:300]}")
        else:
            self._over(what, key, numbers)
        self._told()

    def _told(self) -> None:
        """Print or keep how far it is, if that was long ago."""
        now = time.monotonic()
        if self.keep is not None and now - self.kept > KEEP_EVERY:
            self.kept = now
            pace.keep(self.keep, self._seconds_left(), self.taught + self.ended)
        if not self.console.is_terminal and now - self.printed > INTERVAL:
            self.printed = now
            self.say(self.line())

    def end(self) -> None:
        """Stop showing."""
        self.steps, self.names = {}, {}
        with self.drawing:
            if self.live is not None:
                self.live.stop()
                self.live = None
        if self.keep is not None and (self.kept or self.taught):
            pace.keep(self.keep, None, self.taught + self.ended)

    def _draw(self) -> None:
        with self.drawing:
            if self.live is None:
                self.live = Live(
                    get_renderable=self._picture, console=self.console, refresh_per_second=2, transient=True
                )
                self.live.start()

    def _over(self, what: str, key: str, numbers: dict[str, Any]) -> None:
        self.running.pop(key, None)
        self.done[key] = what
        if what == "finished" and key in self.starts:
            now = time.monotonic()
            self.ended.append(pace.Ended(self.kinds[key], self.costs[key], now - self.starts[key], now))
        self.share[key] = 1.0
        score = numbers.get(METRIC)
        if score is not None and (self.best is None or score > self.best[0]):
            self.best = (score, self.names[key] if not self.console.is_terminal else self.short[key])
        if what == "failed":
            self.say(f"FAILED {self.names[key]}: {numbers['reason'].splitlines()[0][:300]}")

    def line(self) -> str:
        """Return the state in one line."""
        return " · ".join(self._counts() + self._best() + self._trouble())

    def _counts(self) -> list[str]:
        over = list(self.done.values())
        seconds = self._seconds_left()
        return [
            f"{self.before + over.count('finished')} of {self.before + len(self.names)} done",
            f"{len(self.running)} running",
            f"{over.count('failed')} failed",
            f"elapsed {_clock(time.monotonic() - self.began)}",
            f"left {'?' if seconds is None else f'about {_clock(seconds)}'}"
            if len(over) < len(self.names)
            else "ending",
        ]

    def _best(self) -> list[str]:
        name = METRIC.removeprefix("test_")
        return [] if self.best is None else [f"best {name} on test cells {self.best[0]:.3f}: {self.best[1]}"]

    def _trouble(self) -> list[str]:
        outbox = None if self.outbox is None else self.outbox()
        if outbox is None or outbox.away_since is None:
            return []
        away = _clock(time.monotonic() - outbox.away_since)
        return [f"MLflow away for {away}, {len(outbox)} records kept on disk"]

    def _seconds_left(self) -> float | None:
        due = [
            pace.Due(self.kinds[key], cost * (1.0 - self.share.get(key, 0.0)))
            for key, cost in self.costs.items()
            if key not in self.done
        ]
        return pace.seconds_left(self.ended, due, self.cores, self.taught)

    def _picture(self) -> Table:
        table = Table.grid()
        table.width = self.console.width - ECHO
        if self.names:
            total = sum(self.costs.values())
            done = sum(self.costs[key] * share for key, share in list(self.share.items()))
            table.add_row(ProgressBar(total=max(total, 1e-9), completed=done))
            table.add_row(_cut(" · ".join(self._counts())))
            for said in self._best() + self._trouble():
                table.add_row(_cut(said))
        for what, (done, total) in list(self.steps.items()):
            table.add_row(
                _cut(
                    f"{what}: {done} of {total}"
                    + ("" if self.names else f" · elapsed {_clock(time.monotonic() - self.began)}")
                )
            )
        for key in list(self.running)[:SHOWN]:
            table.add_row(_cut(f"  {self.short[key]}  {self.running[key]}", "dim"))
        return table


def _told_apart(names: dict[str, str]) -> dict[str, str]:
    """Return names without the parts that all have in common."""
    parts = {key: name.split(SEPARATOR) for key, name in names.items()}
    if len({len(one) for one in parts.values()}) != 1:
        return names
    differ = [len(set(column)) > 1 for column in zip(*parts.values(), strict=True)]
    return {key: SEPARATOR.join(compress(one, differ)) or names[key] for key, one in parts.items()}


def _cut(said: str, style: str = "") -> Text:
    """Return a line that ends where the terminal does."""
    return Text(shown(said), style=style, overflow="ellipsis", no_wrap=True)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


@contextmanager
def apart(log: Path) -> Iterator[None]:
    """Leave standard error to Python while it lasts; what native code writes there (Ray's core, of its actors) goes
    into a log, as it would into the live picture.

    A log that another process writes to goes on: a driver that is about to be refused takes nothing from it.
    """
    before, screen, native, is_ours = sys.stderr, None, os.dup(2), False
    try:
        with suppress(OSError):  # no file, or none can be written: whoever needs one says so
            screen = os.fdopen(os.dup(before.fileno()), "w", 1, before.encoding, before.errors)
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as file:
                before.flush()
                os.dup2(file.fileno(), 2)
            sys.stderr = screen
            fcntl.flock(2, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = True
            os.ftruncate(2, 0)
        yield
    finally:
        sys.stderr = before
        with suppress(OSError):
            if is_ours and not os.fstat(2).st_size:
                log.unlink()
        os.dup2(native, 2)
        os.close(native)
        if screen is not None:
            screen.close()


def console() -> Console:
    """Return where progress goes: standard error, so that tables on standard output can be piped."""
    return Console(stderr=True, soft_wrap=True)
