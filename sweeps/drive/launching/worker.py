"""What runs on a worker: one trial, with its failure as a value. Knows neither Ray nor MLflow."""

import contextlib
import json
import os
import platform
import shutil
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from data_pipeline.atomic import publish
from data_pipeline.errors import RequestError
from data_pipeline.shared.hand import at_hand
from data_pipeline.shared.objects import waiting
from data_pipeline.shared.turns import KEPT_HERE, mark, turn
from sweeps.cluster.origin import machine, of_trial
from sweeps.drive.launching.fence import own
from sweeps.drive.launching.job import Job
from sweeps.drive.launching.log import epoch_line, logged, logger
from sweeps.tracking.artifacts import Upload, is_seen, upload
from sweeps.tracking.places import local_path
from sweeps.tracking.uris import without_secrets
from trainables.config import LEAVE
from trainables.trial.files import missing
from trainables.trial.outcome import finished

Trainable = Callable[[dict[str, Any], Callable[[dict[str, Any], Path | None], None], Path | None], dict[str, Any]]
OUTSIDE = (
    "OutOfMemoryError",
    "MemoryError",
    "OSError",
    "TimeoutError",
    "ConnectionError",
    "ShardError",
    "Overtaken",
    "RayError",
)
OF_NODE = ("NoGpuError", "NodeError")  # another node may have what this one lacks
NO_MEMORY = "can't allocate memory"  # what torch's RuntimeError says when the CPU's memory is out
PASSING = (MemoryError, OSError)  # may be over in a moment: memory or disk that others fill, a file server that stalls
LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)  # OSErrors that are not
TRAIN_PAUSES = (2, 10, 30)  # seconds before a trial that such an error ended goes on from its newest checkpoint
SHARE = 0.05  # of a trial's time that putting its rounds into the store may cost, see training.checkpoint
UPLOAD_PAUSES = (1, 2, 5, 10)  # seconds between attempts to upload a trial's files; the driver tries again
UPLOAD = "upload"  # what a trial lacks whose files aren't with its run
WAITS = "waits for the driver"
TOLD = ".told.json"  # in a trial's folder: what run_trial was told last


def work(job: Job, send: Callable[[dict[str, Any]], None], trainable: Trainable) -> None:
    """Run the trial of `job` and send its news, all plain: {"metrics", "saved"} per epoch, {"trouble"}, {"final"} or
    {"failed"}. With "final": "lacking", files that couldn't be made or uploaded, and why, see mending."""
    try:
        with contextlib.ExitStack() as held:
            config = _at_hand(job, held, _troubles(send))
            final, where, lacking = _work(job, config, send, trainable)
        tags = final.get("tags", {})  # how it was computed
        numbers = {name: value for name, value in final.items() if name != "tags"}
        send({"final": numbers, "where": where | tags, "lacking": lacking})
    except Exception as error:  # whatever a trial dies of must not take the sweep with it: failures are values
        send({"failed": describe(error), "cause": cause(error), "traceback": _tail(), "where": machine()})


def _at_hand(job: Job, held: contextlib.ExitStack, say: Callable[[str], None]) -> dict[str, Any]:
    """Return what the trial is told, with all that it reads on this machine; NodeError if that can't be."""
    try:
        there = (job.directory, *job.marks)
        return waiting(lambda: held.enter_context(at_hand(job.store, job.config, there)), say)
    except OSError as error:
        raise NodeError(f"node {platform.node()} can't fetch what the trial reads: {describe(error)}") from error


