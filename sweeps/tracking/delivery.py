"""Records of trials to MLflow, run by run: sent again, they change nothing."""

import json
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from sweeps.tracking.connection import at_once, reaching
from sweeps.tracking.joint import begin, one_transaction, set_status
from sweeps.tracking.kept.database import BEGAN
from sweeps.tracking.outbox import Undeliverable
from sweeps.tracking.records import Record, Refused
from sweeps.tracking.uris import harmless

MOST_IN_A_ROW = 3  # questions of one run refused until the others wait as well
ENDS = ("FINISHED", "FAILED", "KILLED")


class Delivery:
    """Delivers what an outbox holds, in its thread. known: points that MLflow has, of runs not over yet.

    is_joint: whether news of many runs go in one transaction, see joint.works. check: raises if another driver has
    taken the sweep over, so that a late one's news don't come in between.
    """

    def __init__(
        self,
        client: MlflowClient,
        uri: str,
        experiment_id: str,
        is_joint: bool = False,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.client, self.uri, self.experiment_id = client, uri, experiment_id
        self.is_joint, self.check = is_joint, check
        self.over: set[str] = set()  # runs that were FINISHED when we first asked
        self.known: dict[str, set[tuple[str, int]]] = {}
        self.read: dict[str, dict[str, set[tuple[str, int]]]] = {}  # of runs whose points were asked for in part

    def deliver(self, records: list[Record]) -> Refused:
        """Send records to MLflow; returns the runs whose news were not all taken. Raises Undeliverable if it is away.

        What can't be told from outside, a server in trouble or a record that it can't take, a write of our own tells.
        """
        self._check_ours()
        by_run: dict[str, list[Record]] = {}
        for record in records:
            by_run.setdefault(record["run"], []).append(record)
        if self.is_joint and len(by_run) > 1 and self._deliver_together(by_run):
            return {}
        return {run_id: why for run_id, why in self._deliver_each(by_run).items() if why}

    def _check_ours(self) -> None:
        try:
            with reaching(self.uri):
                self.check()
        except MlflowException as error:
            raise Undeliverable(harmless(str(error), self.uri)) from None

    def _deliver_together(self, by_run: dict[str, list[Record]]) -> bool:
        """Send the news of many runs in one transaction; False if one of them spoilt it and nothing was sent."""
        try:
            with one_transaction(self.client):
                for run_id, records in by_run.items():
                    self._deliver_run(run_id, records)
        except Exception:  # whatever it was, it shows again where each run's news go alone
            for run_id in by_run:
                self.known.pop(run_id, None)  # what MLflow has must be asked anew
            return False
        return True

    def _deliver_each(self, by_run: dict[str, list[Record]]) -> Refused:
        """Send the news of runs, of several at once; returns why each was refused, "" where it wasn't."""
        pool = ThreadPoolExecutor(at_once(self.uri))
        try:
            return dict(zip(by_run, pool.map(self._deliver_alone, by_run, by_run.values()), strict=True))
        finally:
            pool.shutdown(cancel_futures=True)

    def _deliver_alone(self, run_id: str, records: list[Record]) -> str:
        """Send the news of one run; returns why it was refused, "" if it wasn't or if nobody misses the run."""
        try:
            with reaching(self.uri):
                self._deliver_run(run_id, records)
        except Exception as error:  # refused, away, or news that can't even be sent: the other runs' must go on
            self.known.pop(run_id, None)
            if not isinstance(error, Undeliverable) and self._is_gone(run_id):
                logging.getLogger("cellskew").warning("run %s was deleted in MLflow; its news are dropped", run_id)
                return ""
            self._check_writable()
            return harmless(str(error) or type(error).__name__, self.uri)
        return ""

    def _is_gone(self, run_id: str) -> bool:
        """Tell whether MLflow itself, and not something before it, says that a run was deleted or never was."""
        try:
            with reaching(self.uri):
                return self.client.get_run(run_id).info.lifecycle_stage == "deleted"
        except MlflowException as error:
            return error.error_code == "RESOURCE_DOES_NOT_EXIST" and run_id in error.message
        except Undeliverable:
            return False

    def _check_writable(self) -> None:
        """Undeliverable if MLflow takes nothing at all now, for whatever reason."""
        try:
            self.client.set_experiment_tag(self.experiment_id, "cellskew.probe", str(int(time.time())))
        except Exception as error:
            raise Undeliverable(harmless(str(error), self.uri)) from None

    def _deliver_run(self, run_id: str, records: list[Record]) -> None:
        """Send all news of one run: its new points, params and tags in one call, then its last status.

        Points and status of a run that was FINISHED before are another driver's, or told already.
        """
        points = self._new_points(run_id, records)
        tags = {name: value for record in records for name, value in record.get("tags", {}).items()}
        began = [record["time"] for record in records if record.get("status") == "RUNNING"]
        if began and not self.known[run_id] and run_id not in self.over:  # no point of it yet: its first attempt
            tags |= self._begin(run_id, began[0])
        params = {name: value for record in records for name, value in record.get("params", {}).items()}
        if points or tags or params:
            self.client.log_batch(
                run_id,
                metrics=[Metric(key, value, at, step) for (key, step), (value, at) in points.items()],
                params=[Param(name, value) for name, value in params.items()],
                tags=[RunTag(name, value) for name, value in tags.items()],
            )
            self.known[run_id].update(points)
        if data := [record["data"] for record in records if "data" in record]:
            self.client.log_inputs(run_id, datasets=[_dataset_input(data[-1])])
        if run_id in self.over:
            return
        for record in [record for record in records if "status" in record][-1:]:
            if record["status"] in ENDS:
                self.client.set_terminated(run_id, record["status"], record["time"])
                del self.known[run_id]
            else:
                set_status(self.client, run_id, record["status"])

    def _begin(self, run_id: str, at: int) -> dict[str, str]:
        """Have a run begin at a time, in ms; returns the tags that say so where MLflow can't be told."""
        if self.is_joint:
            begin(self.client, run_id, at)
            return {}
        return {BEGAN: datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds")}

    def _new_points(self, run_id: str, records: list[Record]) -> dict[tuple[str, int], tuple[float, int]]:
        if run_id not in self.known:
            self.known[run_id] = self._points_of(run_id)
        if run_id in self.over:
            return {}
        points: dict[tuple[str, int], tuple[float, int]] = {}
        for record in records:
            for key, value in record.get("metrics", {}).items():
                point = (key, record["step"])
                if point not in self.known[run_id]:
                    points.setdefault(point, (value, record["time"]))
        return points

    def _points_of(self, run_id: str) -> set[tuple[str, int]]:
        """Return the points that MLflow has of a run; asked again after refusals, for the metrics that were refused."""
        run = self.client.get_run(run_id)
        if run.info.status == "FINISHED":
            self.over.add(run_id)
            return set()
        read = self.read.setdefault(run_id, {})
        left, in_a_row = deque(set(run.data.metrics) - set(read)), 0
        while left:
            key = left.popleft()
            try:
                read[key] = {(key, point.step) for point in self.client.get_metric_history(run_id, key)}
                in_a_row = 0
            except MlflowException:
                left.append(key)
                in_a_row += 1
                if in_a_row == MOST_IN_A_ROW:
                    raise
        return set().union(*self.read.pop(run_id).values())


def _dataset_input(data: dict[str, str]) -> DatasetInput:
    """Return the data a trial was trained on, as MLflow traces data; it keeps 36 characters of a digest."""
    source = json.dumps({"files": data["source"]})
    dataset = Dataset(name=data["name"], digest=data["digest"][:36], source_type="local", source=source)
    return DatasetInput(dataset=dataset, tags=[InputTag("mlflow.data.context", "training")])
