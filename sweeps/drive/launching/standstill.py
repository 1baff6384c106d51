"""Ray that starts nothing although a node should have room: noticed, so that what is left can be launched anew."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import ray

LIMIT = 300.0  # seconds without a trial that runs, while one was promised room
MOST = 3  # launches in a row that may stand still; then it is for a person to look at


class StandsStill(RuntimeError):
    """Nothing has run for too long; no trial's fault."""


class Standstill:
    """Told at each step whether a trial runs and whether one was promised room on a node that is there."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.since = clock, clock()

    def look(self, runs: bool, is_promised: bool) -> None:
        """StandsStill, whose cause is an error of Ray's, once nothing has run for too long."""
        if runs or not is_promised:
            self.since = self.clock()
        elif self.clock() - self.since > LIMIT:
            why = f"Ray has started no trial for {LIMIT:.0f} s, although a node should have room"
            raise StandsStill(why) from ray.exceptions.RayError(why)


@dataclass
class InARow:
    """How many launches in a row stood still: no trial was heard of from one standstill to the next."""

    times: int = 0
    heard: float = 0.0

    def is_enough(self, heard: float) -> bool:
        """Note a standstill, and when a trial was last heard of (by any clock); tell whether to give up."""
        self.times = self.times + 1 if heard == self.heard else 1
        self.heard = heard
        return self.times >= MOST
