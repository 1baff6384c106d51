"""Reconcile: wanted trials - finished runs -> Ray Tune. The only file that knows ray.tune."""

import json
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from sweeps.cluster.nodes import cluster_is_gone, end_with_raylet
from sweeps.drive.stopping import Stop
from sweeps.drive.worker import Trainable, work
from sweeps.tracking.store import Tracker

LOOK_EVERY = 5.0  # seconds between looks at the nodes
Watch = Callable[[str, str, dict[str, Any]], None]


class Queue(Searcher):
    """Hands jobs to Tune in their order, none once `stop` is set."""

    def __init__(self, jobs: list[dict[str, Any]], stop: "Stop") -> None:
        super().__init__()
        self.jobs, self.stop = iter(jobs), stop

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        job = None if self.stop.asked else next(self.jobs, None)
        return Searcher.FINISHED if job is None else {"job": json.dumps(job)}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Nothing is searched for."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: what is left to do is read off MLflow."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class InOrder(FIFOScheduler):
    """First come, first served; when asked to stop, ends each trial at its next report and starts no other."""

    def __init__(self, stop: Stop) -> None:
        super().__init__()
        self.stop = stop
        self.all, self.looked = Counter(), -LOOK_EVERY

    def choose_trial_to_run(self, tune_controller: Any) -> TuneTrial | None:
        """Return the trial that is to have a worker which has become free; ended ones are not looked at.

        It is the oldest of those that wait, but for those whose own worker is starting: Tune would kill that one, and
        with trials shorter than a worker's start go on killing and starting, never to have all its workers.
        """
        live = tune_controller.get_live_trials()
        waiting = [trial for trial in live if trial.status == TuneTrial.PENDING]
        if self.stop.asked:
            for trial in waiting:
                tune_controller.stop_trial(trial)
            return None
        free = self._free(live)
        for trial in sorted(waiting, key=lambda trial: int(trial.experiment_tag.split("_")[0])):
            asked = trial.placement_group_factory.required_resources
            if any(free[name] < 2 * amount for name, amount in asked.items()):  # the free worker holds as much itself
                return trial
            free.subtract(asked)
        return None

    def _free(self, live: Iterable[TuneTrial]) -> Counter[str]:
        """Return what of the cluster no running trial has."""
        if time.monotonic() - self.looked > LOOK_EVERY:
            self.all, self.looked = Counter(ray.cluster_resources()), time.monotonic()
        free = self.all.copy()
        for trial in live:
            if trial.status == TuneTrial.RUNNING:
                free.subtract(trial.placement_group_factory.required_resources)
        return free

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict) -> str:
        """Stop a trial, when the end was asked for, at an epoch whose checkpoint is on disk; see Stop.mark."""
        is_safe = _news(result).get("saved", True)
        return TrialScheduler.STOP if self.stop.asked and is_safe else TrialScheduler.CONTINUE


class Silence(TrialProgressCallback):
    """Stands where Tune would put a callback that prints and keeps a text for every trial."""

    def on_trial_result(self, *about: Any, **info: Any) -> None:
        """Print nothing."""

    on_trial_error = on_trial_complete = on_trial_result


@dataclass
class Tally:
    """What became of the trials of one launch, by key; seconds of training and of all."""

    finished: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: dict[str, str] = field(default_factory=dict)
    running: dict[str, float] = field(default_factory=dict)  # key -> time.monotonic() of its start
    busy: float = 0.0
    slots: int = 0  # most trials that ran at once

    def begin(self, key: str) -> None:
        """Note that a trial runs now."""
        self.running[key] = time.monotonic()
        self.slots = max(self.slots, len(self.running))

    def is_over(self, key: str) -> bool:
        """Tell whether a trial needs no further launch."""
        return key in self.finished or key in self.failed

    def end(self, key: str) -> None:
        """Note that a trial does not run any more."""
        self.busy += time.monotonic() - self.running.pop(key, time.monotonic())


