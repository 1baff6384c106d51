"""What of a sweep isn't finished yet, and how long that takes by what finished trials took."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweeps import pace, tables
from sweeps.drive.forecast.estimate import Work
from sweeps.drive.forecast.fleet import Done
from sweeps.file.trials import Trial


@dataclass(frozen=True)
class Rest:
    """finished, wanted: trials; seconds: of one CPU core, for those that aren't finished."""

    finished: int
    wanted: int
    seconds: float

    def said(self, cpus: int) -> str:
        """Return how long it takes here, in words."""
        if self.finished == self.wanted:
            return f"all {self.wanted} trials are finished"
        alone, here = tables.hours(self.seconds), tables.hours(self.seconds / cpus)
        time = f"about {alone} of one CPU core ({here} on the {cpus} here"
        if not self.finished:
            return f"{time}; official sizes want GPUs)"
        return f"{self.finished} of {self.wanted} trials are finished; left {time}, by what those took)"


def rest(trials: Sequence[Trial], works: Mapping[str, Work], done: Mapping[str, Done], beforehand: float = 0.0) -> Rest:
    """Return what isn't `done`, each trial by what those of its model took that had no GPU.

    beforehand: seconds of what is yet to be made for trials.
    """
    over = [trial for trial in trials if trial.key in done]
    ended = [
        pace.Ended(trial.called, works[trial.key].cpu_seconds, done[trial.key].seconds, 0.0)
        for trial in over
        if not done[trial.key].gpu
    ]
    due = [pace.Due(trial.called, works[trial.key].cpu_seconds) for trial in trials if trial.key not in done]
    return Rest(len(over), len(trials), sum(pace.learnt(ended, due)) + beforehand)


def if_all(number: int, at_most: int) -> str:
    """Return how many times so much all trials would be of a sweep that begins with `number`, where it may add some."""
    return f"; {at_most / number:.3g} times that if all splits are wanted" if at_most > number else ""
