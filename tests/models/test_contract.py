"""What every registered skew and strategy promises, whoever wrote it: one suite over the registries."""

import time

import numpy as np
import pytest
from conftest import counts_like
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import RequestError
from data_pipeline.rows import choice
from data_pipeline.rows.resample import STRATEGIES
from data_pipeline.rows.skew import SKEWS
from data_pipeline.rows.synthesize import SYNTHESIZERS

BY_LABELS = [name for name, strategy in STRATEGIES.items() if getattr(strategy, "needs", None) != "counts"]
ONLY_LABELS = [*((SKEWS, name) for name in SKEWS), *((STRATEGIES, name) for name in BY_LABELS)]
SHAPES = {
    "a class of one cell": [300, 40, 7, 1],
    "two classes": [90, 10],
    "a single class": [25],
    "100 classes": list(range(1, 101)),
    "every class of one cell": [1, 1, 1],
}
TOTALS = {  # documented sizes per class, of sizes n
    "none": lambda n: n,
    "oversample": lambda n: np.full_like(n, n.max()),
    "undersample": lambda n: np.full_like(n, n.min()),
    "threshold_undersample": lambda n: np.minimum(n, 500),
    "threshold_oversample": lambda n: np.maximum(n, 500),
    "cap_and_repeat": lambda n: np.minimum(500, 10 * n),
}
sizes_of_classes = st.lists(st.integers(1, 700), min_size=1, max_size=12)


def labels_of(sizes: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), sizes)


