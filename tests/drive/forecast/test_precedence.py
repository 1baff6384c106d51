"""The order of a sweep's trials: long ones first, and yet a sweep that is interrupted anywhere can be compared."""

import heapq
from types import SimpleNamespace

import pytest

from sweeps.cluster.line import Line
from sweeps.cluster.resources import Shape
from sweeps.drive.forecast.precedence import turns

NETWORKS = {"scgpt": 600.0, "scbert": 200.0, "mlp": 20.0}
BASELINES = {"logistic_regression": 15.0, "knn": 4.0, "majority": 0.4}


def trial(model: str, split: int, number: int, cost: float, gpu: float) -> SimpleNamespace:
    return SimpleNamespace(
        key=f"{model}-{split}-{number}",
        labels={"dataset": "d", "split": str(split)},
        is_network=model in NETWORKS,
        cost=cost * (1 + 0.01 * (7 * split + 3 * number % 5)),
        resources={"cpu": 1.0, "gpu": gpu if model in NETWORKS else 0.0},
    )


def grid(splits: int = 5, each: int = 4, gpu: float = 0.0, models: dict | None = None) -> list[SimpleNamespace]:
    costs = NETWORKS | BASELINES if models is None else models
    return [
        trial(name, split, number, cost, gpu)
        for split in range(splits)
        for name, cost in costs.items()
        for number in range(each)
    ]


def ends(trials: list, nodes: dict[str, Shape], order: dict[str, int]) -> dict[str, float]:
    """Return when each trial is over, as the line hands them out."""
    for one in trials:
        one.turn = order[one.key]
    now, running, found = 0.0, [], {}
    line = Line(trials, lambda: nodes, print, None, clock=lambda: now, short=0.0)
    while not line.is_over():
        for handed in iter(line.next, None):
            heapq.heappush(running, (now + handed.job.cost, handed.job.key))
        now, key = heapq.heappop(running)
        found[key] = now
        line.over(key)
    return found


def costs(trials: list) -> dict[str, float]:
    return {one.key: one.cost for one in trials}


def longest_first(trials: list) -> dict[str, int]:
    return {one.key: place for place, one in enumerate(sorted(trials, key=lambda one: -one.cost))}


def lone(trials: list, over: dict[str, float]) -> list[str]:
    """Return the networks at whose end a baseline of their split wasn't over."""
    baselines = [one for one in trials if not one.is_network]
    return [
        one.key
        for one in trials
        if one.is_network and any(over[other.key] > over[one.key] for other in baselines if other.labels == one.labels)
    ]


@pytest.mark.parametrize("slots", [1, 2, 4, 8, 32])
def test_wherever_a_sweep_is_interrupted_its_networks_have_their_baselines(slots):
    trials, nodes = grid(), {"n": Shape(0.0, float(slots))}
    over, before = (ends(trials, nodes, order) for order in (turns(trials, costs(trials)), longest_first(trials)))
    assert not lone(trials, over)
    assert max(over.values()) < 1.03 * max(before.values())


def test_long_trials_come_first_and_of_equal_ones_split_by_split():
    models = {"mlp": 9.0, "scgpt": 90.0, "knn": 1.0}
    trials = [trial(name, 0, 0, cost, 0.0) for name, cost in models.items()]
    assert sorted(turns(trials, costs(trials)).items(), key=lambda pair: pair[1]) == [
        ("knn-0-0", 0),
        ("scgpt-0-0", 1),
        ("mlp-0-0", 2),
    ]
    alike = grid(2, 2, models={"mlp": 9.0, "knn": 1.0})
    found = turns(alike, {one.key: 9.0 if one.is_network else 1.0 for one in alike})
    assert [one.labels["split"] for one in sorted(alike, key=lambda one: found[one.key])] == ["0"] * 4 + ["1"] * 4


def test_a_baseline_that_takes_longer_than_its_networks_starts_before_them_with_the_others():
    trials = grid(3, 1, models={"scanvi": 2000.0, "knn": 4.0} | NETWORKS)
    order = turns(trials, costs(trials))
    found = sorted(trials, key=lambda one: order[one.key])
    assert [one.key.split("-")[0] for one in found[:6]] == ["scanvi", "knn"] * 3
    over, before = (ends(trials, {"n": Shape(0.0, 2.0)}, one) for one in (order, longest_first(trials)))
    assert not lone(trials, over) and max(over.values()) < 1.03 * max(before.values())
    tiny = grid(3, 4, models={"mlp": 1.0, "knn": 4.0, "majority": 0.4})
    assert not lone(tiny, ends(tiny, {"n": Shape(0.0, 2.0)}, turns(tiny, costs(tiny))))
    only = grid(3, 1, models=BASELINES)
    assert turns(only, costs(only)) == longest_first(only)


def test_beside_gpus_baselines_start_at_once_on_cpus_and_hold_no_gpu_up():
    trials, nodes = grid(gpu=0.25), {"g": Shape(1.0, 8.0), "c": Shape(0.0, 2.0)}
    over, before = (ends(trials, nodes, order) for order in (turns(trials, costs(trials)), longest_first(trials)))
    assert not lone(trials, over)
    assert max(over.values()) <= 1.001 * max(before.values())
