"""The fast ways through the encoders agree with the plain ones, ties and extremes included."""

import numpy as np
import pytest
from scipy import sparse

from trainables.models.geneformer.encoder import descending
from trainables.models.scgpt.encoder import MOST, bin_values, distinct_counts, whole_numbers
from trainables.spec import get


@pytest.mark.parametrize("kind", ["distinct", "ties", "nearly equal", "almost the same"])
@pytest.mark.parametrize("seed", range(5))
def test_ragged_descending_order_is_the_stable_one(kind, seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 300, rng.integers(1, 400))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    near = [1.0, 1 + 2.0**-52, 1 + 2.0**-40, 2.0, 1e-9, 1e9]
    values = {
        "distinct": rng.random(offsets[-1]) + 1e-12,
        "ties": rng.integers(1, 4, offsets[-1]).astype(float),
        "nearly equal": rng.choice(near, offsets[-1]),
        "almost the same": np.where(rng.random(offsets[-1]) < 0.01, 1e30, 1 + 1e-9 * rng.random(offsets[-1])),
    }[kind]
    rows = np.repeat(np.arange(len(lengths)), lengths)
    assert np.array_equal(descending(values, offsets), np.lexsort((-values, rows)))


def test_no_cells_and_empty_cells_have_an_order_too():
    assert descending(np.zeros(0), np.zeros(1, np.int64)).size == 0
    assert descending(np.zeros(0), np.zeros(5, np.int64)).size == 0


def test_counting_finds_what_a_sort_finds(rng):
    rows = np.repeat(np.arange(50), 40)
    counts = np.where(rng.random(2000) < 0.9, rng.integers(1, 70, 2000), rng.integers(1, MOST, 2000))
    found = distinct_counts(rows, counts, 50)
    expected = np.unique((rows << 32) | counts, return_inverse=True, return_counts=True)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_bins_are_the_same_with_and_without_whole_numbers(rng):
    offsets = np.arange(0, 3001, 60)
    counts = rng.geometric(0.2, 3000)
    counts[::97] = 5000
    values = np.log1p(counts.astype(np.float32))
    fast = bin_values(values, offsets, 51, np.random.RandomState(3).random, counts)
    assert np.array_equal(fast, bin_values(values, offsets, 51, np.random.RandomState(3).random))


def test_only_whole_numbers_of_moderate_size_are_counted():
    assert whole_numbers(np.array([1.0, 2.0], np.float32)).dtype == np.int64
    assert whole_numbers(np.array([1.5], np.float32)) is None
    assert whole_numbers(np.array([MOST + 1.0], np.float32)) is None


def test_cells_binned_a_few_at_a_time_draw_the_same_numbers(rng, monkeypatch):
    counts = sparse.csr_matrix(rng.poisson(0.7, (50, 80)).astype(np.float32))
    spec = get("scgpt")
    encoder = spec.encoder([f"gene{n}" for n in range(80)], None, **spec.options(max_length=40).model_dump())
    whole = encoder(counts, np.random.default_rng(1))
    monkeypatch.setattr("trainables.models.scgpt.encoder.CHUNK", 7)
    pieces = encoder(counts, np.random.default_rng(1))
    assert np.array_equal(whole.ids, pieces.ids) and np.array_equal(whole.values, pieces.values)


def test_ranks_are_those_of_every_cell_by_itself(rng):
    counts = sparse.csr_matrix(rng.poisson(0.7, (300, 80)).astype(np.float32))
    counts.data[::50] = 0  # a stored zero is no expression
    before = counts.copy()
    spec = get("geneformer")
    medians = rng.choice([1.0, 2.0, 3.0, 1.5], 80).tolist()  # many ties, exact and but for rounding
    encoder = spec.encoder([f"gene{n}" for n in range(80)], None, **spec.options().model_dump() | {"medians": medians})
    together, totals = encoder(counts), np.asarray(counts.sum(1)).ravel()
    for row in (0, 1, 127, 128, 299):
        values = counts[row].toarray()[0].astype(np.float64) / totals[row] * 10_000 / medians
        expected = encoder.tokens[np.argsort(-values, kind="stable")[: np.count_nonzero(values)]]
        assert np.array_equal(together.take([row]).ids[1:-1], expected)  # without <cls> and <eos>
    assert np.array_equal(counts.data, before.data)


@pytest.mark.parametrize("model", ["scgpt", "scbert", "geneformer", "logistic_regression"])
def test_encoding_leaves_the_counts_as_they_are(rng, model):
    counts = sparse.csr_matrix(rng.poisson(0.7, (20, 30)).astype(np.float32))
    counts.data[::7] = 0
    before = counts.copy()
    spec = get(model)
    spec.encoder([f"gene{n}" for n in range(30)], None, **spec.options().model_dump())(counts, np.random.default_rng(0))
    assert np.array_equal(counts.data, before.data) and np.array_equal(counts.indices, before.indices)
