"""The feed: every row once, an order that depends on (seed, pass) alone, like lengths together where asked."""

import numpy as np

from data_pipeline.shards.encoded import Encoded
from data_pipeline.shards.feed import POOL, Feed


class Lengths:
    """Shards of which only the lengths matter."""

    def __init__(self, num_cells: int) -> None:
        self.lengths = np.random.default_rng(0).integers(1, 500, num_cells)

    def take(self, rows: np.ndarray) -> Encoded:
        lengths = self.lengths[rows]
        return Encoded(np.repeat(rows, lengths), None, np.concatenate([[0], np.cumsum(lengths)]))


def make_feed(num_cells: int = 5000, batch_size: int = 32) -> Feed:
    labels = np.arange(num_cells) % 7
    return Feed(Lengths(num_cells), labels, lambda encoded, rows: {"lengths": encoded.lengths}, batch_size)


def order(feed: Feed, **options) -> np.ndarray:
    return feed.order(np.arange(5000), **options)


def test_every_row_once_and_labels_follow():
    feed = make_feed()
    for length_aware in (False, True):
        assert np.array_equal(np.sort(order(feed, seed=1, number=0, length_aware=length_aware)), np.arange(5000))
    for batch in feed.batches(feed.order(np.arange(100), seed=1, number=0)):
        assert np.array_equal(batch.labels, batch.rows % 7)
        assert np.array_equal(batch.inputs["lengths"], feed.shards.lengths[batch.rows])


def test_order_depends_on_seed_and_pass_alone():
    feed = make_feed()
    first = order(feed, seed=1, number=3)
    assert np.array_equal(first, order(make_feed(), seed=1, number=3))
    assert not np.array_equal(first, order(feed, seed=1, number=4))
    assert not np.array_equal(first, order(feed, seed=2, number=3))
    assert np.array_equal(order(feed, seed=1, number=3, shuffle=False), order(feed, seed=1, number=4, shuffle=False))


def test_length_aware_batches_pad_far_less():
    feed = make_feed()

    def padding(length_aware: bool) -> float:
        batches = [batch.inputs["lengths"] for batch in feed.batches(feed.order(np.arange(5000), 1, 0, length_aware))]
        return sum(len(lengths) * lengths.max() for lengths in batches) / feed.shards.lengths.sum()

    assert POOL * 32 < 5000
    assert padding(True) < 1.1 < 1.5 < padding(False)


def test_evaluation_begins_with_the_longest_cells():
    feed = make_feed()
    batches = list(feed.batches(feed.longest_first(np.arange(5000))))
    assert batches[0].rows[0] == feed.shards.lengths.argmax()
    assert sum(len(batch.rows) for batch in batches) == 5000
    assert len(batches) == feed.num_batches(5000)
