"""What is heard of a sweep's trials, passed on: to MLflow, to whoever watches, and into a tally."""

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sweeps.cluster.resources import Shape
from sweeps.drive.launching.job import Job
from sweeps.drive.launching.uploading import Uploads
from sweeps.drive.launching.worker import UPLOAD, WAITS
from sweeps.drive.stopping import Stop
from sweeps.tracking.kept.runs import LACKING
from sweeps.tracking.store import Tracker

NOTHING = Shape(0.0, 0.0)
Watch = Callable[[str, str, dict[str, Any]], None]


@dataclass
class Tally:
    """What became of the trials of one launch, by key, and how much of the cluster they had."""

    finished: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    lacking: dict[str, dict[str, str]] = field(default_factory=dict)  # of finished ones: files not made, and why
    interrupted: dict[str, str] = field(default_factory=dict)
    running: dict[str, Shape] = field(default_factory=dict)  # key -> what it has
    given: Shape = NOTHING  # GPU seconds and CPU seconds that trials had
    had: Shape = NOTHING  # that there were
    capacity: Shape = NOTHING
    seconds: float = 0.0
    looked: float = field(default_factory=time.monotonic)

    def begin(self, key: str, shape: Shape) -> None:
        """Note that a trial runs now."""
        self._pass()
        self.running[key] = shape
        self.interrupted.pop(key, None)

    def has(self, capacity: Shape) -> None:
        """Note what the cluster has from now on."""
        self._pass()
        self.capacity = capacity

    def is_over(self, key: str) -> bool:
        """Tell whether a trial needs no further launch."""
        return key in self.finished or key in self.failed

    def end(self, key: str) -> None:
        """Note that a trial does not run any more."""
        self._pass()
        self.running.pop(key, None)

    def _pass(self) -> None:
        now = time.monotonic()
        passed = now - self.looked if any(self.capacity) else 0.0  # what there is has not been looked at yet
        self.looked = now
        self.seconds += passed
        self.had = _plus(self.had, self.capacity, passed)
        for shape in self.running.values():
            self.given = _plus(self.given, shape, passed)


def utilisation(launches: Sequence[Tally]) -> dict[str, tuple[float, float]]:
    """Return how many GPUs and CPUs trials had on average, of how many that there were, in all launches together."""
    for one in launches:
        one.has(NOTHING)  # after its end no time passes
    seconds = sum(one.seconds for one in launches)
    given, had = (_sum([getattr(one, what) for one in launches]) for what in ("given", "had"))
    pairs = zip(("GPU", "CPU"), given, had, strict=True)
    return {name: (used / seconds, there / seconds) for name, used, there in pairs if there}


def _sum(shapes: Sequence[Shape]) -> Shape:
    return Shape(*map(sum, zip(*shapes, strict=True)))


def _plus(total: Shape, shape: Shape, seconds: float) -> Shape:
    return Shape(total.gpu + seconds * shape.gpu, total.cpu + seconds * shape.cpu)


