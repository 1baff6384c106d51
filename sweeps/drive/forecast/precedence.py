"""In which order trials run: the longest first, and each split's baselines before its networks."""

from collections.abc import Mapping, Sequence

from sweeps.file.trials import Trial


def turns(trials: Sequence[Trial], costs: Mapping[str, float]) -> dict[str, int]:
    """Return each trial's place in line, by key, from 0.

    A baseline counts as long as the longest trial of its dataset and split, if that has networks, so that those which
    have ended, when a sweep is interrupted, can be compared with all baselines; short networks end the line, and fill
    what long ones leave. costs: seconds that each is expected to take, by key.
    """
    places: dict[tuple[str, str], int] = {}
    longest: dict[tuple[str, str], float] = {}
    with_networks = {_split(trial) for trial in trials if trial.is_network}
    for trial in trials:
        places.setdefault(_split(trial), len(places))
        longest[_split(trial)] = max(costs[trial.key], longest.get(_split(trial), 0.0))

    def order(trial: Trial) -> tuple[float, int, bool, float]:
        cost, split = costs[trial.key], _split(trial)
        counted = cost if trial.is_network or split not in with_networks else longest[split]
        return -counted, places[split], trial.is_network, -cost

    return {trial.key: place for place, trial in enumerate(sorted(trials, key=order))}


def _split(trial: Trial) -> tuple[str, str]:
    return trial.labels["dataset"], trial.labels["split"]
