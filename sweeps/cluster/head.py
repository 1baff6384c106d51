"""Whether Ray's head still answers: without it Ray ends this process after a minute, without a word."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

KNOCK_EVERY = 5.0  # seconds
SILENT = 6  # knocks in a row that nobody answers: half of the minute that Ray gives it


@contextmanager
def watched(address: str, on_loss: Callable[[], None], every: float = KNOCK_EVERY) -> Iterator[None]:
    """Knock at HOST:PORT while it lasts; on_loss is called, by another thread, once nobody has answered for long."""
    over = threading.Event()
    watching = threading.Thread(target=_watch, args=(address, on_loss, over, every), name="cellskew-head", daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()


def _watch(address: str, on_loss: Callable[[], None], over: threading.Event, every: float) -> None:
    unanswered = 0
    while not over.wait(every):
        unanswered = 0 if answers(address, every) else unanswered + 1
        if unanswered >= SILENT:
            on_loss()
            return


def answers(address: str, seconds: float) -> bool:
    """Tell whether somebody listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
    except OSError:
        return False
    return True
