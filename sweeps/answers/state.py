"""`cellskew status`: how far a sweep is, from MLflow, the lock of its driver and the keys it wants."""

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from sweeps import pace, tables
from sweeps.answers.runs import looks
from sweeps.tracking import records
from sweeps.tracking.kept.runs import lacking_in
from sweeps.tracking.locks import lock

FORGOTTEN = 300.0  # seconds without a sign of life in MLflow, by both clocks, after which no driver is running


@dataclass(frozen=True)
class State:
    """counts: wanted trials by status; removed: runs of trials that the sweep's file no longer has.

    failed: key, name, reason and again (does the next run try it again?) of each; troubled: name, status and trouble of
    those that something went wrong with and that went on; lacking: name, and by file why, of finished trials without
    some of their files, which the next run makes. waiting_records: for MLflow, in the outbox; refused: runs
    whose news MLflow refused time and again, and why. unconverged: names of finished trials whose fit was stopped
    before it converged (metric `converged` is 0). barred: why nodes get no more trials of the
    driver that runs. until: of a sweep that adds splits until it is sure, how many it wants now and what it found.
    """

    name: str
    counts: dict[str, int]
    removed: int
    driver: str
    failed: pd.DataFrame
    troubled: pd.DataFrame
    lacking: list[dict[str, Any]]
    unconverged: list[str]
    seconds_left: float | None
    waiting_records: int
    refused: dict[str, str]
    barred: list[str]
    until: list[str]

    @property
    def wanted(self) -> int:
        return sum(self.counts.values())


def summary(name: str, storage: Path, runs: pd.DataFrame) -> State:
    """Return the state of a sweep from its runs, see results.fetch.

    A run that MLflow calls RUNNING without a live driver is counted as interrupted.
    """
    folder = storage / "sweeps"
    driver, alive = _driver(folder / f"{name}.lock", runs.attrs.get("driver"))
    keys, is_wanted = runs.attrs.get("keys"), runs["wanted"]
    wanted, replaced = runs[is_wanted], runs["superseded"] != ""
    counts = Counter(_word(status, alive is not False) for status in wanted["status"])
    if keys is not None:
        counts["not registered"] = len(keys - set(runs["key"]))
    left = counts["scheduled"] + counts["running"] + counts["not registered"]
    waiting, refused = records.waiting(folder / f"{name}.outbox.jsonl")
    return State(
        name=name,
        counts={word: counts[word] for word in counts if counts[word]},
        removed=int((~is_wanted & ~replaced).sum()),
        driver=driver,
        failed=_failed(wanted),
        troubled=wanted.loc[(wanted["trouble"] != "") & (wanted["status"] != "FAILED"), ["name", "status", "trouble"]],
        lacking=_lacking(wanted),
        unconverged=_unconverged(wanted),
        seconds_left=_seconds_left(name, storage, wanted, left) if alive else None,
        waiting_records=waiting,
        refused=refused,
        barred=_barred(folder / f"{name}.barred.json") if alive else [],
        until=looks.sentences(runs.attrs.get("until")),
    )


def _driver(path: Path, lease: dict[str, Any] | None) -> tuple[str, bool | None]:
    """Return who drives a sweep, in words, and whether that lives; None: that can't be told from here."""
    holder, alive = lock.read_lock(path), lock.is_live(path)
    if holder is None and lease is not None and abs(time.time() - lease["at"]) < FORGOTTEN:
        return f"driver: pid {lease['pid']} on {lease['host']}, with --storage {lease['storage']}", None
    driver = "no driver is running" if not alive else f"driver: pid {holder['pid']} on {holder['host']}"
    if alive is None:
        driver = f"driver: pid {holder['pid']} on {holder['host']} (another machine; can't be asked from here)"
    return driver, alive


def _barred(path: Path) -> list[str]:
    return json.loads(path.read_text()) if path.exists() else []


def _word(status: str, alive: bool) -> str:
    if status == "KILLED" or (status == "RUNNING" and not alive):
        return "interrupted"
    return status.lower()


def _unconverged(runs: pd.DataFrame) -> list[str]:
    if "converged" not in runs.columns:
        return []
    return runs.loc[(runs["status"] == "FINISHED") & (runs["converged"] == 0), "name"].tolist()


