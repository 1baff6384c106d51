"""`cellskew trial`: one trial, from MLflow and from its folder: what it is, how it went, what was said."""

import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from data_pipeline.errors import RequestError
from data_pipeline.names import shown
from data_pipeline.shared.store import Shared
from data_pipeline.shared.turns import left
from sweeps import tables
from sweeps.answers.runs.stored import Stored
from sweeps.tracking.artifacts import LOGS
from sweeps.tracking.kept.database import StoredRun
from sweeps.tracking.kept.runs import SUPERSEDED, history_of, lacking_in, trials_like
from sweeps.tracking.uris import store_of, stores

SHOWN = ("test_macro_f1", "test_balanced_accuracy", "test_recall_tail", "test_accuracy")
OF_EPOCHS = ("train_loss", "val_loss", "val_accuracy", "val_macro_f1")
UNSET = ("null", "[]", "false")
MOST = 12  # epochs that are shown, the last ones; candidates that are named


@dataclass(frozen=True)
class Found:
    """A trial's run in a sweep; where MLflow is; the trial's folder, whether it is there or not."""

    run: StoredRun
    sweep: str
    store: str
    folder: Path

    @property
    def key(self) -> str:
        return self.run.tags["cellskew.trial"]


def find(asked: str, storage: Path, given_uri: str | None) -> Found:
    """Return the trial whose key begins with `asked`, or that has this name; RequestError names them if several do.

    Of its runs in several sweeps, or of one that was trained anew, the one that started last is taken.
    """
    found = [
        Found(run, sweep, store, storage / "trials" / run.tags["cellskew.trial"])
        for store in stores(storage, given_uri)
        for sweep, run in trials_like(store, asked)
    ]
    keys = {one.key: one.run.name for one in found}
    if not keys:
        raise RequestError(
            f"no trial has a key that begins with {asked!r}, or that name; `cellskew status SWEEP` prints the keys of "
            "failed trials, and the tag cellskew.trial of a run in MLflow is its trial's"
        )
    if len(keys) > 1:
        listed = "; ".join(f"{key} {name}" for key, name in sorted(keys.items())[:MOST])
        raise RequestError(f"{len(keys)} trials have a key that begins with {asked!r}: {listed}. Write more of it")
    current = [one for one in found if SUPERSEDED not in one.run.tags]
    return max(current or found, key=lambda one: one.run.started)


def log_of(found: Found, lines: int) -> list[str]:
    """Return the last lines of what was said in the trial's worker: from where its folder was left last, else from its
    run."""
    path, data = found.folder / LOGS[0], _log_elsewhere(found)
    if data is None and path.exists():
        with path.open(encoding="utf-8", errors="replace") as file:
            return [line.rstrip("\n") for line in deque(file, lines)]
    if data is None:
        data = Stored(found.store).file(found.run.run_id, found.run.artifact_uri, LOGS[0])
    return [] if data is None else data.decode("utf-8", "replace").splitlines()[-lines:]


def _log_elsewhere(found: Found) -> bytes | None:
    """Return the log that a machine which shares no folder with this one left in the store; None if there is none."""
    storage = found.folder.parents[1]
    uri = store_of(storage, found.sweep)
    if uri is not None:
        with contextlib.suppress(OSError):  # what is here tells something, too
            return left(Shared(uri, storage), found.folder, LOGS[0])
    return None


def described(found: Found, lines: int) -> dict[str, Any]:
    """Return everything that is shown of a trial, plain."""
    run = found.run
    about = {"key": found.key, "name": run.name, "sweep": found.sweep, "status": run.status, "run": run.run_id}
    about |= {"started": run.started, "ended": run.ended, "mlflow": found.store, "folder": str(found.folder)}
    about |= {name: run.tags.get(f"cellskew.{name}", "") for name in ("host", "reason", "cause", "trouble")}
    about |= {"lacking": lacking_in(run.tags.get("cellskew.lacking", "")), "config": run.params}
    about |= {"history": history_of(found.store, run.run_id, OF_EPOCHS), "metrics": run.metrics}
    return about | {"traceback": run.tags.get("cellskew.traceback", ""), "log": log_of(found, lines)}


def show(about: dict[str, Any], alone: str, as_json: bool) -> None:
    """Print what `described` returned. alone: the command that runs the trial by itself."""
    if as_json:
        tables.print_json(about)
        return
    tables.headed(about["key"], f" {about['name']}\nof sweep {about['sweep']}: {_when(about)}")
    out = tables.console()
    for title, text in _parts(about):
        out.print(f"\n{title}", style="bold")
        out.print(shown(text, lines=True), soft_wrap=True)
    if about["history"]:
        print()
        tables.draw(_epochs(about["history"]))
    out.print(f"\nalone, in this process, without touching its record: {alone}", soft_wrap=True)


def _when(about: dict[str, Any]) -> str:
    times = [datetime.fromtimestamp(about[name] / 1000, UTC) for name in ("started", "ended") if about[name]]
    said = " to ".join(f"{time:%Y-%m-%d %H:%M:%S}" for time in times)
    return f"{about['status']}, {said} UTC" + (f", on {about['host']}" if about["host"] else "")


def _parts(about: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield titles and texts of what there is to say."""
    config = (f"{name}: {value}" for name, value in sorted(about["config"].items()) if value not in UNSET)
    yield "what it is (parameters of its run that are set)", "\n".join(config)
    numbers = [f"{name} {about['metrics'][name]:.4f}" for name in SHOWN if name in about["metrics"]]
    if numbers:
        yield "numbers", ", ".join(numbers)
    for name in ("reason", "trouble"):
        if about[name]:
            yield name, about[name]
    if about["lacking"]:
        yield "lacks files", "\n".join(f"{file}: {why}" for file, why in about["lacking"].items())
    if about["traceback"]:
        yield "traceback", about["traceback"].rstrip()
    if about["log"]:
        yield f"last lines of {about['folder']}/{LOGS[0]}", "\n".join(about["log"])


def _epochs(history: dict[str, dict[int, float]]) -> pd.DataFrame:
    table = pd.DataFrame(history).sort_index().tail(MOST)
    text = table.map(lambda value: "-" if pd.isna(value) else f"{value:.4f}")
    return text.rename_axis("epoch").reset_index()


def compare(now: dict[str, Any], recorded: dict[str, float]) -> Iterator[str]:
    """Yield a line per shown metric of a trial that was run again, beside what is recorded of it."""
    for name in SHOWN:
        if name in now:
            before = f"recorded {recorded[name]:.6f}" if name in recorded else "nothing is recorded"
            yield f"{name} {now[name]:.6f}, {before}"
