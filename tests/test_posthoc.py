"""Adjustments after training: each undoes, on made-up logits, exactly the distortion it is for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from trainables.posthoc import POSTHOC, fit_temperature, shift

TRAIN_PRIOR = np.array([0.7, 0.2, 0.1])
TEST_PRIOR = np.array([0.1, 0.3, 0.6])


def cells(prior: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (log density of each cell under each class [n, 3], labels) for three overlapping Gaussian types."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n, p=prior)
    centres = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    points = centres[labels] + rng.standard_normal((n, 2))
    return -0.5 * ((points[:, None] - centres) ** 2).sum(axis=2), labels


def posterior(prior: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the exact logits of a perfect model trained under TRAIN_PRIOR, for cells that come with `prior`."""
    densities, labels = cells(prior, n, seed)
    return densities + np.log(TRAIN_PRIOR), labels


def test_none_is_the_softmax():
    logits, labels = posterior(TRAIN_PRIOR, 50, 0)
    assert POSTHOC["none"](logits, labels, TRAIN_PRIOR, logits) == pytest.approx(softmax(logits, axis=1))


@pytest.mark.parametrize("factor", [0.2, 1.0, 7.0])
def test_temperature_finds_the_factor_that_made_logits_overconfident(factor: float):
    logits, labels = posterior(TRAIN_PRIOR, 20_000, 1)
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.05)  # sampling error about 1 %


def test_temperature_calibrates_and_changes_no_prediction():
    logits, labels = posterior(TRAIN_PRIOR, 4000, 2)
    hot = 5 * logits
    adjusted = POSTHOC["temperature"](hot, labels, TRAIN_PRIOR, hot)
    assert np.array_equal(adjusted.argmax(axis=1), hot.argmax(axis=1))
    loss = [-np.log(p[np.arange(4000), labels]).mean() for p in (adjusted, softmax(hot, axis=1))]
    assert loss[0] < 0.7 * loss[1]


def test_temperature_without_validation_cells_is_one():
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, int)) == 1.0


def test_temperature_stays_finite_when_validation_is_perfectly_told_apart():
    logits = 3 * np.eye(3)
    adjusted = POSTHOC["temperature"](logits, np.arange(3), TRAIN_PRIOR, logits)
    assert np.isfinite(adjusted).all()


def test_logit_adjust_by_hand():
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.35, 0.4, 0.25]]))
    adjusted = POSTHOC["logit_adjust"](logits, np.zeros(2, int), TRAIN_PRIOR, logits)
    assert adjusted[0] == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert adjusted[1] == pytest.approx(np.array([0.5, 2.0, 2.5]) / 5)


def test_logit_adjust_takes_counts_as_well_as_shares():
    logits, labels = posterior(TRAIN_PRIOR, 10, 0)
    plain, counts = (POSTHOC["logit_adjust"](logits, labels, p, logits) for p in (TRAIN_PRIOR, 40 * TRAIN_PRIOR))
    assert plain == pytest.approx(counts)


def test_prior_shift_recovers_the_mix_of_the_test_cells():
    logits, labels = posterior(TEST_PRIOR, 20_000, 3)
    _, mix = shift(softmax(logits, axis=1), TRAIN_PRIOR)
    assert mix == pytest.approx(TEST_PRIOR, abs=0.02)  # standard error of a share about 0.005
    adjusted = POSTHOC["prior_shift"](logits[:0], labels[:0], TRAIN_PRIOR, logits)
    exact = softmax(log_softmax(logits, axis=1) - np.log(TRAIN_PRIOR) + np.log(TEST_PRIOR), axis=1)
    assert np.abs(adjusted - exact).mean() < 0.02
    accuracy = [(p.argmax(axis=1) == labels).mean() for p in (adjusted, softmax(logits, axis=1))]
    assert accuracy[0] > accuracy[1] + 0.1


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_prior_shift_calibrates_first_on_validation_cells_of_whatever_mix(factor: float):
    validation, val_labels = posterior(TEST_PRIOR, 20_000, 5)
    logits, labels = posterior(TEST_PRIOR, 20_000, 6)
    adjusted = POSTHOC["prior_shift"](factor * validation, val_labels, TRAIN_PRIOR, factor * logits)
    exact = softmax(log_softmax(logits, axis=1) - np.log(TRAIN_PRIOR) + np.log(TEST_PRIOR), axis=1)
    assert np.abs(adjusted - exact).mean() < 0.02  # without calibration 0.24 for 0.3 and 0.22 for 4


def test_prior_shift_without_weighty_validation_cells_calibrates_nothing():
    logits, _ = posterior(TEST_PRIOR, 500, 7)
    prior = np.array([0.5, 0.5, 0.0])
    none, unseen = (
        POSTHOC["prior_shift"](logits[:n], np.full(n, 2), prior, logits) for n in (0, 9)
    )  # the class of all nine has no training cells
    assert none == pytest.approx(unseen)


def test_prior_shift_changes_little_where_nothing_has_shifted():
    logits, labels = posterior(TRAIN_PRIOR, 20_000, 4)
    adjusted = POSTHOC["prior_shift"](logits, labels, TRAIN_PRIOR, logits)
    assert np.abs(adjusted - softmax(logits, axis=1)).mean() < 0.01


@pytest.mark.parametrize("name", ["logit_adjust", "prior_shift"])
def test_a_class_without_training_cells_gets_nothing(name: str):
    logits = np.zeros((5, 3))
    adjusted = POSTHOC[name](logits, np.zeros(5, int), np.array([9.0, 1.0, 0.0]), logits)
    assert (adjusted[:, 2] == 0).all()
    assert adjusted.sum(axis=1) == pytest.approx(np.ones(5))


@settings(deadline=None)
@given(st.sampled_from(sorted(POSTHOC)), st.integers(2, 7), st.integers(0, 30), st.integers(0, 10**6))
def test_probabilities_are_probabilities(name: str, num_classes: int, n: int, seed: int):
    rng = np.random.default_rng(seed)
    validation, test = rng.normal(0, 20, (12, num_classes)), rng.normal(0, 20, (n, num_classes)).astype(np.float32)
    prior = rng.integers(1, 100, num_classes)
    adjusted = POSTHOC[name](validation, rng.integers(0, num_classes, 12), prior, test)
    assert adjusted.shape == (n, num_classes)
    assert adjusted.dtype == np.float64
    assert adjusted.min(initial=0) >= 0
    assert adjusted.sum(axis=1) == pytest.approx(np.ones(n))
