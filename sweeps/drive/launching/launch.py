"""Reconcile: wanted trials - finished runs -> Ray Tune. With order.py alone it knows ray.tune."""

import contextlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.progress_reporter import TrialProgressCallback

from data_pipeline.atomic import publish
from data_pipeline.sameness import checked
from sweeps.cluster import environment
from sweeps.cluster.demand import Demand, capacities
from sweeps.cluster.line import Line
from sweeps.cluster.nodes import cluster_is_gone, end_with_raylet
from sweeps.drive.allowance import Allowance
from sweeps.drive.coming import Coming
from sweeps.drive.launching.helpers import together
from sweeps.drive.launching.job import Job, Settings
from sweeps.drive.launching.news import News, Tally, Watch, first_line
from sweeps.drive.launching.order import InOrder, NotKept, Queue, job_of, key_of, news_of, on_node
from sweeps.drive.launching.standstill import MOST, InARow, StandsStill, Standstill
from sweeps.drive.launching.uploading import PATIENCE
from sweeps.drive.launching.worker import Trainable, cause, describe, leave, work
from sweeps.drive.stopping import Stop
from sweeps.tracking.store import Tracker

LOST = "Ray lost its last node"
LOOK = "`ray status` says what it waits for"
LOOK_EVERY = 5.0  # seconds between looks at the nodes


class Silence(TrialProgressCallback):
    """Stands where Tune would put a callback that prints and keeps a text for every trial."""

    def on_trial_result(self, *about: Any, **info: Any) -> None:
        """Print nothing."""

    on_trial_error = on_trial_complete = on_trial_result