class News(tune.Callback):
    """Passes on what Tune hears of the trials: to MLflow, and to whoever watches."""

    def __init__(self, tracker: Tracker, watch: Watch, stop: Stop) -> None:
        self.tracker, self.watch, self.stop = tracker, watch, stop
        self.tally = Tally()
        self.epochs: dict[str, str] = {}
        self.troubles: dict[str, str] = {}  # key -> what went wrong last with a trial that went on
        self.looked = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks to restore an experiment, which we never do."""
        return {}

    def on_step_begin(self, iteration: int, trials: list, **info: Any) -> None:
        """Give up when Ray has no node left: Tune would wait for one without end."""
        if time.monotonic() - self.looked > LOOK_EVERY:
            self.looked = time.monotonic()
            if cluster_is_gone():
                self.stop.ask("Ray lost its last node")
                raise RuntimeError(self.stop.why)

    def on_trial_start(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        job = _job(trial)
        self.tally.begin(job["config"]["key"])
        self.tracker.start(job["run_id"], job["tags"], job["data"])
        self.watch("started", job["config"]["key"], {})

    def on_trial_result(self, iteration: int, trials: list, trial: TuneTrial, result: dict, **info: Any) -> None:
        job, news = _job(trial), _news(result)
        if "metrics" in news:
            self._epoch(job, news["metrics"])
        elif "trouble" in news:
            self._trouble(job, news["trouble"])
        elif "final" in news:
            self._finished(job, news["final"], news["where"])
        elif "failed" in news:
            self._failed(job, news["failed"], news["cause"], news["traceback"], news["where"])

    def _epoch(self, job: dict[str, Any], numbers: dict[str, Any]) -> None:
        key = job["config"]["key"]
        self.epochs[key] = f"epoch {numbers.get('epoch')} of {numbers.get('epochs')}"
        self.tracker.report(job["run_id"], numbers)
        wanted = job["config"]["recipe"].get("batch_size", 0)
        if numbers.get("micro_batch", wanted) < wanted:
            self._trouble(job, f"memory ran out, so {numbers['micro_batch']} cells at a time instead of {wanted}")
        self.watch("epoch", key, numbers)

    def _trouble(self, job: dict[str, Any], said: str) -> None:
        """Note what went wrong with a trial that goes on."""
        if self.troubles.get(job["config"]["key"]) != said:
            self.troubles[job["config"]["key"]] = said
            self.tracker.note(job["run_id"], said)
            self.watch("trouble", job["config"]["key"], {"reason": said})

    def _finished(self, job: dict[str, Any], final: dict[str, Any], where: dict[str, str]) -> None:
        key = job["config"]["key"]
        self.tracker.report(job["run_id"], final)
        self.tracker.finish(job["run_id"], "FINISHED", _where_tags(where))
        self.tally.finished.add(key)
        self.watch("finished", key, final)

    def on_trial_recover(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        self._trouble(_job(trial), f"{_deaths(trial)}; went on from the last checkpoint")

    def on_trial_error(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        job = _job(trial)
        self._failed(job, _deaths(trial), "outside", "", {})
        self.tally.end(job["config"]["key"])
        _forget(trial)

    def on_trial_complete(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        key = _job(trial)["config"]["key"]
        _forget(trial)
        if key not in self.tally.running:
            return
        self.tally.end(key)
        if key not in self.tally.finished and key not in self.tally.failed:
            said = f"{self.stop.why or 'ended early'} after {self.epochs.get(key, 'no epoch')}; goes on when run again"
            self.tracker.finish(_job(trial)["run_id"], "KILLED", {"cellskew.reason": said})
            self.tally.interrupted[key] = said
            self.watch("interrupted", key, {})

    def fell_over(self, why: str, lost: list[dict[str, Any]], hopeless: list[dict[str, Any]]) -> None:
        """Note that all workers are gone, with the jobs that they had; `hopeless` ones have been tried often enough."""
        for job in lost:
            self.tally.end(job["config"]["key"])
            self._trouble(job, f"lost its worker, last: {why}; started again from the last checkpoint")
        for job in hopeless:
            if not self.tally.is_over(job["config"]["key"]):
                self._failed(job, f"its worker was lost too often, last: {why}", "outside", "", {})

    def _failed(self, job: dict[str, Any], why: str, cause: str, tail: str, where: dict[str, str]) -> None:
        tags = {"cellskew.reason": why, "cellskew.cause": cause, "cellskew.traceback": tail} | _where_tags(where)
        self.tracker.finish(job["run_id"], "FAILED", tags)
        self.tally.failed[job["config"]["key"]] = why
        self.watch("failed", job["config"]["key"], {"reason": why})


def _forget(trial: TuneTrial) -> None:
    """Drop most of what Tune remembers of an ended trial's reports: it keeps thousands of such trials to the end."""
    trial.metric_analysis.clear()
    trial.metric_n_steps.clear()
    trial.last_result.clear()


