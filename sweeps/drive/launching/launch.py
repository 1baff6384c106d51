"""Reconcile: wanted trials - finished runs -> Ray Tune. The only file that knows ray.tune."""

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
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from data_pipeline.atomic import publish
from data_pipeline.sameness import checked
from sweeps.cluster import environment
from sweeps.cluster.demand import Demand, capacities
from sweeps.cluster.line import Line
from sweeps.cluster.nodes import cluster_is_gone, end_with_raylet
from sweeps.drive.allowance import Allowance
from sweeps.drive.launching.job import Job, Settings
from sweeps.drive.launching.news import News, Tally, Watch, first_line
from sweeps.drive.launching.standstill import Standstill
from sweeps.drive.launching.uploading import PATIENCE
from sweeps.drive.launching.worker import Trainable, leave, work
from sweeps.drive.stopping import Stop
from sweeps.tracking.store import Tracker

LOST = "Ray lost its last node"
LOOK_EVERY = 5.0  # seconds between looks at the nodes


class _NotKept:
    """Tune pickles what it is given to restore an experiment, which we never do."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Queue(_NotKept, Searcher):
    """Hands jobs to Tune as there is room for them (see Line), none once `stop` is set."""

    def __init__(self, line: Line, demand: Demand, stop: Stop) -> None:
        super().__init__()
        self.line, self.demand, self.stop = line, demand, stop
        self.keys: dict[str, str] = {}  # of Tune's trials

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        hopeless = self.line.hopeless()
        if hopeless is not None:
            self.stop.ask(f"stopped: no node is left that trials don't fail on: {hopeless}")
        if self.stop.asked or self.line.is_over():
            return Searcher.FINISHED
        self.demand.want(self.line.wanted())
        handed = self.line.next()
        if handed is None:
            return None
        self.keys[trial_id] = handed.job.key
        return {"job": handed.job.to_text(), "node": handed.node}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        self.line.over(self.keys.pop(trial_id))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: what is left to do is read off MLflow."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class InOrder(_NotKept, FIFOScheduler):
    """Leaves the order to the line; when asked to stop, ends each trial at its next report and starts no other."""

    def __init__(self, line: Line, stop: Stop) -> None:
        super().__init__()
        self.line, self.stop = line, stop

    def choose_trial_to_run(self, tune_controller: Any) -> TuneTrial | None:
        """Return the trial that is to have a worker which has become free: the oldest that was put behind another.

        Others have a worker of their own that is starting. Tune would kill that one, and with trials shorter than a
        worker's start go on killing and starting, never to have all its workers.
        """
        waiting = [trial for trial in tune_controller.get_live_trials() if trial.status == TuneTrial.PENDING]
        for trial in waiting:
            if self.stop.asked:
                tune_controller.stop_trial(trial)
            elif self.line.is_misplaced(_key(trial)):
                self.line.back(_key(trial))
                _take_back(tune_controller, trial)
        heirs = [trial for trial in waiting if self.line.has_inherited(_key(trial))]
        return min(heirs, key=lambda trial: int(trial.experiment_tag.split("_")[0]), default=None)

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Have a trial that Tune tries again start on another node, if its own is gone."""
        if trial.status != TuneTrial.RUNNING:  # else it is over
            node = self.line.moved(_key(trial))
            trial.update_resources(_on(node, trial.placement_group_factory.required_resources))

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict) -> str:
        """Stop a trial at an epoch whose checkpoint is on disk, if the end was asked for or its node is drained."""
        news = _news(result)
        is_safe = news.get("saved", True)
        leaves = is_safe and "metrics" in news and self.line.leaves(_key(trial))
        return TrialScheduler.STOP if leaves or (self.stop.asked and is_safe) else TrialScheduler.CONTINUE


class Silence(TrialProgressCallback):
    """Stands where Tune would put a callback that prints and keeps a text for every trial."""

    def on_trial_result(self, *about: Any, **info: Any) -> None:
        """Print nothing."""

    on_trial_error = on_trial_complete = on_trial_result


