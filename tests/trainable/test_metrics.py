"""Metrics against a table worked by hand, scikit-learn and imbalanced-learn."""

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imblearn.metrics import geometric_mean_score
from scipy.stats import binomtest
from sklearn import metrics as reference

from trainables.metrics import confusion, evaluate, intervals, most_confused, of_class, per_class, wilson

CLASSES = ["B", "NK", "T", "Mast"]
# Ten cells: truth B x 5, NK x 3, T x 2, no Mast. Predicted:  B: B B B NK Mast   NK: NK NK B   T: T NK
TRUTH = np.array([0, 0, 0, 0, 0, 1, 1, 1, 2, 2])
PREDICTED = np.array([0, 0, 0, 1, 3, 1, 1, 0, 2, 1])
TRAIN = np.array([1000, 300, 20, 7])


def certain(predicted: np.ndarray, num_classes: int, confidence: float = 0.7) -> np.ndarray:
    """Return probabilities: `confidence` for the predicted class, the rest shared."""
    probabilities = np.full((len(predicted), num_classes), (1 - confidence) / (num_classes - 1))
    probabilities[np.arange(len(predicted)), predicted] = confidence
    return probabilities


def made_up(n: int, num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(num_classes))
    truth = np.concatenate([np.arange(num_classes), rng.choice(num_classes, n - num_classes, p=shares)])
    probabilities = rng.dirichlet(np.full(num_classes, 0.4), n)
    probabilities[np.arange(n), truth] += 0.5 * rng.random(n)
    return probabilities / probabilities.sum(axis=1, keepdims=True), truth


def test_one_class_alone_has_the_numbers_of_its_row():
    probabilities = certain(PREDICTED, 4)
    found = of_class(probabilities, TRUTH, 1)
    assert found.pop("cells") == 3 and found.pop("f1") == pytest.approx(4 / 7)
    share = binomtest(2, 5).proportion_ci(method="wilson")  # two hits among the five that are NK or taken for it
    ends = [2 * end / (1 + end) for end in (share.low, share.high)]
    assert [found.pop("f1_low"), found.pop("f1_high")] == pytest.approx(ends)
    for name, hits, cells in (("precision", 2, 4), ("recall", 2, 3)):
        interval = binomtest(hits, cells).proportion_ci(method="wilson")
        expected = {name: hits / cells, f"{name}_low": interval.low, f"{name}_high": interval.high}
        assert {key: found.pop(key) for key in expected} == pytest.approx(expected)
    assert not found
    never = of_class(certain(np.zeros(10, int), 4), TRUTH, 2)
    assert never["precision"] == never["recall"] == 0 and "precision_low" not in never and never["recall_high"] > 0.5
    assert of_class(probabilities, TRUTH, 3) == {}, "no test cell of it: nothing can be said"


def test_the_table_worked_by_hand():
    found = evaluate(certain(PREDICTED, 4), TRUTH, TRAIN)
    # recall B 3/5, NK 2/3, T 1/2; precision B 3/4, NK 2/4, T 1/1; F1 B 6/9, NK 4/7, T 2/3; Mast has no test cell
    assert found["accuracy"] == pytest.approx(0.6)
    assert found["macro_recall"] == found["balanced_accuracy"] == pytest.approx((3 / 5 + 2 / 3 + 1 / 2) / 3)
    assert found["macro_precision"] == pytest.approx((3 / 4 + 2 / 4 + 1) / 3)
    assert found["macro_f1"] == pytest.approx((6 / 9 + 4 / 7 + 2 / 3) / 3)
    assert found["weighted_f1"] == pytest.approx((5 * 6 / 9 + 3 * 4 / 7 + 2 * 2 / 3) / 10)
    assert found["weighted_recall"] == pytest.approx(0.6)
    assert found["weighted_precision"] == pytest.approx((5 * 3 / 4 + 3 * 2 / 4 + 2) / 10)
    assert found["gmean"] == pytest.approx((3 / 5 * 2 / 3 * 1 / 2) ** (1 / 3))
    # by chance (5 x 4 + 3 x 4 + 2 x 1) / 100 = 0.34; squared truth 25 + 9 + 4 = 38, squared predicted 34
    assert found["kappa"] == pytest.approx((0.6 - 0.34) / (1 - 0.34))
    assert found["mcc"] == pytest.approx((6 * 10 - 34) / np.sqrt((100 - 38) * (100 - 34)))
    assert found["recall_head"] == pytest.approx(3 / 5)
    assert found["recall_middle"] == pytest.approx(2 / 3)
    assert found["recall_tail"] == pytest.approx(1 / 2)
    assert found["ece"] == pytest.approx(abs(0.7 - 0.6))  # all ten predictions share one bin
    assert found["brier"] == pytest.approx((6 * (0.3**2 + 3 * 0.1**2) + 4 * (0.7**2 + 0.9**2 + 2 * 0.1**2)) / 10)


