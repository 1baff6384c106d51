"""The line's trials as Tune asks for them: which is next, where, and which must wait again."""

import json
import time
from collections import Counter
from typing import Any

from ray import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from sweeps.cluster.demand import Demand
from sweeps.cluster.line import TRIES, Line
from sweeps.cluster.resources import workers
from sweeps.drive.launching.job import Job
from sweeps.drive.stopping import Stop

# Where no trial is ready or runs, Tune 2.60 does nothing but ask for one, for 600 s: workers that have ended would keep
# the CPUs that preparations need.
TuneController._update_trial_queue.__defaults__ = (False, 0)
IDLE = 0.2  # seconds between questions for a trial while none runs


class NotKept:
    """Tune pickles what it is given to restore an experiment, which we never do."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Queue(NotKept, Searcher):
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
        self.demand.want(self.line.wanted)
        handed = self.line.next()
        if handed is None:
            time.sleep(0.0 if self.line.handed else IDLE)  # else Tune would ask without a pause
            return None
        self.keys[trial_id] = handed.job.key
        return {"job": handed.job.to_text(), "node": handed.node, "key": handed.job.key}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        self.line.over(self.keys.pop(trial_id))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: what is left to do is read off MLflow."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class InOrder(NotKept, FIFOScheduler):
    """Leaves the order to the line; when asked to stop, ends each trial at its next report and starts no other."""

    def __init__(self, line: Line, stop: Stop) -> None:
        super().__init__()
        self.line, self.stop = line, stop
        self.unstarted: Counter[str] = Counter()  # of a trial: workers that didn't come up

    def choose_trial_to_run(self, tune_controller: Any) -> TuneTrial | None:
        """Return the trial that is to have a worker which has become free: the oldest that was put behind another.

        Others have a worker of their own that is starting. Tune would kill that one, and with trials shorter than a
        worker's start go on killing and starting, never to have all its workers.
        """
        # Tune 2.60 keeps the last idle worker, and with it what a preparation may be waiting for
        tune_controller._actor_cache._may_keep_one = not self.line.lends()
        self._take_back_the_lost(tune_controller)
        waiting = [trial for trial in tune_controller.get_live_trials() if trial.status == TuneTrial.PENDING]
        for trial in waiting:
            if self.stop.asked:
                _end(tune_controller, trial)
            elif self.line.is_misplaced(key_of(trial)):
                self.line.back(key_of(trial))
                _take_back(tune_controller, trial)
        heirs = [trial for trial in waiting if self.line.has_inherited(key_of(trial))]
        return min(heirs, key=lambda trial: int(trial.experiment_tag.split("_")[0]), default=None)

    def _take_back_the_lost(self, tune_controller: Any) -> None:
        """Have trials wait again whose turn on a worker failed because the one before hadn't let go of it in time.

        Tune 2.60 gives such a trial up, tells nobody, and keeps the worker for it.
        """
        for trial in [one for one in tune_controller._staged_trials if one.status == TuneTrial.ERROR]:
            tune_controller._unstage_trial_with_resources(trial)
            if key_of(trial) in self.line.handed:
                self.line.back(key_of(trial))
                self.line.came_back(key_of(trial))  # nobody hears of its end

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Have a trial that Tune tries again start on another node, if its own is gone.

        One whose worker did not come up, as its node went meanwhile, Tune 2.60 gives up for good: it goes back
        in line instead.
        """
        self.line.stays(key_of(trial))
        if trial.status == TuneTrial.PENDING and self.unstarted[key_of(trial)] < TRIES:
            self.unstarted[key_of(trial)] += 1
            self.line.back(key_of(trial))
        elif trial.status == TuneTrial.ERROR:  # Tune tries it again; else it is over
            node = self.line.moved(key_of(trial))
            trial.update_resources(on_node(node, trial.placement_group_factory.required_resources))

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict) -> str:
        """Stop a trial at an epoch whose checkpoint is on disk, if the end was asked for or its node is drained."""
        news = news_of(result)
        is_safe = news.get("saved", True)
        leaves = is_safe and "metrics" in news and self.line.leaves(key_of(trial))
        return TrialScheduler.STOP if leaves or (self.stop.asked and is_safe) else TrialScheduler.CONTINUE


def _take_back(tune_controller: Any, trial: TuneTrial) -> None:
    """Stop a trial that waits for its worker.

    Tune 2.60 would go on to count it among those that wait, and keep an idle worker for it on what others wait for.
    """
    if trial in tune_controller._staged_trials:
        tune_controller._unstage_trial_with_resources(trial)
    _end(tune_controller, trial)


def _end(tune_controller: Any, trial: TuneTrial) -> None:
    """Stop a trial that has not started. At its end Tune 2.60 asks each for its folder, and dies of one without."""
    trial.init_local_path()
    tune_controller.stop_trial(trial)


def job_of(trial: TuneTrial) -> Job:
    return Job.from_text(trial.config["job"])


def key_of(trial: TuneTrial) -> str:
    return trial.config["key"]


def news_of(result: dict[str, Any]) -> dict[str, Any]:
    """Return what a worker sent. It travels as text: Tune keeps statistics of every number for as long as it lives."""
    return json.loads(result.get("news", "{}"))


def on_node(node: str | None, resources: dict[str, float]) -> tune.PlacementGroupFactory:
    """Return a request for resources on a node, in Tune's words: a bundle for each worker, all on one node."""
    number = workers(resources.get("GPU", 0.0))
    bundle = {name: amount / number for name, amount in resources.items()}
    where = {} if node is None else {"bundle_label_selector": [{"ray.io/node-id": node}] * number}
    return tune.PlacementGroupFactory([bundle] * number, strategy="STRICT_PACK" if number > 1 else "PACK", **where)
