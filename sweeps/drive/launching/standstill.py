"""Ray that starts nothing although there is room: noticed, so that what is left can be launched anew."""

import time
from collections.abc import Callable

import ray

LIMIT = 300.0  # seconds without a trial that runs, while a node has room for one


class Standstill:
    """Told at each step whether a trial runs and whether one was promised room on a node that is there."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.since = clock, clock()

    def look(self, runs: bool, is_promised: bool) -> None:
        """RuntimeError, whose cause is an error of Ray's, once nothing has run for too long."""
        if runs or not is_promised:
            self.since = self.clock()
        elif self.clock() - self.since > LIMIT:
            why = f"Ray has started no trial for {LIMIT:.0f} s, although a node has room"
            raise RuntimeError(why) from ray.exceptions.RayError(why)
