"""What a person sees while a sweep runs: a live line on a terminal, a plain one every ten seconds elsewhere."""

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweeps import pace
from sweeps.file.trials import Trial

METRIC = "test_macro_f1"
INTERVAL = 10.0  # seconds between plain lines


class Progress:
    """Counts trials done, running and failed, guesses the time left, remembers the best; a request.Screen."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.names: dict[str, str] = {}
        self.kinds: dict[str, str] = {}  # key -> model's label
        self.costs: dict[str, float] = {}
        self.done: dict[str, str] = {}  # key -> finished | failed | interrupted
        self.running: dict[str, str] = {}
        self.share: dict[str, float] = {}  # of a trial's epochs that are over
        self.starts: dict[str, float] = {}
        self.ended: list[pace.Ended] = []
        self.best: tuple[float, str] | None = None
        self.before, self.began, self.printed = 0, 0.0, 0.0
        self.live: Live | None = None
        self.outbox: Callable[[], Any] | None = None

    def say(self, text: str) -> None:
        """Print a line, above the live display if there is one."""
        self.console.print(text, highlight=False, markup=False)

    def count(self, what: str, done: int, total: int) -> None:
        """Tell how far a step has come: rarely, and at its end."""
        now = time.monotonic()
        if done == total or now - self.printed > INTERVAL:
            self.printed = now
            self.say(f"{what}: {done} of {total}")

    def begin(self, trials: list[Trial], finished: int, costs: dict[str, float], trouble: Callable[[], Any]) -> None:
        """Start showing `trials` and no others; `costs`: seconds each is expected to take."""
        self.end()  # an earlier round's
        self.done, self.running, self.share = {}, {}, {}
        self.names = {trial.key: trial.name for trial in trials}
        self.kinds = {trial.key: trial.called for trial in trials}
        self.costs = {trial.key: costs[trial.key] for trial in trials}
        self.before, self.outbox = finished, trouble
        self.began = self.printed = time.monotonic()
        if self.console.is_terminal:
            self.live = Live(get_renderable=self._picture, console=self.console, refresh_per_second=2, transient=True)
            self.live.start()

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
        if self.live is None and time.monotonic() - self.printed > INTERVAL:
            self.printed = time.monotonic()
            self.say(self.line())

    def end(self) -> None:
        """Stop showing."""
        if self.live is not None:
            self.live.stop()
            self.live = None

    def _over(self, what: str, key: str, numbers: dict[str, Any]) -> None:
        self.running.pop(key, None)
        self.done[key] = what
        if what == "finished" and key in self.starts:
            now = time.monotonic()
            self.ended.append(pace.Ended(self.kinds[key], self.costs[key], now - self.starts[key], now))
        self.share[key] = 1.0
        score = numbers.get(METRIC)
        if score is not None and (self.best is None or score > self.best[0]):
            self.best = (score, self.names[key])
        if what == "failed":
            self.say(f"FAILED {self.names[key]}: {numbers['reason'].splitlines()[0][:300]}")

    def line(self) -> str:
        """Return the state in one line."""
        over = list(self.done.values())
        failed = over.count("failed")
        parts = [
            f"{self.before + over.count('finished')} of {self.before + len(self.names)} done",
            f"{len(self.running)} running",
            f"{failed} failed",
            f"elapsed {_clock(time.monotonic() - self.began)}",
            f"left {self._left()}",
        ]
        if self.best is not None:
            parts.append(f"best {METRIC.removeprefix('test_')} {self.best[0]:.3f} ({self.best[1]})")
        return " · ".join(parts + self._trouble())

    def _trouble(self) -> list[str]:
        outbox = None if self.outbox is None else self.outbox()
        if outbox is None or outbox.away_since is None:
            return []
        away = _clock(time.monotonic() - outbox.away_since)
        return [f"MLflow away for {away}, {len(outbox)} records kept on disk"]

    def _left(self) -> str:
        due = [
            pace.Due(self.kinds[key], cost * (1.0 - self.share.get(key, 0.0)))
            for key, cost in self.costs.items()
            if key not in self.done
        ]
        seconds = pace.seconds_left(self.ended, due)
        return "?" if seconds is None else _clock(seconds)

    def _picture(self) -> Table:
        total, done = sum(self.costs.values()), sum(self.costs[key] * share for key, share in self.share.items())
        table = Table.grid(expand=True)
        table.add_row(ProgressBar(total=max(total, 1e-9), completed=done))
        table.add_row(Text(self.line(), overflow="ellipsis"))
        for key in list(self.running)[:8]:
            table.add_row(Text(f"  {self.names[key]}  {self.running[key]}", style="dim", overflow="ellipsis"))
        return table


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def console() -> Console:
    """Return where progress goes: standard error, so that tables on standard output can be piped."""
    return Console(file=sys.stderr, soft_wrap=True)