def test_every_number_is_a_plain_float():
    assert {type(value) for value in evaluate(*made_up(50, 4), TRAIN).values()} == {float}


def test_top2_auroc_and_auprc_by_hand():
    probabilities = np.array([[0.5, 0.3, 0.2], [0.4, 0.35, 0.25], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7]])
    found = evaluate(probabilities, np.array([0, 1, 2, 2]), np.ones(3))
    assert found["top2_accuracy"] == 0.75  # cell 2: 1 first, then 0 and 2 tie and the first in the list is taken
    # class 0: the highest of four scores: 1. class 1: .35 below one of three others: 2/3. class 2: .3 and .7 top: 1
    assert found["macro_auroc"] == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert found["macro_auprc"] == pytest.approx((1 + 1 / 2 + 1) / 3)


@pytest.mark.parametrize("num_classes", [2, 3, 11, 100])
def test_equal_to_scikit_learn_and_imbalanced_learn(num_classes: int):
    probabilities, truth = made_up(1500, num_classes, seed=num_classes)
    predicted, one_hot = probabilities.argmax(axis=1), np.eye(num_classes)[truth]
    found = evaluate(probabilities, truth, np.bincount(truth))
    per = {"zero_division": 0}
    expected = {
        "accuracy": reference.accuracy_score(truth, predicted),
        "balanced_accuracy": reference.balanced_accuracy_score(truth, predicted),
        "mcc": reference.matthews_corrcoef(truth, predicted),
        "kappa": reference.cohen_kappa_score(truth, predicted),
        "gmean": geometric_mean_score(truth, predicted),
        "brier": reference.brier_score_loss(truth, probabilities, labels=range(num_classes), scale_by_half=False),
        "macro_auprc": reference.average_precision_score(one_hot, probabilities, average="macro"),
        "macro_auroc": reference.roc_auc_score(one_hot, probabilities, average="macro"),
    }
    for average in ("macro", "weighted"):
        expected[f"{average}_precision"] = reference.precision_score(truth, predicted, average=average, **per)
        expected[f"{average}_recall"] = reference.recall_score(truth, predicted, average=average, **per)
        expected[f"{average}_f1"] = reference.f1_score(truth, predicted, average=average, **per)
    if num_classes > 2:
        expected["top2_accuracy"] = reference.top_k_accuracy_score(truth, probabilities, k=2)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_areas_with_tied_scores_are_scikit_learns():
    probabilities, truth = made_up(400, 3)
    rounded = np.round(probabilities, 1)
    found = evaluate(rounded, truth, np.bincount(truth))
    one_hot = np.eye(3)[truth]
    assert found["macro_auroc"] == pytest.approx(reference.roc_auc_score(one_hot, rounded))
    assert found["macro_auprc"] == pytest.approx(reference.average_precision_score(one_hot, rounded))


def test_ece_against_a_loop_over_bins():
    probabilities, truth = made_up(2000, 5)
    confidence, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - hit[inside].mean())
    assert evaluate(probabilities, truth, np.ones(5))["ece"] == pytest.approx(expected)


