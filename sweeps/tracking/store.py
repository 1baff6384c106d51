"""MLflow, written by one process: a run per trial for life, metrics in batches, nothing lost while it is away."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from data_pipeline.errors import RequestError
from sweeps.file.questions import Question
from sweeps.file.trials import Trial
from sweeps.tracking import joint
from sweeps.tracking.ailments import deleted
from sweeps.tracking.connection import Patience, away, client, create_database
from sweeps.tracking.delivery import Delivery
from sweeps.tracking.kept import wanted
from sweeps.tracking.kept.runs import LACKING, RunState
from sweeps.tracking.locks.lease import Lease
from sweeps.tracking.locks.lock import file_lock
from sweeps.tracking.outbox import MANY, Outbox
from sweeps.tracking.places import file_uri
from sweeps.tracking.registration import Registration, params_of
from sweeps.tracking.uris import default_uri, take_credentials, without_secrets

OF_FAILURE = ("cellskew.reason", "cellskew.cause", "cellskew.traceback")  # tags of an attempt, gone at the next
CONTROL = {"epoch", "epochs", "final", "replayed"}  # in a report, but no metrics


class Tracker:
    """The runs of one sweep. Everything about a started trial goes through `outbox`, in order."""

    def __init__(
        self,
        uri: str,
        sweep: str,
        storage: Path,
        patience: float = 60.0,
        on_loss: Callable[[], None] = lambda: None,
        on_wait: Callable[[str], None] = lambda said: None,
    ) -> None:
        self.uri, self.sweep, self.storage = take_credentials(uri), sweep, storage
        self.patiently = Patience(self.uri, patience)
        with self._creating():
            self.client = self.patiently(lambda: client(self.uri))
            self.experiment_id = self.patiently(self._experiment)
        self.is_joint = self.uri.startswith("sqlite:") and joint.works(self.client, self.experiment_id)
        self.lease = Lease(self.client, self.experiment_id, storage, on_loss, on_wait)
        if self.uri != default_uri(storage):  # the folder's own store has the folder's lock
            self.patiently(self.lease.take)
        where = (self.client, self.uri, sweep, self.experiment_id, storage)
        self.registration = Registration(*where, self.is_joint, self.patiently)
        self.delivery = Delivery(self.client, self.uri, self.experiment_id, self.is_joint, self.lease.check)
        self.outbox = Outbox(storage / "sweeps" / f"{sweep}.outbox.jsonl", self.delivery.deliver)
        if len(self.outbox) > MANY:
            on_wait(f"delivering {len(self.outbox)} records of the last run to MLflow")
        if not self.outbox.settle(patience):
            self.close(0)
            raise RequestError(away(self.uri, f"{len(self.outbox)} records of the last run wait to be delivered"))

    @contextmanager
    def _creating(self) -> Iterator[None]:
        """Let one process at a time create the embedded database."""
        if self.uri.startswith("sqlite:"):
            with file_lock(self.storage / ".mlflow.lock"):
                if self.uri == default_uri(self.storage):
                    self.patiently(lambda: create_database(self.storage.absolute() / "mlflow.db"))
                yield
        else:
            yield

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.sweep)
        if found is not None and found.lifecycle_stage == "deleted":
            raise RequestError(deleted(self.sweep, found.experiment_id, self.uri))
        if found is not None:
            return found.experiment_id
        is_server = self.uri.startswith("http")  # which has a place of its own; a database has none
        place = None if is_server else file_uri(self.storage / "artifacts" / self.sweep)
        try:
            return self.client.create_experiment(self.sweep, artifact_location=place)
        except MlflowException as error:  # another driver was first
            found = self.client.get_experiment_by_name(self.sweep)
            if found is None:
                raise error
            return found.experiment_id

    # registration

    def want(
        self, keys: Iterable[str], questions: Iterable[Question] = (), until: dict[str, Any] | None = None
    ) -> None:
        """Keep with the experiment which trials the sweep's file wants now, and what it asks, for tables to go by.

        until: of a sweep that adds splits until it is sure, see wanted.until.
        """
        listed, asked = list(keys), list(questions)

        def tell() -> None:
            tags = self.client.get_experiment(self.experiment_id).tags
            put = partial(self.client.set_experiment_tag, self.experiment_id)
            wanted.write_until(until, tags, put)  # before any trial more is wanted: intervals allow for the look
            wanted.write(listed, tags, put)
            wanted.write_questions(asked, tags, put)

        self.patiently(tell)

    def tags(self) -> dict[str, str]:
        """Return what is kept with the experiment."""
        return self.patiently(lambda: self.client.get_experiment(self.experiment_id).tags)

    def runs(self) -> dict[str, RunState]:
        """Return the run of every trial ever registered in this sweep, by key; see registration.Registration."""
        return self.registration.runs()

    def register(
        self, trials: list[Trial], known: dict[str, RunState], progress: Callable[[int, int], None]
    ) -> dict[str, RunState]:
        """Return the run of every trial, by key; those not `known` (see `runs`) are made, as SCHEDULED.

        A server hears of their parameters from the outbox, before anything else about them. progress(done, all): called
        now and then.
        """
        made = self.registration.make([trial for trial in trials if trial.key not in known], progress)
        self.delivery.known |= {run.run_id: set() for run in made.values()}
        for trial in trials:
            if trial.key in made and not made[trial.key].has_params:
                self.reschedule(made[trial.key], trial)
                made[trial.key] = replace(made[trial.key], has_params=True)
        return {trial.key: (known | made)[trial.key] for trial in trials}

    def supersede(self, runs: list[RunState]) -> None:
        """Mark runs whose trials are trained anew, each in a new run: tables and drivers leave them out from now on."""
        self.registration.supersede(runs)

    def adopt(self, found: dict[str, Trial]) -> None:
        """Have runs, by id, be those of trials as they are known now; see registration.Registration."""
        self.registration.adopt(found)

    def reschedule(self, run: RunState, trial: Trial) -> None:
        """Put an unfinished run back in the queue of trials to come, whatever became of it before."""
        if not run.has_metrics:
            self.delivery.known.setdefault(run.run_id, set())
        if run.status != "SCHEDULED" or not run.has_params:
            tags = {name: "" for name in OF_FAILURE if run.tags.get(name)}
            self._put(run.run_id, status="SCHEDULED", params=params_of(trial), tags=tags)

    # what happens to a trial

    def start(self, run_id: str, tags: dict[str, str], data: dict[str, str] | None = None) -> None:
        """Note that a trial runs now; tags and data (name, digest and source of its dataset) say on what."""
        self._put(run_id, status="RUNNING", tags=tags, **({} if data is None else {"data": data}))

    def note(self, run_id: str, trouble: str) -> None:
        """Note something that went wrong with a trial which goes on; the last such note stays, however it ends."""
        self._put(run_id, tags={"cellskew.trouble": without_secrets(trouble)[:4000]})

    def lacks(self, run_id: str, files: dict[str, str]) -> None:
        """Note which files of a finished trial couldn't be made or uploaded, and why; {}: none."""
        self._put(run_id, tags={LACKING: without_secrets(json.dumps(files))[:4000] if files else ""})

    def report(self, run_id: str, metrics: dict[str, Any]) -> None:
        """Log the numbers of one epoch; points that MLflow has already are not sent again."""
        self._put(run_id, **_points(metrics))

    def finish(self, run_id: str, status: str, tags: dict[str, str], final: dict[str, Any] | None = None) -> None:
        """End a run as FINISHED, FAILED or KILLED (interrupted); tags say why and where.

        final: the numbers of a finished trial, in one record with its status, so that neither is there without the
        other.
        """
        shown = {name: without_secrets(value)[:4000] for name, value in tags.items()}
        self._put(run_id, status=status, tags=shown, **({} if final is None else _points(final)))

    def _put(self, run_id: str, **what: Any) -> None:
        self.outbox.put({"run": run_id, "time": int(time.time() * 1000), **what})

    def close(self, seconds: float = 120.0) -> bool:
        """Deliver what is left; returns whether all of it arrived (the rest stays on disk for the next run)."""
        try:
            return self.outbox.close(0 if self.lease.is_lost else seconds)
        finally:
            self.lease.give_back()


def _points(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of a report in the form of a record."""
    points = {
        key: float(value)
        for key, value in metrics.items()
        if key not in CONTROL and isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {"metrics": points, "step": int(metrics.get("epoch", 0))}
