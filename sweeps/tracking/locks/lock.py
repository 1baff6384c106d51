"""One driver per sweep, one writer per trial: locks that outlive no process."""

import contextlib
import fcntl
import json
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_pipeline.atomic import publish
from data_pipeline.errors import RequestError

BEAT = 5.0  # seconds between heartbeats
TIMEOUT = 30.0  # a heartbeat that stands still for so long is that of a dead driver
ABSENT = (FileNotFoundError, NotADirectoryError)


@contextmanager
def file_lock(path: Path, seconds: float = 60.0) -> Iterator[None]:
    """Hold an advisory lock on `path`, which the kernel releases if we die; TimeoutError after so many seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + seconds
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{path} has been locked by another process for {seconds:.0f} s") from None
                time.sleep(0.1)
        yield


class SweepLock:
    """The right to drive a sweep, held while `with` lasts and proved by a heartbeat in a file.

    A driver that died on this machine is succeeded at once. Of one on another machine, or in another container, only
    the heartbeat is known, a time of the file, which needs no room on a full disk: it is watched for `timeout` seconds
    by our own clock (never compared with the other's), and if it stands still, taken over. A live one is refused with
    RequestError, naming host and pid. on_loss is called if somebody took ours over.
    """

    def __init__(
        self,
        path: Path,
        on_loss: Callable[[], None] = lambda: None,
        on_wait: Callable[[str], None] = lambda said: None,
        beat: float = BEAT,
        timeout: float = TIMEOUT,
    ) -> None:
        self.path, self.on_loss, self.on_wait, self.beat, self.timeout = path, on_loss, on_wait, beat, timeout
        self.me = here()
        self._stop = threading.Event()

    def __enter__(self) -> "SweepLock":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(self.path.with_suffix(".guard")):
            self._check()
            self._write()
        self._thread = threading.Thread(target=self._keep, name="cellskew-lock", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if self._is_ours():
                self.path.unlink()

    def _check(self) -> None:
        holder = read_lock(self.path)
        if holder is None or not self._may_live(holder):
            return
        raise RequestError(
            f"another cellskew is running this sweep: pid {holder['pid']} on {holder['host']}. Wait for it, or stop it "
            f"(kill {holder['pid']} there: it finishes its rounds first), then run again."
        )

    def _may_live(self, holder: dict[str, Any]) -> bool:
        if is_same_place(holder, self.me):
            return lives(holder)
        before = _seen(self.path)
        self.on_wait(f"a driver on {holder['host']} held this sweep; watching {self.timeout:.0f} s for a sign of life")
        return moves(self._look, before, self.timeout, min(0.5, self.beat))

    def _look(self) -> Any:
        """Look at the lock, once the file system has taken a sign of our own: while it stalls, the other's waits."""
        self.path.with_suffix(".guard").touch()
        return _seen(self.path)

    def _write(self) -> None:
        publish(self.path, json.dumps(self.me).encode(), durable=False)

    def _is_ours(self) -> bool:
        """Tell whether the lock is ours; OSError where that can't be seen: a folder that is away is no other driver."""
        holder = read_lock(self.path)
        if holder is None:
            self.path.parent.stat()
        return holder is not None and holder["id"] == self.me["id"]

    def _keep(self) -> None:
        while not self._stop.wait(self.beat):
            with contextlib.suppress(OSError):  # a full or absent disk must not stop the training; the next beat tries
                if not self._is_ours():
                    self.on_loss()
                    return
                self.path.touch()


def here() -> dict[str, Any]:
    """Return who we are, as locks name a driver: host, pid, its birth, an id, and what tells machines and containers
    of one name apart: boot, of the kernel, and pids, the space that pid is a number in."""
    me = {"host": socket.gethostname(), "pid": os.getpid(), "born": born(os.getpid()), "id": uuid.uuid4().hex}
    return me | {"boot": _boot(), "pids": _pid_space()}


def is_same_place(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tell whether two drivers' pids are numbers of the same processes."""
    return all(one.get(name) == other.get(name) for name in ("host", "boot", "pids"))


def lives(holder: dict[str, Any]) -> bool:
    """Tell whether a driver of this place lives."""
    return born(holder["pid"]) == holder["born"]


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""  # macOS, which has no containers of its own


def _pid_space() -> int:
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0


def moves(look: Callable[[], Any], before: Any, seconds: float, every: float) -> bool:
    """Tell whether what `look` returns changes within so many seconds; None, for nothing there, ends the watch: no.

    They are counted in looks: one that a file server or a network holds up shows nothing of the other.
    """
    for _ in range(math.ceil(seconds / every)):
        time.sleep(every)
        seen = look()
        if seen is None or seen != before:
            return seen is not None
    return False


def _seen(path: Path) -> tuple[dict[str, Any], int] | None:
    """Return a lock and when it last showed a sign of life, by its own clock; None if it is gone."""
    holder = read_lock(path)
    try:
        return None if holder is None else (holder, path.stat().st_mtime_ns)
    except ABSENT:
        return None


def read_lock(path: Path) -> dict[str, Any] | None:
    """Return who holds a sweep, see `here`; None: nobody. OSError where that can't be seen now."""
    try:
        return json.loads(path.read_text())
    except (*ABSENT, ValueError):
        return None


def is_live(path: Path) -> bool | None:
    """Tell whether a driver works on the sweep; None: on another machine, can't be told from here at once."""
    try:
        holder = read_lock(path)
    except OSError:
        return None
    if holder is None:
        return False
    return lives(holder) if is_same_place(holder, here()) else None


def born(pid: int) -> str | None:
    """Return when a process on this machine started, in a form that tells it from a later one with its number."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return _born_elsewhere(pid)
    state, *rest = stat.rpartition(")")[2].split()
    return None if state == "Z" else rest[18]


def _born_elsewhere(pid: int) -> str | None:
    """The same where there is no /proc (macOS): ps says it."""
    import subprocess

    if Path("/proc/self/stat").exists():
        return None
    asked = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return asked.stdout.strip() if asked.returncode == 0 else None
