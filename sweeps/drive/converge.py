"""One way to run a sweep, and to resume it: what is wanted, less what is finished, is prepared and launched."""

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from data_pipeline import sameness
from data_pipeline.errors import RequestError
from data_pipeline.reading.check import doubts
from sweeps.cluster import environment, joining, origin, resources
from sweeps.drive import allowance, contents, lineage, rounds
from sweeps.drive.before import check_nothing_waits, check_writable
from sweeps.drive.coming import Coming
from sweeps.drive.forecast import estimate
from sweeps.drive.forecast.precedence import turns
from sweeps.drive.forecast.shapes import shapes
from sweeps.drive.launching.job import Job
from sweeps.drive.outcome import Outcome
from sweeps.drive.request import Look, Parts, Request, Screen, all_splits, real_parts
from sweeps.drive.stopping import Interrupted, Signals, Stop
from sweeps.drive.workshop import Workshop
from sweeps.file import changes
from sweeps.file.config import SweepSpec
from sweeps.file.trials import Trial
from sweeps.tracking.artifacts import Upload, make_place
from sweeps.tracking.kept.runs import RunState
from sweeps.tracking.locks.lock import SweepLock
from sweeps.tracking.outbox import MANY
from sweeps.tracking.uris import choose, shown_uri
from trainables.trial.outcome import MODEL_FOLDER

assert environment.DEFAULTS  # imported first: Ray and MLflow, imported below, read them
TAKEN = "another driver took this sweep over"


def converge(
    spec: SweepSpec, request: Request, screen: Screen, parts: Parts | None = None, look: Look = all_splits
) -> Outcome:
    """Bring the sweep to its end from whatever state it is in. Raises RequestError before anything expensive.

    look: says how many splits are wanted, of a sweep that adds some until it is sure.
    A first Ctrl-C or SIGTERM brings what runs to a safe point: the outcome says so. A second one ends the process.
    """
    sameness.check_here()
    request = replace(request, address=joining.asked(request.address), shared=lineage.shared(request, spec.name))
    parts = real_parts(request.store) if parts is None else parts
    stop = Stop.of(spec.name, request.storage.absolute(), request.store)
    with Signals(stop, screen.say, screen.end):
        try:
            return _converge(spec, request, screen, parts, stop, look)
        except Interrupted:  # before anything of this launch was written down
            return replace(rounds.nothing_yet(spec), stopped=stop.why, has_begun=False)


def _converge(spec: SweepSpec, request: Request, screen: Screen, parts: Parts, stop: Stop, look: Look) -> Outcome:
    storage, trials = request.storage.absolute(), spec.trials()
    if not trials:
        raise RequestError(f"sweep {spec.name} has no trials: its exclude rules leave nothing over")
    check_writable(storage, request.store, screen.say)
    if request.address is not None:
        screen.say(f"Ray cluster: {joining.check(request.address)}")
    screen.say(f"{spec.name}: {rounds.count(spec)}; checking the data")
    cells = parts.open_datasets(spec, storage)
    rounds.check(spec, cells)
    spec = contents.known(spec, cells, storage)
    trials = spec.trials()
    contents.check_distinct(trials)
    contents.check_vectors(trials, cells)
    costs = estimate.costs(trials, shapes(trials, cells, spec.places), cells)
    lock = SweepLock(
        storage / "sweeps" / f"{spec.name}.lock",
        on_loss=partial(stop.ask, TAKEN),
        on_wait=screen.say,
    )
    with lock, stop.unmarked():
        return _Drive(spec, request, screen, parts, stop).run(look, cells, costs)


def _lacking(run: RunState) -> dict[str, str]:
    return run.lacking if run.status == "FINISHED" else {}


