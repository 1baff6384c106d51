"""The time left of a sweep: kinds differ, estimates are wrong, drivers come back after a night."""

import os

import pytest

from sweeps.pace import Due, Ended, keep, kept, place, seconds_left


def ends(kind: str, number: int, expected: float, took: float, every: float, begin: float = 0.0) -> list[Ended]:
    return [Ended(kind, expected, took, begin + every * (place + 1)) for place in range(number)]


def test_one_kind_that_was_thought_dear_says_nothing_of_the_others():
    """Ten dear trials ended in a fifth of the time expected: the hundred cheap ones aren't five times faster for it."""
    dear = ends("trees", 10, 15.0, 3.0, 1.5)  # two at once
    assert seconds_left(dear, [Due("lr", 1.0)] * 100) == pytest.approx(50)
    assert seconds_left(dear, [Due("lr", 1.0)] * 100 + [Due("trees", 15.0)] * 10) == pytest.approx(65)


def test_a_trial_is_not_shared_out_and_too_few_tell_nothing():
    assert seconds_left(ends("lr", 30, 1.0, 1.0, 0.25), [Due("lr", 8.0)]) == pytest.approx(8)
    assert seconds_left(ends("lr", 2, 1.0, 1.0, 1.0), [Due("lr", 1.0)]) is None
    assert seconds_left(ends("lr", 5, 1.0, 1.0, 1.0), []) is None


def test_until_trials_ended_the_plan_holds_and_of_what_gpus_train_nothing_is_said():
    due = [Due("lr", 4.0)] * 3
    assert seconds_left([], due, cores=2.0) == 6 and seconds_left(ends("lr", 2, 1.0, 3.0, 1.0), due, cores=2.0) == 18
    assert seconds_left([], due, cores=0.0) is None


def test_whoever_asks_hears_what_the_drivers_screen_says(tmp_path):
    file = place(tmp_path, "mine")
    keep(file, 60.0)
    assert kept(file, os.getpid()) == pytest.approx(60, abs=5)
    assert kept(file, os.getpid() + 1) is None, "kept by a driver that is gone"
    keep(file, None)
    assert kept(file, os.getpid()) is None and kept(tmp_path / "none", 1) is None


def test_a_night_between_two_drivers_is_not_the_pace():
    runs = ends("lr", 10, 1.0, 2.0, 2.0) + ends("lr", 5, 1.0, 2.0, 2.0, begin=30_000.0)
    assert seconds_left(runs, [Due("lr", 1.0)] * 10) == pytest.approx(20, rel=1.5)
