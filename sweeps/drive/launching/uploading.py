"""Files of trials to a server's store, and logs of failed ones: by the driver, so that neither a slot nor a credential
is needed."""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from data_pipeline.atomic import publish
from data_pipeline.shared.turns import fetched, left
from sweeps.drive.launching.job import Job
from sweeps.drive.launching.worker import TOLD, UPLOAD, WAITS, describe, try_upload
from sweeps.drive.workshop import LOOK_EVERY
from sweeps.tracking.artifacts import LOGS, Upload, probe, upload_log
from sweeps.tracking.uris import without_secrets

PAUSES = (1, 2, 5, 10)  # seconds before the next attempt while the store is away; the last again and again
PATIENCE = 120.0  # seconds at a sweep's end for what hasn't arrived; the next run brings the rest
AFTER = 30.0  # seconds at the end for logs alone, and after a stop, in which they are still sent
Done = Callable[[Job], None]


@dataclass
class Uploads:
    """Uploads trials' files on a thread of its own, in the order of their ends; what can't go holds up no other.

    done(job): called there of each finished one whose files have arrived; say: told when the store goes away and comes
    back. What has not arrived when `close` is called stays with what its trial lacks, see mending.
    """

    done: Done
    say: Callable[[str], None]
    waiting: queue.SimpleQueue = field(default_factory=queue.SimpleQueue)
    over: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None
    is_away: bool = False  # as far as has been said
    files: int = 0  # finished trials whose files have not arrived
    until: float = 0.0  # when the last log may begin, once it is over

    def try_store(self, job: Job) -> None:
        """Say so if files can't be put where this trial's are to go: now, not once it has trained."""
        if job.upload is not None:
            threading.Thread(target=self._try_store, args=(job.upload,), name="cellskew-probe", daemon=True).start()

    def _try_store(self, to: Upload) -> None:
        try:
            probe(to)
        except Exception as error:  # every store has its own exceptions
            self.say(
                f"files of trials can't be put where MLflow has them, {without_secrets(to.artifact_uri)}: "
                f"{describe(error)[:300]}. Numbers go on, and files stay in the storage folder until they can be"
            )

    def put(self, job: Job, lacking: dict[str, str]) -> None:
        """Have a finished trial's files uploaded, if that is what it waits for."""
        if lacking.get(UPLOAD) == WAITS:
            self.files += 1
            self._ask(Errand(job, _files_uploaded, self.done))

    def put_log(self, job: Job) -> None:
        """Have the log of a trial that failed uploaded, also if its worker, or its node, is gone."""
        if job.upload is not None:
            self._ask(Errand(job, _log_uploaded))

    def _ask(self, errand: "Errand") -> None:
        self.waiting.put(errand)
        if self.thread is None:
            self.thread = threading.Thread(target=self._work, name="cellskew-uploads", daemon=True)
            self.thread.start()

    def close(self, seconds: float, is_stopped: Callable[[], bool] = lambda: False) -> None:
        """End when all have arrived, or after so many seconds (AFTER, if only logs are left), or once it is stopped:
        after the attempt that is being made then, and one at each log for AFTER, as no later run brings these."""
        self.waiting.put(None)
        if self.thread is not None:
            began = time.monotonic()
            while self.thread.is_alive() and not is_stopped():
                rest = began + (seconds if self.files else min(seconds, AFTER)) - time.monotonic()
                if rest <= 0:
                    break
                self.thread.join(min(LOOK_EVERY, rest))
            self.until = time.monotonic() + AFTER
            self.over.set()
            self.thread.join()

    def _work(self) -> None:
        while (errand := self._next()) is not None:
            has_arrived = self._arrives(errand)
            if has_arrived and errand.done is not None:
                self.files -= 1
                errand.done(errand.job)
            elif not has_arrived and not self.over.is_set():
                self.waiting.put(errand)

    def _next(self) -> "Errand | None":
        """Wait for what is to go next; None at the end, once nothing is left that may still go."""
        while (errand := self.waiting.get()) is not None or not self.waiting.empty():
            if errand is None:  # behind those that have come back
                self.waiting.put(None)
            elif not self.over.is_set() or (errand.done is None and time.monotonic() < self.until):
                return errand
        return None

    def _arrives(self, errand: "Errand") -> bool:
        """Tell whether an errand is done; one that has failed often goes behind the others: it may never be."""
        while why := errand.uploaded(errand.job, errand.arrived):
            if not (errand.failures or self.is_away):
                self.say(f"files of trials can't be uploaded now, and wait; the numbers go on: {why[UPLOAD]}")
                self.is_away = True
            errand.failures += 1
            if self.over.wait(PAUSES[min(errand.failures, len(PAUSES)) - 1]) or errand.failures >= len(PAUSES):
                return False
        if self.is_away:
            self.say("files are uploaded again")
            self.is_away = False
        return True


@dataclass
class Errand:
    """Files of a trial that are to go: uploaded(job, arrived) sends them and returns {} or why that can't be now;
    done: who is told once they have arrived."""

    job: Job
    uploaded: Callable[[Job, set[Path]], dict[str, str]]
    done: Done | None = None
    arrived: set[Path] = field(default_factory=set)
    failures: int = 0


def _files_uploaded(job: Job, arrived: set[Path]) -> dict[str, str]:
    """Upload a finished trial's files once, fetched from the machine that trained it."""
    try:
        fetched(job.store, job.directory)
    except Exception as error:  # whatever it is, the thread goes on
        return {UPLOAD: describe(error)[:500]}
    return try_upload(job.directory, job.upload, arrived)


def _log_uploaded(job: Job, arrived: set[Path]) -> dict[str, str]:
    """Upload the log of a trial once, fetched likewise, with what it was told: it may be run alone here."""
    try:
        for name in (*LOGS, TOLD) if job.store is not None else ():
            if (data := left(job.store, job.directory, name)) is not None:
                job.directory.mkdir(parents=True, exist_ok=True)
                publish(job.directory / name, data, durable=False)
        upload_log(job.directory, job.upload)
    except Exception as error:  # every store has its own exceptions
        return {UPLOAD: describe(error)[:500]}
    return {}
