"""Splits are disjoint, complete, stratified and seeded; small classes and donors are treated as documented."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import RequestError
from data_pipeline.rows.split import Split, split

MS_TRAIN = [2010, 1284, 1019, 997, 662, 569, 413, 234, 172, 154, 114, 60, 55, 53, 38, 4, 3, 3]


def counts(labels: np.ndarray, made: Split) -> np.ndarray:
    """Return cells per part (train, validation, test) and class, int [3, C]."""
    return np.array(
        [np.bincount(labels[part], minlength=labels.max() + 1) for part in (made.train, made.validation, made.test)]
    )


def labels_of(sizes: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), sizes)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=12).filter(sum),
    st.integers(0, 2**31),
    st.floats(0, 0.3),
    st.floats(0, 0.2),
    st.randoms(use_true_random=False),
)
def test_parts_are_disjoint_complete_and_stratified(sizes, seed, test, validation, random):
    labels = labels_of(sizes)
    order = list(range(len(labels)))
    random.shuffle(order)
    labels = labels[order]
    made = split(labels, seed, test, validation)
    together = np.concatenate([made.train, made.validation, made.test])
    assert np.array_equal(np.sort(together), np.arange(len(labels)))
    for part in (made.train, made.validation, made.test):
        assert part.dtype == np.int64 and np.all(np.diff(part) > 0)
    found, size = counts(labels, made), np.bincount(labels)
    assert np.all(np.abs(found[2] - size * test) <= 1) and np.all(np.abs(found[1] - size * validation) <= 1)
    assert np.all(found[0][size > 0] >= 1)
    if test > 0:
        assert np.all(found[2][size > 1] >= 1)
    if test > 0 and validation > 0:
        assert np.all(found[1][size > 2] >= 1)


def test_fractions_of_all_cells_are_exact_where_classes_are_large():
    labels = labels_of([333, 127, 51, 101])
    found = counts(labels, split(labels, 0)).sum(axis=1)
    assert found.tolist() == [612 - 61 - 122, 61, 122]


def test_a_small_class_goes_to_training_then_test_then_validation():
    labels = labels_of([50, 3, 2, 1])
    made = split(labels, 0, classes=["many", "three", "two", "one"])
    assert counts(labels, made)[:, 1:].tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert made.notes == [
        "class 'two' has 2 cells: none in validation",
        "class 'one' has 1 cell: none in validation or test",
    ]
    assert split(labels, 0).notes[1] == "class 3 has 1 cell: none in validation or test"


def test_seeds_decide_and_nothing_else():
    labels = labels_of([40, 30, 20])
    first, again, other = split(labels, 1), split(labels, 1), split(labels, 2)
    assert np.array_equal(first.train, again.train) and not np.array_equal(first.test, other.test)


def test_over_many_seeds_every_cell_is_tested_about_equally_often():
    labels = labels_of([40, 10])
    times = sum(np.bincount(split(labels, seed).test, minlength=50) for seed in range(400))
    # 400 draws with p = 0.2: mean 80, sd 8; five sds either side
    assert times.min() > 40 and times.max() < 120


@pytest.mark.parametrize(
    ("test", "validation", "words"),
    [(1.0, 0.1, "test is 1.0"), (0.2, -0.1, "validation is -0.1"), (0.6, 0.4, "leave nothing to train on")],
)
def test_impossible_fractions_are_refused(test, validation, words):
    with pytest.raises(RequestError, match=words):
        split(labels_of([10, 10]), 0, test, validation)


def test_both_impossible_fractions_are_told_at_once():
    with pytest.raises(RequestError) as caught:
        split(labels_of([10, 10]), 0, -1, 2)
    assert len(caught.value.problems) == 2


def test_a_fixed_test_set_stays_and_validation_comes_from_the_others():
    labels = np.concatenate([labels_of(MS_TRAIN), np.repeat(np.arange(18), 40)])
    fixed = np.arange(len(labels)) >= sum(MS_TRAIN)
    made = split(labels, 3, fixed_test=fixed)
    assert np.array_equal(made.test, np.flatnonzero(fixed)) and not fixed[made.train].any()
    found = counts(labels, made)
    assert found[1].sum() == round(0.1 * sum(MS_TRAIN)) or found[1, -3:].tolist() == [1, 1, 1]
    assert found[:, -3:].tolist() == [[3, 2, 2], [1, 1, 1], [40, 40, 40]] and made.notes == []


def test_a_class_of_the_test_set_alone_is_noted():
    labels = np.array([0] * 20 + [1] * 20 + [2] * 5)
    made = split(labels, 0, fixed_test=np.arange(45) >= 35, classes=["a", "b", "c"])
    assert "class 'c' has 5 cells: none in training or validation" in made.notes


# donors


def made_donors(num_donors: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return (labels of four types, donors) of 100 cells per donor."""
    rng = np.random.default_rng(seed)
    return rng.choice(4, 100 * num_donors, p=[0.5, 0.3, 0.15, 0.05]), np.repeat(
        [f"d{i}" for i in range(num_donors)], 100
    )