def _work(job: Job, config: dict[str, Any], send: Callable, trainable: Trainable) -> tuple[dict[str, Any], dict, dict]:
    """Train the trial in its folder and put this where others find it; returns its numbers, where and by which code
    they were made, and what it lacks.

    config: the job's, with paths as they are on this machine.
    """
    directory, node = Path(config["directory"]), job.store and job.store.on_node()
    for path in () if node is None else job.marks:
        node.here(path).parent.mkdir(parents=True, exist_ok=True)
    check_node(config)
    directory.mkdir(parents=True, exist_ok=True)
    with (
        own(directory, _troubles(send)) as check,  # a worker may outlive its driver
        turn(node, job.directory, check, job.marks, _troubles(send)) as (check, save),
    ):
        mark(job.directory / LEAVE, node).unlink(missing_ok=True)
        marks = [path if node is None else node.here(path) for path in job.marks]
        rounds = Rounds(save, send, marks, config.get("checkpoint_every", 1))

        def send_if_ours(news: dict[str, Any]) -> None:
            check()
            if news.get("saved") and "replayed" not in news["metrics"]:
                news["saved"] = rounds.keep()
            send(news)

        _start_over(directory, job.fresh)
        publish(directory / TOLD, json.dumps(job.config).encode(), durable=False)
        where = of_trial(directory, job.tags, finished(directory) is not None)
        with logged(directory, _begins(job)):
            final = _train_on(config, send_if_ours, trainable, directory)
        check()
        lacking = missing(directory) | _upload(job, directory)
        waiting(save, _troubles(send))
    return final, where, lacking


@dataclass
class Rounds:
    """Has saved rounds put into the store: each, or with "auto" so few that it costs SHARE of the time, as saving them.

    save: puts the trial's folder there. marks: files that ask for a round that is safe; then it is put there at once.
    """

    save: Callable[[], None]
    send: Callable[[dict[str, Any]], None]
    marks: list[Path]
    every: int | Literal["auto"]
    cost: float = 0.0  # seconds that the last time took
    since: float = field(default_factory=time.monotonic)

    def keep(self) -> bool:
        """Tell whether the round that was just saved is safe now; where it can't be kept, the trial goes on."""
        begin = time.monotonic()
        is_early = self.every == "auto" and SHARE * (begin - self.since) < self.cost
        if is_early and not any(mark.exists() for mark in self.marks):
            return False
        try:
            self.save()
        except OSError as error:
            said = f"a round could not be kept in the store, and is lost with this node: {describe(error)}"
            self.send({"trouble": said})
            return False
        self.since = time.monotonic()
        self.cost = self.since - begin
        return True


def _begins(job: Job) -> str:
    return f"{job.config.get('name', '')} ({job.directory.name}) on {socket.gethostname()}, pid {os.getpid()}"


def _troubles(send: Callable[[dict[str, Any]], None]) -> Callable[[str], None]:
    return lambda said: send({"trouble": said})


class NodeError(RuntimeError):
    """This node doesn't see what others do."""


def check_node(config: dict[str, Any]) -> None:
    """NodeError if this node doesn't see the storage folder, or files that the trial needs.

    Looked for before anything is made: in the place of a folder that isn't mounted one would train into the void.
    """
    needed = {"the storage folder": Path(config["stop_file"]).parent} if "stop_file" in config else {}
    for name in ("shards", "generated", "rows", "weights"):
        path = config.get(name)
        if isinstance(path, str) and Path(path).is_absolute():
            needed[name] = Path(path)
    needed |= {f"features of {Path(cells).name}": Path(path) for cells, path in config.get("features", {}).items()}
    lacking = [f"{name} {path}" for name, path in needed.items() if not path.exists()]
    if lacking:
        raise NodeError(f"node {platform.node()} does not see {', '.join(lacking)}")


def leave(job: Job) -> None:
    """Ask the worker that trains a trial to save the round that it is in."""
    with contextlib.suppress(OSError):
        mark(job.directory / LEAVE, job.store).touch()


def _train_on(config: dict, send: Callable, trainable: Trainable, directory: Path) -> dict[str, Any]:
    """Train to the end, trying again after what may pass of itself."""
    for attempt in range(len(TRAIN_PAUSES)):
        try:
            return _train(config, send, trainable, directory)
        except Exception as error:
            if not _may_pass(error):
                raise
            logger.exception("tried again (time %d of %d)", attempt + 1, len(TRAIN_PAUSES))
            send({"trouble": f"{describe(error)}; tried again (time {attempt + 1} of {len(TRAIN_PAUSES)})"})
        time.sleep(TRAIN_PAUSES[attempt])
    return _train(config, send, trainable, directory)


