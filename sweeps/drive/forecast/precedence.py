"""In which order trials run: the longest first, and each split's baselines before its networks."""

from collections.abc import Mapping, Sequence

from sweeps.file.trials import Trial


def turns(trials: Sequence[Trial], costs: Mapping[str, float]) -> dict[str, int]:
    """Return each trial's place in line, by key, from 0.

    A baseline counts as long as the longest network of its dataset and split, so that networks which have ended, when a
    sweep is interrupted, can be compared with it; short networks end the line, and fill what long ones leave. costs:
    seconds that each is expected to take, by key.
    """
    places: dict[tuple[str, str], int] = {}
    longest: dict[tuple[str, str], float] = {}
    for trial in trials:
        places.setdefault(_split(trial), len(places))
        if trial.is_network:
            longest[_split(trial)] = max(costs[trial.key], longest.get(_split(trial), 0.0))

    def order(trial: Trial) -> tuple[float, int, bool, float]:
        cost, split = costs[trial.key], _split(trial)
        counted = cost if trial.is_network else max(cost, longest.get(split, 0.0))
        return -counted, places[split], trial.is_network, -cost

    return {trial.key: place for place, trial in enumerate(sorted(trials, key=order))}


def _split(trial: Trial) -> tuple[str, str]:
    return trial.labels["dataset"], trial.labels["split"]
