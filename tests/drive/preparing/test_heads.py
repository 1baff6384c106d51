"""`train: head` with weights: the head alone, on stored vectors, is what the whole network with its frozen part is."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from h5ad_files import GENES, source, write
from official_folders import write_geneformer, write_scbert
from safetensors.torch import load_file
from scgpt_folder import write_folder

from data_pipeline.errors import RequestError
from data_pipeline.reading.h5ad import open_cells
from data_pipeline.shards.shards import ShardError, Shards
from data_pipeline.shards.writing import write_here
from sweeps.cluster import resources
from sweeps.drive import contents
from sweeps.drive.preparing import prepare
from sweeps.drive.workshop import Workshop
from sweeps.file.config import load
from sweeps.file.trials import Trial
from trainables.config import read
from trainables.fitting import resting
from trainables.material import open_material
from trainables.spec import get
from trainables.training import checkpoint
from trainables.training.training import build
from trainables.trial.annotator import open_model
from trainables.trial.trial import run_trial

WRITERS = {
    "scgpt": lambda folder: write_folder(folder, GENES),
    "geneformer": lambda folder: write_geneformer(folder, GENES, "V1"),
}


def weights_of(folder: Path, model: str) -> Path:
    return WRITERS[model](folder)


def trials(folder: Path, model: str, more: str = "", sweep: str = "") -> list[Trial]:
    """Return the trials of a model's head on a small file; what is behind their paths is known."""
    path = folder / "cells.h5ad"
    cells = open_cells(source(path if path.exists() else write(path)))
    settings = f"model: {model}, weights: {weights_path(folder, model)}, epochs: 3, train: head{more}"
    dataset, file = f"{{path: {path}, label: celltype, name: small}}", folder / "s.yaml"
    file.write_text(f"name: s\ndatasets: [{dataset}]\n{sweep}models: {{h: {{{settings}}}}}\n")
    return contents.known(load(file), {"small": cells}, folder).trials()


def weights_path(folder: Path, model: str) -> Path:
    return next(path for path in folder.iterdir() if path.name.lower().startswith(model))


@pytest.fixture(autouse=True)
def without_ray(monkeypatch) -> None:
    """What is missing is made in this process."""
    here = lambda jobs, *more: [write_here(job) for job in jobs if not job.is_complete()]  # noqa: E731
    monkeypatch.setattr(prepare, "write_shards", here)
    resting._LOADED.clear()


def prepared(folder: Path, found: list[Trial], **changes: Any) -> list[dict[str, Any]]:
    cells = {"small": open_cells(source(folder / "cells.h5ad"))}
    configs = [trial.config() for trial in found]
    made = prepare.prepare(configs, cells, folder, work=Workshop(lambda: 2.0, lambda kind: {}))
    where = lambda trial: {"directory": str(folder / "trials" / trial.key), "device": "cpu"}  # noqa: E731
    return [one | paths | where(trial) | changes for one, paths, trial in zip(configs, made, found, strict=True)]


@pytest.mark.parametrize("model", sorted(WRITERS))
def test_a_head_on_stored_vectors_gives_the_whole_networks_logits(model, tmp_path):
    weights = weights_of(tmp_path, model)
    (config,) = prepared(tmp_path, trials(tmp_path, model))
    told, spec = read(config), get(model)
    material = open_material(told)
    _, head = build(spec, told, material)
    whole = spec.build(len(material.classes), weights=weights, **material.shards.network_options).eval()
    missing, unexpected = whole.load_state_dict(head.state_dict(), strict=False)
    assert not unexpected and not any(name.startswith((spec.head, *spec.fresh)) for name in missing)
    rows = np.arange(len(material.shards))
    with torch.no_grad():
        theirs = whole(**spec.collate(material.shards.take(rows), rows))
        ours = head.eval()(**material.feed(spec, 8).batch(rows).inputs)
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert (ours - theirs).abs().max() < 0.01 * ours.std(dim=0).min(), "so small a network's cells differ by little"


@pytest.mark.parametrize("model", sorted(WRITERS))
def test_a_trial_on_vectors_leaves_a_network_that_predicts_from_counts(model, tmp_path):
    weights_of(tmp_path, model)
    (trial,) = trials(tmp_path, model, ", draws: 2" if model == "scgpt" else "")
    (config,) = prepared(tmp_path, [trial])
    final = run_trial(config, lambda *said: None, None)
    network = open_model(Path(config["directory"]) / "checkpoint")
    cells = open_cells(source(tmp_path / "cells.h5ad"))
    found = network.predict(cells.counts.read(0, cells.num_cells), cells.totals)
    theirs = pd.read_parquet(Path(config["directory"]) / "predictions.parquet").set_index("cell_id").filter(like="p_")
    ours = pd.DataFrame(found, index=cells.cell_ids).loc[theirs.index]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert final["test_accuracy"] > 0 and list(theirs.columns) == [f"p_{name}" for name in cells.classes]
    saved = load_file(Path(config["directory"]) / "checkpoint" / "model.safetensors")
    assert saved and all(name.startswith((get(model).head, *get(model).fresh)) for name in saved)


def test_a_killed_and_resumed_head_ends_bit_identical(tmp_path):
    weights_of(tmp_path, "geneformer")  # which has dropout behind the vectors
    (trial,) = trials(tmp_path, "geneformer", ", crt_epochs: 1")
    found = []
    for name, dies in (("whole", False), ("killed", True)):
        (config,) = prepared(tmp_path, [trial], directory=str(tmp_path / name))
        if dies:
            with pytest.raises(KeyboardInterrupt):
                run_trial(config, _dies, None)
        final = run_trial(config, lambda *said: None, checkpoint.newest(tmp_path / name))
        found.append({name: value for name, value in final.items() if name.startswith(("test_", "val_"))})
    assert found[0] == found[1]


