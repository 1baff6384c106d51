"""MLflow, written by one process: a run per trial for life, metrics in batches, nothing lost while it is away."""

import contextlib
import getpass
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

from data_pipeline.atomic import replacing
from data_pipeline.errors import RequestError
from sweeps.file.trials import Trial
from sweeps.tracking.database import read_runs
from sweeps.tracking.joint import MOST, one_transaction
from sweeps.tracking.lock import file_lock
from sweeps.tracking.outbox import Outbox, Record, Undeliverable
from sweeps.tracking.uris import default_uri, harmless, shown_uri, take_credentials, without_secrets

for name in ("mlflow", "alembic"):
    logging.getLogger(name).setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # pages per failed write, which we try again

CONTROL = {"epoch", "epochs", "final", "replayed"}  # in a report, but no metrics
PAGE = 1000
AWAY = (408, 425, 429, 401, 403)  # HTTP codes below 500 that may pass: overloaded, or credentials being renewed


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

    @property
    def reason(self) -> str:
        return self.tags.get("cellskew.reason", "")


def create_database(path: Path) -> None:
    """Make an MLflow database and publish it by rename: MLflow can't go on with one whose making was cut short."""
    if path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with replacing(path, alone=True) as part:
        SqlAlchemyStore(f"sqlite:///{part}", str(path.parent / "artifacts")).engine.dispose()


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Turn what MLflow raises when it can't be reached into Undeliverable; what it refuses stays as it is."""
    try:
        yield
    except MlflowException as error:
        code = error.get_http_status_code()
        if code >= 500 or code in AWAY:
            raise Undeliverable(harmless(str(error), uri)) from None
        raise
    except OperationalError as error:  # a database that is locked, or away, while MLflow opens it
        raise Undeliverable(harmless(str(error.orig), uri)) from None
    except OSError as error:
        raise Undeliverable(harmless(str(error), uri)) from None


