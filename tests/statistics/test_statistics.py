"""Errors of means over splits, test cells drawn again, and many tests at once: against textbooks and simulation."""

import numpy as np
import pytest
from scipy import stats

from sweeps.statistics import families, intervals, resampling
from sweeps.statistics.intervals import Error
from sweeps.statistics.resampling import Draws, Predictions
from trainables import metrics

VALUES = np.array([0.71, 0.64, 0.69, 0.75, 0.66])


def test_the_error_over_redrawn_splits_is_that_of_nadeau_and_bengio():
    error = intervals.redrawn(VALUES, 0.25)
    assert error.size == pytest.approx(VALUES.std(ddof=1) * np.sqrt(1 / 5 + 0.25)) and error.freedom == 4
    low, high = intervals.interval(VALUES.mean(), error)
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 4, VALUES.mean(), error.size))
    assert intervals.p_value(0.1, error) == pytest.approx(2 * stats.t.sf(0.1 / error.size, 4))


def test_the_ratio_of_a_mean_over_types_is_that_of_the_rare_ones():
    """A tenth of 150, 75, 36, 21, 12 and 6 cells is tested, a tenth chooses: whole cells make it 0.16, not 0.125."""
    test, train = np.array([15, 8, 4, 2, 1, 1, 0]), np.array([120, 59, 28, 17, 10, 4, 3])
    by_hand = (1 / 120 + 1 / 59 + 1 / 28 + 1 / 17 + 1 / 10 + 1 / 4) / (1 / 15 + 1 / 8 + 1 / 4 + 1 / 2 + 1 + 1)
    assert intervals.ratio_of_types(test, train) == pytest.approx(by_hand) and 0.158 < by_hand < 0.161
    assert intervals.ratio_of_types(np.array([10, 20]), np.array([40, 80])) == pytest.approx(0.25)
    assert np.isnan(intervals.ratio_of_types(np.array([0, 3]), np.array([5, 0])))


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.9], [0.5, 0.5, 0.5]])
def test_two_splits_or_no_spread_give_no_interval_and_no_p(values):
    values = np.array(values)
    error = intervals.redrawn(values, 0.25)
    assert np.isnan([*intervals.interval(0.5, error), intervals.p_value(0.5, error)]).all()
    if len(values) < 3:
        assert np.isnan(intervals.resampled(values, Error(0.1, 9)).size)


def test_intervals_of_bounded_metrics_stay_inside_their_scale():
    near_one = np.array([0.999, 0.96, 0.93])
    low, high = intervals.interval(near_one.mean(), intervals.redrawn(near_one, 0.3), intervals.span("test_macro_f1"))
    assert 0 < low < near_one.mean() < high < 1
    assert intervals.interval(near_one.mean(), intervals.redrawn(near_one, 0.3))[1] > 1, "the plain one leaves it"
    assert intervals.span("test_mcc") == (-1, 1) and intervals.span("val_loss") is None
    assert intervals.span("test_macro_f1.logit_adjust") == intervals.span("test_recall_tail") == (0, 1)
    assert intervals.span("test_recall:CD34+") == intervals.span("test_f1:B_cell.2") == (0, 1)
    assert intervals.span("trial_seconds") is None and intervals.span("test_brier") == (0, 2)


@pytest.mark.parametrize(
    ("metric", "sign"), [("test_conformal_size", -1), ("test_conformal_single", 1), ("test_aurc", -1), ("test_mcc", 1)]
)
def test_of_some_metrics_less_is_better(metric, sign):
    assert intervals.sign(metric) == sign


def test_a_difference_is_no_larger_than_two_values_can_be_apart():
    wild = Error(0.5, 2)
    assert intervals.of_difference(0.1, wild, "test_macro_f1") == (-1, 1)
    assert intervals.of_difference(0.1, wild, "test_mcc") == (-2, 2)
    assert intervals.of_difference(0.1, wild, "val_loss") == intervals.interval(0.1, wild)
    assert np.isnan(intervals.of_difference(0.1, intervals.NONE, "test_macro_f1")).all()


def test_independent_datasets_are_pooled_by_their_variances():
    one, other = Error(0.03, 4), Error(0.04, 4)
    found = intervals.pooled([one, other])
    assert found.size == pytest.approx(0.025) and 4 < found.freedom < 8
    assert intervals.pooled([one]) == Error(pytest.approx(0.03), pytest.approx(4))
    assert np.isnan(intervals.pooled([one, intervals.NONE]).size)


