"""One worker per trial's folder, though locks of network file systems lie: who was overtaken learns it, and ends."""

import contextlib
import fcntl
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipeline.atomic import publish
from data_pipeline.shared.turns import Overtaken

BEAT = 10.0  # seconds between signs of life
TIMEOUT = 120.0  # a worker without one for so long is dead, whatever its lock says
LOOK_EVERY = 0.2  # seconds between looks at another worker's signs of life


@contextmanager
def own(
    folder: Path, say: Callable[[str], None], beat: float = BEAT, timeout: float = TIMEOUT
) -> Iterator[Callable[[], None]]:
    """Hold a trial's folder; gives a check that raises Overtaken once another worker holds it.

    Waits, saying so, as long as another worker shows signs of life. The lock of a dead one is the kernel's to release;
    where a file server keeps it, the one whose signs stopped is passed by.
    """
    mark, me = folder / ".attempt", uuid.uuid4().hex
    with (folder / ".lock").open("a") as file:
        _wait(file.fileno(), mark, say, timeout)
        number = _number(mark) + 1
        publish(mark, f"{number} {me}".encode())

        def check() -> None:
            if not _is(mark, me):
                raise Overtaken(f"another worker has taken over {folder}; this was attempt {number}")

        over = threading.Event()
        alive = threading.Thread(target=_keep, args=(mark, me, over, beat), name="cellskew-fence", daemon=True)
        alive.start()
        try:
            yield check
        finally:
            over.set()
            alive.join()


def _wait(lock: int, mark: Path, say: Callable[[str], None], timeout: float) -> None:
    """Wait for a lock; return without it once the one who has it was silent in so many seconds of looks.

    A look leaves a sign of our own first: while a file server takes none, nobody else's can be seen.
    """
    seen, silent, told = _sign(mark), 0.0, False
    while silent < timeout:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                say("waits for another worker that has this trial's folder; its result is taken when it is there")
                told = True
        time.sleep(LOOK_EVERY)
        os.utime(lock)
        before, seen = seen, _sign(mark)
        silent = silent + LOOK_EVERY if seen == before else 0.0
    return None


def _keep(mark: Path, me: str, over: threading.Event, beat: float) -> None:
    while not over.wait(beat):
        with contextlib.suppress(OSError):
            if _is(mark, me):
                mark.touch()


def _is(mark: Path, me: str) -> bool:
    return mark.exists() and mark.read_text().endswith(f" {me}")


def _number(mark: Path) -> int:
    try:
        return int(mark.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def _sign(mark: Path) -> int:
    try:
        return mark.stat().st_mtime_ns
    except OSError:
        return 0
