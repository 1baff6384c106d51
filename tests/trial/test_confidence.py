"""How far highest probabilities can be trusted: by hand."""

import numpy as np
import pytest

from trainables import metrics
from trainables.trial import confidence


def test_bins_hold_what_is_sure_and_what_is_right():
    sure, right = np.array([0.05, 0.95, 0.93, 1.0, 0.91]), np.array([0, 1, 1, 0, 1], dtype=bool)
    np.testing.assert_allclose(confidence.reliability(sure, right), [[0.05, 0, 1], [3.79 / 4, 0.75, 4]])


def test_the_bins_gaps_come_to_the_calibration_error(rng):
    probabilities = rng.dirichlet(np.ones(4), 300)
    sure, right = probabilities.max(1), probabilities.argmax(1) == rng.integers(0, 4, 300)
    bins = confidence.reliability(sure, right, metrics.ECE_BINS)
    gaps = np.abs(bins[:, 0] - bins[:, 1]) @ bins[:, 2] / 300
    assert gaps == pytest.approx(metrics._calibration_error(sure, right))


def test_risk_is_the_share_of_mistakes_among_the_surest():
    sure, right = np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, 0, 1, 0], dtype=bool)
    np.testing.assert_allclose(confidence.risks(sure, right), [0, 1 / 2, 1 / 3, 2 / 4])
    assert confidence.aurc(sure, right) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)


def test_equally_sure_cells_count_by_their_mean_whatever_their_order():
    sure = np.array([0.9, 0.5, 0.5, 0.5])
    for right in ([1, 1, 0, 0], [1, 0, 0, 1]):
        np.testing.assert_allclose(confidence.risks(sure, np.array(right, bool)), [0, 1 / 3, 4 / 9, 1 / 2])


# thresholds and sets


def test_the_threshold_is_the_lowest_at_which_enough_are_right():
    sure, right = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([1, 1, 0, 1, 0], bool)
    assert confidence.threshold(sure, right, 0.75) == 0.6, "3 of 4, though 2 of 3 are too few"
    assert confidence.threshold(sure, right, 0.95) == 0.8
    assert confidence.threshold(sure, ~right, 0.95) == np.inf and confidence.threshold(sure[:0], right[:0]) == np.inf
    assert confidence.threshold(np.array([0.9, 0.9]), np.array([1, 0], bool)) == np.inf, "equally sure go together"


def made(cells: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return (probabilities [n, 3], labels): so many cells of three types that overlap."""
    labels = np.repeat(np.arange(3), cells)
    logits = rng.normal(size=(len(labels), 3))
    logits[np.arange(len(labels)), labels] += 1.5
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), labels


def test_sets_hold_the_type_of_nine_in_ten_cells_of_every_type_rare_ones_too(rng):
    """Means of 300 lie between 0.9 and 0.9 + 1 / (cells + 1) (Vovk 2012); the rarest type's standard error is 0.005."""
    validation, test, found = np.array([200, 30, 9]), np.array([50, 50, 50]), []
    for _ in range(300):
        probabilities, labels = made(test, rng)
        sets = confidence.conformal(*made(validation, rng), probabilities)
        found.append(sets[np.arange(150), labels].reshape(3, 50).mean(1))
    mean = np.mean(found, axis=0)
    assert (mean > 0.9 - 0.015).all() and (mean < 0.9 + 1 / (validation + 1) + 0.015).all()


def test_a_type_with_too_few_validation_cells_is_in_every_set(rng):
    probabilities, _ = made(np.array([5, 5, 5]), rng)
    sets = confidence.conformal(*made(np.array([100, 100, 8]), rng), probabilities)
    assert sets[:, 2].all() and not sets[:, :2].all()


def test_what_is_named_is_right_as_often_on_test_cells_as_on_validation_cells(rng):
    shares = []
    for _ in range(30):
        validation, (probabilities, labels) = made(np.array([300, 100, 60]), rng), made(np.array([300, 100, 60]), rng)
        named = confidence.abstain(*validation, probabilities)
        shares.append((probabilities.argmax(1) == labels)[named].mean())
        assert 0.05 < named.mean() < 0.9
    assert np.mean(shares) == pytest.approx(0.95, abs=0.015)
