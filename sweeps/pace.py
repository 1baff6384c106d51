"""The time left of a sweep, as its live line and `cellskew status` tell it: learnt from the trials that ended."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

RECENT = 20  # trials of which the pace is taken
ENOUGH = 3  # trials that must have ended
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


def seconds_left(ended: Sequence[Ended], due: Sequence[Due]) -> float | None:
    """Return about how many seconds it takes until all that is due is done; None: too few trials ended.

    Of a kind that ended before, a trial takes as many times its expected seconds as those did; of others the expected.
    The pace is the seconds of work done per second by the clock while the last trials ended; a trial isn't shared out.
    """
    if len(ended) < ENOUGH or not due:
        return None
    factors = _factors(ended)
    works = [expected * factors.get(kind, 1.0) for kind, expected in due]
    return max(sum(works) / _pace(ended), max(works))


def _factors(ended: Sequence[Ended]) -> dict[str, float]:
    expected, took = defaultdict(float), defaultdict(float)
    for one in ended:
        expected[one.kind] += one.expected
        took[one.kind] += one.took
    return {kind: took[kind] / max(expected[kind], 1e-9) for kind in took}


def _pace(ended: Sequence[Ended]) -> float:
    last = sorted(ended, key=lambda one: one.at)[-RECENT - 1 :]
    spans = [min(one.at - before.at, one.took + IDLE) for before, one in pairwise(last)]
    return max(sum(one.took for one in last[1:]) / max(sum(spans), 1e-9), 1e-9)