def params_of(name: str, labels: np.ndarray) -> dict:
    """Return what the plug-in can't be called without, such that these labels can give it."""
    sizes = np.bincount(labels)
    if name == "rarefy":
        return {"class_name": int(sizes.argmax()), "cells": max(1, int(sizes.max()) // 3)}
    if name == "match":
        return {"counts": {str(code): max(1, int(size) // 2) for code, size in enumerate(sizes)}}
    return {"ratio": min(10.0, float(sizes.max() / sizes.min())), "short_classes": "keep"} if name in CURVES else {}


CURVES = ("exponential", "step")


def rows_of(registry: dict, name: str, labels: np.ndarray, seed: int = 0, **params: object) -> np.ndarray:
    return registry[name](labels, np.random.default_rng(seed), **params_of(name, labels) | params)


def class_sizes(labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.bincount(labels[rows], minlength=labels.max() + 1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("registry", "name"), ONLY_LABELS, ids=lambda value: value if isinstance(value, str) else "")
def test_rows_are_ascending_numbers_of_cells_and_no_class_vanishes(registry, name, shape):
    labels = labels_of(SHAPES[shape])
    rows = rows_of(registry, name, labels)
    assert rows.dtype == np.int64
    assert (np.diff(rows) >= 0).all() and rows.min() >= 0 and rows.max() < len(labels)
    assert (class_sizes(labels, rows) > 0).all()
    if registry is SKEWS:
        assert len(np.unique(rows)) == len(rows)


@pytest.mark.parametrize(("registry", "name"), ONLY_LABELS, ids=lambda value: value if isinstance(value, str) else "")
def test_the_generator_decides_and_nothing_else(registry, name):
    labels = labels_of([400, 90, 30, 4])
    first = rows_of(registry, name, labels)
    np.random.seed(5)  # noqa: NPY002
    assert np.array_equal(rows_of(registry, name, labels), first)
    others = [rows_of(registry, name, labels, seed) for seed in range(1, 4)]
    whole = len(first) == len(labels) == len(np.unique(first))  # every cell once: nothing to draw
    assert whole or not all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize(("registry", "name"), ONLY_LABELS, ids=lambda value: value if isinstance(value, str) else "")
@settings(deadline=None, max_examples=25)
@given(sizes=sizes_of_classes, seed=st.integers(0, 99))
def test_class_totals_do_not_depend_on_the_order_of_the_cells(registry, name, sizes, seed):
    labels = labels_of(sizes)
    shuffled = np.random.default_rng(seed).permutation(labels)
    found = [class_sizes(some, rows_of(registry, name, some, seed)) for some in (labels, shuffled)]
    assert np.array_equal(*found)


@pytest.mark.parametrize("name", TOTALS)
@settings(deadline=None, max_examples=25)
@given(sizes=sizes_of_classes)
def test_class_totals_are_as_documented(name, sizes):
    labels = labels_of(sizes)
    assert np.array_equal(class_sizes(labels, rows_of(STRATEGIES, name, labels)), TOTALS[name](np.array(sizes)))


@settings(deadline=None, max_examples=25)
@given(sizes=sizes_of_classes)
def test_square_root_and_balanced_batches_keep_the_number_of_rows(sizes):
    labels, size = labels_of(sizes), np.array(sizes)
    found = class_sizes(labels, rows_of(STRATEGIES, "square_root", labels))
    assert found.sum() == len(labels)
    assert np.abs(found - len(labels) * np.sqrt(size) / np.sqrt(size).sum()).max() <= len(size)  # whole, none below 1
    balanced = class_sizes(labels, rows_of(STRATEGIES, "class_balanced_batches", labels))
    assert balanced.sum() == len(labels) and np.ptp(balanced) <= 1


@pytest.mark.parametrize("name", SKEWS)
@settings(deadline=None, max_examples=25)
@given(
    sizes=st.lists(st.integers(20, 700), min_size=2, max_size=12), share=st.floats(0.05, 1.0), seed=st.integers(0, 99)
)
def test_total_is_kept_exactly_or_refused_by_name(name, sizes, share, seed):
    labels = labels_of(sizes)
    total = max(len(sizes), int(share * len(labels)))
    try:
        rows = rows_of(SKEWS, name, labels, seed, total=total)
    except RequestError as error:
        assert any(word in str(error) for word in ("too few", "can't be had"))
        return
    assert len(rows) == total
    assert (class_sizes(labels, rows) > 0).all()


@pytest.mark.parametrize(("registry", "name"), ONLY_LABELS, ids=lambda value: value if isinstance(value, str) else "")
def test_100_000_labels_take_less_than_a_second(registry, name):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(100), 1000))
    rows_of(registry, name, labels[:5000])  # imports
    begin = time.process_time()
    rows_of(registry, name, labels)
    assert time.process_time() - begin < 1


class Watched:
    """Labels or cells that note every row asked of them, and can't be read in any other way."""

    def __init__(self, inside: object) -> None:
        self.inside, self.asked = inside, set()

    def __getitem__(self, rows: np.ndarray) -> object:
        self.asked |= set(np.asarray(rows).ravel().tolist())
        return self.inside[rows]

    def __array__(self, *args: object, **kwargs: object) -> np.ndarray:
        raise AssertionError("all labels were read at once")


@pytest.mark.parametrize("skew", SKEWS)
@pytest.mark.parametrize("strategy", [*STRATEGIES, *SYNTHESIZERS])
def test_a_strategy_never_looks_at_a_cell_held_out(skew, strategy, monkeypatch):
    counts, labels = counts_like(240, 30, 3)
    parts = choice.split(labels, seed=0, test=0.2, validation=0.1)
    kept = parts.train[rows_of(SKEWS, skew, labels[parts.train])]
    spied, cells = Watched(labels), Watched(counts)
    if strategy in STRATEGIES:
        given = {"counts": cells[kept]} if strategy not in BY_LABELS else {}
        picked = choice.resample(spied, kept, {"kind": strategy}, (0, "strategy"), **given)
        assert set(picked.tolist()) <= set(kept.tolist())
    else:
        monkeypatch.setattr("data_pipeline.rows.synthesize._scvi_model", lambda counts, *rest: counts)
        monkeypatch.setattr("data_pipeline.rows.synthesize._decoded", lambda model, sources, unscaled: model[sources])
        SYNTHESIZERS[strategy](cells[kept], spied[kept], np.random.default_rng(0), cells=120)
    asked = spied.asked | cells.asked
    assert asked and not asked & {*parts.validation.tolist(), *parts.test.tolist()}
