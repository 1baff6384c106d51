"""Skews: what each leaves of every class, and what it says when that can't be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import RequestError
from data_pipeline.rows.apportion import apportion
from data_pipeline.rows.skew import SKEWS

BALANCED = np.repeat(np.arange(5), 1000)
SKEWED = np.repeat(np.arange(4), [600, 200, 50, 6])
NAMES = ["B", "NK", "CD34+", "Dendritic"]


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def counts(labels: np.ndarray, kind: str, **params: object) -> list[int]:
    """Return cells per class that the skew keeps."""
    return np.bincount(labels[SKEWS[kind](labels, rng(), **params)], minlength=labels.max() + 1).tolist()


def test_natural_keeps_everything_or_a_share_of_every_class():
    assert counts(SKEWED, "natural") == [600, 200, 50, 6]
    assert counts(SKEWED, "natural", total=428) == [300, 100, 25, 3]
    assert counts(SKEWED, "natural", total=20) == [13, 5, 1, 1]  # of 19 left: 13.4, 4.5, 1.1


def test_exponential_falls_by_equal_factors_to_the_ratio():
    assert counts(BALANCED, "exponential", ratio=16) == [992, 496, 248, 124, 62]  # 62 x 2^4, 2^3, ..., whole at the end
    assert counts(BALANCED, "exponential", ratio=1) == [1000] * 5


def test_exponential_shrinks_the_curve_to_the_class_that_has_least():
    assert counts(SKEWED, "exponential", ratio=8) == [48, 24, 12, 6]


def test_exponential_can_let_short_classes_keep_what_they_have():
    assert counts(SKEWED, "exponential", ratio=8, short_classes="keep") == [600, 200, 50, 6]
    assert counts(SKEWED, "exponential", ratio=8, short_classes="keep", total=376) == [213, 107, 50, 6]


def test_exponential_at_a_fixed_total_changes_the_mix_and_not_the_size():
    small, large = (counts(BALANCED, "exponential", ratio=ratio, total=1000) for ratio in (2, 100))
    assert sum(small) == sum(large) == 1000
    assert small[0] / small[-1] == pytest.approx(2, rel=0.02)
    assert large[0] / large[-1] == pytest.approx(100, rel=0.1)  # 684 / 7, rounding of the smallest class


def test_a_total_meets_the_ratio_as_nearly_as_whole_cells_allow():
    few = np.repeat(np.arange(8), 200)
    kept = counts(few, "exponential", ratio=100, total=300)
    assert kept[0] / kept[-1] == 72.5  # 145 / 2; of the curve 145.1 / 1.45
    free = counts(few, "exponential", ratio=100)
    assert free[0] / free[-1] == 100


def test_exponential_ranked_by_seed_makes_other_classes_rare():
    rarest = {
        int(np.argmin(np.bincount(BALANCED[SKEWS["exponential"](BALANCED, np.random.default_rng(s), rank="seed")])))
        for s in range(20)
    }
    assert len(rarest) > 1


def test_step_makes_a_fraction_of_the_classes_rare():
    assert counts(BALANCED, "step", ratio=20, fraction=0.4) == [1000, 1000, 1000, 50, 50]
    assert counts(BALANCED, "step", ratio=20, fraction=0.01) == [1000, 1000, 1000, 1000, 50]
    assert counts(SKEWED, "step", ratio=3, fraction=0.5, total=16) == [6, 6, 2, 2]


def test_rarefy_cuts_one_class_by_name():
    assert counts(SKEWED, "rarefy", class_name="NK", cells=10, classes=NAMES) == [600, 10, 50, 6]
    assert counts(SKEWED, "rarefy", class_name=1, cells=0) == [600, 0, 50, 6]
    assert counts(SKEWED, "rarefy", class_name="NK", cells=8, classes=NAMES, total=336) == [300, 8, 25, 3]


def test_rarefy_keeps_nested_sets_of_cells():
    kept = [set(SKEWS["rarefy"](SKEWED, rng(), class_name=0, cells=n)) for n in (10, 50, 200)]
    assert kept[0] < kept[1] < kept[2]


def test_biased_with_a_large_concentration_is_natural_or_uniform():
    assert np.allclose(counts(SKEWED, "biased", concentration=1e9), [600, 200, 50, 6], atol=1)
    assert counts(SKEWED, "biased", concentration=1e9, around="uniform") == [6, 6, 6, 6]


def test_biased_draws_proportions_from_the_dirichlet():
    concentration, draws = 2.0, 400
    labels = np.repeat(np.arange(3), 1000)
    picked = [
        SKEWS["biased"](labels, np.random.default_rng(seed), concentration=concentration) for seed in range(draws)
    ]
    shares = np.array([np.bincount(labels[rows], minlength=3) / len(rows) for rows in picked])
    assert shares.mean(axis=0) == pytest.approx([1 / 3] * 3, abs=0.03)  # standard error 0.009
    variance = (1 / 3) * (2 / 3) / (3 * concentration + 1)  # of a symmetric Dirichlet
    assert shares.var(axis=0) == pytest.approx([variance] * 3, rel=0.25)


def test_match_gives_the_counts_asked_for_or_their_proportions():
    wanted = {"B": 300, "NK": 20, "CD34+": 30, "Dendritic": 6}
    assert counts(SKEWED, "match", counts=wanted, classes=NAMES) == [300, 20, 30, 6]
    assert counts(SKEWED, "match", counts=wanted, classes=NAMES, total=178) == [150, 10, 15, 3]
    many = {name: 100 * number for name, number in wanted.items()}
    assert counts(SKEWED, "match", counts=many, classes=NAMES, scaled=True) == [300, 20, 30, 6]


@pytest.mark.parametrize(
    ("kind", "params", "words"),
    [
        (
            "exponential",
            {"ratio": 2, "total": 500},
            "class 'Dendritic' has 6 training cells, 85 are wanted: 79 too few",
        ),
        (
            "exponential",
            {"ratio": 2, "total": 500},
            "largest total with this skew is about 35; or say `short_classes: keep`",
        ),
        ("exponential", {"ratio": 1000}, "class 'B' would need 1000 training cells and gets 600"),
        ("exponential", {"ratio": 100, "total": 100}, "give a total of at least 128"),
        ("exponential", {"ratio": 0.5}, "ratio 0.5 is below 1"),
        ("step", {"ratio": 4, "fraction": 1.0}, "fraction 1.0 is not between 0 and 1"),
        ("step", {"ratio": 10, "fraction": 0.5, "total": 700}, "class 'NK' has 200 training cells, 318 are wanted"),
        ("natural", {"total": 3}, "4 classes need at least one cell each"),
        ("natural", {"total": 1000}, "there are 856 training cells"),
        (
            "rarefy",
            {"class_name": "NK", "cells": 300},
            "class 'NK' has 200 training cells, 300 are wanted: 100 too few",
        ),
        (
            "rarefy",
            {"class_name": "nk", "cells": 3},
            "no training cell of class 'nk'; did you mean NK? there are B, NK, CD34+, Dendritic",
        ),
        ("rarefy", {"class_name": "NK", "cells": -1}, "cells -1 is below 0"),
        ("biased", {"concentration": 0.0}, "concentration 0.0 is not positive"),
        ("match", {"counts": {"B": 1, "NK": 1, "CD34+": 1}}, "no positive count for class 'Dendritic'"),
        ("match", {"counts": dict.fromkeys([*NAMES, "T"], 1)}, "no training cell of class 'T'"),
        (
            "match",
            {"counts": dict.fromkeys(NAMES, 60)},
            "class 'CD34+' has 50 training cells, 60 are wanted: 10 too few",
        ),
    ],
)
def test_the_impossible_is_refused_by_name(kind: str, params: dict, words: str):
    with pytest.raises(RequestError) as refusal:
        SKEWS[kind](SKEWED, rng(), classes=NAMES, **params)
    assert words in str(refusal.value)


def test_no_training_cells_at_all_is_refused():
    with pytest.raises(RequestError, match="no training cell to choose from"):
        SKEWS["natural"](np.zeros(0, np.int64), rng())


@settings(deadline=None)
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=60), st.integers(0, 5000))
def test_apportion_sums_to_the_total_and_is_within_one_of_the_quota(shape: list[float], extra: int):
    shape, total = np.array(shape), len(shape) + extra
    parts = apportion(shape, total)
    assert parts.sum() == total
    assert parts.min() >= 1
    quota = shape / shape.sum() * total
    assert (parts <= np.maximum(quota + 1, 1)).all()


@settings(deadline=None)
@given(st.lists(st.integers(1, 300), min_size=2, max_size=12), st.integers(0, 99))
def test_order_of_the_cells_changes_no_class_count(sizes: list[int], seed: int):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    shuffled = np.random.default_rng(seed).permutation(labels)
    for kind in ("natural", "biased"):
        kept = [np.bincount(cells[SKEWS[kind](cells, np.random.default_rng(seed))]) for cells in (labels, shuffled)]
        assert kept[0].tolist() == kept[1].tolist()
        assert kept[0].min() >= 1


@settings(deadline=None)
@given(st.lists(st.integers(1, 300), min_size=2, max_size=12), st.floats(1, 50), st.data())
def test_exponential_keeps_its_ratio_or_refuses(sizes: list[int], ratio: float, data: st.DataObject):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    total = data.draw(st.none() | st.integers(1, sum(sizes)))
    try:
        rows = SKEWS["exponential"](labels, rng(), ratio=ratio, total=total)
    except RequestError as refusal:
        assert "too few" in str(refusal) or "total" in str(refusal)
        return
    kept = np.bincount(labels[rows])
    assert len(np.unique(rows)) == len(rows)
    assert total in (None, len(rows))
    assert kept.max() / ratio - 1 <= kept.min() <= kept.max() / ratio + 1