def test_holms_correction_is_the_textbooks():
    corrected = families.holm(np.array([0.01, 0.04, np.nan, 0.03, 0.005]))
    np.testing.assert_allclose(corrected, [0.03, 0.06, np.nan, 0.06, 0.02])
    assert families.holm(np.array([0.6, 0.9])).tolist() == [1.0, 1.0]
    asked = families.holm(np.array([np.nan, 0.01, 0.04, 0.01]), ["a", "a", "b", "a"])
    np.testing.assert_allclose(asked, [np.nan, 0.02, 0.04, 0.02], err_msg="a row that isn't tested takes no p away")


@pytest.mark.parametrize("values", [[1, 2, -3, 4, 5, 6], [0.1, -0.2, 0.3, 0.4, 0.5, 0.6, -0.7], [1, 2, 3, 4, 5, 6]])
def test_the_signed_rank_test_is_scipys(values):
    theirs = stats.wilcoxon(values, method="exact")
    assert families.signed_rank(np.array(values, dtype=float)) == pytest.approx(theirs.pvalue)


def test_six_datasets_are_the_fewest_that_can_tell_anything():
    assert families.signed_rank(np.arange(1.0, 6)) > 0.05 > families.signed_rank(np.arange(1.0, 7))
    assert families.DATASETS == 6


# cells and donors drawn again


def made_up(cells: int = 200, classes: int = 4, hit: float = 0.7, seed: int = 0, donors: int | None = None):
    rng = np.random.default_rng(seed)
    truth = np.sort(np.arange(cells) % classes)
    predicted = np.where(rng.random(cells) < hit, truth, rng.integers(0, classes, cells))
    names = np.array([f"cell{n}" for n in range(cells)])
    who = None if donors is None else np.array([f"donor{n % donors}" for n in range(cells)])
    return Predictions(names, truth, predicted, [f"type{n}" for n in range(classes)], who)


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "macro_f1", "macro_precision", "macro_recall"])
def test_scores_of_confusion_matrices_are_the_metrics_of_trials(metric):
    trial = made_up(hit=0.4)
    table = metrics.confusion_counts(trial.truth, trial.predicted, 4)
    theirs = metrics.evaluate(np.eye(4)[trial.predicted], trial.truth, np.full(4, 9))[metric]
    assert resampling.score(table, metric) == pytest.approx(theirs)
    assert resampling.score(table, "ece") is None


def test_the_error_of_drawn_cells_is_the_binomials():
    """Recall of one type of 50 cells: sqrt(p (1 - p) / (50 - 1)), the unbiased one; 1,000 draws: to 10 %."""
    trial = made_up(200, hit=0.6)
    draws, only = Draws([trial]), np.arange(4) == 2
    found = draws.error(resampling.score(draws.tables(trial), "recall", only))
    share = (trial.predicted == 2)[trial.truth == 2].mean()
    assert found.size == pytest.approx(np.sqrt(share * (1 - share) / 49), rel=0.1)
    assert found.freedom == pytest.approx(4 * 49), "types of equal size pool their degrees of freedom"


def test_trials_see_the_same_draws_so_that_equal_ones_differ_by_nothing():
    trial = made_up()
    again = Predictions(trial.cells[::-1], trial.truth[::-1], trial.predicted[::-1], trial.classes)
    draws = Draws([trial, again])
    np.testing.assert_allclose(draws.tables(trial), draws.tables(again))


def test_donors_are_drawn_whole():
    trial = made_up(donors=5)
    drawn = Draws([trial])
    assert drawn.by_donor and drawn.freedom == 4 and len(drawn.units) == 5
    perfect = Predictions(trial.cells, trial.truth, np.where(trial.donors == "donor0", 0, trial.truth), trial.classes,
                          trial.donors)  # fmt: skip
    by_cell = Predictions(perfect.cells, perfect.truth, perfect.predicted, perfect.classes)
    cells = Draws([by_cell])
    errors = [
        one.error(resampling.score(one.tables(each), "accuracy")).size
        for one, each in ((drawn, perfect), (cells, by_cell))
    ]
    assert errors[0] > 2 * errors[1], "one bad donor of five is no sample of 200 cells"