class Listener(NotKept, tune.Callback):
    """Tells News what Tune hears of the trials."""

    def __init__(self, news: News, line: Line, allowance: Allowance | None, barred: Path) -> None:
        self.news, self.line, self.allowance, self.barred = news, line, allowance, barred
        self.looked, self.standstill = -LOOK_EVERY, Standstill()

    def on_step_begin(self, iteration: int, trials: list, **info: Any) -> None:
        """Give up when Ray has no node left: Tune would wait for one without end."""
        if time.monotonic() - self.looked > LOOK_EVERY:
            self.looked = time.monotonic()
            if cluster_is_gone():
                self.news.stop.ask(LOST)
                raise RuntimeError(self.news.stop.why)
            _tell_of_unprepared(self.line.coming, self.news)
            self.news.tally.has(self.line.capacity())
            runs = any(trial.status == TuneTrial.RUNNING for trial in trials)
            self.standstill.look(runs or self.line.is_preparing(), self.line.is_promised())
            for job in self.line.leaving():
                leave(job)
            spent = None if self.allowance is None else self.allowance.spent(self.news.tally)
            if spent is not None:
                self.news.stop.ask(spent)

    def on_trial_start(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        self.line.started(key_of(trial))
        self.news.started(job_of(trial))

    def on_trial_result(self, iteration: int, trials: list, trial: TuneTrial, result: dict, **info: Any) -> None:
        news = news_of(result)
        goes_back = news.get("cause") == "node" and self.line.refused(key_of(trial), news["failed"])
        if news.get("cause") == "node" and self.line.barred:
            with contextlib.suppress(OSError):  # a full disk: `status` doesn't say it
                publish(self.barred, json.dumps(list(self.line.barred.values())).encode(), durable=False)
        if not goes_back:
            self.news.told(job_of(trial), news)

    def on_trial_recover(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        self.news.goes_on(job_of(trial), f"{_deaths(trial)}; went on from the last checkpoint")

    def on_trial_error(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        self._ended(trial, lambda job: self.news.lost(job, _deaths(trial)))

    def on_trial_complete(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        self._ended(trial, self.news.over)

    def _ended(self, trial: TuneTrial, tell: Callable[[Job], None]) -> None:
        """Tell the end of a trial, unless it is in line again."""
        why = self.line.came_back(key_of(trial))
        if why is None:
            tell(job_of(trial))
        else:
            self.news.waits_again(job_of(trial), why)
        _forget(trial)


def _forget(trial: TuneTrial) -> None:
    """Drop most of what Tune remembers of an ended trial's reports: it keeps thousands of such trials to the end."""
    trial.metric_analysis.clear()
    trial.metric_n_steps.clear()
    trial.last_result.clear()


def _deaths(trial: TuneTrial) -> str:
    said = str(trial.get_error() or "").strip().splitlines()
    times = "once" if trial.num_failures == 1 else f"{trial.num_failures} times"
    return f"its worker died {times}" + (f", last: {said[-1]}" if said else "")


def train(coming: Coming[Job], tracker: Tracker, watch: Watch, stop: Stop, storage: Path, settings: Settings) -> Tally:
    """Run the jobs that have come and will come through Ray Tune, as many at once as there is room for, those of a
    shape in their order. Ray must run.

    A worker that dies is replaced by Tune. When Tune itself falls over (Ray 2.60 does if a node's memory monitor kills
    workers), the trials that are not over are launched again, each at most `max_failures` times.
    """
    news = News(tracker, watch, stop, settings.max_failed, settings.say)
    news.uploads.try_store(coming.jobs[0])
    try:
        _train(coming, news, stop, storage, settings)
        _tell_of_unprepared(coming, news)
    finally:
        news.uploads.close(PATIENCE, lambda: stop.asked)
    return news.tally


def _tell_of_unprepared(coming: Coming[Job], news: News) -> None:
    while coming.failed:
        job, error = coming.failed.pop()
        news.unprepared(job, describe(error), cause(error))


def _train(coming: Coming[Job], news: News, stop: Stop, storage: Path, settings: Settings) -> None:
    strikes, stood = Counter[str](), InARow()
    while not stop.asked:
        jobs = [job for job in coming.jobs if not news.tally.is_over(job.key)]
        if not jobs and coming.is_over():
            break
        try:
            _fit(jobs, coming, news, stop, storage, settings)
            break
        except (RuntimeError, ray.exceptions.RayError) as error:
            if cluster_is_gone():
                stop.ask(LOST)
                break
            if not isinstance(error, ray.exceptions.RayError) and not isinstance(
                error.__cause__, ray.exceptions.RayError
            ):
                raise
            fallen = set(news.tally.running)
            if isinstance(error, StandsStill) and stood.is_enough(news.last_heard()):
                stop.ask(f"{error}, {MOST} launches in a row ({LOOK})")
            elif isinstance(error, StandsStill):
                settings.say(f"{error}; what is left is launched anew")
            else:
                strikes.update(fallen if fallen else [job.key for job in jobs])
            hopeless = [job for job in coming.jobs if strikes[job.key] > settings.max_failures]
            lost = [job for job in coming.jobs if job.key in fallen]
            news.fell_over(first_line(error), lost, hopeless)
            time.sleep(settings.pause * max(strikes.values(), default=1))


def _fit(jobs: list[Job], coming: Coming[Job], news: News, stop: Stop, storage: Path, settings: Settings) -> None:
    state = storage.absolute() / "ray"
    name = f"{news.tracker.sweep}-{os.getpid()}"
    shutil.rmtree(state / name, ignore_errors=True)
    barred = storage.absolute() / "sweeps" / f"{news.tracker.sweep}.barred.json"
    barred.unlink(missing_ok=True)
    line = Line(jobs, capacities, settings.say, settings.max_concurrent, coming=coming)
    demand = Demand(news.tracker.sweep)
    tuner = tune.Tuner(
        tune.with_resources(_on_worker(settings.run_trial), _resources),
        tune_config=tune.TuneConfig(
            search_alg=Queue(line, demand, stop),
            scheduler=InOrder(line, stop),
            num_samples=-1,  # until the queue says so: what comes back counts twice
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(state),
            callbacks=[Listener(news, line, settings.allowance, barred), Silence()],
            failure_config=tune.FailureConfig(max_failures=settings.max_failures),
            verbose=0,
        ),
    )
    try:
        with environment.quiet():
            tuner.fit()
    finally:
        demand.give_back()
        shutil.rmtree(state / name, ignore_errors=True)


def _on_worker(trainable: Trainable) -> Callable[[dict[str, Any]], None]:
    def run(config: dict[str, Any]) -> None:
        end_with_raylet()
        job = Job.from_text(config["job"])
        work(job, lambda news: tune.report({"news": json.dumps(news)}), together(trainable, job.resources))

    def refuse(said: str) -> None:  # imports nothing of ours
        news = {"failed": said, "cause": "node", "traceback": "", "where": {}}
        tune.report({"news": json.dumps(news)})

    return checked(run, refuse)


def _resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    asked = Job.from_text(config["job"]).resources
    return on_node(config["node"], {"CPU": asked["cpu"], "GPU": asked["gpu"]})
