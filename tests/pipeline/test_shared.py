"""Machines that share no folder: a store that is never seen torn, trials' folders that one worker at a time changes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_pipeline.shared import objects
from data_pipeline.shared.hand import Inputs, at_hand, make
from data_pipeline.shared.store import OWN, Shared, forget
from data_pipeline.shared.turns import Overtaken, Turn, fetched, has_begun
from sweeps.drive import lineage
from sweeps.drive.launching.job import Job
from sweeps.drive.launching.worker import TOLD, UPLOAD, WAITS, Rounds, work
from sweeps.drive.stopping import Stop
from sweeps.tracking.artifacts import Upload
from sweeps.tracking.kept.runs import RunState


@pytest.fixture
def without_pauses(monkeypatch):
    monkeypatch.setattr(objects, "PAUSES", (0.0,))


@pytest.fixture
def shared(tmp_path, without_pauses):
    """A store in a folder, and a driver's own."""
    (tmp_path / "driver").mkdir()
    return Shared(f"file://{tmp_path}/bucket", tmp_path / "driver")


@pytest.fixture
def node(shared, tmp_path):
    """Another machine."""
    return Shared(shared.uri, shared.root, tmp_path / "node")


def put(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def bucket(shared):
    return {path.name: path for path in (shared.root.parent / "bucket").rglob("*") if path.is_file()}


def test_what_one_machine_made_another_has_with_what_lies_beside_it(shared, node):
    folder = put(shared.root / "shards" / "d" / "k", manifest_json="{}", part_arrow="abc", checked_json="mine")
    put(folder.parent, cells_arrow="labels")
    assert not node.pull(folder) and not node.holds(folder)
    shared.push(folder, ("../cells.arrow",))
    assert node.holds(folder) and node.pull(folder)
    here = node.here(folder)
    assert here == node.own / "shards" / "d" / "k"
    assert sorted(path.name for path in here.iterdir()) == ["manifest.json", "part.arrow"]
    assert (here / "part.arrow").read_text() == "abc" and (here / "../cells.arrow").read_text() == "labels"
    (node.own / "x").mkdir(), put(shared.root, a_npy="1")
    shared.push(shared.root / "a.npy")
    assert node.pull(shared.root / "a.npy") and (node.own / "a.npy").read_text() == "1"


def test_an_upload_that_was_cut_off_is_never_seen(shared, node, monkeypatch):
    folder = put(shared.root / "shards" / "k", manifest_json="{}", part_arrow="abc")
    monkeypatch.setattr(objects, "put_list", lambda *given: (_ for _ in ()).throw(OSError("the line is cut")))
    with pytest.raises(OSError, match="the line is cut"):
        shared.push(folder)
    assert not node.holds(folder) and not node.pull(folder) and not node.here(folder).exists()
    monkeypatch.undo()
    for path in bucket(shared).values():  # half of each object arrived, as some stores keep it
        path.write_bytes(path.read_bytes()[:1])
    shared.push(folder)
    assert node.pull(folder) and (node.here(folder) / "part.arrow").read_text() == "abc"


def test_half_a_list_is_none(shared, node):
    path = put(shared.root, a_npy="1") / "a.npy"
    shared.push(path)
    listed = bucket(shared)["a.npy.json"]
    listed.write_text(listed.read_text()[:-9])
    assert not node.pull(path)
    listed.write_text(json.dumps({"files": {"": {"bytes": 1, "sha256": "0"}}, "sha256": "1"}))
    assert not node.pull(path)


def test_bytes_that_are_others_than_the_list_says_are_not_taken_and_fetched_anew(shared, node):
    path = put(shared.root, a_npy="right") / "a.npy"
    shared.push(path)
    (held,) = [one for one in bucket(shared).values() if one.read_text() == "right"]
    held.write_text("wrong")
    with pytest.raises(objects.StoreError, match="not those that were stored"):
        node.pull(path)
    assert not node.here(path).exists()
    held.write_text("right")
    assert node.pull(path) and node.here(path).read_text() == "right"


def test_a_damaged_part_of_a_folder_is_fetched_anew_once_its_seal_is_gone(shared, node):
    folder = put(shared.root / "shards" / "k", manifest_json="{}", part_arrow="abc", other_arrow="def")
    shared.push(folder)
    node.pull(folder)
    here = node.here(folder)
    (here / "part.arrow").write_text("abX"), (here / "manifest.json").unlink()  # as Shards does
    before = (here / "other.arrow").stat().st_mtime_ns
    assert node.pull(folder) and (here / "part.arrow").read_text() == "abc"
    assert (here / "other.arrow").stat().st_mtime_ns == before, "what is right stays"


def test_values_have_the_paths_of_the_machine_that_reads_them(shared, node, monkeypatch):
    monkeypatch.setenv(OWN, str(node.own))
    genes = put(shared.root / "genes", a_npy="1") / "a.npy"
    shared.push(genes)
    given = {"shards": str(genes), "none": None, "features": {str(genes): genes}, "n": 3, "kind": "genes"}
    with at_hand(shared, given) as here:
        at = node.own / "genes" / "a.npy"
        assert here == {"shards": str(at), "none": None, "features": {str(at): at}, "n": 3, "kind": "genes"}
        assert at.read_text() == "1"
    with (
        pytest.raises(objects.StoreError, match="has no genes/b.npy"),
        at_hand(shared, {"a": genes.with_name("b.npy")}),
    ):
        pass
    with at_hand(None, given) as here:
        assert here is given


def test_a_task_reads_and_makes_on_its_machine_and_the_driver_finds_it(shared, node, monkeypatch):
    monkeypatch.setenv(OWN, str(node.own))
    genes = put(shared.root / "genes", a_txt="1") / "a.txt"
    shared.push(genes)

    def double(path, read):
        assert path.is_relative_to(node.own) and read.is_relative_to(node.own)
        put(path.parent, **{path.name: read.read_text() * 2})

    made = shared.root / "generated" / "b"
    make(shared, double, made, genes)
    assert not made.exists() and shared.pull(made) and made.read_text() == "11"


def test_files_from_outside_are_found_on_a_machine_that_has_them_not_and_nothing_else_is(shared, node, monkeypatch):
    monkeypatch.setenv(OWN, str(node.own))
    data = put(shared.root.parent / "data", a_h5ad="cells") / "a.h5ad"
    inside = shared.bring(data)
    find = Inputs(shared, {str(data): inside})
    assert inside.resolve() == data and find(str(data)) == str(data), "it is here, as it was"
    data.write_text("others")
    assert find(str(data)) == str(node.here(inside)) and node.here(inside).read_text() == "cells"
    assert shared.bring(data) != inside
    assert find("s3://bucket/b.h5ad") == "s3://bucket/b.h5ad"
    assert find(str(shared.root / "copies")) == str(node.own / "copies")


def test_a_folder_goes_on_where_the_last_turn_left_it(shared, node):
    folder = shared.root / "trials" / "k"
    first = Turn(shared, folder)
    first.take()
    assert not has_begun(shared, folder)
    put(folder, told_json="1", **{"_lock": "held"}), put(folder / "epoch-1", weights="one")
    first.save()
    put(folder / "epoch-2", weights="two"), (folder / "epoch-1" / "weights").unlink(), (folder / "epoch-1").rmdir()
    first.save()
    assert has_begun(shared, folder)
    second = Turn(node, folder)
    put(node.here(folder) / "epoch-0", weights="of long ago")
    second.take()
    there = sorted(path.relative_to(node.here(folder)).as_posix() for path in node.here(folder).rglob("*"))
    assert there == [".turn", "epoch-2", "epoch-2/weights", "told.json"]
    assert "one" not in [path.read_text() for path in bucket(shared).values()], "what is old is removed"


def test_what_a_run_without_the_store_has_trained_goes_on_with_it_and_nothing_is_trained_twice_in_a_run(shared, node):
    trials = [SimpleNamespace(key=key) for key in ("saved", "begun", "new")]
    run = {key: RunState("r", key, "", "KILLED", "", True, key != "new", {}) for key in ("saved", "begun", "new")}
    here = shared.root / "trials"
    put(here / "saved" / "epoch-0001", weights="one"), put(here / "begun", log_txt="no round was saved")
    failed = Turn(node, here / "begun")
    failed.take(), put(failed.place, log_txt="no round was saved", told_json="{}")
    (failed.place / "told.json").rename(failed.place / ".told.json"), failed.save()
    assert [one.key for one in lineage.anew(trials, run, here, False, shared)] == ["begun"]
    worker = Turn(node, here / "saved")
    worker.take()
    assert (node.here(here / "saved") / "epoch-0001" / "weights").read_text() == "one"
    assert not lineage.anew(trials[:1], run, here, False, shared), "and it isn't put there again"
    worker.check()
    assert [one.key for one in lineage.anew(trials, run, here, True, shared)] == ["saved", "begun", "new"]


def test_a_worker_that_was_given_up_changes_nothing_and_learns_it(shared, node):
    folder = shared.root / "trials" / "k"
    old, new = Turn(shared, folder), Turn(node, folder)
    old.take()
    put(folder, epoch="1")
    old.save(), old.check()
    new.take(), new.check()
    put(folder, epoch="2")
    for late in (old.check, old.save):
        with pytest.raises(Overtaken, match="another worker has taken over trials/k; this was turn 000001"):
            late()
    assert fetched(node, folder) == folder and (node.here(folder) / "epoch").read_text() == "1"


def test_an_old_worker_that_saves_at_the_very_moment_does_no_harm(shared, node, monkeypatch):
    folder = shared.root / "trials" / "k"
    old, new = Turn(shared, folder), Turn(node, folder)
    old.take(), put(folder, epoch="1"), old.save()
    put(folder, epoch="2")
    monkeypatch.setattr(old, "check", lambda: None)  # it looked just before
    new.take()
    old.save()  # and leaves what only the list of `new` names
    other, another = (replace(node, own=node.own.with_name(name)) for name in ("another", "other"))
    assert (another.here(fetched(another, folder)) / "epoch").read_text() == "1", "what the newest turn names"
    next(path for path in bucket(shared).values() if path.read_text() == "1").unlink()
    third = Turn(other, folder)
    third.take()
    assert (other.here(folder) / "epoch").read_text() == "2", "the newest that is whole"
    third.save()
    with pytest.raises(Overtaken):
        new.check()


def test_a_list_that_is_replaced_while_it_is_read_is_read_anew(shared, node, monkeypatch):
    folder, get_list = shared.root / "trials" / "k", objects.get_list
    lives, begins = Turn(shared, folder), Turn(node, folder)
    lives.take(), put(folder, epoch="1"), lives.save()

    def then_replaced(uri, name):
        found = get_list(uri, name)
        monkeypatch.undo()
        put(folder, epoch="2"), lives.save()  # removes the bytes of 1
        return found

    monkeypatch.setattr(objects, "get_list", then_replaced)
    begins.take()
    assert (node.here(folder) / "epoch").read_text() == "2"


def test_a_turn_that_was_removed_from_the_store_is_over(shared):
    mine = Turn(shared, shared.root / "trials" / "k")
    mine.take()
    for path in bucket(shared).values():
        path.unlink()
    with pytest.raises(Overtaken):
        mine.check()


def test_a_stop_of_before_that_a_node_has_kept_ends_no_other_launch(shared):
    assert Stop.of("s", shared.root, shared).mark.path != Stop.of("s", shared.root, shared).mark.path


def worked(shared, sent, rounds, upload=None):
    """Have a worker train a trial of three rounds, going on from its file of them; it dies after `rounds`."""
    directory, stop = shared.root / "trials" / "k", shared.root / "sweeps" / "s.stop-1"
    config = {
        "key": "k",
        "directory": str(directory),
        "stop_file": str(stop),
        "shards": str(shared.root / "shards" / "k"),
    }

    def trial(told, report, checkpoint):
        assert (Path(told["shards"]) / "part.arrow").read_text() == "abc" and str(directory) != told["directory"]
        kept = Path(told["directory"]) / "rounds"
        for number in range(len(kept.read_text()) if kept.exists() else 0, 3):
            if number == rounds:
                raise ValueError("the node is lost")
            kept.write_text("x" * (number + 1))
            report({"epoch": number + 1}, kept)
        return {"epoch": 3}

    work(Job(config, "r", {"cpu": 1, "gpu": 0}, {}, {}, upload=upload, shared=shared.uri), sent.append, trial)
    return directory


def test_a_trial_goes_on_on_another_machine_and_the_driver_has_its_files(shared, tmp_path, monkeypatch):
    shared.push(put(shared.root / "shards" / "k", manifest_json="{}", part_arrow="abc"))
    sent = []
    monkeypatch.setenv(OWN, str(tmp_path / "a"))
    worked(shared, sent, rounds=2)
    assert [one["metrics"]["epoch"] for one in sent[:-1]] == [1, 2] and sent[-1][
        "failed"
    ] == "ValueError: the node is lost"
    shutil.rmtree(tmp_path / "a")
    monkeypatch.setenv(OWN, str(tmp_path / "b"))
    sent.clear()
    directory = worked(shared, sent, rounds=9, upload=Upload("file:///elsewhere/1/2/artifacts", None, False))
    assert [one["metrics"]["epoch"] for one in sent[:-1]] == [3], "from the round that the store has"
    assert sent[-1]["final"] == {"epoch": 3} and sent[-1]["lacking"] == {UPLOAD: WAITS}
    assert not directory.exists() and (fetched(shared, directory) / "rounds").read_text() == "xxx"
    assert json.loads((directory / TOLD).read_text())["directory"] == str(directory), "as the driver calls it"


def test_a_node_that_can_t_fetch_what_a_trial_reads_is_told_from_others(shared, tmp_path, monkeypatch):
    monkeypatch.setenv(OWN, str(tmp_path / "a"))
    sent = []
    worked(shared, sent, rounds=9)
    assert sent[-1]["cause"] == "node" and "can't fetch what the trial reads" in sent[-1]["failed"]
    assert "has no shards/k; run the sweep again" in sent[-1]["failed"]


def test_a_round_that_the_store_does_not_take_is_told_and_the_trial_goes_on(shared, tmp_path, monkeypatch):
    shared.push(put(shared.root / "shards" / "k", manifest_json="{}", part_arrow="abc"))
    monkeypatch.setenv(OWN, str(tmp_path / "a"))
    sent, put_file = [], objects.put_file
    once = [OSError("the store is away")] * 2  # as often as it is asked

    def away(uri, pool, path):
        if once and path.name == "rounds":
            raise once.pop()
        return put_file(uri, pool, path)

    monkeypatch.setattr(objects, "put_file", away)
    worked(shared, sent, rounds=9)
    said = [next(iter(one)) for one in sent]
    assert said == ["trouble", "metrics", "metrics", "metrics", "final"]
    assert "lost with this node: OSError: the store is away" in sent[0]["trouble"]


@pytest.mark.parametrize("goes", ["before", "after a round"])
def test_a_store_that_does_not_answer_for_a_while_ends_no_trial(shared, tmp_path, monkeypatch, goes):
    shared.push(put(shared.root / "shards" / "k", manifest_json="{}", part_arrow="abc"))
    monkeypatch.setenv(OWN, str(tmp_path / "a"))
    names, sent, away = objects.names, [], [*range(12)]

    def asked(uri, folder):
        if away and (goes == "before" or sent):
            away.pop()
            raise OSError("AWS Error NETWORK_CONNECTION during ListObjectsV2 operation: curlCode: 7 (Request ID: 0)")
        return names(uri, folder)

    monkeypatch.setattr(objects, "names", asked)
    worked(shared, sent, rounds=9)
    said = [next(iter(one)) for one in sent]
    assert said[-1] == "final" and said.count("metrics") == 3 and not away, sent
    assert any("waits for the store, which doesn't answer: AWS" in one.get("trouble", "") for one in sent)


def test_a_worker_of_the_same_machine_goes_on_with_rounds_that_the_store_has_not(shared, node):
    folder = shared.root / "trials" / "k"
    first = Turn(node, folder)
    first.take(), put(node.here(folder), epoch="1"), first.save()
    put(node.here(folder), epoch="2")
    Turn(node, folder).take()
    assert (node.here(folder) / "epoch").read_text() == "2"
    elsewhere = replace(node, own=node.own.with_name("elsewhere"))
    second = Turn(elsewhere, folder)
    second.take()
    assert (elsewhere.here(folder) / "epoch").read_text() == "1"
    Turn(node, folder).take()
    assert (node.here(folder) / "epoch").read_text() == "1", "as the one elsewhere left it"


@pytest.mark.parametrize("how", ["removed", "fetched"])
def test_a_folder_in_which_something_was_cut_off_is_never_gone_on_with(shared, node, monkeypatch, how):
    folder, here = shared.root / "trials" / "k", node.here(shared.root / "trials" / "k")
    first, get_file, got = Turn(node, folder), objects.get_file, []
    first.take(), put(here, a="1", b="1"), first.save(), put(here, a="2", b="2")

    def once(*given):
        if got:
            raise OSError("the line is cut")
        got.append(get_file(*given))

    with monkeypatch.context() as cut:
        cut.setattr(shutil, "rmtree", lambda place, ignore_errors: (place / "a").unlink())
        cut.setattr(objects, "get_file", once)
        if how == "removed":
            forget(here)
        else:
            with pytest.raises(OSError, match="the line is cut"):
                fetched(node, folder)
    Turn(node, folder).take()
    assert [(here / name).read_text() for name in "ab"] == ["1", "1"]


@pytest.mark.parametrize(("every", "kept"), [(1, 4), ("auto", 2)])
def test_rounds_are_kept_so_often_that_it_costs_little_and_at_once_when_the_end_is_asked_for(
    tmp_path, monkeypatch, every, kept
):
    clock, saved, stop = [0.0], [], tmp_path / "stop"
    monkeypatch.setattr("time.monotonic", lambda: clock[0])

    def save():
        saved.append(clock[0])
        clock[0] += 2.0

    rounds = Rounds(save, print, [stop], every, since=0.0)
    safe = []
    for _ in range(4):
        clock[0] += 15.0
        safe.append(rounds.keep())
    assert len(saved) == safe.count(True) == kept, "2 s of 40, or each"
    stop.touch()
    clock[0] += 1.0
    assert rounds.keep() and len(saved) == kept + 1
