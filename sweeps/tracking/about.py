"""What MLflow's page says of a sweep as a whole: a note with the answer, its file, means of choices, a link."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from shlex import quote
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Run, RunTag, ViewType

from data_pipeline.hashes import identity_hash
from sweeps.tracking import joint
from sweeps.tracking.connection import asking, at_once, connect
from sweeps.tracking.kept.runs import SUPERSEDED
from sweeps.tracking.uris import bare, take_credentials

NOTE, LONGEST = "mlflow.note.content", 4900  # MLflow's own tag, and what it holds
OF_SERVERS = 'On this page "Duration" counts from the registration of a trial; trial_seconds is its own.'
VIEW = "cellskew"  # name of the table that `link` opens, which MLflow keeps as a tag of the experiment
SHOWN = ("mean_macro_f1", "sd_macro_f1", "splits", "test_macro_f1", "trial_seconds")  # of choices, then of trials
NAME = "attributes.`Run Name`"
ABOUT = "cellskew.about"  # experiment tag: the run with the sweep's files; it has no cellskew.trial, so no table has it

SUMMARY, PARENT = "cellskew.summary", "mlflow.parentRunId"  # tags: of a summary run, its name; of a trial's, that run
BELOW = "cellskew.summary.below"  # tag of a summary run: of which trials' runs it is the parent, hashed
PAGE = 1000


@dataclass(frozen=True)
class Summary:
    """A choice over its splits, for a run of its own above its trials' (ids in `runs`); no trial, so in no table."""

    name: str
    numbers: dict[str, float]
    tags: dict[str, str]
    runs: list[str]


@dataclass(frozen=True)
class Place:
    """Where MLflow shows a sweep. at: its table of runs; serve: what serves that here, None where a server does."""

    at: str
    serve: str | None

    def run(self, run_id: str) -> str:
        """Return where a run is shown."""
        return f"{self.at.partition('?')[0]}/{run_id}"


def describe(uri: str, sweep: str, sentences: Sequence[str], files: Mapping[str, str]) -> str:
    """Put the answer into the experiment's note, and texts by file name into a run of their own; return `link`.

    MLflow shows the first line of a note, the others when asked. RequestError if it doesn't answer.
    """
    client = connect(uri)
    said = sorted(sentences, key=lambda sentence: not sentence.startswith("answer: "))
    with asking(take_credentials(uri)):
        experiment = client.get_experiment_by_name(sweep)
        note = "\n\n".join([*said[:1], *([OF_SERVERS] if uri.startswith("http") else []), *said[1:]])
        client.set_experiment_tag(experiment.experiment_id, NOTE, note[:LONGEST])
        client.set_experiment_tag(experiment.experiment_id, f"mlflow.sharedViewState.{VIEW}", json.dumps(_view()))
        run_id = experiment.tags.get(ABOUT)
        if run_id is None:
            tags = {"cellskew.sweep": sweep, "mlflow.source.name": "cellskew"}
            run_id = client.create_run(experiment.experiment_id, run_name=f"about {sweep}", tags=tags).info.run_id
            client.set_terminated(run_id)
            client.set_experiment_tag(experiment.experiment_id, ABOUT, run_id)
        for name, text in files.items():
            client.log_text(run_id, text, name)
        return link(uri, experiment.experiment_id)


def link(uri: str, experiment_id: str) -> str:
    """Return MLflow's page with the table that `describe` left of runs; of a database, where `mlflow ui` serves it."""
    base = bare(uri) if uri.startswith("http") else "http://127.0.0.1:5000"
    return f"{base}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"


def place_of(uri: str, sweep: str) -> Place:
    """Return where MLflow shows a sweep; RequestError if it doesn't answer."""
    with asking(take_credentials(uri)):
        experiment_id = connect(uri).get_experiment_by_name(sweep).experiment_id
    serve = None if uri.startswith("http") else f"mlflow ui --backend-store-uri {quote(bare(uri))} --host 127.0.0.1"
    return Place(link(uri, experiment_id), serve)


