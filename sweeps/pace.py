"""The time left of a sweep, as its live line and `cellskew status` tell it: learnt from the trials that ended."""

import contextlib
import json
import os
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipeline.atomic import publish

RECENT = 20  # trials of which the pace is taken
ENOUGH = 3  # trials that must have ended to tell anything of the others
DIFFER = 0.1  # standard deviation of expected seconds, by their mean, from which a line is fitted
KEPT = 50  # trials of each kind that a later driver learns from
IDLE = 30.0  # seconds between a trial's end and another's start, beyond which nothing was driven


class Ended(NamedTuple):
    """A trial that ended: what it is, the seconds expected of it and those that it took, when it ended (s)."""

    kind: str
    expected: float
    took: float
    at: float


class Due(NamedTuple):
    """What is left of a trial: what it is, the seconds expected of that."""

    kind: str
    expected: float


def seconds_left(
    ended: Sequence[Ended], due: Sequence[Due], cores: float = 0.0, before: Sequence[Ended] = ()
) -> float | None:
    """Return about how many seconds it takes until all that is due is done; None: it can't be said.

    Of a kind that ended before, a trial takes what those did, by its expected seconds; of others the expected.
    The pace is the seconds of work done per second by the clock while the last trials ended; until ENOUGH have, one
    for each of the `cores`, as `cellskew plan` has it (0: of what trains on GPUs nothing is expected). A trial isn't
    shared out. before: what earlier drivers saw end, at whatever pace: it tells how long trials take.
    """
    speed = _pace(ended) if len(ended) >= ENOUGH else cores
    if not speed or not due:
        return None
    works = learnt([*before, *ended], due)
    return max(sum(works) / speed, max(works))


def learnt(ended: Sequence[Ended], due: Sequence[Due]) -> list[float]:
    """Return the seconds that what is due takes, each by what ended of its kind."""
    lines = {kind: _line(sizes) for kind, sizes in _by_kind(ended).items()}
    found = []
    for kind, expected in due:
        beside, slope = lines.get(kind, (0.0, 1.0))
        found.append(beside + slope * expected)
    return found


def _by_kind(ended: Sequence[Ended]) -> dict[str, list[tuple[float, float]]]:
    """Return by kind the seconds that were expected of each that ended, and those that it took."""
    found: dict[str, list[tuple[float, float]]] = {}
    for one in ended:
        found.setdefault(one.kind, []).append((one.expected, one.took))
    return found


def _line(sizes: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return (seconds that each trial of a kind takes beside its size, seconds per expected second), by least squares.

    The long ones end first, and say nothing of short ones but by what they differ in among themselves: where that is
    little, or the line would be below zero, all goes by size.
    """
    expected, took = (np.array(column) for column in zip(*sizes, strict=True))
    spread = expected - expected.mean()
    if len(sizes) >= ENOUGH and (spread**2).mean() > (DIFFER * expected.mean()) ** 2:
        slope = max(0.0, (spread @ took) / (spread @ spread))
        beside = took.mean() - slope * expected.mean()
        if beside >= 0:
            return float(beside), float(slope)
    return 0.0, float(took.sum() / max(expected.sum(), 1e-9))


def _pace(ended: Sequence[Ended]) -> float:
    last = sorted(ended, key=lambda one: one.at)[-RECENT - 1 :]
    spans = [min(one.at - before.at, one.took + IDLE) for before, one in pairwise(last)]
    return max(sum(one.took for one in last[1:]) / max(sum(spans), 1e-9), 1e-9)


def place(storage: Path, sweep: str) -> Path:
    """Return where a sweep's driver keeps the seconds that are left."""
    return storage / "sweeps" / f"{sweep}.left.json"


def keep(path: Path, seconds: float | None, ended: Sequence[Ended] = ()) -> None:
    """Keep a guess of ours for whoever else asks, and for the next driver what ended; nothing on a full disk.

    seconds: None once there is no guess any more; one that stays is told from a later driver's by its pid.
    """
    took = {kind: sizes[-KEPT:] for kind, sizes in _by_kind(ended).items()}
    said = {"pid": os.getpid(), "at": time.time(), "left": seconds, "took": took}
    with contextlib.suppress(OSError):
        publish(path, json.dumps(said).encode(), durable=False)


def taught(path: Path) -> list[Ended]:
    """Return what an earlier driver kept of trials that ended."""
    try:
        took = json.loads(path.read_text())["took"]
        return [Ended(kind, *sizes, at=0.0) for kind, listed in took.items() for sizes in listed]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def kept(path: Path, pid: int) -> float | None:
    """Return the seconds that are left by what a process keeps there; None: it keeps nothing."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if found["pid"] != pid or found["left"] is None:
        return None
    return max(0.0, found["left"] - max(0.0, time.time() - found["at"]))