class Tracker:
    """The runs of one sweep. Everything about a started trial goes through `outbox`, in order."""

    def __init__(self, uri: str, sweep: str, storage: Path, patience: float = 60.0) -> None:
        self.uri, self.sweep, self.storage, self.patience = take_credentials(uri), sweep, storage, patience
        self.is_local = self.uri.startswith("sqlite:")
        self._known: dict[str, set[tuple[str, int]]] = {}  # points that MLflow has, of runs not over yet
        with self._creating():
            self.client = self._patiently(lambda: MlflowClient(self.uri))
            self.experiment_id = self._patiently(self._experiment)
        self.outbox = Outbox(storage / "sweeps" / f"{sweep}.outbox.jsonl", self._deliver)
        if not self.outbox.drain(patience):
            self.outbox.close(0)
            raise RequestError(self._away(f"{len(self.outbox)} records of the last run wait to be delivered"))

    @contextmanager
    def _creating(self) -> Iterator[None]:
        """Let one process at a time create the embedded database."""
        if self.uri.startswith("sqlite:"):
            with file_lock(self.storage / ".mlflow.lock"):
                if self.uri == default_uri(self.storage):
                    create_database(self.storage.absolute() / "mlflow.db")
                yield
        else:
            yield

    def _patiently(self, ask: Callable[[], Any]) -> Any:
        """Ask MLflow until it answers; RequestError when it hasn't for `patience` seconds."""
        deadline, pause = time.monotonic() + self.patience, 0.5
        while True:
            try:
                with reaching(self.uri):
                    return ask()
            except Undeliverable as error:
                if time.monotonic() + pause > deadline:
                    raise RequestError(self._away(str(error))) from error
                time.sleep(pause)
                pause = min(pause * 2, 5.0)

    def _away(self, why: str) -> str:
        return (
            f"MLflow at {shown_uri(self.uri)} doesn't answer: {why}. Start it, or choose another with --tracking-uri "
            "(leave that out for the embedded store)."
        )

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.sweep)
        if found is not None and found.lifecycle_stage == "deleted":
            raise RequestError(
                f"the MLflow experiment {self.sweep!r} was deleted; bring it back with `mlflow experiments restore "
                f"--experiment-id {found.experiment_id}`, or give the sweep another name"
            )
        if found is not None:
            return found.experiment_id
        is_embedded = self.uri == default_uri(self.storage)
        place = str(self.storage.absolute() / "artifacts" / self.sweep) if is_embedded else None
        try:
            return self.client.create_experiment(self.sweep, artifact_location=place)
        except MlflowException as error:  # another driver was first
            found = self.client.get_experiment_by_name(self.sweep)
            if found is None:
                raise error
            return found.experiment_id

    # registration

    def runs(self) -> dict[str, RunState]:
        """Return the run of every trial ever registered in this sweep, by trial key; duplicates are deleted."""
        found: dict[str, RunState] = {}
        for state in self._all_runs():
            rival = found.get(state.key)
            if rival is None or (state.status == "FINISHED" and rival.status != "FINISHED"):
                found[state.key] = state
            if rival is not None:
                self.client.delete_run((rival if found[state.key] is state else state).run_id)
        return found

    def _all_runs(self) -> Iterator[RunState]:
        """Yield the runs of this sweep, the oldest first."""
        stored = read_runs(self.uri, self.sweep)
        if stored is not None:
            for run in stored:
                has = bool(run.params), bool(run.metrics)
                key = run.tags["cellskew.trial"]
                yield RunState(run.run_id, key, run.name, run.status, run.artifact_uri, *has, run.tags)
            return
        token, order, ours = None, ["attributes.start_time ASC"], "tags.`cellskew.trial` != ''"
        while True:
            page = self._patiently(lambda token=token: self._page(ours, order, token))
            yield from map(state_of, page)
            token = page.token
            if not token:
                return

    def _page(self, which: str, order: list[str], token: str | None) -> Any:
        return self.client.search_runs([self.experiment_id], which, max_results=PAGE, order_by=order, page_token=token)

    def register(
        self, trials: list[Trial], known: dict[str, RunState], progress: Callable[[int, int], None]
    ) -> dict[str, RunState]:
        """Return the run of every trial, by key; those not `known` (see `runs`) are made, as SCHEDULED.

        progress(done, all): called now and then.
        """
        known = dict(known)
        missing = [trial for trial in trials if trial.key not in known]
        common = {"mlflow.source.name": "cellskew", "mlflow.user": getpass.getuser(), "cellskew.sweep": self.sweep}
        size = MOST if self.is_local else 1
        for start in range(0, len(missing), size):
            for run in self._create(missing[start : start + size], common):
                known[run.key] = run
            progress(min(start + size, len(missing)), len(missing))
        return {trial.key: known[trial.key] for trial in trials}

    def _create(self, trials: list[Trial], common: dict[str, str]) -> list[RunState]:
        """Make runs; those of an attempt whose answer got lost are found again, not repeated."""
        attempts: list[int] = []

        def create() -> list[RunState]:
            attempts.append(1)
            with one_transaction(self.client) if self.is_local else contextlib.nullcontext():
                return [self._create_one(trial, common, is_first=len(attempts) == 1) for trial in trials]

        return self._patiently(create)

    def _create_one(self, trial: Trial, common: dict[str, str], is_first: bool) -> RunState:
        tags = trial.tags() | common
        found = [] if is_first else self._page(f"tags.`cellskew.trial` = '{trial.key}'", [], None)
        run = found[0] if found else self.client.create_run(self.experiment_id, run_name=trial.name, tags=tags)
        run_id = run.info.run_id
        self.client.log_batch(run_id, params=[Param(*pair) for pair in _params(trial).items()])
        self.client.update_run(run_id, status="SCHEDULED")
        self._known[run_id] = set()
        return RunState(run_id, trial.key, trial.name, "SCHEDULED", run.info.artifact_uri, True, False, tags)

    def reschedule(self, run: RunState, trial: Trial) -> None:
        """Put an unfinished run back in the queue of trials to come, whatever became of it before."""
        if not run.has_metrics:
            self._known.setdefault(run.run_id, set())
        if run.status != "SCHEDULED" or not run.has_params:
            tags = {name: "" for name in ("cellskew.reason", "cellskew.cause") if run.tags.get(name)}
            self._put(run.run_id, status="SCHEDULED", params=_params(trial), tags=tags)

    # what happens to a trial

    def start(self, run_id: str, tags: dict[str, str], data: dict[str, str] | None = None) -> None:
        """Note that a trial runs now; tags and data (name, digest and source of its dataset) say on what."""
        self._put(run_id, status="RUNNING", tags=tags, **({} if data is None else {"data": data}))

    def note(self, run_id: str, trouble: str) -> None:
        """Note something that went wrong with a trial which goes on; the last such note stays, however it ends."""
        self._put(run_id, tags={"cellskew.trouble": without_secrets(trouble)[:4000]})

    def report(self, run_id: str, metrics: dict[str, Any]) -> None:
        """Log the numbers of one epoch, or the final ones; points that MLflow has already are not sent again."""
        points = {
            key: float(value)
            for key, value in metrics.items()
            if key not in CONTROL and isinstance(value, int | float) and not isinstance(value, bool)
        }
        self._put(run_id, metrics=points, step=int(metrics.get("epoch", 0)))

    def finish(self, run_id: str, status: str, tags: dict[str, str]) -> None:
        """End a run as FINISHED, FAILED or KILLED (interrupted); tags say why and where."""
        self._put(run_id, status=status, tags={name: without_secrets(value)[:4000] for name, value in tags.items()})

    def _put(self, run_id: str, **what: Any) -> None:
        self.outbox.put({"run": run_id, "time": int(time.time() * 1000), **what})

    def close(self, seconds: float = 120.0) -> bool:
        """Deliver what is left; returns whether all of it arrived (the rest stays on disk for the next run)."""
        return self.outbox.close(seconds)

    # delivery, in the outbox's thread

    def _deliver(self, records: list[Record]) -> None:
        by_run: dict[str, list[Record]] = {}
        for record in records:
            by_run.setdefault(record["run"], []).append(record)
        if self.is_local and len(by_run) > 1 and self._deliver_together(by_run):
            return
        for run_id, listed in by_run.items():
            try:
                with reaching(self.uri):
                    self._deliver_run(run_id, listed)
            except MlflowException as error:
                said = without_secrets(error.message)
                logging.getLogger("cellskew").warning("MLflow refuses news of run %s: %s", run_id, said)

    def _deliver_together(self, by_run: dict[str, list[Record]]) -> bool:
        """Send the news of many runs in one transaction; False if one of them spoilt it and nothing was sent."""
        try:
            with one_transaction(self.client):
                for run_id, records in by_run.items():
                    self._deliver_run(run_id, records)
        except MlflowException:
            for run_id in by_run:
                self._known.pop(run_id, None)  # what MLflow has must be asked anew
            return False
        return True

    def _deliver_run(self, run_id: str, records: list[Record]) -> None:
        """Send all news of one run: its new points, params and tags in one call, then its last status."""
        points = self._new_points(run_id, records)
        tags = {name: value for record in records for name, value in record.get("tags", {}).items()}
        params = {name: value for record in records for name, value in record.get("params", {}).items()}
        if points or tags or params:
            self.client.log_batch(
                run_id,
                metrics=[Metric(key, value, at, step) for (key, step), (value, at) in points.items()],
                params=[Param(name, value) for name, value in params.items()],
                tags=[RunTag(name, value) for name, value in tags.items()],
            )
            self._known[run_id].update(points)
        if data := [record["data"] for record in records if "data" in record]:
            self.client.log_inputs(run_id, datasets=[_dataset_input(data[-1])])
        last = [record for record in records if "status" in record][-1:]
        for record in last:
            if record["status"] in ("FINISHED", "FAILED", "KILLED"):
                self.client.set_terminated(run_id, record["status"], record["time"])
                del self._known[run_id]
            else:
                self.client.update_run(run_id, status=record["status"])

    def _new_points(self, run_id: str, records: list[Record]) -> dict[tuple[str, int], tuple[float, int]]:
        if run_id not in self._known:
            self._known[run_id] = self._points_of(run_id)
        points: dict[tuple[str, int], tuple[float, int]] = {}
        for record in records:
            for key, value in record.get("metrics", {}).items():
                point = (key, record["step"])
                if point not in self._known[run_id]:
                    points.setdefault(point, (value, record["time"]))
        return points

    def _points_of(self, run_id: str) -> set[tuple[str, int]]:
        metrics = self.client.get_run(run_id).data.metrics
        return {(key, point.step) for key in metrics for point in self.client.get_metric_history(run_id, key)}


def state_of(run: Run) -> RunState:
    """Return what we need of a trial's run as MLflow gives it."""
    info, data = run.info, run.data
    has = bool(data.params), bool(data.metrics)
    return RunState(
        info.run_id, data.tags["cellskew.trial"], info.run_name, info.status, info.artifact_uri, *has, data.tags
    )


def _dataset_input(data: dict[str, str]) -> DatasetInput:
    """Return the data a trial was trained on, as MLflow traces data; it keeps 36 characters of a digest."""
    source = json.dumps({"files": data["source"]})
    dataset = Dataset(name=data["name"], digest=data["digest"][:36], source_type="local", source=source)
    return DatasetInput(dataset=dataset, tags=[InputTag("mlflow.data.context", "training")])


def _params(trial: Trial) -> dict[str, str]:
    return {name: value[:6000] for name, value in trial.params().items()}


def store_artifacts(files: list[Path], folder: Path | None, artifact_uri: str, tracking_uri: str | None) -> None:
    """Put files, and a folder under its name, into a run's artifact store; called by workers."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    store = get_artifact_repository(artifact_uri, tracking_uri=tracking_uri)
    for file in files:
        store.log_artifact(str(file))
    if folder is not None:
        store.log_artifacts(str(folder), folder.name)
