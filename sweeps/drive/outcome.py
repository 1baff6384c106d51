"""How a run of a sweep ended, and what to type next."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from sweeps.file.trials import Trial
from sweeps.tracking.uris import bare


@dataclass
class Outcome:
    """What became of a sweep's wanted trials, by key: finished before, finished now, failed, interrupted."""

    wanted: int
    before: int = 0
    finished: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    lacking: dict[str, dict[str, str]] = field(default_factory=dict)  # of finished ones: files not made, and why
    interrupted: int = 0
    undelivered: int = 0
    refused: dict[str, str] = field(default_factory=dict)  # runs whose news MLflow refused time and again, and why
    stopped: str = ""
    is_open: bool = False  # more splits may be wanted: the look that tells is yet to come
    has_begun: bool = True  # False: stopped before this launch wrote anything down
    seconds: float = 0.0
    left: str | None = None  # what the trials that are not over will take
    given: dict[str, tuple[float, float]] = field(default_factory=dict)  # GPUs, CPUs: on average, of how many
    compared: str | None = "strategy"  # what `compare` is asked about first, see `first_compared`

    def in_short(self) -> str:
        """Return the end in one line."""
        done = f"{self.before + self.finished} of {self.wanted} trials finished"
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"{done}{failed}" + (f"; {self.stopped}" if self.stopped else "")

    @property
    def used(self) -> str:
        """How many GPUs and CPUs trials had, in words."""
        return " and ".join(f"{given:.1f} of {had:.3g} {name}s" for name, (given, had) in self.given.items())

    @property
    def is_broken(self) -> bool:
        """Whether the machinery, and nobody's wish, ended it: the same command goes on."""
        return self.stopped.startswith("Ray ") and not self.is_complete

    @property
    def is_complete(self) -> bool:
        is_there = not (self.undelivered or self.refused or self._lacks_tables or self.is_open)
        return self.before + self.finished == self.wanted and is_there

    @property
    def _lacks_tables(self) -> bool:
        """Whether tables that answers rest on, and not pictures alone, wait to be made or uploaded."""
        names = {name for files in self.lacking.values() for name in files}
        return any(name == "upload" or name.endswith((".csv", ".parquet")) for name in names)


def first_compared(trials: list[Trial]) -> str | None:
    """Return the first axis in which a sweep's trials differ, what it is about before what it is tried on; or None."""
    axes = ("strategy", "loss", "model", "skew", "dataset")
    return next((axis for axis in axes if len({trial.labels[axis] for trial in trials}) > 1), None)


def tell(name: str, storage: Path, uri: str | None, store: str, found: Outcome, say: Callable[[str], None]) -> None:
    """Say how a run ended and what to type next."""
    where = "" if storage == Path("cellskew-runs") else f" --storage {quote(str(storage))}"
    where += "" if uri is None else f" --tracking-uri {quote(bare(uri))}"
    done = found.before + found.finished
    say(f"\n{done} of {found.wanted} trials finished ({found.finished} now, in {found.seconds:.0f} s)")
    if found.given:
        say(f"trials had {found.used}, on average")
    if found.left is not None:
        say(found.left)
    if found.failed:
        say(f"{len(found.failed)} failed; the first: {next(iter(found.failed.values())).splitlines()[0][:300]}")
        say(f"  reasons: cellskew status {name}{where}   again: cellskew resume {name} --retry-failed{where}")
    if found.lacking:
        file, why = next(iter(next(iter(found.lacking.values())).items()))
        say(f"{len(found.lacking)} finished trials lack files, their numbers are good; the first: {file}: {why[:200]}")
        say(f"  made later, without training: cellskew resume {name}{where}")
    if found.stopped and not found.is_complete:
        again = f"cellskew resume {name}{where}"
        mended = "--max-failed" in found.stopped
        say(f"{found.stopped}; " + (f"mend it, then: {again} --retry-failed" if mended else f"go on: {again}"))
    elif done + len(found.failed) < found.wanted:
        say(f"Ray ended before the others had: a node was lost; go on: cellskew resume {name}{where}")
    if found.undelivered:
        say(f"MLflow did not answer: {found.undelivered} records wait in {storage}/sweeps; the next run delivers them")
    if found.refused:
        why = next(iter(found.refused.values()))
        say(f"MLflow refused the news of {len(found.refused)} trials time and again; the last answer: {why}")
        say(f"  they are kept in {storage}/sweeps/{name}.refused.jsonl, and the next run delivers them")
    _say_more(name, where, found, say)
    if store.startswith("sqlite"):
        say(f"MLflow: mlflow ui --backend-store-uri {quote(store)} --host 127.0.0.1")


def _say_more(name: str, where: str, found: Outcome, say: Callable[[str], None]) -> None:
    say(f"more:   cellskew results {name} --by model,strategy{where}")
    if found.compared is not None:
        within = "" if found.compared == "model" else " --within model"
        say(f"        cellskew compare {name} --between {found.compared}{within}{where}")
    say(f"        cellskew report {name} -o {name}.html{where}")