def test_an_absent_class_is_left_out_of_averages_even_when_predicted():
    found = evaluate(certain(PREDICTED, 4), TRUTH, TRAIN)
    present = {"labels": [0, 1, 2], "average": "macro", "zero_division": 0}
    assert found["macro_f1"] == pytest.approx(reference.f1_score(TRUTH, PREDICTED, **present))
    without_mast = np.where(PREDICTED == 3, 1, PREDICTED)
    assert evaluate(certain(without_mast, 4), TRUTH, TRAIN)["macro_recall"] == found["macro_recall"]


def test_what_is_undefined_is_absent():
    one_kind = evaluate(certain(np.zeros(4, int), 2), np.zeros(4, int), np.array([600, 3]))
    unknown = {"kappa", "macro_auroc", "macro_auprc", "recall_middle", "recall_tail", "recall_tail_after_skew"}
    assert (unknown | {"top2_accuracy"}).isdisjoint(one_kind)
    assert one_kind["mcc"] == 0.0
    assert one_kind["accuracy"] == one_kind["recall_head"] == 1.0
    assert evaluate(np.zeros((0, 3)), np.zeros(0, int), np.ones(3)) == {}


def test_one_missed_class_makes_the_geometric_mean_zero():
    assert evaluate(certain(np.array([0, 0, 1]), 3), np.array([0, 2, 1]), np.ones(3))["gmean"] == 0.0


@pytest.mark.parametrize(
    ("train_cells", "name"), [(0, "tail"), (50, "tail"), (51, "middle"), (500, "middle"), (501, "head")]
)
def test_borders_of_head_middle_and_tail(train_cells: int, name: str):
    found = evaluate(certain(np.array([0]), 3), np.array([0]), np.array([train_cells, 0, 0]))
    assert [key for key in found if key.startswith("recall_")] == [f"recall_{name}", f"recall_{name}_after_skew"]


def test_the_same_types_are_rare_whatever_a_skew_has_left_of_them():
    """B is common by nature and thinned to 5 cells, T rare by nature: only the names after the skew mix the two up."""
    natural, thinned = np.array([1000, 300, 20, 7]), np.array([5, 300, 20, 7])
    plain, skewed = (evaluate(certain(PREDICTED, 4), TRUTH, natural, train) for train in (natural, thinned))
    assert plain["recall_tail"] == skewed["recall_tail"] == plain["recall_tail_after_skew"] == pytest.approx(1 / 2)
    assert plain["recall_head"] == skewed["recall_head"] == pytest.approx(3 / 5)
    assert (
        skewed["recall_tail_after_skew"] == pytest.approx((3 / 5 + 1 / 2) / 2)
        and "recall_head_after_skew" not in skewed
    )


def test_per_class_table():
    cells = {"natural": 2 * TRAIN, "train": TRAIN, "validation": np.array([9, 9, 9, 0])}
    table = per_class(certain(PREDICTED, 4), TRUTH, CLASSES, cells).set_index("class")
    assert list(table)[:5] == ["natural", "train", "validation", "test", "predicted"]
    shares = {"precision": 0.75, "recall": 0.6, "f1": 6 / 9}
    row = table.loc["B"].to_dict()
    ends = {f"{name}_{end}": row.pop(f"{name}_{end}") for name in shares for end in ("low", "high")}
    assert row == pytest.approx({"natural": 2000, "train": 1000, "validation": 9, "test": 5, "predicted": 4} | shares)
    assert ends["recall_low"] == pytest.approx(binomtest(3, 5).proportion_ci(method="wilson").low)
    assert ends["precision_high"] == pytest.approx(binomtest(3, 4).proportion_ci(method="wilson").high)
    assert table.loc["Mast", "precision"] == 0.0  # predicted once, wrongly
    assert table.loc["Mast", ["recall", "recall_low", "recall_high", "f1"]].isna().all()
    never = per_class(certain(np.array([0]), 2), np.array([0]), ["a", "b"], {})
    assert never.loc[1, ["precision", "precision_low", "recall", "f1"]].isna().all()


