"""The right to write a sweep's runs, kept in MLflow itself: drivers whose storage folders differ see one another."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from data_pipeline.errors import RequestError
from sweeps.tracking.locks.lock import here, is_same_place, lives, moves

TAG = "cellskew.driver"  # of the experiment: JSON of who drives it; "" if nobody does
BEAT = 15.0  # seconds between signs of life
TIMEOUT = 60.0  # a driver without one for so long is dead
SETTLED = 1.0  # seconds after which two that asked at the same moment see which of them was last

_OURS: set[str] = set()  # ids of this process's leases: one given back while MLflow was away stays written there


class Lost(RuntimeError):
    """Another driver has the lease."""


class Client(Protocol):
    """What of MLflow's client a lease needs."""

    def get_experiment(self, experiment_id: str) -> Any: ...

    def set_experiment_tag(self, experiment_id: str, key: str, value: Any) -> None: ...


class Lease:
    """One driver's claim to an experiment, renewed by a thread until it is given back.

    A driver that died on this machine is succeeded at once. Of any other only its signs of life are known: they are
    watched for `timeout` seconds by our own clock, and if none comes, its place is taken. A live one is refused with
    RequestError, naming host, pid and storage. on_loss is called if somebody took ours.
    """

    def __init__(
        self,
        client: Client,
        experiment_id: str,
        storage: Path,
        on_loss: Callable[[], None] = lambda: None,
        on_wait: Callable[[str], None] = lambda said: None,
        beat: float = BEAT,
        timeout: float = TIMEOUT,
    ) -> None:
        self.client, self.experiment_id, self.on_loss, self.on_wait = client, experiment_id, on_loss, on_wait
        self.beat, self.timeout = beat, timeout
        self.me = here() | {"storage": str(storage.absolute())}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._proved = 0.0  # time.monotonic() when it was last seen to be ours
        self.is_lost = False

    def take(self) -> None:
        """Take the lease and keep it; RequestError if a live driver has it, or one that asked at the same moment."""
        holder = self._holder()
        if holder is not None and holder["id"] != self.me["id"] and self._may_live(holder):
            raise _taken_by(holder)
        self._write()
        time.sleep(SETTLED)
        holder = self._holder()
        if holder is None or holder["id"] != self.me["id"]:
            raise _taken_by(holder or self.me)
        self._proved = time.monotonic()
        self._thread = threading.Thread(target=self._keep, name="cellskew-lease", daemon=True)
        self._thread.start()
        _OURS.add(self.me["id"])

    def check(self) -> None:
        """Raise Lost if the lease was taken from us. MLflow is asked if we weren't lately: we may have been asleep."""
        if self._thread is None:
            return
        if not self.is_lost and time.monotonic() - self._proved > 2 * self.beat:
            self._look()
        if self.is_lost:
            raise Lost("another driver has taken this sweep over; these news wait for this storage's next run")

    def _look(self) -> None:
        if self._is_ours():
            self._proved = time.monotonic()
        elif not self.is_lost:
            self.is_lost = True
            self.on_loss()

    def give_back(self) -> None:
        """End the lease, if it is still ours; MLflow away: it ends by itself."""
        _OURS.discard(self.me["id"])
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        self._quietly(lambda: self._is_ours() and self.client.set_experiment_tag(self.experiment_id, TAG, ""))

    def _holder(self) -> dict[str, Any] | None:
        return holder_in(self.client.get_experiment(self.experiment_id).tags)

    def _may_live(self, holder: dict[str, Any]) -> bool:
        if is_same_place(holder, self.me):
            return holder["id"] in _OURS if holder["pid"] == self.me["pid"] else lives(holder)
        self.on_wait(
            f"a driver on {holder['host']} wrote this sweep's runs; watching {self.timeout:.0f} s for a sign of life"
        )
        return moves(self._holder, holder, self.timeout, min(2.0, self.beat))

    def _write(self) -> None:
        self.client.set_experiment_tag(self.experiment_id, TAG, json.dumps(self.me | {"at": time.time()}))

    def _is_ours(self) -> bool:
        holder = self._holder()
        return holder is not None and holder["id"] == self.me["id"]

    def _keep(self) -> None:
        while not self._stop.wait(self.beat) and not self.is_lost:
            self._quietly(self._look)
            if time.monotonic() - self._proved < self.beat:
                self._quietly(self._write)

    def _quietly(self, ask: Callable[[], Any]) -> Any:
        """Return an answer of MLflow, None if there is none now: that is the outbox's to tell."""
        try:
            return ask()
        except Exception:  # each kind of store has its own; the next beat asks again
            return None


def holder_in(tags: dict[str, str]) -> dict[str, Any] | None:
    """Return who drives an experiment that has these tags: host, pid, storage, at (seconds, by its clock), ..."""
    try:
        found = json.loads(tags.get(TAG, ""))
    except ValueError:
        return None
    return found if isinstance(found, dict) and {"id", "host", "pid", "storage"} <= set(found) else None


def _taken_by(holder: dict[str, Any]) -> RequestError:
    return RequestError(
        f"another cellskew drives this sweep in MLflow: pid {holder['pid']} on {holder['host']}, with "
        f"--storage {holder['storage']}. Wait for it or stop it; or give your sweep another `name:`"
    )
