"""Sweeps from Python: what the commands do, with records and data frames in place of printed tables.

    import sweeps

    print(sweeps.plan("sweep.yaml").seconds)                      # touches nothing
    outcome = sweeps.run("sweep.yaml")                            # goes on with what an earlier call left
    trials, types = sweeps.load("mysweep")                        # a row per trial; per trial x cell type
    sweeps.results(trials[trials["skew"] != "natural"], by=["model"], metrics=["recall_tail"])
    sweeps.compare("mysweep", between="strategy", within=["model"])

Whatever is wrong with a request is a data_pipeline.errors.RequestError that lists its problems. Heavy packages are
imported when a function needs them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

    from sweeps.answers.runs.stored import Stored
    from sweeps.drive.forecast.planning import Plan
    from sweeps.drive.outcome import Outcome

__all__ = ["compare", "load", "plan", "results", "run"]
STORAGE = "cellskew-runs"
BY = ("dataset", "skew", "model", "strategy", "loss")


def run(
    sweep: str | Path,
    storage: str | Path = STORAGE,
    tracking_uri: str | None = None,
    *,
    address: str | None = None,
    max_concurrent: int | None = None,
    retry_failed: bool = False,
    from_scratch: bool = False,
    move_tracking: bool = False,
    max_failed: int | None = None,
    shared: str | None = None,
) -> "Outcome":
    """Run the sweep of a file to its end, or go on with it: what is finished stays, what is missing is trained.

    storage: folder for shards, checkpoints and results, seen by every node. tracking_uri: an MLflow server; None: that
    of earlier runs, else MLFLOW_TRACKING_URI, else a store in `storage`. address: a running Ray cluster to join; None:
    a Ray of our own. The rest as in `cellskew run --help`. Returns what became of the trials; a failed one raises
    nothing (Outcome.failed), nor does a first Ctrl-C (Outcome.stopped). Progress goes to standard error. RequestError
    before anything expensive if the sweep can't be run.
    """
    from sweeps import pace
    from sweeps.answers import sure
    from sweeps.drive.converge import Request, converge
    from sweeps.drive.progress import Progress, console
    from sweeps.file import config

    given = {"address": address, "max_concurrent": max_concurrent, "retry_failed": retry_failed}
    given |= {"from_scratch": from_scratch, "move_tracking": move_tracking, "max_failed": max_failed}
    given |= {"shared": shared}
    request, spec = Request(Path(storage).absolute(), tracking_uri, **given), config.load(sweep)
    return converge(spec, request, Progress(console(), pace.place(request.storage, spec.name)), look=sure.wanted)


def plan(sweep: str | Path, storage: str | Path = STORAGE) -> "Plan":
    """Return what a sweep would do: trials, cells per class after each skew and strategy, seconds, disk, notes.

    Touches nothing. RequestError for what can't be had.
    """
    from sweeps.drive.forecast import planning
    from sweeps.file import config

    return planning.plan(config.load(sweep, check_files=False), Path(storage))


class Frames(NamedTuple):
    """A sweep's finished trials, and its trials x cell types; `posthoc` tells adjustments after training apart.

    trials: axes, run and every metric's last value. types: axes, class, cells (natural, train, test, predicted),
    precision, recall, f1 and what so few test cells leave open of them.
    """

    trials: "pd.DataFrame"
    types: "pd.DataFrame"


def load(name: str, where: str | Path = STORAGE, all_settings: bool = False) -> Frames:
    """Return a sweep as two frames, see Frames.

    name: of a sweep, or a bundle that `cellskew export` wrote (*.zip). where: the storage folder that it was run in, or
    the URI of an MLflow server. Trials that the sweep's file had no longer when it last ran are left out, and so are
    those of a tuned model that validation cells didn't choose, unless all_settings. RequestError if there is no such
    sweep.
    """
    from sweeps.answers import frames

    runs, stored = _chosen(name, where, all_settings)
    return Frames(frames.trials(runs), frames.types(runs, stored))


def _chosen(name: str, where: str | Path, all_settings: bool = False) -> "tuple[pd.DataFrame, Stored]":
    """Return a sweep's wanted runs and what they left."""
    from sweeps.answers import bundle

    uri = str(where) if "://" in str(where) else None
    runs, stored, _ = bundle.open_sweep(name, Path(where), uri, all_settings=all_settings)
    return runs, stored


def results(
    runs: "str | pd.DataFrame",
    by: Sequence[str] = BY,
    metrics: Sequence[str] | None = None,
    where: str | Path = STORAGE,
) -> "pd.DataFrame":
    """Return mean, spread and 95 % interval of metrics for each group of finished trials.

    runs: a sweep's name, looked for in `where`, or the trials that `load` returned, or a part of them, which tell
    adjustments after training apart. metrics: None for macro_f1, balanced_accuracy and recall_tail, as far as they are
    there. Columns: see sweeps.answers.summary.summarise.
    """
    from sweeps.answers import summary
    from sweeps.answers.runs import results

    found = _runs(runs, where)
    shown = [metric for metric in results.SHOWN if metric in found] if metrics is None else metrics
    shown = [results.full_name(metric, found) for metric in shown]
    return summary.summarise(found, list(by), shown)


def compare(
    runs: "str | pd.DataFrame",
    between: str,
    within: Sequence[str] = (),
    metric: str = "macro_f1",
    *,
    against: str | None = None,
    tie: float = 0.005,
    where: str | Path = STORAGE,
) -> "pd.DataFrame":
    """Return paired differences of trials that differ in `between` alone, with intervals and corrected tests.

    runs, where: as in `results`. Columns: see sweeps.answers.comparison.compare.
    """
    from sweeps.answers import comparison
    from sweeps.answers.runs import results

    found = _runs(runs, where)
    full = results.full_name(metric, found)
    return comparison.compare(found, between, list(within), full, against, tie).table


def _runs(runs: "str | pd.DataFrame", where: str | Path) -> "pd.DataFrame":
    return _chosen(runs, where)[0] if isinstance(runs, str) else runs