def _failed(runs: pd.DataFrame) -> pd.DataFrame:
    failed = runs[runs["status"] == "FAILED"]
    return failed.assign(again=failed["cause"] == "outside")[["key", "name", "reason", "again"]]


def _lacking(runs: pd.DataFrame) -> list[dict[str, Any]]:
    finished = runs[(runs["status"] == "FINISHED") & (runs["lacking"] != "")]
    return [{"name": run.name, "files": lacking_in(run.lacking)} for run in finished.itertuples(index=False)]


def _seconds_left(name: str, storage: Path, wanted: pd.DataFrame, left: int) -> float | None:
    """Return what the driver's own screen says, else what the trials that ended tell."""
    holder = lock.read_lock(storage / "sweeps" / f"{name}.lock")
    said = None if holder is None else pace.kept(pace.place(storage, name), holder["pid"])
    return _left(wanted, left) if said is None else said


def _left(wanted: pd.DataFrame, left: int) -> float | None:
    """Return about how many seconds until all is done, the trials that aren't registered yet being like the others."""
    over = wanted[wanted["status"] == "FINISHED"].dropna(subset=["ended"])
    took = over.get("trial_seconds", pd.Series(dtype=float)).dropna()
    if took.empty or not left:
        return None
    usual, over = took.mean(), over.loc[took.index]
    ends = zip(over["model"], took, over["ended"] / 1000, strict=True)
    ended = [pace.Ended(model, usual, seconds, at) for model, seconds, at in ends]
    due = wanted.loc[wanted["status"].isin(["SCHEDULED", "RUNNING"]), "model"].tolist()
    due += ["not registered"] * (left - len(due))
    return pace.seconds_left(ended, [pace.Due(model, usual) for model in due])


def show(found: State, as_json: bool) -> None:
    """Print a state."""
    if as_json:
        fields = {
            name: getattr(found, name) for name in ("name", "wanted", "counts", "removed", "driver", "unconverged")
        }
        fields |= {"seconds_left": found.seconds_left, "waiting_records": found.waiting_records}
        fields |= {"refused": found.refused, "barred": found.barred, "until": found.until}
        fields |= {name: getattr(found, name).to_dict("records") for name in ("failed", "troubled")}
        fields["lacking"] = found.lacking
        tables.print_json(fields)
        return
    out = tables.console()
    counts = ", ".join(f"{number} {word}" for word, number in found.counts.items())
    tables.headed(found.name, f": {found.wanted} trials: {counts}; {found.driver}")
    tables.say(*found.until)
    if found.seconds_left is not None:
        print(f"about {tables.hours(found.seconds_left)} left")
    if found.removed:
        print(f"{found.removed} runs beside these are of trials that the sweep's file no longer has; they stay")
    if found.waiting_records:
        print(f"{found.waiting_records} records wait on disk for MLflow; the next run delivers them")
    if found.refused:
        why = next(iter(found.refused.values()))
        print(
            f"MLflow refused the news of {len(found.refused)} trials; the next run tries again; the last answer: {why}"
        )
    for why in found.barred:
        out.print(f"a node gets no more trials: {why}", markup=False)
    _show_unconverged(found.unconverged)
    _show_trials(found, out)


def _show_trials(found: State, out: Console) -> None:
    """Print the trials that something went wrong with, ten of a kind."""
    for row in found.failed.head(10).itertuples():
        then = "the next run tries it again" if row.again else "left alone until --retry-failed"
        out.print(f"FAILED {row.name}: {then}\n       {row.reason}\n       cellskew trial {row.key[:8]}")
    for row in found.troubled.head(10).itertuples():
        out.print(f"{row.status} in spite of trouble: {row.name}\n       {row.trouble}")
    for one in found.lacking[:10]:
        for file, why in one["files"].items():
            out.print(f"FINISHED without {file}: {one['name']}: the next run makes it\n       {why}")
    left_out = sum(max(0, len(table) - 10) for table in (found.failed, found.troubled, found.lacking))
    if left_out:
        print(f"... and {left_out} more (--json lists them)")


def _show_unconverged(names: list[str]) -> None:
    if names:
        print(
            f"{len(names)} fits did not converge (metric converged = 0; the first: {names[0]}): "
            "their numbers may be below what the model can do; raise its max_iterations"
        )
