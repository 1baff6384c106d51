"""The runs of a sweep in MLflow: one per trial, many made at once, none twice."""

import contextlib
import getpass
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Param, Run, RunTag

from sweeps.file.changes import CONTENTS
from sweeps.file.trials import TUNING, Trial
from sweeps.tracking import joint
from sweeps.tracking.connection import Patience, at_once
from sweeps.tracking.kept.database import read_runs
from sweeps.tracking.kept.runs import RENAMED, SUPERSEDED, RunState, pages, state_of, stored
from sweeps.tracking.places import placed
from sweeps.tracking.records import clean


class Registration:
    """Finds, makes and supersedes the runs of one sweep. is_joint: whether many are made in one transaction."""

    def __init__(
        self,
        client: MlflowClient,
        uri: str,
        sweep: str,
        experiment_id: str,
        storage: Path,
        is_joint: bool,
        patiently: Patience,
    ) -> None:
        self.client, self.uri, self.sweep, self.experiment_id = client, uri, sweep, experiment_id
        self.storage, self.is_joint, self.patiently = storage.absolute(), is_joint, patiently

    def runs(self) -> dict[str, RunState]:
        """Return the run of every trial ever registered in this sweep, by trial key; duplicates are deleted.

        Superseded ones are left out.
        """
        found: dict[str, RunState] = {}
        for state in self._all_runs():
            if state.is_superseded:
                continue
            rival = found.get(state.key)
            if rival is None or _worth(state) > _worth(rival):
                found[state.key] = state
            if rival is not None:
                self._delete((rival if found[state.key] is state else state).run_id)
        return found

    def _all_runs(self) -> Iterator[RunState]:
        """Return the runs of this sweep, the oldest first."""
        listed = read_runs(self.uri, self.sweep)
        if listed is None:
            listed = map(stored, pages(self.client, self.experiment_id, self.patiently))
        return (state_of(run, self.uri, self.storage) for run in listed)

    def _delete(self, run_id: str) -> None:
        def delete() -> None:
            if self.client.get_run(run_id).info.lifecycle_stage == "active":  # not by an attempt whose answer got lost
                self.client.delete_run(run_id)

        self.patiently(delete)

    def make(self, trials: list[Trial], progress: Callable[[int, int], None]) -> dict[str, RunState]:
        """Return a new run of each trial, by key, without parameters unless `is_joint`.

        progress(done, all): called now and then.
        """
        size = joint.MOST if self.is_joint else 1
        begin, made = int(time.time() * 1000), {}
        batches = [
            {begin + number: trial for number, trial in enumerate(trials[start : start + size], start)}
            for start in range(0, len(trials), size)
        ]
        for runs in self._in_threads(batches):
            made |= {run.key: run for run in runs}
            progress(len(made), len(trials))
        if made and not self.is_joint:  # something on the way may have asked for a run twice
            made |= {key: run for key, run in self.runs().items() if key in made}
        return made

    def _in_threads(self, batches: list[dict[int, Trial]]) -> Iterator[list[RunState]]:
        """Yield the runs made of each batch, see _create."""
        common = {"mlflow.source.name": "cellskew", "mlflow.user": _user(), "cellskew.sweep": self.sweep}
        pool = ThreadPoolExecutor(at_once(self.uri))
        try:
            for done in as_completed([pool.submit(self._create, batch, common) for batch in batches]):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _create(self, trials: dict[int, Trial], common: dict[str, str]) -> list[RunState]:
        """Make runs of trials by their start times (ms); an attempt whose answer got lost is found, not repeated."""
        attempts: list[int] = []

        def create() -> list[RunState]:
            attempts.append(1)
            one = partial(self._create_one, common=common, is_first=len(attempts) == 1)
            with self._together():
                return [one(trial, started) for started, trial in trials.items()]

        return self.patiently(create)

    def _create_one(self, trial: Trial, started: int, common: dict[str, str], is_first: bool) -> RunState:
        tags = clean(trial.tags() | common)
        found = [] if is_first else self._same(trial)
        run = found[0] if found else self.client.create_run(self.experiment_id, started, tags, clean(trial.name))
        run_id = run.info.run_id
        if self.is_joint:  # a server takes longer for each question than for what is asked: its runs are told later
            self.client.log_batch(run_id, params=[Param(*pair) for pair in params_of(trial).items()])
            joint.set_status(self.client, run_id, "SCHEDULED")
        place = placed(run.info.artifact_uri, self.uri, self.storage)
        return RunState(run_id, trial.key, trial.name, "SCHEDULED", place, self.is_joint, False, tags)

    def _same(self, trial: Trial) -> list[Run]:
        found = self.client.search_runs([self.experiment_id], f"tags.`cellskew.trial` = '{trial.key}'")
        return [run for run in found if SUPERSEDED not in run.data.tags]

    def adopt(self, found: dict[str, Trial]) -> None:
        """Have runs, by id, be those of trials as they are known and called now.

        Runs that an earlier version registered by where files lay, those whose files lie elsewhere now, and those of
        what the sweep's file calls otherwise.
        """
        listed = list(found.items())
        for start in range(0, len(listed), joint.MOST):
            self.patiently(partial(self._adopt, listed[start : start + joint.MOST]))
        if listed:  # finished runs are remembered elsewhere as they were
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            self.patiently(lambda: self.client.set_experiment_tag(self.experiment_id, RENAMED, now))

    def _adopt(self, found: list[tuple[str, Trial]]) -> None:
        with self._together():
            for run_id, trial in found:
                tags = [RunTag(*pair) for pair in clean(dict.fromkeys(TUNING, "") | trial.tags()).items()]
                params = [Param(name, value) for name, value in params_of(trial).items() if name in CONTENTS and value]
                self.client.log_batch(run_id, params=params, tags=tags)
                self.client.update_run(run_id, name=clean(trial.name))

    def _together(self) -> AbstractContextManager[None]:
        return joint.one_transaction(self.client) if self.is_joint else contextlib.nullcontext()

    def supersede(self, runs: list[RunState]) -> None:
        """Mark runs whose trials are trained anew, each in a new run: tables and drivers leave them out from now on."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        for run in runs:
            self.patiently(lambda run_id=run.run_id: self.client.set_tag(run_id, SUPERSEDED, now))
            if run.status in ("RUNNING", "SCHEDULED"):
                self.patiently(lambda run_id=run.run_id: self.client.set_terminated(run_id, "KILLED"))


def params_of(trial: Trial) -> dict[str, str]:
    """Return a trial's parameters as MLflow takes them: 6,000 characters each."""
    return {name: clean(value)[:6000] for name, value in trial.params().items()}


def _user() -> str:
    """Return who runs this; in a container it may be a number that nobody has named."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _worth(run: RunState) -> tuple[bool, bool]:
    """Return what decides which of two runs of a trial stays; else it is the older one."""
    return run.status == "FINISHED", run.has_metrics