@pytest.mark.parametrize(("cells", "recall", "false"), [(5, 0.6, 0.2), (10, 0.9, 1.0), (30, 0.3, 1.0)])
def test_the_interval_of_f1_holds_it(cells, recall, false):
    """Made-up test sets: hits binomial, cells of other types taken for it Poisson. 4,000: 0.95 is right to 0.007."""
    rng, size = np.random.default_rng(0), 4000
    hits, wrong = rng.binomial(cells, recall, size), rng.poisson(false * cells, size)
    found = intervals(hits, np.full(size, cells), hits + wrong)
    truth = 2 * recall / (1 + recall + false)
    inside = (found["f1_low"] <= truth) & (truth <= found["f1_high"])
    assert 0.94 < inside.mean() < 0.995
    assert (found["f1_low"] >= 0).all() and (found["f1_high"] <= 1).all()


def test_the_interval_of_a_share_is_wilsons():
    hits, cells = np.array([0, 1, 9, 50, 7, 0]), np.array([9, 1, 9, 100, 1000, 0])
    low, high = wilson(hits, cells)
    theirs = [
        binomtest(int(k), int(n)).proportion_ci(method="wilson") for k, n in zip(hits[:5], cells[:5], strict=True)
    ]
    assert low[:5] == pytest.approx([one.low for one in theirs], abs=1e-12)
    assert high[:5] == pytest.approx([one.high for one in theirs], abs=1e-12)
    assert np.isnan(low[5]) and np.isnan(high[5])
    assert high[0] == pytest.approx(0.299, abs=1e-3)  # none of nine found: it may still be three in ten


def test_confusion_and_the_pairs_most_confused():
    table = confusion(TRUTH, PREDICTED, CLASSES)
    assert table.loc["B"].tolist() == [3, 1, 0, 1]
    assert table.to_numpy().sum() == 10
    assert table.index.name == "truth"
    top = most_confused(table, top=2)
    expected = pd.DataFrame({"truth": ["B", "B"], "predicted": ["NK", "Mast"], "cells": [1, 1], "share": [0.2, 0.2]})
    pd.testing.assert_frame_equal(top, expected)
    assert len(most_confused(table)) == 4
    assert most_confused(confusion(TRUTH, TRUTH, CLASSES)).empty


def test_68_000_cells_of_11_types_in_under_a_second():
    probabilities, truth = made_up(68_000, 11)
    start = time.process_time()
    evaluate(probabilities, truth, np.bincount(truth))
    assert time.process_time() - start < 1  # 0.1 s alone on one core


@settings(deadline=None)
@given(st.integers(2, 8), st.integers(1, 60), st.integers(0, 10**6))
def test_numbers_stay_in_their_range_whatever_is_absent(num_classes: int, n: int, seed: int):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(num_classes, 0.2), n)
    found = evaluate(probabilities, rng.integers(0, num_classes, n), rng.integers(0, 900, num_classes))
    low, high = {"mcc": -1.0, "kappa": -1.0}, {"brier": 2.0}
    for name, number in found.items():
        assert low.get(name, 0.0) - 1e-12 <= number <= high.get(name, 1.0) + 1e-12, name


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(1, 40), st.integers(0, 10**6))
def test_renaming_the_classes_changes_nothing(num_classes: int, n: int, seed: int):
    rng = np.random.default_rng(seed)
    probabilities, truth = rng.dirichlet(np.ones(num_classes), n), rng.integers(0, num_classes, n)
    counts, order = rng.integers(0, 900, num_classes), rng.permutation(num_classes)
    plain = evaluate(probabilities, truth, counts)
    renamed = evaluate(probabilities[:, order], np.argsort(order)[truth], counts[order])
    assert renamed == pytest.approx(plain, abs=1e-9)
