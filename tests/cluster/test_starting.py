"""Ray that takes too long to come up on a busy machine is started once more; then it is said."""

import pytest

from sweeps.cluster import nodes


def starting(monkeypatch, failures: int, said: str = "The current node timed out during startup.") -> list[dict]:
    calls: list[dict] = []

    def init(*words: object, **settings: object) -> None:
        calls.append(settings)
        if len(calls) <= failures:
            raise Exception(said)

    monkeypatch.setattr(nodes.ray, "init", init)
    monkeypatch.setattr(nodes.ray, "shutdown", lambda: None)
    return calls


def test_a_busy_machine_gets_a_second_try(monkeypatch):
    calls = starting(monkeypatch, failures=1)
    nodes._start({"num_cpus": 2})
    assert [call["num_cpus"] for call in calls] == [2, 2]


def test_the_second_time_it_is_said(monkeypatch):
    calls = starting(monkeypatch, failures=9)
    with pytest.raises(OSError, match="twice it took over 30 s"):
        nodes._start({"num_cpus": 2})
    assert len(calls) == 2


def test_other_troubles_are_told_at_once(monkeypatch):
    calls = starting(monkeypatch, failures=9, said="no room")
    with pytest.raises(Exception, match="no room"):
        nodes._start({"num_cpus": 2})
    assert len(calls) == 1