def _dies(metrics: dict, path: Path | None) -> None:
    if path is not None:
        raise KeyboardInterrupt


def test_vectors_are_made_once_for_all_splits_skews_strategies_and_losses(tmp_path):
    weights_of(tmp_path, "scgpt")
    grid = "splits: {seeds: [0, 1]}\nstrategies: [none, oversample]\nlosses: [cross_entropy, focal]\n"
    found = trials(tmp_path, "scgpt", "", grid)
    configs = prepared(tmp_path, found)
    folders = {folder for config in configs for folder in config["features"].values()}
    assert len(found) == 8 and len(folders) == 1 and Shards(Path(*folders)).origin["frozen"]
    assert not any(resources.is_auto(trial) for trial in found), "a core does, where nobody asks for a GPU"


def test_made_cells_have_vectors_too_and_a_head_is_trained_on_them(tmp_path, monkeypatch):
    make = lambda tasks, *more: [task.make(path, *task.args) for path, task in tasks.items() if not path.exists()]  # noqa: E731
    monkeypatch.setattr(prepare, "make_files", make)
    monkeypatch.setattr("sweeps.drive.preparing.encoders.ray.put", lambda value: value)
    weights_of(tmp_path, "scgpt")
    grid = "skews: [{kind: exponential, ratio: 4}]\nstrategies: [{kind: smote, neighbours: 3}]\n"
    (config,) = prepared(tmp_path, trials(tmp_path, "scgpt", "", grid))
    material = open_material(read(config))
    made = np.arange(90, len(material.features))
    assert set(config["features"]) == {config["shards"], config["generated"]}
    assert len(made) and set(made) <= set(material.training_rows(0)) and len(material.features) == len(material.shards)
    vectors = material.feed(get("scgpt"), 8).batch(made[:5]).inputs["vectors"]
    assert vectors.shape == (5, 8) and vectors.std(dim=0).min() > 0
    assert 0 < run_trial(config, lambda *said: None, None)["test_macro_f1"] <= 1


def test_other_weights_in_the_same_folder_are_other_vectors_and_other_trials(tmp_path):
    weights = weights_of(tmp_path, "scgpt")
    first, found = {}, {}
    for known in (first, found):
        (trial,) = trials(tmp_path, "scgpt")
        (config,) = prepared(tmp_path, [trial])
        folder = Path(*config["features"].values())
        known |= {"key": trial.key, "folder": folder, "vectors": Shards(folder).take(np.arange(90)).values}
        state = torch.load(weights / "best_model.pt", weights_only=True)
        torch.save({name: tensor * 2 for name, tensor in state.items()}, weights / "best_model.pt")
    assert first["key"] != found["key"] and first["folder"] != found["folder"]
    assert not np.allclose(first["vectors"], found["vectors"])


def test_weights_that_change_under_a_sweep_make_no_vector_under_the_first_ones_name(tmp_path):
    weights = weights_of(tmp_path, "scgpt")
    found = trials(tmp_path, "scgpt")
    state = torch.load(weights / "best_model.pt", weights_only=True)
    torch.save({name: tensor * 2 for name, tensor in state.items()}, weights / "best_model.pt")
    with pytest.raises(RequestError, match="have changed since the sweep began"):
        prepared(tmp_path, found)
    assert not list(tmp_path.glob("shards/*/*/part-*.json")) or not [
        path for path in tmp_path.glob("shards/*/*/part-*.json") if json.loads(path.read_text())["origin"]
    ]


def test_a_damaged_part_of_vectors_is_noticed_and_that_part_alone_made_anew(tmp_path, monkeypatch):
    monkeypatch.setattr("data_pipeline.shards.job.PART", 40)
    weights_of(tmp_path, "scgpt")
    (trial,) = trials(tmp_path, "scgpt")
    (config,) = prepared(tmp_path, [trial])
    folder = Path(*config["features"].values())
    parts = sorted(folder.glob("part-*.arrow"))
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in parts}
    data = bytearray(parts[1].read_bytes())
    data[len(data) // 2] ^= 1
    parts[1].write_bytes(data)
    with pytest.raises(ShardError, match="altered; run the sweep again"):
        run_trial(config, lambda *said: None, None)
    prepared(tmp_path, [trial])
    after = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in parts}
    assert len(parts) == 3 and {name: data for name, (_, data) in before.items()} == {
        name: data for name, (_, data) in after.items()
    }
    assert [name for name in before if before[name][0] == after[name][0]] == [parts[0].name, parts[2].name]


def test_parts_by_different_weights_are_never_put_together(tmp_path, monkeypatch):
    monkeypatch.setattr("data_pipeline.shards.job.PART", 40)
    weights_of(tmp_path, "scgpt")
    (trial,) = trials(tmp_path, "scgpt")
    (config,) = prepared(tmp_path, [trial])
    folder = Path(*config["features"].values())
    note, last = sorted(folder.glob("part-*.json"))[1:]
    note.write_text(json.dumps(json.loads(note.read_text()) | {"origin": {"frozen": "other", "device": "cpu"}}))
    last.unlink(), (folder / "manifest.json").unlink()
    with pytest.raises(RequestError, match="made by different weights; none is kept"):
        prepared(tmp_path, [trial])
    prepared(tmp_path, [trial])
    assert Shards(folder).origin["frozen"] != "other"


def test_scberts_head_reads_every_genes_vector_and_is_trained_with_its_network(tmp_path):
    write_scbert(tmp_path, GENES)
    (trial,) = trials(tmp_path, "scbert")
    assert trial.rests is None and get("scbert").build_head is None
