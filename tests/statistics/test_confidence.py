"""How far highest probabilities can be trusted: by hand."""

import numpy as np
import pytest

from sweeps.statistics import confidence
from trainables import metrics


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
