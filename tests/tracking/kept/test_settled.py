"""A second look at a large sweep on a server: as true as the first one, and without what changes no more."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.tracking.kept import settled
from sweeps.tracking.kept.database import StoredRun


class Server:
    """Runs that a filter of MLflow's is applied to; asked counts the runs that each question gave."""

    def __init__(self, number: int) -> None:
        self.runs = {f"r{n}": run(n) for n in range(number)}
        self.deleted: dict[str, StoredRun] = {}
        self.asked: list[int] = []

    def read(self, which: str, deleted: bool = False) -> Iterator[StoredRun]:
        found = [one for one in (self.deleted if deleted else self.runs).values() if _holds(which, one)]
        self.asked.append(len(found))
        return iter(found)

    def become(self, run_id: str, status: str, **tags: str) -> None:
        known = self.runs[run_id]
        numbers = {"test_macro_f1": 0.5} if status == "FINISHED" else {}
        self.runs[run_id] = replace(known, status=status, tags=known.tags | tags, metrics=numbers)


def run(number: int, status: str = "FINISHED") -> StoredRun:
    tags, params = {"cellskew.trial": f"k{number}"}, {"split.test": "0.2", "genes.n": "50"}
    return StoredRun(f"r{number}", "a", status, number, None, "s3://x", tags, params, {"test_macro_f1": 0.5})


def _holds(which: str, one: StoredRun) -> bool:
    if which.startswith("attributes.run_id IN"):
        return f"'{one.run_id}'" in which
    is_finished = one.status == "FINISHED"
    return {
        "": True,
        "attributes.status != 'FINISHED'": not is_finished,
        "attributes.status = 'FINISHED' and tags.`cellskew.superseded` != ''": is_finished
        and "cellskew.superseded" in one.tags,
    }[which]


@pytest.fixture
def server(monkeypatch) -> Server:
    monkeypatch.setattr(settled, "LEAST", 3)
    return Server(10)


def look(server: Server, place: Path, wanted: set[str] | None) -> list[StoredRun]:
    """Look, and hold it against what the server has."""
    server.asked.clear()
    found = settled.runs_of(place, server.read, wanted)
    assert list(map(about, found)) == [about(one) for one in sorted(server.runs.values(), key=lambda one: one.started)]
    return found


def about(one: StoredRun) -> tuple:
    return one.run_id, one.status, one.tags, one.metrics


def test_a_second_look_asks_for_what_may_have_changed_alone(server, tmp_path):
    place, wanted = tmp_path / "runs.json", {f"k{n}" for n in range(10)}
    server.become("r1", "RUNNING")
    server.become("r2", "FAILED")
    server.become("r3", "FINISHED", **{settled.LACKING: '{"a.png": "no room"}'})
    look(server, place, wanted)
    assert server.asked == [10]
    look(server, place, wanted)
    assert server.asked == [2, 0, 0, 1]
    assert json.loads(place.read_text())["runs"][0]["params"] == {"split.test": "0.2"}


def test_whatever_happens_in_between_is_seen(server, tmp_path):
    place, wanted = tmp_path / "runs.json", {f"k{n}" for n in range(10)}
    server.become("r1", "RUNNING")
    server.become("r2", "FAILED")
    server.become("r3", "FINISHED", **{settled.LACKING: "{}"})
    look(server, place, wanted)
    server.become("r1", "FINISHED")
    server.become("r2", "SCHEDULED")
    server.become("r3", "FINISHED", **{settled.LACKING: ""})
    server.become("r4", "FINISHED", **{settled.SUPERSEDED: "now"})
    server.deleted["r5"] = server.runs.pop("r5")
    server.runs["r10"] = replace(run(10), tags={"cellskew.trial": "k5"})
    look(server, place, wanted)
    look(server, place, wanted)


def test_other_wishes_read_everything_again(server, tmp_path):
    place = tmp_path / "runs.json"
    look(server, place, {"k1"})
    server.runs["r11"] = run(11)
    look(server, place, {"k1", "k11"})
    server.runs["r12"] = run(12)
    look(server, place, None)
    place.write_text("damaged")
    look(server, place, {"k1"})


def test_a_database_made_anew_at_the_same_address_is_another_one():
    first, second = (settled.place_of("http://host:5000", "1", created) for created in (1, 2))
    assert first != second


def test_runs_that_are_called_otherwise_now_are_read_again(server, tmp_path):
    place, wanted = tmp_path / "runs.json", {f"k{n}" for n in range(10)}
    settled.runs_of(place, server.read, wanted, "monday")
    server.become("r4", "FINISHED", **{"cellskew.model": "mine"})
    found = settled.runs_of(place, server.read, wanted, "tuesday")
    assert found[4].tags["cellskew.model"] == "mine"
    assert len(settled.runs_of(place, server.read, wanted, "tuesday")) == 10 and server.asked[-1] == 0