class _Drive:
    """One launch of a sweep, its lock held."""

    def __init__(self, spec: SweepSpec, request: Request, screen: Screen, parts: Parts, stop: Stop) -> None:
        from sweeps.tracking.store import Tracker

        self.spec, self.request, self.screen, self.parts, self.stop = spec, request, screen, parts, stop
        self.allowance, self.tallies, self.shared = request.allowance, [], request.store
        self.held, self.has_ray = contextlib.ExitStack(), False  # Ray, the same in all rounds
        self.storage, self.launch_id = request.storage.absolute(), uuid.uuid4().hex
        uri, why = choose(self.storage, request.tracking_uri, spec.name, request.move_tracking)
        screen.say(f"tracking: {shown_uri(uri)}" + (f" ({why})" if why else ""))
        if request.move_tracking:
            check_nothing_waits(self.storage, spec.name)
        self.tracker = Tracker(uri, spec.name, self.storage, on_loss=partial(self.stop.ask, TAKEN), on_wait=screen.say)

    def run(self, look: Look, cells: dict[str, Any], costs: dict[str, float]) -> Outcome:
        begin, outcome, self.costs = time.monotonic(), rounds.nothing_yet(self.spec), costs
        self.turns = turns(self.spec.trials(), costs)
        try:
            with contextlib.suppress(Interrupted), self.held:  # stop.why says it
                for spec in rounds.rounds(self.spec, self.tracker, look, outcome, self.stop, self.screen.say):
                    self._train(spec.trials(), cells, outcome)
        finally:
            with self.stop.waiting():
                self._close(outcome)
        outcome.stopped, outcome.seconds = self.stop.why, time.monotonic() - begin
        return outcome

    def _close(self, outcome: Outcome) -> None:
        self.screen.end()
        outbox = self.tracker.outbox
        if len(outbox) > MANY or outbox.away_since is not None:
            self.screen.say(f"delivering the last {len(outbox)} records to MLflow")
        if not self.tracker.close():
            outcome.undelivered, outcome.refused = len(outbox), dict(outbox.aside)
            if outbox.trouble is not None:
                self.screen.say(f"MLflow doesn't take them: {outbox.trouble.splitlines()[0][:300]}")

    def _train(self, trials: list[Trial], cells: dict[str, Any], outcome: Outcome) -> None:
        known = contents.runs(self.spec, trials, self.tracker, self.screen.say)
        data = {name: lineage.data_of(name, opened) for name, opened in cells.items()}
        todo, given_up = self._split(trials, known)
        nodes = self._nodes(todo)
        known = self._register(trials, known)
        finished = sum(known[trial.key].status == "FINISHED" for trial in trials)
        outcome.wanted, outcome.before = len(trials), finished - outcome.finished
        outcome.failed |= {trial.key: known[trial.key].reason for trial in given_up}
        outcome.lacking |= {trial.key: found for trial in trials if (found := _lacking(known[trial.key]))}
        if todo:
            self._doubt(cells)
            known |= self._fresh(todo, known)
            for trial in todo:
                self.tracker.reschedule(known[trial.key], trial)
            self._launch(todo, known, nodes, cells, data, outcome)
        if outcome.lacking and not self.stop.asked:
            self._mend(known, outcome)

    def _doubt(self, cells: dict[str, Any]) -> None:
        """Say what is doubtful about the data that trials are about to be trained on."""
        for name, one in cells.items():
            for doubt in doubts(one) if hasattr(one, "facts") else []:
                self.screen.say(f"note: {name}: {doubt}")

    def _nodes(self, todo: list[Trial]) -> list[dict[str, float]]:
        """Return Ray's nodes, looked over before anything is registered; where nothing is to be done none is needed."""
        if not todo:
            return []
        from sweeps.cluster import nodes as cluster

        address = self.request.address
        if not self.has_ray:
            self.held.enter_context(cluster.watched_ray(address, self.request.num_cpus, self._without_ray))
            self.has_ray = True
        nodes = cluster.nodes()
        if address is not None:
            cluster.check_nodes(self.storage, shared=self.shared)
        resources.check_room(todo, nodes)
        said = address and resources.without_gpu(todo, nodes), allowance.unheeded(self.allowance, todo, nodes)
        for one in filter(None, said):
            self.screen.say(one)
        return nodes

    def _without_ray(self) -> None:
        """End this process, in words, before Ray does: workers end with their node, records are on disk."""
        self.screen.end()
        self.screen.say("Ray doesn't answer any more; run the same command again to go on from the checkpoints")
        self.tracker.close(3)
        os._exit(3)

    def _register(self, trials: list[Trial], known: dict[str, RunState]) -> dict[str, RunState]:
        """Have a run for every trial, and the sweep's file and wishes kept."""
        for sentence in changes.since(self.storage / "sweeps" / f"{self.spec.name}.yaml", self.spec.trials()):
            self.screen.say(sentence)
        lineage.keep_file(self.spec, self.storage, self.tracker.uri, self.request.shared)
        rounds.want(self.spec, trials, self.tracker)
        return self.tracker.register(trials, known, lambda done, total: self.screen.count("registering", done, total))

    def _split(self, trials: list[Trial], known: dict[str, Any]) -> tuple[list[Trial], list[Trial]]:
        """Return (trials to run, failed trials that are left alone).

        What failed for a cause outside the trial (memory, disk, a lost worker) is run again; what failed of itself
        would do so again, and waits for --retry-failed.
        """
        todo, given_up = [], []
        for trial in trials:
            run = known.get(trial.key)
            if run is None or run.status not in ("FINISHED", "FAILED"):
                todo.append(trial)
            elif run.status == "FAILED":
                again = self.request.retry_failed or run.tags.get("cellskew.cause") == "outside"
                (todo if again else given_up).append(trial)
        return todo, given_up

    def _mend(self, known: dict[str, RunState], outcome: Outcome) -> None:
        """Make and upload what finished trials lack."""
        from sweeps.drive.launching.mending import mend

        self.screen.say(f"making what {len(outcome.lacking)} finished trials lack")
        outcome.lacking = mend(
            outcome.lacking,
            self.storage / "trials",
            lambda key: self._upload(known[key]),
            lambda key, lacking: self.tracker.lacks(known[key].run_id, lacking),
            self.shared,
        )

    def _fresh(self, todo: list[Trial], known: dict[str, RunState]) -> dict[str, RunState]:
        """Return new runs for the trials that are trained from the start again: a run's points are of one training."""
        anew = lineage.anew(todo, known, self.storage / "trials", self.request.from_scratch, self.shared)
        if not anew:
            return {}
        self.screen.say(f"{len(anew)} trials start anew, each in a new run; their old runs are marked superseded")
        self.tracker.supersede([known[trial.key] for trial in anew])
        return self.tracker.register(anew, {}, lambda done, total: self.screen.count("registering", done, total))

    def _launch(
        self, todo: list[Trial], known: dict, nodes: list[dict[str, float]], cells: dict, data: dict, outcome: Outcome
    ) -> None:
        from sweeps.drive.launching import launch, news

        self.screen.say(f"preparing {len(todo)} trials")
        coming, costs = self._coming(todo, known, nodes, cells, data), {one.key: self.costs[one.key] for one in todo}
        try:
            coming.begin()
            most, done = self.request.max_concurrent, outcome.before + outcome.finished
            self.screen.begin(todo, done, costs, resources.cores(nodes, most), lambda: self.tracker.outbox)
            limits = most, self.spec.max_failures, self.request.max_failed, self.allowance
            settings = launch.Settings(self.parts.run_trial, *limits, say=self.screen.say)
            given = coming, self.tracker, self.screen.event, self.stop, self.storage, settings
            with self.stop.waiting():
                self.tallies.append(launch.train(*given))
                self._note(self.tallies[-1], outcome, costs)
                outcome.given = news.utilisation(self.tallies)
        finally:
            coming.close()
        if any(job.config.get("distances") for job in coming.jobs):
            shown = f"cellskew results {self.spec.name} --metric generated_auc --by strategy,skew"
            self.screen.say(f"how far made cells are from real ones: {shown}")

    def _coming(self, todo: list[Trial], known: dict, nodes: list[dict], cells: dict, data: dict) -> Coming[Job]:
        """Return the trials' jobs as they will be prepared; how far one group is is told, its end by those ready."""
        from sweeps.drive.preparing.packing import Gauge
        from sweeps.drive.preparing.prepare import groups

        def job(trial: Trial, paths: dict[str, Any], measured: float = 1.0) -> Job:
            share = resources.of_trial(trial, nodes, measured)
            return self._job(trial, paths, known[trial.key], data[trial.dataset], share)

        def prepared(trials: list[Trial]) -> Iterator[list[Job]]:
            made = self.parts.prepare([trial.config() for trial in trials], cells, self.storage, within, work)
            pairs = list(zip(trials, made, strict=True))
            yield [job(trial, paths) for trial, paths in pairs if not gauge.measures(trial)]
            shares = gauge.of_trials([(trial, paths) for trial, paths in pairs if gauge.measures(trial)])
            yield [job(trial, paths, shares[trial.key]) for trial, paths in pairs if trial.key in shares]

        def within(what: str, done: int, of: int) -> None:
            self.screen.count(what, done, of) if done < of else self.screen.passed(what)

        work = Workshop()
        gauge = Gauge(self.storage, nodes, self.parts.measure, self.screen.say, work)
        self.parts.check([trial.config() for trial in todo], cells, self.storage, self.screen.count)
        return Coming(groups(todo, nodes), prepared, lambda trial: job(trial, {}), work, self.screen.count)

    def _note(self, tally: Any, outcome: Outcome, costs: dict[str, float]) -> None:
        outcome.finished, outcome.interrupted = outcome.finished + len(tally.finished), len(tally.interrupted)
        self.allowance = self.allowance and self.allowance.less(tally)
        outcome.failed |= tally.failed
        outcome.lacking |= tally.lacking
        outcome.left = allowance.left(costs, tally)

    def _job(
        self, trial: Trial, paths: dict[str, Any], run: RunState, data: dict[str, str], share: dict[str, float]
    ) -> Job:
        config = trial.config() | paths | {"directory": str(self.storage / "trials" / trial.key)}
        config |= {"device": resources.device_of(share), "gpu_share": min(1.0, share["gpu"])}
        config |= {"checkpoint_every": self.spec.checkpoint_every, "stop_file": str(self.stop.mark)}
        tags = origin.code() | origin.packages() | {"cellskew.digest": data["digest"]}
        if share["gpu"]:
            tags["cellskew.gpus"] = f"{share['gpu']:g}"
        if self.spec.checkpoints == "link" and trial.leaves_model:
            tags["cellskew.checkpoint"] = f"{config['directory']}/{MODEL_FOLDER}"
        fresh = self.launch_id if self.request.from_scratch else ""
        in_line = {"cost": self.costs[trial.key], "turn": self.turns[trial.key]}
        shared = self.shared and self.shared.uri
        return Job(config, run.run_id, share, tags, data, fresh, self._upload(run), shared=shared, **in_line)

    def _upload(self, run: RunState) -> Upload:
        server = self.tracker.uri if self.tracker.uri.startswith("http") else None
        return make_place(Upload(run.artifact_uri, server, with_checkpoint=self.spec.checkpoints == "upload"))
