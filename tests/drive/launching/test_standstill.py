"""When Ray starts nothing although there is room, the launch ends, so that what is left is launched anew."""

from types import SimpleNamespace

import pytest
import ray

from sweeps.drive.launching import launch
from sweeps.drive.launching.news import Tally
from sweeps.drive.launching.standstill import LIMIT, MOST, InARow, StandsStill, Standstill
from sweeps.drive.outcome import Outcome
from sweeps.drive.stopping import Stop


def test_only_a_long_time_without_a_trial_that_runs_or_waits_for_room_is_a_standstill():
    now = [0.0]
    watch = Standstill(lambda: now[0])
    for runs, is_promised in ((False, True), (True, True), (False, False), (False, True)):
        now[0] += LIMIT - 1
        watch.look(runs, is_promised)
    now[0] += 2
    with pytest.raises(StandsStill, match="started no trial for 300 s") as stands:
        watch.look(False, True)
    assert isinstance(stands.value.__cause__, ray.exceptions.RayError)


def test_a_driver_whose_ray_stands_still_launches_what_is_left_anew(ray_here, tmp_path, monkeypatch):
    from fake_trials import Silent, drive

    looks, screen = [], Silent()

    def look(self, runs, is_promised):
        looks.append(is_promised)
        if len(looks) == 1:
            raise StandsStill("no trial") from ray.exceptions.RayError("no trial")

    monkeypatch.setattr(Standstill, "look", look)
    assert drive(tmp_path, screen=screen).is_complete and len(looks) > 1
    assert any("what is left is launched anew" in said for said in screen.said)


def test_ray_that_stands_still_time_and_again_is_given_up_in_words(tmp_path, monkeypatch):
    stop, said, lost = Stop(tmp_path / "stop"), [], []

    def stand_still(*about):
        raise StandsStill("Ray has started no trial") from ray.exceptions.RayError("no trial")

    monkeypatch.setattr(launch, "_fit", stand_still)
    monkeypatch.setattr(launch, "cluster_is_gone", lambda: False)
    coming = SimpleNamespace(jobs=[], is_over=lambda: False)
    news = SimpleNamespace(tally=Tally(), last_heard=lambda: 0.0, fell_over=lambda *about: lost.append(about))
    launch._train(coming, news, stop, tmp_path, launch.Settings(None, None, 3, pause=0.0, say=said.append))
    assert stop.why.startswith("Ray has started no trial, 3 launches in a row") and len(lost) == MOST
    assert ["launched anew" in one for one in said] == [True] * (MOST - 1)
    assert Outcome(wanted=1, stopped=stop.why).is_broken


def test_a_launch_of_which_something_was_heard_begins_the_count_anew():
    stood = InARow()
    assert [stood.is_enough(heard) for heard in (0.0, 0.0, 5.0, 5.0, 7.0, 7.0, 7.0)] == [False] * 6 + [True]
