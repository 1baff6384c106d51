"""Learning curves: what is made by the law is found again, and intervals hold the truth of made-up sweeps."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from sweeps.statistics import curves
from sweeps.statistics.curves import Curves

SIZES = np.array([2.0, 5.0, 10.0, 20.0, 40.0])


def curve(floor: float, scale: float, bend: float) -> Curves:
    return Curves(*(np.array(part) for part in (floor, scale, bend)))


@pytest.mark.parametrize("law", [(0.0, 1.5, 0.8), (0.1, 1.2, 1.0), (0.3, 0.9, 0.5)])
def test_a_curve_without_noise_is_found_again_and_read_backwards(law):
    made, sizes = curve(*law), SIZES[1:]
    found = curves.fit(sizes, made.at(sizes))
    np.testing.assert_allclose(found.at(sizes), made.at(sizes), atol=0.005)
    by_hand = (law[1] / (1 - 0.6 - law[0])) ** (1 / law[2])
    assert float(made.needed(0.6)) == pytest.approx(by_hand)
    assert float(found.needed(0.6)) == pytest.approx(by_hand, rel=0.1)


def test_above_the_floor_no_number_of_cells_is_enough():
    assert curve(0.25, 1.0, 0.7).needed(0.75) == np.inf and 100 < curve(0.25, 1.0, 0.7).needed(0.74) < np.inf
    falling = curves.fit(SIZES, np.array([0.5, 0.4, 0.3, 0.2, 0.1]))
    assert float(falling.scale) == 0 and float(falling.needed(0.6)) == np.inf and float(falling.needed(0.2)) == 0
    assert curves.fit(SIZES, np.ones(5)).needed(0.9) == 0, "all are found whatever their number"


def test_the_law_begins_above_the_last_size_that_finds_nothing():
    assert curves.begun(np.array([0.0, 0.03, 0.3, 0.6])).tolist() == [False, False, True, True]
    assert curves.begun(np.array([0.3, 0.0, 0.6])).tolist() == [False, False, True]
    assert curves.begun(np.array([0.3, 0.5])).all()


def test_splits_drawn_again_vary_as_the_interval_says_and_alike_for_all_choices():
    by_split = np.array([[0.50, 0.7], [0.55, 0.7], [0.45, 0.7], [0.60, 0.7], [0.52, 0.7]])
    one = curves.again(by_split, np.array([0.1, 0.05]), "one")
    low, high = curves.ends(one[:, 0])
    assert one[:, 0].std() == pytest.approx(0.1 / 1.96, rel=0.1) and (high - low) / 2 == pytest.approx(0.1, rel=0.15)
    assert one[:, 1].std() == pytest.approx(0.05 / 1.96, rel=0.1), "splits that agree are no certainty"
    other = curves.again(by_split, np.array([0.1, 0.05]), "other")
    np.testing.assert_array_equal(one[:, 0], other[:, 0])
    assert abs(np.corrcoef(one[:, 1], other[:, 1])[0, 1]) < 0.1
    assert curves.ends(one[:, 0], 10)[0] < low


def test_three_splits_are_drawn_as_far_out_as_students_t_goes():
    """Drawn with replacement they have six outcomes, of which none is as far out as the interval is wide."""
    drawn = curves.again(np.array([[0.4], [0.5], [0.6]]), np.array([0.1]))[:, 0]
    low, high = curves.ends(drawn)
    assert (high - low) / 2 == pytest.approx(0.1, rel=0.05)
    low, high = curves.ends(drawn, 5)
    assert (high - low) / 2 > 0.17, "for five choices at once: t of two degrees of freedom is 2.3 times as far out"


@pytest.mark.parametrize("splits", [3, 10])
def test_the_number_of_cells_lies_within_its_interval(splits):
    """50 made-up sweeps: 0.95 is right to 0.06."""
    benchmark = runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "numbers" / "curves.py"))
    found = benchmark["rates"]("steep", splits, 50)
    assert found.coverage >= 0.86 and found.about == pytest.approx(7.5, rel=0.15)
