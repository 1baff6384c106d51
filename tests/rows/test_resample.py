"""Strategies by rows: totals by formula, against imbalanced-learn, and what they refuse."""

import numpy as np
import pytest
from imblearn.over_sampling import RandomOverSampler
from imblearn.under_sampling import RandomUnderSampler, TomekLinks
from scipy import sparse, stats

from data_pipeline.errors import RequestError
from data_pipeline.normalise import principal_components
from data_pipeline.rows import resample
from data_pipeline.rows.resample import STRATEGIES

LABELS = np.repeat(np.arange(4), [600, 150, 24, 1])


def resampled(kind: str, labels: np.ndarray = LABELS, seed: int = 0, **params: object) -> np.ndarray:
    return STRATEGIES[kind](labels, np.random.default_rng(seed), **params)


def sizes(kind: str, **params: object) -> list[int]:
    return np.bincount(LABELS[resampled(kind, **params)], minlength=4).tolist()


@pytest.mark.parametrize(
    ("kind", "params", "expected"),
    [
        ("none", {}, [600, 150, 24, 1]),
        ("oversample", {}, [600, 600, 600, 600]),
        ("undersample", {}, [1, 1, 1, 1]),
        ("undersample", {"floor": 30}, [30, 30, 24, 1]),
        ("threshold_undersample", {"cells": 100}, [100, 100, 24, 1]),
        ("threshold_undersample", {"cells": 9999}, [600, 150, 24, 1]),
        ("threshold_oversample", {"cells": 100}, [600, 150, 100, 100]),
        ("square_root", {}, [445, 223, 89, 18]),  # 775 cells as 24.49 : 12.25 : 4.90 : 1
        ("class_balanced_batches", {}, [194, 194, 194, 193]),
        ("cap_and_repeat", {"cells": 200, "repeats": 5}, [200, 200, 120, 5]),
    ],
)
def test_class_totals(kind: str, params: dict, expected: list[int]):
    assert sizes(kind, **params) == expected


@pytest.mark.parametrize(("kind", "sampler"), [("oversample", RandomOverSampler), ("undersample", RandomUnderSampler)])
def test_totals_are_those_of_imbalanced_learn(kind: str, sampler: type):
    _, theirs = sampler(random_state=0).fit_resample(np.arange(len(LABELS))[:, None], LABELS)
    assert sizes(kind) == np.bincount(theirs).tolist()


def test_oversampling_keeps_every_original_and_undersampling_repeats_none():
    assert set(resampled("oversample")) == set(range(len(LABELS)))
    assert set(resampled("threshold_oversample", cells=50)) == set(range(len(LABELS)))
    for rows in (resampled("undersample", floor=20), resampled("threshold_undersample", cells=100)):
        assert len(np.unique(rows)) == len(rows)


def test_cap_and_repeat_repeats_evenly():
    times = np.bincount(resampled("cap_and_repeat", cells=200, repeats=5), minlength=len(LABELS))
    assert set(times[LABELS == 2]) == {5}  # 24 cells, 120 rows
    assert set(times[LABELS == 1]) == {1, 2}  # 150 cells, 200 rows
    assert set(times[LABELS == 0]) == {0, 1}


def test_square_root_repeats_rare_cells_and_drops_common_ones():
    times = np.bincount(resampled("square_root"), minlength=len(LABELS))
    assert times[LABELS == 0].max() == 1
    assert times[LABELS == 2].min() >= 1


def test_class_balanced_batches_are_drawn_anew_and_say_so():
    assert STRATEGIES["class_balanced_batches"].per_epoch
    first, second = resampled("class_balanced_batches", seed=0), resampled("class_balanced_batches", seed=1)
    assert not np.array_equal(first, second)
    assert len(np.unique(first[LABELS[first] == 0])) < 194  # with replacement: 194 of 600 without a repeat is unlikely


def test_scbalance_draws_each_cell_in_proportion_to_one_over_its_type():
    """As WeightedRandomSampler with weights 1 / n_c draws: n (1 / n_c) / K times each, by chi-square on 200 epochs."""
    labels = np.repeat(np.arange(3), [60, 12, 3])
    times = sum(np.bincount(resampled("scbalance", labels, seed), minlength=75) for seed in range(200))
    expected = 200 * 75 / 3 / np.array([60, 12, 3])[labels]
    assert stats.chi2.sf(((times - expected) ** 2 / expected).sum(), 74) > 0.01  # seeds are fixed
    alone = np.bincount(labels[resampled("scbalance", labels)], minlength=3)
    assert alone.sum() == 75 and np.ptp(alone) > 1  # on average, not in each epoch