class News:
    """Passes on what is heard of the trials. Knows nothing of Tune."""

    def __init__(
        self,
        tracker: Tracker,
        watch: Watch,
        stop: Stop,
        max_failed: int | None = None,
        say: Callable[[str], None] = lambda said: None,
    ) -> None:
        self.tracker, self.watch, self.stop, self.max_failed = tracker, watch, stop, max_failed
        self.heard: dict[str, float] = {}  # key -> time.monotonic() of its start or its last epoch
        self.tally = Tally()
        self.epochs: dict[str, str] = {}
        self.uploads = Uploads(self.uploaded, say)
        self.troubles: dict[str, str] = {}  # key -> what went wrong last with a trial that went on

    def started(self, job: Job) -> None:
        """Note that a trial has its worker."""
        self.tally.begin(job.key, Shape.of(job.resources))
        self.heard[job.key] = time.monotonic()
        self.tracker.start(job.run_id, job.tags, job.data)
        self.watch("started", job.key, {})

    def told(self, job: Job, news: dict[str, Any]) -> None:
        """Pass on what a worker sent: see worker.work."""
        if "metrics" in news:
            self._epoch(job, news["metrics"])
        elif "trouble" in news:
            self.goes_on(job, news["trouble"])
        elif "final" in news:
            self._finished(job, news["final"], news["where"], news.get("lacking", {}))
        elif "failed" in news:
            self._failed(job, news["failed"], news["cause"], news["traceback"], news["where"])

    def uploaded(self, job: Job) -> None:
        """Note that the files of a finished trial have arrived where they belong."""
        lacking = {name: why for name, why in self.tally.lacking.pop(job.key, {}).items() if name != UPLOAD}
        self.tally.lacking |= {job.key: lacking} if lacking else {}
        self.tracker.lacks(job.run_id, lacking)

    def goes_on(self, job: Job, trouble: str) -> None:
        """Note what went wrong with a trial that goes on."""
        if self.troubles.get(job.key) != trouble:
            self.troubles[job.key] = trouble
            self.tracker.note(job.run_id, trouble)
            self.watch("trouble", job.key, {"reason": trouble})

    def waits_again(self, job: Job, why: str) -> None:
        """Note that a trial left a node to no fault of its own, and goes on elsewhere; one that never ran did not."""
        if job.key not in self.tally.running:
            return
        self.tally.end(job.key)
        self.goes_on(job, f"{why}; it goes on elsewhere, from its last checkpoint")

    def last_heard(self) -> float:
        """Return when a trial last started or told of a round, by time.monotonic(); 0.0: none ever did."""
        return max(self.heard.values(), default=0.0)

    def lost(self, job: Job, why: str) -> None:
        """Note that a trial's workers died too often."""
        self._failed(job, why, "outside", "", {})
        self.tally.end(job.key)

    def unprepared(self, job: Job, why: str, cause: str) -> None:
        """Note that what a trial needs could not be made."""
        self._failed(job, why, cause, "", {})

    def over(self, job: Job) -> None:
        """Note that a trial has ended, before its time if it has told neither of an end nor of a failure."""
        if job.key not in self.tally.running:
            return
        self.tally.end(job.key)
        if not self.tally.is_over(job.key):
            last = self.epochs.get(job.key, "no round")
            said = f"{self.stop.why or 'ended early'} after {last}; goes on when run again"
            self.tracker.finish(job.run_id, "KILLED", {"cellskew.reason": said})
            self.tally.interrupted[job.key] = said
            self.watch("interrupted", job.key, {})

    def fell_over(self, why: str, lost: list[Job], hopeless: list[Job]) -> None:
        """Note that all workers are gone, with the jobs that they had; `hopeless` ones have been tried often enough."""
        for job in lost:
            self.tally.end(job.key)
            self.goes_on(job, f"lost its worker, last: {why}; started again from the last checkpoint")
        for job in hopeless:
            if not self.tally.is_over(job.key):
                self._failed(job, f"its worker was lost too often, last: {why}", "outside", "", {})

    def _epoch(self, job: Job, numbers: dict[str, Any]) -> None:
        now = time.monotonic()
        if "replayed" not in numbers:
            self.stop.took(now - self.heard.get(job.key, now))
        self.heard[job.key] = now
        self.epochs[job.key] = f"round {numbers.get('epoch')} of {numbers.get('epochs')}"
        self.tracker.report(job.run_id, numbers)
        wanted = job.config["recipe"].get("batch_size", 0)
        if numbers.get("micro_batch", wanted) < wanted:
            self.goes_on(job, f"memory ran out, so {numbers['micro_batch']} cells at a time instead of {wanted}")
        self.watch("epoch", job.key, numbers)

    def _finished(self, job: Job, final: dict[str, Any], where: dict[str, str], lacking: dict[str, str]) -> None:
        tags = _where_tags(where) | ({LACKING: json.dumps(lacking)} if lacking else {})
        self.tracker.finish(job.run_id, "FINISHED", tags, final)
        self.tally.finished.add(job.key)
        self.tally.lacking |= {job.key: lacking} if lacking else {}
        self.watch("finished", job.key, final)
        self.uploads.put(job, lacking)
        for name, why in lacking.items():
            if why != WAITS:
                self.watch("trouble", job.key, {"reason": f"{name} could not be made, the numbers are good: {why}"})

    def _failed(self, job: Job, why: str, cause: str, tail: str, where: dict[str, str]) -> None:
        cause = "outside" if cause == "node" else cause
        tags = {"cellskew.reason": why, "cellskew.cause": cause, "cellskew.traceback": tail} | _where_tags(where)
        self.tracker.finish(job.run_id, "FAILED", tags)
        self.tally.failed[job.key] = why
        self.uploads.put_log(job)
        self.watch("failed", job.key, {"reason": why})
        if self.max_failed is not None and len(self.tally.failed) >= self.max_failed:
            self.stop.ask(f"stopped: {_too_many(list(self.tally.failed.values()), self.max_failed)}")


def _too_many(reasons: list[str], most: int) -> str:
    """Say how many trials failed, and which reason repeats; reasons that differ in numbers alone are one."""
    firsts = [reason.splitlines()[0] if reason else "no reason given" for reason in reasons]
    kinds = [re.sub(r"\d+", "#", first) for first in firsts]
    commonest, times = Counter(kinds).most_common(1)[0]
    each = f", {times} for one reason" if times > 1 else ", each for a reason of its own, the first"
    failed = "1 trial" if len(reasons) == 1 else f"{len(reasons)} trials"
    said = firsts[kinds.index(commonest)][:300]
    return f"{failed} failed (--max-failed {most}){each if len(reasons) > 1 else ''}: {said}"


def _where_tags(where: dict[str, str]) -> dict[str, str]:
    named = {name if name.startswith("mlflow.") else f"cellskew.{name}": value for name, value in where.items()}
    return {name: value for name, value in named.items() if value}


def first_line(error: BaseException) -> str:
    """Return what Tune said of an error, in a line."""
    lines = str(error).strip().splitlines()
    return lines[0].removeprefix("Caught unexpected exception: ") if lines else type(error).__name__