def _view() -> dict[str, Any]:
    """Return how the table of runs is shown, in the terms of MLflow 3.17's page: the best choice first."""
    columns = [f"metrics.`{name}`" for name in SHOWN]
    search = {"searchFilter": "", "startTime": "ALL", "lifecycleFilter": "Active"}
    search |= {"orderByKey": columns[0], "orderByAsc": False}
    return search | {"selectedColumns": columns, "columnOrder": [NAME, *columns], "columnWidths": {NAME: 330}}


def summarise(uri: str, sweep: str, found: Sequence[Summary]) -> None:
    """Have a run per choice with its means, made once and renewed, that is the parent of its trials' runs.

    Those of other choices, which the sweep's file has no longer, are marked superseded and deleted, as MLflow means it:
    its page and its queries leave them out, and they are brought back with their choice.
    """
    client, place = connect(uri), take_credentials(uri)
    with asking(place), ThreadPoolExecutor(at_once(place)) as pool:
        experiment = client.get_experiment_by_name(sweep).experiment_id
        kept = _tagged(client, experiment, f"`{SUMMARY}` != ''", ViewType.ALL)
        known = {run.data.tags[SUMMARY]: run for run in sorted(kept, key=_is_shown)}
        together = joint.works(client, experiment)
        each = map if together else pool.map  # a transaction is one thread's
        for one in found:
            with joint.one_transaction(client) if together else nullcontext():
                _write(client, one, known.get(one.name) or _make(client, experiment, one), each)
        for name in known.keys() - {one.name for one in found}:
            _let_go(client, known[name])


def _make(client: MlflowClient, experiment: str, one: Summary) -> Run:
    tags = one.tags | {SUMMARY: one.name, "mlflow.source.name": "cellskew"}
    made = client.create_run(experiment, run_name=one.name, tags=tags)
    client.set_terminated(made.info.run_id)
    return made


def _write(client: MlflowClient, one: Summary, run: Run, each: Callable[..., Iterable]) -> None:
    """Renew a choice's means, and have its trials' runs, `each` told in turn, lie below it: once, not every time."""
    run_id, below, now = run.info.run_id, identity_hash(sorted(one.runs)), int(time.time() * 1000)
    if not _is_shown(run):
        client.restore_run(run_id)
    if SUPERSEDED in run.data.tags:
        client.delete_tag(run_id, SUPERSEDED)
    client.log_batch(run_id, [Metric(name, value, now, 0) for name, value in one.numbers.items()])
    if run.data.tags.get(BELOW) == below:
        return
    mine = {trial.info.run_id for trial in _tagged(client, run.info.experiment_id, f"`{PARENT}` = '{run_id}'")}
    others = [trial for trial in one.runs if trial not in mine]
    list(each(lambda trial: client.set_tag(trial, PARENT, run_id), others))
    client.set_tag(run_id, BELOW, below)


def _let_go(client: MlflowClient, run: Run) -> None:
    """Take a choice that is none of the sweep now out of sight: its means would stand in MLflow's table as current.

    Its trials may lie below another, and are told if it comes back.
    """
    if _is_shown(run):
        now = datetime.now(UTC).isoformat(timespec="seconds")
        client.log_batch(run.info.run_id, tags=[RunTag(BELOW, ""), RunTag(SUPERSEDED, now)])
        client.delete_run(run.info.run_id)


def _is_shown(run: Run) -> bool:
    return run.info.lifecycle_stage == LifecycleStage.ACTIVE


def _tagged(client: MlflowClient, experiment: str, asked: str, which: int = ViewType.ACTIVE_ONLY) -> list[Run]:
    """Return the runs with such a tag, all pages."""
    found, token = [], None
    while True:
        page = client.search_runs([experiment], f"tags.{asked}", which, max_results=PAGE, page_token=token)
        found, token = [*found, *page], page.token
        if not token:
            return found