def _deaths(trial: TuneTrial) -> str:
    said = str(trial.get_error() or "").strip().splitlines()
    times = "once" if trial.num_failures == 1 else f"{trial.num_failures} times"
    return f"its worker died {times}" + (f", last: {said[-1]}" if said else "")


def _job(trial: TuneTrial) -> dict[str, Any]:
    return json.loads(trial.config["job"])


def _news(result: dict[str, Any]) -> dict[str, Any]:
    """Return what a worker sent. It travels as text: Tune keeps statistics of every number for as long as it lives."""
    return json.loads(result.get("news", "{}"))


def _where_tags(where: dict[str, str]) -> dict[str, str]:
    return {f"cellskew.{name}": value for name, value in where.items() if value}


@dataclass(frozen=True)
class Settings:
    """How trials are run: by what, how many at once (None: as many as fit), how often again after a worker's death."""

    run_trial: Trainable
    max_concurrent: int | None = None
    max_failures: int = 3
    pause: float = 5.0  # seconds before a launch that fell over is repeated, times the number of times


def train(
    jobs: list[dict[str, Any]], tracker: Tracker, watch: Watch, stop: Stop, storage: Path, settings: Settings
) -> Tally:
    """Run the jobs through Ray Tune, in their order, as many at once as their resources allow. Ray must run.

    A worker that dies is replaced by Tune. When Tune itself falls over (Ray 2.60 does if a node's memory monitor kills
    workers), the trials that are not over are launched again, each at most `max_failures` times.
    """
    news = News(tracker, watch, stop)
    strikes: Counter[str] = Counter()
    while jobs and not stop.asked:
        try:
            _fit(jobs, news, stop, storage, settings)
            break
        except (RuntimeError, ray.exceptions.RayError) as error:
            if not isinstance(error, ray.exceptions.RayError) and not isinstance(
                error.__cause__, ray.exceptions.RayError
            ):
                raise
            fallen = set(news.tally.running)
            strikes.update(fallen if fallen else [job["config"]["key"] for job in jobs])
            hopeless = [job for job in jobs if strikes[job["config"]["key"]] > settings.max_failures]
            lost = [job for job in jobs if job["config"]["key"] in fallen]
            news.fell_over(_first_line(error), lost, hopeless)
            jobs = [job for job in jobs if not news.tally.is_over(job["config"]["key"])]
            time.sleep(settings.pause * max(strikes.values()))
    return news.tally


def _fit(jobs: list[dict[str, Any]], news: News, stop: Stop, storage: Path, settings: Settings) -> None:
    state = storage.absolute() / "ray"
    name = f"{news.tracker.sweep}-{os.getpid()}"
    shutil.rmtree(state / name, ignore_errors=True)
    tuner = tune.Tuner(
        tune.with_resources(_on_worker(settings.run_trial), _resources),
        tune_config=tune.TuneConfig(
            search_alg=Queue(jobs, stop),
            scheduler=InOrder(stop),
            num_samples=len(jobs),
            max_concurrent_trials=settings.max_concurrent,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(state),
            callbacks=[news, Silence()],
            failure_config=tune.FailureConfig(max_failures=settings.max_failures),
            verbose=0,
        ),
    )
    try:
        with _quiet():
            tuner.fit()
    finally:
        shutil.rmtree(state / name, ignore_errors=True)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].removeprefix("Caught unexpected exception: ") if lines else type(error).__name__


def _on_worker(trainable: Trainable) -> Callable[[dict[str, Any]], None]:
    def run(config: dict[str, Any]) -> None:
        end_with_raylet()
        work(json.loads(config["job"]), lambda news: tune.report({"news": json.dumps(news)}), trainable)

    return run


def _resources(config: dict[str, Any]) -> dict[str, float]:
    return json.loads(config["job"])["resources"]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray's own talk below errors while it lasts."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.air", "ray.train", "ray.data")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
