"""A storage folder that was moved simply works: what is in it is found, and new trials go on in it."""

import shutil
from pathlib import Path

import pytest
from fake_trials import Silent, parts, spec

from sweeps.answers.networks import meant, promote
from sweeps.answers.runs import results
from sweeps.answers.runs.stored import Stored
from sweeps.drive.converge import Request, converge
from sweeps.tracking import places
from sweeps.tracking.store import Tracker
from sweeps.tracking.uris import default_uri

DESCRIBED = '{"options": {}}'  # of a network, as far as promotion looks

HERE = "/old/runs/artifacts/small/r1/artifacts"


def test_artifacts_are_where_the_database_is(tmp_path):
    (tmp_path / "artifacts").mkdir()
    embedded, there = default_uri(tmp_path), (tmp_path / "artifacts/small/r1/artifacts").as_uri()
    assert places.placed(HERE, embedded) == places.placed(f"file://{HERE}", embedded) == there
    assert places.placed(there, embedded) == there
    for elsewhere in ("s3://bucket/small/r1/artifacts", "mlflow-artifacts:/1/r1/artifacts", "/home/ann/model"):
        assert places.placed(elsewhere, embedded, tmp_path) == elsewhere


def test_artifacts_of_another_database_go_with_the_storage_folder_if_theirs_is_gone(tmp_path):
    database, storage = "postgresql://ann@db/mlflow", tmp_path / "runs"
    assert places.placed(HERE, database) == HERE
    assert places.placed(HERE, database, storage) == (storage / "artifacts/small/r1/artifacts").as_uri()
    kept = tmp_path / "other" / "artifacts" / "small" / "r1" / "artifacts"
    kept.mkdir(parents=True)
    assert places.placed(str(kept), database, storage) == str(kept)


@pytest.mark.parametrize("linked", [False, True])
def test_a_network_of_a_moved_folder_is_found_and_promoted(tmp_path, blank_database, linked):
    from mlflow import MlflowClient

    run_id = finished_network(tmp_path / "old", blank_database, linked)
    (tmp_path / "old").rename(tmp_path / "new")
    storage = tmp_path / "new"
    with meant.folder_of_run(run_id, storage, None) as folder:
        assert (folder / "model.json").read_text() == DESCRIBED and folder.is_relative_to(storage)
    found = promote.promote(run_id, "best", storage, None)
    assert found.new and str(storage) in found.place
    source = MlflowClient(default_uri(storage)).get_model_version("best", found.version).source
    assert (places.local_path(source) / "model.json").exists()
    assert not (tmp_path / "old").exists()


def finished_network(storage: Path, blank_database: Path, linked: bool) -> str:
    """Return the id of a finished run of scGPT in a storage folder, with a checkpoint, or a link to one."""
    (storage / "sweeps").mkdir(parents=True)
    (storage / "sweeps" / "small.yaml").touch()
    shutil.copyfile(blank_database, storage / "mlflow.db")
    tracker = Tracker(default_uri(storage), "small", storage)
    trial = next(one for one in spec().trials() if one.model == "scgpt")
    run = tracker.register([trial], {}, lambda done, total: None)[trial.key]
    place = storage / "trials" / trial.key if linked else places.local_path(run.artifact_uri)
    (place / promote.MODEL_FOLDER).mkdir(parents=True)
    for name in ("model.json", "model.safetensors"):
        (place / promote.MODEL_FOLDER / name).write_text(DESCRIBED)
    (storage / "artifacts").mkdir(exist_ok=True)
    tags = {promote.LINK: str(place / promote.MODEL_FOLDER)} if linked else {}
    tracker.finish(run.run_id, "FINISHED", tags, {"epoch": 1, "test_macro_f1": 0.5})
    assert tracker.close(60)
    return run.run_id


def test_new_trials_of_a_moved_folder_leave_their_files_in_it(ray_here, tmp_path):
    assert converge(spec(splits="[0]"), Request(tmp_path / "old"), Silent(), parts()).finished == 4
    (tmp_path / "old").rename(tmp_path / "new")
    storage = tmp_path / "new"
    more = converge(spec(splits="[0, 1]"), Request(storage), Silent(), parts())
    assert (more.before, more.finished) == (4, 4) and not more.lacking
    runs = results.fetch(default_uri(storage), "small")
    tables = [Stored(None).per_class(run) for _, run in runs.iterrows()]
    assert len(tables) == 8 and all(table is not None for table in tables)
    assert not (tmp_path / "old").exists()
