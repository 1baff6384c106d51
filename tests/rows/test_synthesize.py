"""Made cells: how many, whole counts at their class's library sizes, near real cells, and never from other cells."""

import builtins

import numpy as np
import pandas as pd
import pytest
from conftest import counts_like
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from data_pipeline.errors import RequestError
from data_pipeline.normalise import log_normalised, principal_components
from data_pipeline.rows.distances import Measured, distance_report
from data_pipeline.rows.synthesize import Made, _between, mixup, scvi, smote


def training(sizes: tuple[int, ...] = (150, 30, 4, 1), num_genes: int = 120) -> tuple[sparse.csr_matrix, np.ndarray]:
    counts, labels = counts_like(200 * len(sizes), num_genes, len(sizes))
    kept = np.concatenate([np.flatnonzero(labels == code)[:size] for code, size in enumerate(sizes)])
    return counts[kept], labels[kept]


def made_by_smote(cells: int = 60, seed: int = 0, **params: int) -> Made:
    return smote(*training(), np.random.default_rng(seed), cells=cells, **params)


def test_classes_are_raised_to_the_number_and_larger_ones_left():
    counts, labels, _ = made_by_smote(cells=60)
    assert np.bincount(labels, minlength=4).tolist() == [0, 30, 56, 59]
    assert counts.shape == (145, 120)
    assert counts.dtype == np.float32
    none, of, _ = made_by_smote(cells=1)
    assert none.shape == (0, 120)
    assert len(of) == 0


def test_made_cells_are_whole_counts_at_library_sizes_of_their_class():
    real, real_labels = training()
    counts, labels, _ = made_by_smote(cells=300)
    assert counts.data.min() >= 1
    assert (counts.data == np.round(counts.data)).all()
    for code in (1, 2):
        libraries = np.asarray(real[real_labels == code].sum(axis=1)).ravel()
        made = np.asarray(counts[labels == code].sum(axis=1)).ravel()
        assert made.mean() == pytest.approx(libraries.mean(), rel=0.1)  # 300 draws of sizes that vary by 30 %
        assert libraries.min() * 0.9 < made.min() <= made.max() < libraries.max() * 1.1


def test_made_cells_lie_between_cells_of_their_class():
    real, real_labels = training()
    counts, labels, _ = made_by_smote(cells=100)
    for code in (1, 2, 3):
        seen = np.asarray((real[real_labels == code] > 0).sum(axis=0)).ravel() > 0
        assert not np.asarray(counts[labels == code].sum(axis=0)).ravel()[~seen].any()


def test_a_class_of_one_cell_gets_copies_of_it():
    real, real_labels = training()
    counts, labels, _ = made_by_smote(cells=10)
    assert (counts[labels == 3].toarray() == real[real_labels == 3].toarray()).all()


def test_made_cells_are_taken_for_their_own_class():
    counts, labels, _ = made_by_smote(cells=100)
    real, real_labels = counts_like(800, 120, 4)
    classifier = LogisticRegression(max_iter=1000).fit(log_normalised(real), real_labels)
    assert (classifier.predict(log_normalised(counts)) == labels).mean() > 0.9


def test_another_seed_makes_other_cells_and_the_same_seed_the_same():
    first, again, other = (made_by_smote(seed=seed)[0] for seed in (0, 0, 1))
    assert (first != again).nnz == 0
    assert (first != other).nnz > 0


@pytest.mark.parametrize(
    ("params", "words"), [({"cells": 0}, "cells 0 is below 1"), ({"neighbours": 0}, "neighbours 0 is below 1")]
)
def test_senseless_numbers_are_refused(params: dict, words: str):
    with pytest.raises(RequestError, match=words):
        made_by_smote(**params)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_mixed_up_cells_have_the_mean_and_the_variance_that_theory_says(alpha: float):
    """Of pairs of different cells, of n: (E s^2 + E (1-s)^2) S - 2 E s(1-s) S / (n - 1), s from Beta(alpha, alpha)."""
    rng, num_real, number = np.random.default_rng(0), 40, 60_000
    real = rng.gamma(2.0, size=(num_real, 3))
    mixed = _between(sparse.csr_matrix(real), rng.choice(num_real, number), alpha, rng).toarray()
    kept = (alpha + 1) / (2 * alpha + 1)
    expected = (kept - (1 - kept) / (num_real - 1)) * real.var(axis=0)
    assert np.abs(mixed.mean(axis=0) / real.mean(axis=0) - 1).max() < 0.01  # 0.7 / sqrt(60,000) is 0.003
    assert np.abs(mixed.var(axis=0) / expected - 1).max() < 0.03


