"""MLflow, written by one process: a run per trial for life, metrics in batches, nothing lost while it is away."""

import contextlib
import getpass
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from mlflow.entities import Param, Run
from mlflow.exceptions import MlflowException

from data_pipeline.errors import RequestError
from sweeps.file.questions import Question
from sweeps.file.trials import Trial
from sweeps.tracking import joint
from sweeps.tracking.ailments import deleted
from sweeps.tracking.connection import Shut, away, client, create_database, reaching
from sweeps.tracking.delivery import Delivery
from sweeps.tracking.kept import wanted
from sweeps.tracking.kept.database import read_runs
from sweeps.tracking.kept.runs import LACKING, SUPERSEDED, RunState, pages, state_of, stored
from sweeps.tracking.locks.lease import Lease
from sweeps.tracking.locks.lock import file_lock
from sweeps.tracking.outbox import Outbox, Undeliverable, clean
from sweeps.tracking.places import file_uri
from sweeps.tracking.uris import default_uri, take_credentials, without_secrets

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
        self.uri, self.sweep, self.storage, self.patience = take_credentials(uri), sweep, storage, patience
        with self._creating():
            self.client = self._patiently(lambda: client(self.uri))
            self.experiment_id = self._patiently(self._experiment)
        self.is_joint = self.uri.startswith("sqlite:") and joint.works(self.client, self.experiment_id)
        self.lease = Lease(self.client, self.experiment_id, storage, on_loss, on_wait)
        if self.uri != default_uri(storage):  # the folder's own store has the folder's lock
            self._patiently(self.lease.take)
        self.delivery = Delivery(self.client, self.uri, self.experiment_id, self.is_joint)
        self.outbox = Outbox(storage / "sweeps" / f"{sweep}.outbox.jsonl", self.delivery.deliver)
        if not self.outbox.settle(patience):
            self.close(0)
            raise RequestError(away(self.uri, f"{len(self.outbox)} records of the last run wait to be delivered"))

    @contextmanager
    def _creating(self) -> Iterator[None]:
        """Let one process at a time create the embedded database."""
        if self.uri.startswith("sqlite:"):
            with file_lock(self.storage / ".mlflow.lock"):
                if self.uri == default_uri(self.storage):
                    self._patiently(lambda: create_database(self.storage.absolute() / "mlflow.db"))
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
                if time.monotonic() + pause > deadline or isinstance(error, Shut):
                    raise RequestError(away(self.uri, error)) from None
                time.sleep(pause)
                pause = min(pause * 2, 5.0)

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

    def want(self, keys: Iterable[str], questions: Iterable[Question] = ()) -> None:
        """Keep with the experiment which trials the sweep's file wants now, and what it asks, for tables to go by."""
        listed, asked = list(keys), list(questions)

        def tell() -> None:
            tags = self.client.get_experiment(self.experiment_id).tags
            put = partial(self.client.set_experiment_tag, self.experiment_id)
            wanted.write(listed, tags, put)
            wanted.write_questions(asked, tags, put)

        self._patiently(tell)

    def runs(self) -> dict[str, RunState]:
        """Return the run of every trial ever registered in this sweep, by trial key; duplicates are deleted.

        Superseded ones are left out.
        """
        found: dict[str, RunState] = {}
        for state in self._all_runs():
            if state.is_superseded:
                continue
            rival = found.get(state.key)
            if rival is None or (state.status == "FINISHED" and rival.status != "FINISHED"):
                found[state.key] = state
            if rival is not None:
                self.client.delete_run((rival if found[state.key] is state else state).run_id)
        return found

    def _all_runs(self) -> Iterator[RunState]:
        """Return the runs of this sweep, the oldest first."""
        listed = read_runs(self.uri, self.sweep)
        if listed is None:
            listed = map(stored, pages(self.client, self.experiment_id, self._patiently))
        return map(state_of, listed)

    def register(
        self, trials: list[Trial], known: dict[str, RunState], progress: Callable[[int, int], None]
    ) -> dict[str, RunState]:
        """Return the run of every trial, by key; those not `known` (see `runs`) are made, as SCHEDULED.

        progress(done, all): called now and then.
        """
        known = dict(known)
        missing = [trial for trial in trials if trial.key not in known]
        common = {"mlflow.source.name": "cellskew", "mlflow.user": _user(), "cellskew.sweep": self.sweep}
        size = joint.MOST if self.is_joint else 1
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
            with joint.one_transaction(self.client) if self.is_joint else contextlib.nullcontext():
                return [self._create_one(trial, common, is_first=len(attempts) == 1) for trial in trials]

        return self._patiently(create)

    def _create_one(self, trial: Trial, common: dict[str, str], is_first: bool) -> RunState:
        tags = clean(trial.tags() | common)
        found = [] if is_first else self._same(trial)
        run = found[0] if found else self.client.create_run(self.experiment_id, run_name=clean(trial.name), tags=tags)
        run_id = run.info.run_id
        self.client.log_batch(run_id, params=[Param(*pair) for pair in _params(trial).items()])
        self.client.update_run(run_id, status="SCHEDULED")
        self.delivery.known[run_id] = set()
        return RunState(run_id, trial.key, trial.name, "SCHEDULED", run.info.artifact_uri, True, False, tags)

    def _same(self, trial: Trial) -> list[Run]:
        found = self.client.search_runs([self.experiment_id], f"tags.`cellskew.trial` = '{trial.key}'")
        return [run for run in found if SUPERSEDED not in run.data.tags]

    def supersede(self, runs: list[RunState]) -> None:
        """Mark runs whose trials are trained anew, each in a new run: tables and drivers leave them out from now on."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        for run in runs:
            self._patiently(lambda run_id=run.run_id: self.client.set_tag(run_id, SUPERSEDED, now))
            if run.status in ("RUNNING", "SCHEDULED"):
                self._patiently(lambda run_id=run.run_id: self.client.set_terminated(run_id, "KILLED"))

    def reschedule(self, run: RunState, trial: Trial) -> None:
        """Put an unfinished run back in the queue of trials to come, whatever became of it before."""
        if not run.has_metrics:
            self.delivery.known.setdefault(run.run_id, set())
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
            return self.outbox.close(seconds)
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


def _user() -> str:
    """Return who runs this; in a container it may be a number that nobody has named."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _params(trial: Trial) -> dict[str, str]:
    return {name: clean(value)[:6000] for name, value in trial.params().items()}