def _train(config: dict, send: Callable, trainable: Trainable, directory: Path) -> dict[str, Any]:
    """Train, passing every report on but the last, which waits until the trial's files are where they belong."""
    last: dict[str, Any] = {}

    def report(metrics: dict[str, Any], checkpoint: Path | None) -> None:
        if metrics.get("final"):
            last.update(metrics)
        else:
            if "replayed" not in metrics:
                logger.info(epoch_line(metrics))
            send({"metrics": metrics, "saved": checkpoint is not None or "replayed" in metrics})

    result = trainable(config, report, _newest_checkpoint(directory))
    return last if last else dict(result)


def _newest_checkpoint(directory: Path) -> Path | None:
    if not any(directory.glob("epoch-*")):
        return None
    from trainables.training.checkpoint import newest

    return newest(directory)


def _start_over(directory: Path, launch: str) -> None:
    """Remove everything an earlier launch left, but the signs that it is ours; once per launch, for "" never.

    A finished trial stays: another sweep, whose record it is, finished it.
    """
    mark = directory / ".started-over"
    if not launch or finished(directory) is not None or (mark.exists() and mark.read_text() == launch):
        return
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in KEPT_HERE:
            path.unlink()
    publish(mark, launch.encode())


def _upload(job: Job, directory: Path) -> dict[str, str]:
    """Upload a trial's files; returns {} or, if that can't be done now, why: a trained trial is not to wait for it.

    What goes to a server, or to a folder on another machine, is the driver's to send, see uploading: it has the
    credentials, and holds no slot meanwhile.
    """
    why, arrived = {}, set[Path]()
    if job.upload is not None and (job.shared is not None or local_path(job.upload.artifact_uri) is None):
        return {UPLOAD: WAITS}
    if job.upload is not None and (said := _unseen(job.upload)):
        return {UPLOAD: said}
    for pause in () if job.upload is None else (*UPLOAD_PAUSES, None):
        why = try_upload(directory, job.upload, arrived)
        if not why or pause is None:
            break
        time.sleep(pause)
    return why


def _unseen(to: Upload) -> str | None:
    """Return that this node doesn't see the folder in which runs' files lie, if it doesn't and they lie in one."""
    here = local_path(to.artifact_uri)
    if here is None or is_seen(here):
        return None
    return f"{platform.node()} does not see {here.parents[1]}, where the driver has made room for them"


def try_upload(directory: Path, to: Upload, arrived: set[Path] | None = None) -> dict[str, str]:
    """Upload a trial's files once, but those that have arrived; returns {} or why it can't be done, under UPLOAD."""
    try:
        upload(directory, to, arrived)
    except Exception as error:  # every store has its own exceptions
        return {UPLOAD: describe(error)[:500]}
    return {}


def describe(error: BaseException) -> str:
    """Return an error in a line or a few, without secrets: a request's own words, or type and message."""
    if isinstance(error, RequestError):
        return without_secrets("; ".join(error.problems))
    said = without_secrets(str(error).strip())
    return f"{type(error).__name__}: {said}"[:2000] if said else type(error).__name__


def cause(error: BaseException) -> str:
    """Return "node" if another one may have what this lacks, "outside" if the machine is to blame (memory, disk,
    network), so that trying again may help, else "trial"."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & set(OF_NODE):
        return "node"
    return "outside" if names & set(OUTSIDE) or NO_MEMORY in str(error) else "trial"


def _may_pass(error: Exception) -> bool:
    """Tell whether an error may be over in a moment; torch's errors about memory are RuntimeErrors."""
    if isinstance(error, PASSING):
        return not isinstance(error, LASTING)
    return type(error).__name__ == "OutOfMemoryError" or NO_MEMORY in str(error)


def _tail() -> str:
    return without_secrets(traceback.format_exc())[-3000:]
