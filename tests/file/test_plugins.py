"""One contract for every registered skew, strategy and loss, over the registries, so a new one is held to it too."""

import inspect
import time

import numpy as np
import pytest
import torch
from conftest import counts_like
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from data_pipeline.rows.choice import choose, resample
from data_pipeline.rows.resample import STRATEGIES
from data_pipeline.rows.skew import SKEWS
from data_pipeline.rows.synthesize import SYNTHESIZERS
from trainables.losses import LOSSES

BY_LABELS = sorted(name for name, function in STRATEGIES.items() if getattr(function, "needs", None) is None)
LABEL_SETS = {
    "one-cell class": np.repeat(np.arange(3), [400, 60, 1]),
    "two classes": np.repeat(np.arange(2), [300, 20]),
    "100 classes": np.repeat(np.arange(100), np.geomspace(400, 8, 100).astype(int)),
    "codes with gaps": np.repeat([2, 7, 40], [300, 50, 15]),
}


def params_of(kind: str, labels: np.ndarray) -> dict:
    """Return the parameters that a plug-in can't do without, fit for these labels."""
    codes, counts = np.unique(labels, return_counts=True)
    rare, sizes = (
        dict(class_name=int(codes[0]), cells=3),
        {str(c): max(1, n // 2) for c, n in zip(codes, counts, strict=True)},
    )
    return {"rarefy": rare, "match": {"counts": sizes}}.get(kind, {})


def skewed(kind: str, labels: np.ndarray, seed: int = 0, **params: object) -> np.ndarray:
    return SKEWS[kind](labels, np.random.default_rng(seed), **params_of(kind, labels), **params)


def by_strategy(kind: str, labels: np.ndarray, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if getattr(STRATEGIES[kind], "needs", None) == "counts":
        counts = np.random.default_rng(1).poisson(3 + 5 * (np.arange(30) % 100 == labels[:, None] % 30))
        return STRATEGIES[kind](labels, rng, counts=sparse.csr_matrix(counts.astype(np.float32)))
    return STRATEGIES[kind](labels, rng)


def class_counts(labels: np.ndarray, rows: np.ndarray) -> list[int]:
    return np.bincount(labels[rows], minlength=labels.max() + 1).tolist()


@pytest.mark.parametrize("labels", LABEL_SETS.values(), ids=LABEL_SETS)
@pytest.mark.parametrize("kind", SKEWS)
def test_a_skew_keeps_some_cells_of_every_class_once(kind: str, labels: np.ndarray):
    rows = skewed(kind, labels)
    assert rows.dtype == np.int64
    assert (np.diff(rows) > 0).all()
    assert 0 <= rows[0] <= rows[-1] < len(labels)
    assert set(labels[rows]) == set(labels)


@pytest.mark.parametrize("labels", LABEL_SETS.values(), ids=LABEL_SETS)
@pytest.mark.parametrize("kind", STRATEGIES)
def test_a_strategy_loses_no_class_and_knows_no_other_row(kind: str, labels: np.ndarray):
    rows = by_strategy(kind, labels)
    assert rows.dtype == np.int64
    assert (np.diff(rows) >= 0).all()
    assert 0 <= rows[0] <= rows[-1] < len(labels)
    assert set(labels[rows]) == set(labels)


@pytest.mark.parametrize("labels", LABEL_SETS.values(), ids=LABEL_SETS)
@pytest.mark.parametrize(("run", "kind"), [(skewed, k) for k in SKEWS] + [(by_strategy, k) for k in STRATEGIES])
def test_seeded_and_independent_of_the_order_of_the_cells(run, kind: str, labels: np.ndarray):
    rows = run(kind, labels, seed=3)
    assert np.array_equal(rows, run(kind, labels, seed=3))
    if kind != "tomek":  # which looks at the cells themselves; its own test permutes both
        shuffled = np.random.default_rng(9).permutation(labels)
        assert class_counts(labels, rows) == class_counts(shuffled, run(kind, shuffled, seed=3))


@pytest.mark.parametrize(("run", "kind"), [(skewed, k) for k in SKEWS] + [(by_strategy, k) for k in STRATEGIES])
def test_labels_are_left_as_they_were(run, kind: str):
    labels = LABEL_SETS["two classes"].copy()
    labels.setflags(write=False)
    run(kind, labels)


@pytest.mark.parametrize("kind", SKEWS)
def test_total_is_the_number_of_cells_kept(kind: str):
    labels = np.repeat(np.arange(4), 500)
    assert len(skewed(kind, labels, total=400)) == 400


@pytest.mark.parametrize("kind", SKEWS)
def test_another_seed_keeps_other_cells(kind: str):
    labels = np.repeat(np.arange(4), 500)
    first, second = (skewed(kind, labels, seed=seed, total=400) for seed in (0, 1))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(("run", "kind"), [(skewed, k) for k in SKEWS] + [(by_strategy, k) for k in BY_LABELS])
def test_100_000_labels_take_under_a_second(run, kind: str):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(11), [40_000, 25_000, 12_000, *[2875] * 8]))
    run(kind, labels)  # imports
    start = time.process_time()
    run(kind, labels)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "registry", [SKEWS, STRATEGIES, SYNTHESIZERS, LOSSES], ids=["skew", "strategy", "made", "loss"]
)
def test_parameters_can_be_checked_from_the_signature_alone(registry: dict):
    for name, function in registry.items():
        own = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
        assert all(p.annotation is not p.empty for p in own), name
        assert function.__doc__, name
        assert registry is LOSSES or set(function.__code__.co_varnames) >= {
            p.name for p in own
        }  # a plain function: callers look at its code