def test_mixed_up_cells_are_their_own_class_and_lie_between_any_two_of_it():
    real, real_labels = training()
    counts, labels, sources = mixup(real, real_labels, np.random.default_rng(0), cells=100)
    whole, whole_labels = counts_like(800, 120, 4)
    classifier = LogisticRegression(max_iter=1000).fit(log_normalised(whole), whole_labels)
    assert (classifier.predict(log_normalised(counts)) == labels).mean() > 0.9
    assert np.array_equal(real_labels[sources], labels) and (counts.data == np.round(counts.data)).all()
    assert (counts[labels == 3].toarray() == real[real_labels == 3].toarray()).all()  # of one cell, copies
    with pytest.raises(RequestError, match="alpha 0 must be more than 0"):
        mixup(real, real_labels, np.random.default_rng(0), alpha=0.0)


def test_without_scvi_tools_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch):
    real_import = builtins.__import__

    def no_scvi(name: str, *args: object) -> object:
        if name == "scvi":
            raise ImportError("No module named 'scvi'")
        return real_import(name, *args)

    monkeypatch.setattr(builtins, "__import__", no_scvi)
    with pytest.raises(RequestError, match=r"pip install 'scvi-tools==1.4.2'"):
        scvi(*training(), np.random.default_rng(0), cells=60)


def test_scvi_without_a_rare_class_makes_nothing_and_needs_nothing():
    made, labels, _ = scvi(*training((50, 40)), np.random.default_rng(0), cells=30)
    assert made.shape == (0, 120)
    assert len(labels) == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # lightning's and torch's, of calls that are not ours
@pytest.mark.parametrize("unscaled", [False, True])
def test_scvi_makes_counts_of_the_class_or_the_published_shares(unscaled: bool):
    pytest.importorskip("scvi")
    counts, labels = training((200, 60, 12, 1))
    made, of, _ = scvi(counts, labels, np.random.default_rng(0), cells=40, epochs=60, unscaled=unscaled)
    assert np.bincount(of, minlength=4).tolist() == [0, 0, 28, 39]
    assert made.dtype == np.float32
    totals = np.asarray(made.sum(axis=1)).ravel()
    if unscaled:
        assert totals == pytest.approx(np.ones(67), rel=1e-3)
        assert made.nnz == 67 * 120
        return
    assert (made.data == np.round(made.data)).all()
    library = np.median(np.asarray(counts[labels == 2].sum(axis=1)))
    assert np.median(totals[of == 2]) == pytest.approx(library, rel=0.3)
    again, *_ = scvi(counts, labels, np.random.default_rng(0), cells=40, epochs=60)
    assert (made != again).nnz == 0


def measured(counts: sparse.csr_matrix, labels: np.ndarray) -> Measured:
    totals = np.asarray(counts.sum(axis=1)).ravel()
    return Measured(labels, totals, counts.getnnz(axis=1), log_normalised(counts))


def report_on(made: sparse.csr_matrix, labels: np.ndarray) -> pd.DataFrame:
    real, own = measured(*counts_like(300, 120, 2, seed=0)), measured(made, labels)
    return distance_report(real, own, ["B", "NK"], np.random.default_rng(0)).set_index("class")


def test_the_report_tells_real_cells_from_noise():
    real, labels = counts_like(300, 120, 2, seed=0)
    rng = np.random.default_rng(5)
    halves = rng.permutation(300)
    pair = [measured(real[half], labels[half]) for half in (halves[:150], halves[150:])]
    same = distance_report(*pair, ["B", "NK"], rng).set_index("class")
    assert (same["mean_correlation"] > 0.95).all()
    assert same["auc"].between(0.25, 0.75).all()  # about 75 cells a side: standard error 0.05, and folds add to it
    noise = sparse.csr_matrix(rng.poisson(real.mean(), real.shape).astype(np.float32))
    far = report_on(noise, labels)
    assert (far["mean_correlation"] < 0.5).all()
    assert (far["auc"] > 0.95).all()
    assert far.loc["B", "made_genes"] != far.loc["B", "real_genes"]


def test_the_report_counts_cells_libraries_and_genes():
    made = sparse.csr_matrix(np.array([[3.0, 0.0] + [0.0] * 118, [1.0, 2.0] + [0.0] * 118]))
    row = report_on(made, np.array([1, 1])).loc["NK"]
    assert (row["made"], row["made_library"], row["made_genes"]) == (2, 3.0, 1.5)
    assert np.isnan(row["auc"])  # two cells are too few


def test_log_normalised_values_by_hand():
    counts = sparse.csr_matrix([[1.0, 3.0, 0.0], [0.0, 0.0, 0.0]])
    values = log_normalised(counts).toarray()
    assert values[0] == pytest.approx(np.log1p([2500, 7500, 0]))
    assert not values[1].any()
    assert log_normalised(counts, totals=np.array([8.0, 1.0])).toarray()[0] == pytest.approx(np.log1p([1250, 3750, 0]))
    assert counts.data.tolist() == [1.0, 3.0]  # the input is left as it was


def test_principal_components_are_no_more_than_there_can_be():
    counts, _ = training((3, 2))
    rng = np.random.default_rng(0)
    assert principal_components(counts, 50, rng).shape == (5, 4)
    assert principal_components(counts[:1], 50, rng).shape[0] == 1