def test_of_scbalance_rows_one_learns_the_posterior_of_equally_common_types():
    """Of a feature of three values whose distribution by type is known, the best prediction is p(x|c) / sum p(x|c)."""
    given = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])  # p(feature | type)
    sizes = np.array([9_000, 300])
    feature = np.concatenate(
        [np.repeat(np.arange(3), np.rint(n * p).astype(int)) for n, p in zip(sizes, given, strict=True)]
    )
    labels = np.repeat([0, 1], sizes)
    drawn = np.concatenate([resampled("scbalance", labels, seed) for seed in range(5)])
    table = np.stack([np.bincount(feature[drawn][labels[drawn] == kind], minlength=3) for kind in (0, 1)])
    assert np.abs(table / table.sum(axis=0) - given / given.sum(axis=0)).max() < 0.02  # 46,500 draws: 4 standard errors


def test_no_type_misses_an_epoch_of_scbalance():
    labels = np.arange(12)  # of 12 draws of 12 types some are missed nearly always
    assert set(resampled("scbalance", labels)) == set(range(12))


def two_clouds() -> tuple[sparse.csr_matrix, np.ndarray]:
    """Return counts and labels of two types far apart, but cells 0 and 70 have changed places."""
    labels = np.repeat([0, 1], [60, 40])
    rates = np.where(labels[:, None] == 0, [50, 1, 9, 9], [1, 50, 9, 9])
    rates[[0, 70]] = rates[[70, 0]]
    return sparse.csr_matrix(np.random.default_rng(0).poisson(rates).astype(np.float32)), labels


def test_tomek_removes_cells_linked_across_classes():
    counts, labels = two_clouds()
    assert STRATEGIES["tomek"].needs == "counts"
    for clean in ("all", "auto", "majority"):
        rows = resampled("tomek", labels, counts=counts, clean=clean, components=3)
        removed = np.setdiff1d(np.arange(100), rows)
        components = principal_components(counts, 3, np.random.default_rng(0))
        theirs = TomekLinks(sampling_strategy=clean).fit(components, labels)
        theirs.fit_resample(components, labels)
        assert np.array_equal(rows, np.sort(theirs.sample_indices_))
        assert len(removed) > 0
        assert (labels[removed] == 0).all() or clean == "all"


def test_tomek_compares_no_more_cells_than_can_be_waited_for(monkeypatch):
    monkeypatch.setattr(resample, "MOST_COMPARED", 1000)
    counts = sparse.csr_matrix((2000, 3), dtype=np.float32)
    with pytest.raises(RequestError, match=r"2,000 training cells.*about 0.9 h of a core; at most 1,000 are. Give"):
        resampled("tomek", np.arange(2000) % 2, counts=counts)


def test_tomek_never_removes_a_class():
    counts = sparse.csr_matrix([[9, 0, 1], [9, 0, 2], [0, 9, 1], [0, 9, 2], [4, 4, 9]], dtype=np.float32)
    labels = np.array([0, 1, 2, 2, 2])  # cells 0 and 1 are a link, and the only ones of their classes
    rows = resampled("tomek", labels, counts=counts, clean="all", components=2)
    assert set(labels[rows]) == {0, 1, 2}


@pytest.mark.parametrize("kind", ["oversample", "undersample", "square_root", "class_balanced_batches"])
def test_a_single_class_is_no_error(kind: str):
    assert len(resampled(kind, np.zeros(7, np.int64))) == 7


@pytest.mark.parametrize(
    ("kind", "params", "words"),
    [
        ("undersample", {"floor": 0}, "undersample: floor 0 is below 1"),
        ("threshold_undersample", {"cells": 0}, "threshold_undersample: cells 0 is below 1"),
        ("threshold_oversample", {"cells": -5}, "threshold_oversample: cells -5 is below 1"),
        ("cap_and_repeat", {"repeats": 0}, "cap_and_repeat: repeats 0 is below 1"),
        ("tomek", {"counts": None, "components": 0}, "tomek: components 0 is below 1"),
    ],
)
def test_senseless_numbers_are_refused(kind: str, params: dict, words: str):
    with pytest.raises(RequestError, match=words):
        resampled(kind, **params)
