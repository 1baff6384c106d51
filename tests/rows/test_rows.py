"""Leakage: no validation or test cell ever reaches the training rows, for every strategy x skew x seed."""

import functools
import itertools

import numpy as np
import pytest
from conftest import counts_like

from data_pipeline.errors import RequestError
from data_pipeline.rows import choice
from data_pipeline.rows.resample import STRATEGIES
from data_pipeline.rows.skew import SKEWS

CLASSES = ["alpha", "beta", "gamma", "delta"]
LABELS = np.repeat(np.arange(4), [400, 150, 60, 12])
PARAMETERS = {  # of plug-ins that can't be called without any
    "rarefy": {"class_name": "beta", "cells": 20},
    "match": {"counts": {"alpha": 40, "beta": 20, "gamma": 10, "delta": 2}},
}


def entry(kind: str) -> dict:
    return {"kind": kind} | PARAMETERS.get(kind, {})


def spied(skew: str, seed: int, monkeypatch) -> tuple[choice.Rows, list[np.ndarray]]:
    """Return the rows and the label arrays that the skew was handed."""
    seen = []
    original = SKEWS[skew]

    def spy(labels, rng, **params):
        seen.append(labels.copy())
        return choice.call(original, labels, rng, params=params, classes=CLASSES)

    monkeypatch.setitem(SKEWS, skew, spy)
    options = {"seed": seed, "test": 0.2, "validation": 0.1}
    return choice.choose(LABELS, CLASSES, options, entry(skew)), seen


@pytest.mark.parametrize(("skew", "strategy", "seed"), [*itertools.product(SKEWS, STRATEGIES, range(3))])
def test_no_held_out_cell_in_training_rows(skew, strategy, seed, monkeypatch):
    rows, seen = spied(skew, seed, monkeypatch)
    held_out = np.concatenate([rows.split.validation, rows.split.test])
    assert np.array_equal(seen[0], LABELS[rows.split.train])  # all that a skew ever sees
    counts = counts_like(len(LABELS), 30, 4)[0][rows.kept]
    picked = choice.resample(LABELS, rows.kept, entry(strategy), (seed, "x"), counts=counts, classes=CLASSES)
    assert len(picked) > 0
    assert np.isin(picked, rows.kept).all() and np.isin(rows.kept, rows.split.train).all()
    assert not np.intersect1d(picked, held_out).size
    assert len(held_out) == len(np.unique(held_out))


def test_oversampled_copies_are_in_training_only():
    rows = choice.choose(LABELS, CLASSES, {"seed": 0, "test": 0.2, "validation": 0.1}, entry("natural"))
    picked = choice.resample(LABELS, rows.kept, entry("oversample"), (0, "x"), classes=CLASSES)
    assert len(picked) > len(np.unique(picked))
    for part in (rows.split.validation, rows.split.test):
        assert len(part) == len(np.unique(part)) and not np.isin(part, picked).any()


def test_the_same_seeds_give_the_same_rows_and_other_seeds_others():
    options = {"seed": 0, "test": 0.2, "validation": 0.1}
    skew = {"kind": "exponential", "ratio": 20}
    first, again = (choice.choose(LABELS, CLASSES, options, skew) for _ in range(2))
    other = choice.choose(LABELS, CLASSES, options | {"seed": 1}, skew)
    assert np.array_equal(first.kept, again.kept)
    assert not np.array_equal(first.kept, other.kept)
    assert np.array_equal(*(choice.resample(LABELS, first.kept, entry("oversample"), (0, "x")) for _ in range(2)))


def test_counts_are_given_class_by_class():
    rows = choice.choose(LABELS, CLASSES, {"seed": 0, "test": 0.2, "validation": 0.1}, entry("natural"))
    counts = rows.counts(LABELS, 4)
    assert np.array_equal(sum(counts.values()), np.bincount(LABELS))


def test_a_skew_that_asks_for_missing_cells_says_which_and_how_many():
    skew = {"kind": "rarefy", "class_name": "delta", "cells": 100}
    with pytest.raises(RequestError, match="delta") as error:
        choice.choose(LABELS, CLASSES, {"seed": 0, "test": 0.2, "validation": 0.1}, skew)
    assert "100" in str(error.value)


def test_plugins_may_be_partial_or_decorated():
    """What a strategy asks for is read off its signature, not off the code of a plain function."""

    def named(labels, rng, *, cells: int = 1, classes=None):
        return [cells, *classes]

    @functools.wraps(named)
    def decorated(*args, **params):
        return named(*args, **params)

    for plugin in (named, functools.partial(named, cells=3), decorated):
        rows = choice.call(plugin, np.zeros(2), None, params={"cells": 3}, classes=["a", "b"])
        assert rows == [3, "a", "b"]