class Listener(_NotKept, tune.Callback):
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
            self.news.tally.has(self.line.capacity())
            self.standstill.look(any(trial.status == TuneTrial.RUNNING for trial in trials), self.line.is_promised())
            for job in self.line.leaving():
                leave(job.directory)
            spent = None if self.allowance is None else self.allowance.spent(self.news.tally)
            if spent is not None:
                self.news.stop.ask(spent)

    def on_trial_start(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        self.line.started(_key(trial))
        self.news.started(_job(trial))

    def on_trial_result(self, iteration: int, trials: list, trial: TuneTrial, result: dict, **info: Any) -> None:
        news = _news(result)
        if news.get("cause") != "node" or not self.line.refused(_key(trial), news["failed"]):
            self.news.told(_job(trial), news)
        if self.line.barred:
            publish(self.barred, json.dumps(list(self.line.barred.values())).encode(), durable=False)

    def on_trial_recover(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        self.news.goes_on(_job(trial), f"{_deaths(trial)}; went on from the last checkpoint")

    def on_trial_error(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        self.news.lost(_job(trial), _deaths(trial))
        _forget(trial)

    def on_trial_complete(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        why = self.line.came_back(_key(trial))
        if why is None:
            self.news.over(_job(trial))
        else:
            self.news.waits_again(_job(trial), why)
        _forget(trial)


def _take_back(tune_controller: Any, trial: TuneTrial) -> None:
    """Stop a trial that waits for its worker.

    Tune 2.60 would go on to count it among those that wait, and keep an idle worker for it on what others wait for.
    """
    if trial in tune_controller._staged_trials:
        tune_controller._unstage_trial_with_resources(trial)
    tune_controller.stop_trial(trial)


def _forget(trial: TuneTrial) -> None:
    """Drop most of what Tune remembers of an ended trial's reports: it keeps thousands of such trials to the end."""
    trial.metric_analysis.clear()
    trial.metric_n_steps.clear()
    trial.last_result.clear()


def _deaths(trial: TuneTrial) -> str:
    said = str(trial.get_error() or "").strip().splitlines()
    times = "once" if trial.num_failures == 1 else f"{trial.num_failures} times"
    return f"its worker died {times}" + (f", last: {said[-1]}" if said else "")


def _job(trial: TuneTrial) -> Job:
    return Job.from_text(trial.config["job"])


def _key(trial: TuneTrial) -> str:
    return _job(trial).key


def _news(result: dict[str, Any]) -> dict[str, Any]:
    """Return what a worker sent. It travels as text: Tune keeps statistics of every number for as long as it lives."""
    return json.loads(result.get("news", "{}"))


def train(jobs: list[Job], tracker: Tracker, watch: Watch, stop: Stop, storage: Path, settings: Settings) -> Tally:
    """Run the jobs through Ray Tune, as many at once as there is room for, those of a shape in their order. Ray must
    run.

    A worker that dies is replaced by Tune. When Tune itself falls over (Ray 2.60 does if a node's memory monitor kills
    workers), the trials that are not over are launched again, each at most `max_failures` times.
    """
    news = News(tracker, watch, stop, settings.max_failed, settings.say)
    try:
        _train(jobs, news, stop, storage, settings)
    finally:
        news.uploads.close(0.0 if stop.asked else PATIENCE)
    return news.tally


def _train(jobs: list[Job], news: News, stop: Stop, storage: Path, settings: Settings) -> None:
    strikes: Counter[str] = Counter()
    while jobs and not stop.asked:
        try:
            _fit(jobs, news, stop, storage, settings)
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
            strikes.update(fallen if fallen else [job.key for job in jobs])
            hopeless = [job for job in jobs if strikes[job.key] > settings.max_failures]
            lost = [job for job in jobs if job.key in fallen]
            news.fell_over(first_line(error), lost, hopeless)
            jobs = [job for job in jobs if not news.tally.is_over(job.key)]
            time.sleep(settings.pause * max(strikes.values()))


def _fit(jobs: list[Job], news: News, stop: Stop, storage: Path, settings: Settings) -> None:
    state = storage.absolute() / "ray"
    name = f"{news.tracker.sweep}-{os.getpid()}"
    shutil.rmtree(state / name, ignore_errors=True)
    barred = storage.absolute() / "sweeps" / f"{news.tracker.sweep}.barred.json"
    barred.unlink(missing_ok=True)
    line = Line(jobs, capacities, settings.say, settings.max_concurrent)
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
        work(Job.from_text(config["job"]), lambda news: tune.report({"news": json.dumps(news)}), trainable)

    def refuse(said: str) -> None:  # imports nothing of ours
        news = {"failed": said, "cause": "node", "traceback": "", "where": {}}
        tune.report({"news": json.dumps(news)})

    return checked(run, refuse)


def _resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    asked = Job.from_text(config["job"]).resources
    return _on(config["node"], {"CPU": asked["cpu"], "GPU": asked["gpu"]})


def _on(node: str | None, resources: dict[str, float]) -> tune.PlacementGroupFactory:
    """Return a request for resources on a node, in Tune's words."""
    where = {} if node is None else {"bundle_label_selector": [{"ray.io/node-id": node}]}
    return tune.PlacementGroupFactory([resources], **where)
