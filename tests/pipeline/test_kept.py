"""What a node keeps of the store: nothing that is made or used now is removed, no note of it is replaced."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import test_shared
from test_shared import put

from data_pipeline.shards.encoded import Encoded
from data_pipeline.shards.job import Writer
from data_pipeline.shared import cache, objects
from data_pipeline.shared.hand import at_hand
from data_pipeline.shared.store import LIMIT, OWN, limit_gb, tried
from data_pipeline.shared.turns import Turn, turn

without_pauses, shared, node = test_shared.without_pauses, test_shared.shared, test_shared.node  # fixtures


def test_a_node_keeps_what_was_used_last_and_what_is_in_use(shared, node, monkeypatch):
    monkeypatch.setenv(OWN, str(node.own))
    monkeypatch.setenv(LIMIT, "25e-9")
    made = [put(shared.root / "generated", **{name: "ten bytes!"}) / name for name in ("a", "b", "c", "d")]
    for path in made:
        shared.push(path)

    def there():
        return {path.name for path in (node.own / "generated").iterdir()}

    with at_hand(shared, made[0]):
        for path in made[1:]:
            with at_hand(shared, path):
                pass
        assert there() == {"a", "d"}, "the first is in use, two of the others are one too many"
    for path in made[1:3]:
        with at_hand(shared, path) as here:
            assert here.read_text() == "ten bytes!", "fetched anew"
    assert there() == {"b", "c"}


def test_a_part_that_was_just_made_stays_until_it_is_in_the_store(shared, node, monkeypatch):
    def published(self, *given):
        publish(self, *given)
        cache.make_room(node)  # as a trial does that ends beside it

    publish, folder = Writer.publish, shared.root / "shards" / "d" / "k"
    monkeypatch.setattr(Writer, "publish", published)
    monkeypatch.setenv(LIMIT, "0")
    cells = Encoded(np.zeros(1, np.int64), None, np.array([0, 1]))
    writer = Writer(folder, lambda *given, totals: cells, np.ones(2), node)
    for start in (0, 1):
        writer.write(start, np.ones((1, 1)))
    parts = [path for path in shared.parts(folder) if shared.pull(path) and path.is_file()]
    assert [path.name for path in parts if path.suffix == ".arrow"] == ["part-000000000.arrow", "part-000000001.arrow"]


def test_what_is_gone_is_not_put_into_the_store_as_nothing(shared):
    with pytest.raises(objects.StoreError, match="is gone"):
        shared.push(shared.root / "genes" / "a.npy")
    assert not shared.holds(shared.root / "genes" / "a.npy")


def test_two_that_begin_at_once_hold_the_same_note(shared, node, monkeypatch):
    path = put(shared.root / "genes", a="1") / "a"
    monkeypatch.setattr(Path, "exists", lambda self: False)  # as both see it
    notes = {cache.note(node, path).stat().st_ino for _ in range(2)}
    assert len(notes) == 1, "a lock on the first counts for the second"


def test_a_driver_s_folder_keeps_everything(shared, monkeypatch):
    monkeypatch.setenv(LIMIT, "0")
    path = put(shared.root / "genes", a="1") / "a"
    put(shared.root / "sweeps", small_yaml="name: small")
    shared.push(path), cache.note(shared, path)
    cache.make_room(shared.on_node())
    assert path.exists()


def test_a_trial_s_folder_stays_while_it_is_trained_and_may_go_then(shared, node, monkeypatch):
    monkeypatch.setenv(LIMIT, "0")
    folder = shared.root / "trials" / "k"
    with turn(node, folder, lambda: None, (), print) as (check, save):
        put(node.here(folder), epoch="1"), save(), check()
        cache.make_room(node)
        assert (node.here(folder) / "epoch").exists()
    assert not node.here(folder).exists()
    with turn(node, folder, lambda: None, (), print) as (check, save):
        assert (node.here(folder) / "epoch").read_text() == "1"


def test_a_limit_that_is_no_number_is_refused_where_the_node_is_tried_and_fails_no_trial(shared, node, monkeypatch):
    monkeypatch.setenv(LIMIT, "50GB")
    said = tried(shared.uri, str(shared.root), "x")
    assert said == "has CELLSKEW_NODE_GB=50GB: set it to a number of gigabytes, or leave it out for 50"
    cache.make_room(node)
    monkeypatch.setenv(LIMIT, "2.5")
    assert limit_gb() == 2.5


def test_what_is_said_to_be_whole_is_on_disk_before_it_is_said(shared, node, monkeypatch):
    """A loss of power would leave the mark, and files that end early: a trial would go on with these."""
    trial, made = shared.root / "trials" / "k", shared.root / "weights" / "w"
    first = Turn(shared, trial)
    first.take(), put(trial, history="1"), first.save()
    shared.push(put(made, model_pt="1").parent / "w")
    on_disk, fsync = [], os.fsync

    def to_disk(handle):
        written = Path(f"/proc/self/fd/{handle}").readlink().name
        on_disk.append(re.sub(r"^\.(.+)\.[0-9a-f]{12}\.part$", r"\1", written))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", to_disk)
    Turn(node, trial).take(), node.pull(made)
    files = [name for name in on_disk if name not in ("k", "w")]
    assert files == ["history", ".turn", "model.pt", ".whole"]
