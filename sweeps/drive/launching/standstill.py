"""Ray that starts nothing although a node should have room: noticed, so that what is left can be launched anew."""

import time
from collections.abc import Callable

import ray

LIMIT = 300.0  # seconds without a trial that runs, while one was promised room


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