def test_donors_are_never_shared_between_parts():
    labels, donors = made_donors(10)
    tested = set()
    for seed in range(5):
        made = split(labels, seed, donors=donors)
        kinds = [set(donors[part]) for part in (made.train, made.validation, made.test)]
        assert not kinds[0] & kinds[1] and not kinds[0] & kinds[2] and not kinds[1] & kinds[2]
        assert [len(kind) for kind in kinds] == [7, 1, 2]
        assert np.array_equal(np.sort(np.concatenate([made.train, made.validation, made.test])), np.arange(1000))
        assert f"test donors: {', '.join(sorted(kinds[2]))}" in made.notes
        tested.add(tuple(sorted(kinds[2])))
    assert len(tested) > 2  # seeds differ


def test_donors_may_be_categories():
    """In whatever order these are listed, and with some that have no cell."""
    labels, donors = made_donors(10)
    as_categories = pd.Categorical(donors, categories=["none", *sorted(set(donors), reverse=True)])
    for seed in range(3):
        plain, coded = split(labels, seed, donors=donors), split(labels, seed, donors=as_categories)
        assert all(np.array_equal(getattr(plain, part), getattr(coded, part)) for part in ("train", "test"))
        assert plain.notes == coded.notes


def test_donors_that_alone_have_a_class_train_it():
    labels, donors = made_donors(6)
    labels[np.flatnonzero(donors == "d2")[:5]] = 4
    labels[np.flatnonzero(donors == "d5")[:5]] = 5
    for seed in range(10):
        made = split(labels, seed, donors=donors, classes=list("abcdef"))
        assert {"d2", "d5"} <= set(donors[made.train])
        assert "class 'e' has 5 cells: none in validation or test" in made.notes


def test_two_donors_give_test_and_a_note_on_validation():
    labels, donors = made_donors(2)
    made = split(labels, 0, donors=donors)
    assert len(set(donors[made.test])) == 1 and not set(donors[made.test]) & set(donors[made.train])
    assert set(donors[made.validation]) == set(donors[made.train]) and len(made.validation) > 0
    assert "validation cells are of training donors: there are only 2 donors to split" in made.notes


def test_one_donor_cannot_be_held_out():
    labels, donors = made_donors(1)
    with pytest.raises(RequestError, match=r"all cells are of one donor \('d0'\).*leave out `donor:`"):
        split(labels, 0, donors=donors)


def test_donors_with_a_fixed_test_set_divide_the_others():
    labels, donors = made_donors(6)
    fixed = np.isin(donors, ["d4", "d5"])
    made = split(labels, 0, validation=0.25, donors=donors, fixed_test=fixed)
    assert np.array_equal(made.test, np.flatnonzero(fixed))
    assert len(set(donors[made.validation])) == 1 and not set(donors[made.validation]) & set(donors[made.train])


def test_donors_on_both_sides_of_a_fixed_test_set_are_refused_by_name():
    """The split would keep training and validation donors apart and test on all of them, as if they were new."""
    labels, donors = made_donors(6)
    fixed = np.isin(donors, ["d4", "d5"])
    fixed[[0, 100]] = True  # a cell of d0 and one of d1
    with pytest.raises(RequestError, match=r"2 of the 4 donors in the fixed test set.*\(d0, d1\).*leave out `donor:`"):
        split(labels, 0, validation=0.25, donors=donors, fixed_test=fixed)
    assert len(split(labels, 0, validation=0.25, fixed_test=fixed).test) == 202


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 12), st.integers(0, 1000), st.integers(1, 6))
def test_donor_splits_are_complete_and_whole(num_donors, seed, num_classes):
    rng = np.random.default_rng(seed)
    donors = rng.integers(0, num_donors, 200).astype(str)
    donors[:num_donors] = np.arange(num_donors).astype(str)
    labels = rng.integers(0, num_classes, 200)
    made = split(labels, seed, donors=donors)
    assert np.array_equal(np.sort(np.concatenate([made.train, made.validation, made.test])), np.arange(200))
    assert not set(donors[made.test]) & (set(donors[made.train]) | set(donors[made.validation]))
    assert len(made.train) and len(made.validation) and len(made.test)


def test_a_hundred_thousand_cells_split_in_a_second():
    import time

    labels = np.random.default_rng(0).integers(0, 100, 100_000)
    started = time.perf_counter()
    split(labels, 0)
    assert time.perf_counter() - started < 1
