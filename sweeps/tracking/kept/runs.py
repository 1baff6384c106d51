"""The runs of a sweep: read off MLflow's database file, or asked of its server page by page."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.errors import RequestError
from sweeps.tracking.ailments import deleted
from sweeps.tracking.kept import settled, wanted
from sweeps.tracking.kept.database import (
    DeletedSweep,
    NoSuchSweep,
    StoredRun,
    as_told,
    read_params,
    read_runs,
    read_tags,
)
from sweeps.tracking.places import placed
from sweeps.tracking.uris import bare, take_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PAGE = 1000
SUPERSEDED = settled.SUPERSEDED  # tag of a run whose trial was trained anew, in another run: when
RENAMED = "cellskew.renamed"  # tag of an experiment: when tags or names of finished runs last changed, see `adopt`
LACKING = "cellskew.lacking"  # tag of a finished run: JSON, which of its files couldn't be made or uploaded, and why
KEY = "tags.`cellskew.trial`"
OURS = f"{KEY} != ''"


@dataclass(frozen=True)
class RunState:
    """A trial's run in MLflow: SCHEDULED, RUNNING, FINISHED, FAILED or KILLED (interrupted, goes on when asked)."""

    run_id: str
    key: str
    name: str
    status: str
    artifact_uri: str
    has_params: bool
    has_metrics: bool
    tags: dict[str, str]
    started: int = 0  # when its training began, else when it was registered, ms

    @property
    def declared(self) -> str:
        """What the sweep's file said of the trial, paths included; once that was its key."""
        return self.tags.get("cellskew.declared", self.key)

    @property
    def is_superseded(self) -> bool:
        return SUPERSEDED in self.tags

    @property
    def reason(self) -> str:
        return self.tags.get("cellskew.reason", "")

    @property
    def lacking(self) -> dict[str, str]:
        """Which files of a finished trial couldn't be made or uploaded, and why."""
        return lacking_in(self.tags.get(LACKING, ""))


def lacking_in(tag: str) -> dict[str, str]:
    """Return what the tag LACKING says; one that a store has cut off says so."""
    try:
        return json.loads(tag) if tag else {}
    except ValueError:
        return {"files": tag}


def runs_of(uri: str, sweep: str) -> list[StoredRun]:
    """Return every trial's run of a sweep that isn't deleted, the oldest first, read directly where that can be.

    NoSuchSweep, with the names there are, if MLflow has no such sweep; RequestError if it was deleted there, or MLflow
    doesn't answer.
    """
    try:
        stored = read_runs(uri, sweep)
        found = _asked(uri, lambda client: _ask_server(client, uri, sweep)) if stored is None else stored
        return [replace(run, artifact_uri=placed(run.artifact_uri, uri)) for run in found]
    except DeletedSweep as found:
        raise RequestError(deleted(sweep, found.args[0], uri)) from None


def tags_of(uri: str, sweep: str) -> dict[str, str]:
    """Return the tags of a sweep's experiment; RequestError if MLflow doesn't answer."""
    found = read_tags(uri, sweep)
    return _asked(uri, lambda client: client.get_experiment_by_name(sweep).tags) if found is None else found


def trials_like(uri: str, asked: str) -> list[tuple[str, StoredRun]]:
    """Return the sweep and the run of every trial whose key begins with `asked`, or that has this name."""
    is_key = re.fullmatch("[0-9a-f]{1,16}", asked) is not None
    like = re.sub(r"[^\w.-]", "_", asked)  # MLflow's queries have no way to write both kinds of quotes; _ is any letter
    wanted = f"{KEY} LIKE '{asked}%'" if is_key else f"attributes.run_name LIKE '{like}' and {OURS}"

    def ask(client: "MlflowClient") -> list[tuple[str, StoredRun]]:
        sweeps = {found.experiment_id: found.name for found in client.search_experiments()}
        runs = client.search_runs(list(sweeps), wanted, max_results=PAGE)
        found = [(sweeps[run.info.experiment_id], stored(run)) for run in runs]
        return [(sweep, run) for sweep, run in found if is_key or run.name == asked]

    return _asked(uri, ask)


def history_of(uri: str, run_id: str, metrics: Sequence[str]) -> dict[str, dict[int, float]]:
    """Return metric -> step -> value of those metrics that a run has points of."""

    def ask(client: "MlflowClient") -> dict[str, dict[int, float]]:
        points = {name: client.get_metric_history(run_id, name) for name in metrics}
        return {name: {point.step: point.value for point in listed} for name, listed in points.items() if listed}

    return _asked(uri, ask)


def params_of(uri: str, run_ids: list[str]) -> dict[str, dict[str, str]]:
    """Return all parameters of runs, by run id; RequestError if MLflow doesn't answer."""
    found = read_params(uri, run_ids)
    if found is not None:
        return found
    return _asked(uri, lambda client: {run_id: client.get_run(run_id).data.params for run_id in run_ids})


def _asked(uri: str, ask: Callable[["MlflowClient"], Any]) -> Any:
    from sweeps.tracking.connection import asking, connect

    client = connect(uri)
    with asking(take_credentials(uri)):
        return ask(client)


def _ask_server(client: "MlflowClient", uri: str, sweep: str) -> list[StoredRun]:
    experiment = client.get_experiment_by_name(sweep)
    if experiment is None:
        raise NoSuchSweep(*(found.name for found in client.search_experiments()))
    if experiment.lifecycle_stage == "deleted":
        raise DeletedSweep(experiment.experiment_id)

    def read(which: str, deleted: bool = False) -> Iterator[StoredRun]:
        return map(stored, pages(client, experiment.experiment_id, which=which, deleted=deleted))

    place = settled.place_of(bare(uri), experiment.experiment_id, experiment.creation_time)
    return settled.runs_of(place, read, wanted.read(experiment.tags), experiment.tags.get(RENAMED, ""))


def pages(
    client: "MlflowClient",
    experiment_id: str,
    ask: Callable = lambda page: page(),
    which: str = "",
    deleted: bool = False,
) -> Iterator["Run"]:
    """Yield the trials' runs of an experiment, the oldest first. ask: how a page is asked for, patiently perhaps.

    which: a filter of MLflow's; deleted: those that were deleted, and no others.
    """
    token, order, view = None, ["attributes.start_time ASC"], 2 if deleted else 1  # of mlflow.entities.ViewType
    where = f"{OURS} and {which}" if which else OURS
    while True:
        page = ask(
            lambda token=token: client.search_runs([experiment_id], where, view, PAGE, order_by=order, page_token=token)
        )
        yield from page
        token = page.token
        if not token:
            return


def stored(run: "Run") -> StoredRun:
    """Return a run as MLflow gives it in the form that the database file is read in."""
    info, data = run.info, run.data
    about = (info.run_id, info.run_name, info.status, info.start_time, info.end_time, info.artifact_uri)
    return as_told(StoredRun(*about, data.tags, data.params, data.metrics))


def state_of(run: StoredRun, uri: str, storage: Path | None = None) -> RunState:
    """Return what one needs to know of a trial's run of MLflow at `uri`; storage: where its files may have gone."""
    place = placed(run.artifact_uri, uri, storage)
    about = (run.name, run.status, place, bool(run.params), bool(run.metrics), run.tags, run.started)
    return RunState(run.run_id, run.tags["cellskew.trial"], *about)
