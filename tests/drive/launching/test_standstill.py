"""When Ray starts nothing although there is room, the launch ends, so that what is left is launched anew."""

import pytest
import ray

from sweeps.drive.launching.standstill import LIMIT, StandsStill, Standstill


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