def test_plugins_are_handed_the_training_cells_and_no_others(monkeypatch: pytest.MonkeyPatch):
    handed = []

    def spy(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        handed.append(labels.copy())
        return np.arange(0, len(labels), 2)

    monkeypatch.setitem(SKEWS, "spy", spy)
    monkeypatch.setitem(STRATEGIES.own, "spy", spy)
    labels = np.random.default_rng(0).integers(0, 3, 300)
    rows = choose(labels, ["a", "b", "c"], {"seed": 0, "test": 0.2, "validation": 0.1}, {"kind": "spy"})
    picked = resample(labels, rows.kept, {"kind": "spy"}, (0, "strategy", 0))
    assert np.array_equal(handed[0], labels[rows.split.train])
    assert np.array_equal(handed[1], labels[rows.kept])
    assert set(picked) <= set(rows.kept) <= set(rows.split.train)
    assert len(handed) == 2


@pytest.mark.parametrize(("run", "kind"), [(skewed, k) for k in SKEWS] + [(by_strategy, k) for k in STRATEGIES])
def test_what_validation_and_test_hold_makes_no_difference(run, kind: str):
    rng = np.random.default_rng(0)
    everything, training = rng.integers(0, 4, 900), np.sort(rng.permutation(900)[:500])
    others = np.setdiff1d(np.arange(900), training)
    rows = training[run(kind, everything[training])]
    everything[others] = 3 - everything[others]
    assert np.array_equal(rows, training[run(kind, everything[training])])
    assert not set(rows) & set(others)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 120), min_size=2, max_size=15), st.sampled_from(BY_LABELS), st.integers(0, 999))
def test_strategies_hold_for_any_class_sizes(sizes: list[int], kind: str, seed: int):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    after = np.array(class_counts(labels, by_strategy(kind, labels, seed)))
    n, before = len(labels), np.array(sizes)
    expected = {
        "none": before,
        "oversample": np.full(len(sizes), before.max()),
        "undersample": np.full(len(sizes), before.min()),
        "threshold_undersample": np.minimum(before, 500),
        "threshold_oversample": np.maximum(before, 500),
        "cap_and_repeat": np.minimum(500, 10 * before),
    }
    if kind in expected:
        assert after.tolist() == expected[kind].tolist()
    elif kind == "scbalance":
        assert after.sum() == n and after.min() >= 1  # equal on average alone
    else:
        shape = np.sqrt(before) if kind == "square_root" else np.ones(len(sizes))
        assert after.sum() == n
        assert np.abs(after - shape / shape.sum() * n).max() <= (2 if kind == "square_root" else 1)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("num_classes", [2, 11, 100])
def test_one_step_along_the_gradient_lowers_every_loss(name: str, num_classes: int):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, num_classes, generator=generator, requires_grad=True)
    labels = torch.randint(num_classes, (64,), generator=generator)
    loss = LOSSES[name](torch.bincount(labels, minlength=num_classes))
    before = loss(logits, labels, 0.5)
    before.backward()
    after = loss(logits.detach() - 0.1 * logits.grad, labels, 0.5)
    assert before.shape == ()
    assert after < before


@pytest.mark.parametrize("name", LOSSES)
def test_losses_do_not_depend_on_the_order_of_cells_or_classes(name: str):
    logits, labels = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 5
    counts, cells, classes = np.array([500, 90, 30, 4, 1]), torch.randperm(20), torch.tensor([3, 0, 4, 1, 2])
    plain = LOSSES[name](counts)(logits, labels, 0.9)
    moved = LOSSES[name](counts[classes])(logits[cells][:, classes], torch.argsort(classes)[labels[cells]], 0.9)
    assert moved.item() == pytest.approx(plain.item(), rel=1e-5)


@pytest.mark.parametrize("kind", sorted(set(SYNTHESIZERS) - {"scvi"}))
def test_makers_fill_up_rare_classes_alone_and_are_seeded(kind: str):
    counts, labels = counts_like(200, 50, 3)
    kept = np.concatenate(
        [np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)[:7], np.flatnonzero(labels == 2)[:1]]
    )
    counts, labels = counts[kept], labels[kept]
    made, of, sources = SYNTHESIZERS[kind](counts, labels, np.random.default_rng(0), cells=20)
    again, *_ = SYNTHESIZERS[kind](counts, labels, np.random.default_rng(0), cells=20)
    assert np.bincount(of, minlength=3).tolist() == [0, 13, 19]
    assert made.shape == (32, 50)
    assert np.array_equal(labels[sources], of)
    assert (made != again).nnz == 0
