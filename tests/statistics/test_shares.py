"""Shares of variance: what was put into a table is found in it, and intervals hold it."""

import numpy as np
import pytest

from sweeps.statistics import shares

NAMES = ["skew", "model"]
SKEW, MODEL = np.array([0.0, 0.1, 0.2]), np.array([0.0, 0.3])


def made(splits: int, noise: float, rng: np.random.Generator, both: float = 0.0) -> np.ndarray:
    """Return skew x model x split: two effects, one of both together, luck of splits and noise."""
    table = SKEW[:, None, None] + MODEL[None, :, None] + both * np.array([[0, 1], [0, 0], [1, 0]])[:, :, None]
    return table + rng.normal(0, noise, splits) + rng.normal(0, noise, (3, 2, splits))


def test_without_noise_shares_are_those_of_the_sums_of_squares(rng):
    found = shares.omega_squared(made(4, 0.0, rng), NAMES)
    skew, model = SKEW.var(), MODEL.var()
    assert found["skew"] == pytest.approx(skew / (skew + model)) and found["model"] == pytest.approx(1 - found["skew"])
    assert found["skew x model"] == pytest.approx(0, abs=1e-9) and sum(found.values()) == pytest.approx(1)


def test_noise_alone_has_no_share_but_the_rest(rng):
    found = [shares.omega_squared(rng.normal(size=(3, 2, 5)), NAMES) for _ in range(200)]
    mean = {name: np.mean([one[name] for one in found]) for name in found[0]}
    assert mean["rest"] > 0.75 and max(mean[name] for name in ("skew", "model", "skew x model", "split")) < 0.1


def test_what_does_not_vary_has_no_shares():
    assert np.isnan(list(shares.omega_squared(np.ones((3, 2, 4)), NAMES).values())).all()


def test_a_share_that_is_kept_at_0_whatever_split_is_left_out_has_no_interval():
    """[0 %, 0 %] would say that it is known to be nothing."""
    table = np.array([[0.0, 0.1, 0.2], [0.5, 0.6, 0.7], [1.0, 1.1, 1.2]])[:, None] + np.array([0.0, 0.3])[None, :, None]
    table = table + 0.05 * np.array([[1, -1, 0], [-1, 0, 1]])[None]
    share, low, high = shares.with_intervals(table, NAMES, 0.2)["skew x model"]
    assert share == 0 and np.isnan([low, high]).all()


def test_intervals_hold_the_shares_and_few_splits_have_none(rng):
    truth, held = (
        shares.omega_squared(made(5000, 0.05, rng, both=0.1), NAMES),
        dict.fromkeys(["skew", "model", "rest"], 0),
    )
    for _ in range(60):
        found = shares.with_intervals(made(5, 0.05, rng, both=0.1), NAMES, 0.0)
        for name in held:
            held[name] += found[name][1] <= truth[name] <= found[name][2]
    assert min(held.values()) >= 0.85 * 60
    assert np.isnan(found["split"][1:]).all(), "a variance of few splits is hardly known"
    one, wider = (shares.with_intervals(made(5, 0.05, np.random.default_rng(1)), NAMES, ratio) for ratio in (0.0, 0.3))
    assert wider["skew"][2] - wider["skew"][1] > one["skew"][2] - one["skew"][1]
    assert np.isnan(shares.with_intervals(made(2, 0.05, rng), NAMES, 0.0)["skew"][1:]).all()
