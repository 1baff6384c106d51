"""What a trial is follows from what its files hold, not from where they lie."""

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fake_trials import Silent, parts
from scgpt_folder import write_folder

from data_pipeline.errors import RequestError
from data_pipeline.hashes import Hashes
from sweeps.drive import contents
from sweeps.drive.converge import Request, converge
from sweeps.drive.outcome import Outcome
from sweeps.file.config import SweepSpec, parse
from sweeps.file.trials import Trial

SWEEP = """
name: small
datasets: [{{path: {folder}/cells.h5ad, label: celltype, name: mine}}]
splits: {{seeds: [0]}}
skews: [natural]
models: {{{models}}}
"""
PLAIN = "scgpt: {size: tiny, epochs: 3}, majority: {}"


def sweep(folder: Path, models: str = PLAIN) -> SweepSpec:
    return parse(SWEEP.format(folder=folder, models=models), folder / "small.yaml")


def drive(spec: SweepSpec, storage: Path, digest: str = "d0", **options: Any) -> tuple[Outcome, list[str]]:
    screen = Silent()
    return converge(spec, Request(storage, **options), screen, parts(digest)), screen.said


def trained(storage: Path) -> dict[str, str]:
    """Return what each trial's folder says of the epochs that were trained in it."""
    return {path.parent.name: path.read_text() for path in storage.glob("trials/*/trained.txt")}


def test_a_copy_of_data_and_storage_elsewhere_trains_nothing(ray_here, tmp_path):
    before, _ = drive(sweep(tmp_path / "here"), tmp_path / "here" / "runs")
    assert before.finished == 2
    first = trained(tmp_path / "here" / "runs")
    shutil.move(tmp_path / "here", tmp_path / "there")
    again, said = drive(sweep(tmp_path / "there"), tmp_path / "there" / "runs")
    assert (again.before, again.finished) == (2, 0) and "begin" not in said
    assert trained(tmp_path / "there" / "runs") == first
    assert not any("changed" in line for line in said)
    with pytest.raises(RequestError, match="dataset mine has changed since 2 trials"):  # it is watched there, too
        drive(sweep(tmp_path / "there"), tmp_path / "there" / "runs", digest="d1")


def test_what_was_interrupted_goes_on_elsewhere(ray_here, tmp_path):
    storage = tmp_path / "here" / "runs"
    storage.mkdir(parents=True)
    fault = '{"faults": [{"run": "scgpt", "epoch": 3, "kind": "raise", "times": 1}]}'
    (storage / "fault.json").write_text(fault)
    failed, _ = drive(sweep(tmp_path / "here"), storage)
    assert failed.finished == 1 and len(failed.failed) == 1
    shutil.move(tmp_path / "here", tmp_path / "there")
    done, _ = drive(sweep(tmp_path / "there"), tmp_path / "there" / "runs", retry_failed=True)
    assert done.is_complete and sorted(trained(tmp_path / "there" / "runs").values())[-1] == "1\n2\n3\n3\n"


def test_other_data_at_the_same_path_are_refused_and_at_another_path_are_another_dataset(ray_here, tmp_path):
    storage = tmp_path / "runs"
    drive(sweep(tmp_path), storage)
    with pytest.raises(RequestError, match="dataset mine has changed since 2 trials of sweep small were started on it"):
        drive(sweep(tmp_path), storage, digest="d1")
    other, said = drive(sweep(tmp_path / "other"), storage, digest="d1")
    assert other.finished == 2 and any("dataset.digest: d0 before, d1 now" in line for line in said)


def test_changed_weights_are_noticed_and_their_place_is_not(ray_here, tmp_path):
    storage = tmp_path / "runs"
    folder = write_folder(tmp_path, ["a", "b"])
    models = "scgpt: {{weights: {}, epochs: 3}}"
    drive(sweep(tmp_path, models.format(folder)), storage)
    shutil.copytree(folder, tmp_path / "copied")
    (tmp_path / "copied" / "README.md").write_text("not read by the model")
    moved, _ = drive(sweep(tmp_path, models.format(tmp_path / "copied")), storage)
    assert (moved.before, moved.finished) == (1, 0)
    with (tmp_path / "copied" / "best_model.pt").open("ab") as file:
        file.write(b"another")
    with pytest.raises(RequestError, match="the weights folder of scgpt has changed since 1 trials"):
        drive(sweep(tmp_path, models.format(tmp_path / "copied")), storage)


def test_a_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    from data_pipeline import hashes

    read: Counter[str] = Counter()
    real = hashes.file_sha256
    monkeypatch.setattr(hashes, "file_sha256", lambda path: read.update([path.name]) or real(path))
    file = tmp_path / "weights.bin"
    file.write_bytes(b"one")
    for _ in range(2):
        known = Hashes(tmp_path / "weights.json")
        first = known.of(file)
        known.keep()
    assert read == {"weights.bin": 1}
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    assert Hashes(tmp_path / "weights.json").of(file) != first


# runs of an earlier version, whose trials were known by where their files lay


@pytest.fixture
def as_before(monkeypatch):
    """Have trials be known by place while the fixture's value is true."""
    is_known, before = Trial.is_known.fget, {"is": True}
    monkeypatch.setattr(Trial, "is_known", property(lambda trial: not before["is"] and is_known(trial)))
    yield before
    before["is"] = False


def test_runs_known_by_place_are_adopted_once_and_train_nothing(ray_here, tmp_path, as_before):
    storage = tmp_path / "runs"
    drive(sweep(tmp_path), storage)
    before = trained(storage)
    as_before["is"] = False
    adopted, said = drive(sweep(tmp_path), storage)
    assert (adopted.before, adopted.finished) == (2, 0) and f"2 {contents.ADOPTED}" in said
    after = trained(storage)
    assert set(after) & set(before) == set() and sorted(after.values()) == sorted(before.values())
    again, said = drive(sweep(tmp_path), storage)
    assert again.before == 2 and f"2 {contents.ADOPTED}" not in said


def test_runs_known_by_place_on_other_data_are_refused(ray_here, tmp_path, as_before):
    drive(sweep(tmp_path), tmp_path / "runs")
    as_before["is"] = False
    with pytest.raises(RequestError, match="dataset mine has changed since 2 trials"):
        drive(sweep(tmp_path), tmp_path / "runs", digest="d1")


def test_weights_newer_than_runs_that_did_not_record_them_are_refused(ray_here, tmp_path, as_before):
    storage = tmp_path / "runs"
    folder = write_folder(tmp_path, ["a", "b"])
    spec = sweep(tmp_path, f"scgpt: {{weights: {folder}, epochs: 3}}")
    drive(spec, storage)
    as_before["is"] = False
    for file in folder.iterdir():
        file.touch()
    with pytest.raises(RequestError, match="whether they are the same can't be told"):
        drive(spec, storage)
    for file in folder.iterdir():
        os.utime(file, (0, 0))
    assert drive(spec, storage)[0].before == 1
