"""What is said in a worker while it runs a trial, by whomever: in the trial's folder, log.txt."""

import contextlib
import io
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sweeps.tracking.artifacts import LOGS
from sweeps.tracking.uris import without_secrets

LOG, BEFORE = LOGS
MOST = 2_000_000  # bytes, after which a log is put away as BEFORE and another begun
LOOK_EVERY = 5.0  # seconds
OUTPUTS = (1, 2)  # file descriptors of standard output and standard error
logger = logging.getLogger("cellskew")


@contextmanager
def logged(directory: Path, begins: str) -> Iterator[None]:
    """Write standard output and error, logging and warnings to a trial's log while it lasts, an error that ends it too.

    What libraries write past Python goes there as well, line by line, so that a worker that is killed leaves its last
    words. A log that can't be written (no room, say) costs the trial nothing.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ValueError):
            stack.enter_context(_outputs_to(directory))
            stack.enter_context(_with_logging())
        logger.info(begins)
        try:
            yield
        except Exception:  # Tune ends a trial by SystemExit
            logger.exception("ended by an error")
            raise


@contextmanager
def _outputs_to(directory: Path) -> Iterator[None]:
    log = _open(directory)
    _flush()
    saved = [os.dup(output) for output in OUTPUTS]
    over = threading.Event()
    turning = threading.Thread(target=_turn, args=(directory, over), name="cellskew-log", daemon=True)
    turning.start()
    streams = sys.stdout, sys.stderr
    try:
        _to(log)
        sys.stdout, sys.stderr = map(_stream, OUTPUTS)  # whatever stood in for them
        yield
    finally:
        over.set()
        turning.join()
        _flush()
        sys.stdout, sys.stderr = streams
        for output, before in zip(OUTPUTS, saved, strict=True):
            os.dup2(before, output)
            os.close(before)


def _open(directory: Path) -> int:
    return os.open(directory / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def _to(log: int) -> None:
    for output in OUTPUTS:
        os.dup2(log, output)
    os.close(log)


def _stream(output: int) -> io.TextIOWrapper:
    """Return a stream onto a file descriptor, by lines; any character can be written."""
    raw = io.FileIO(output, "w", closefd=False)
    return io.TextIOWrapper(raw, "utf-8", errors="backslashreplace", line_buffering=True, write_through=True)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def _turn(directory: Path, over: threading.Event) -> None:
    """Put a log that has grown too long away, now and then, and begin another."""
    while not over.wait(LOOK_EVERY):
        with contextlib.suppress(OSError):
            turn(directory)


def turn(directory: Path) -> None:
    """Begin another log if this one is too long."""
    if (directory / LOG).stat().st_size > MOST:
        (directory / LOG).replace(directory / BEFORE)
        _to(_open(directory))


@contextmanager
def _with_logging() -> Iterator[None]:
    """Have what is logged, and warnings, written to standard error, with time and name."""
    root, handler = logging.getLogger(), _Said()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.setLevel(level)
        root.removeHandler(handler)


class _Said(logging.Handler):
    """Writes a record without secrets, past whatever stands in for sys.stderr, and never raises."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            os.write(2, f"{without_secrets(self.format(record))}\n".encode("utf-8", "backslashreplace"))


def epoch_line(numbers: dict[str, Any]) -> str:
    """Return what a trial reports of an epoch in a line."""
    shown = ("train_loss", "val_loss", "val_macro_f1", "seconds_per_epoch")
    said = ", ".join(f"{name} {numbers[name]:.4g}" for name in shown if isinstance(numbers.get(name), int | float))
    return f"epoch {numbers.get('epoch', '?')} of {numbers.get('epochs', '?')}: {said}"
