"""One model many times in a sweep: from scratch, fine-tuned, frozen, adapted, tuned, beside baselines."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from h5ad_files import GENES, write
from official_folders import write_scbert
from safetensors.torch import load_file
from scgpt_folder import write_folder
from typer.testing import CliRunner

import sweeps
from data_pipeline.errors import RequestError
from sweeps import cli

SWEEP = """
name: variants
datasets: [{{path: {folder}/cells.h5ad, label: celltype}}]
splits: {{seeds: [0, 1]}}
models:
  scgpt: {{weights: {folder}/scGPT, epochs: 1}}
  scgpt-scratch: {{model: scgpt, size: tiny, epochs: 1}}
  scgpt-head: {{model: scgpt, weights: {folder}/scGPT, epochs: 1, train: head}}
  scgpt-lora: {{model: scgpt, weights: {folder}/scGPT, epochs: 1, train: {{lora: {{rank: 2}}}}}}
  scbert: {{weights: {folder}/scBERT, epochs: 1}}
  scbert-tuned: {{model: scbert, weights: {folder}/scBERT, epochs: 1, tune: {{learning_rate: [1e-4, 1e-2]}}}}
  scgpt-probe: {{model: logistic_regression, on: {{model: scgpt, weights: {folder}/scGPT}}}}
  scgpt-neighbours: {{model: knn, on: {{model: scgpt, weights: {folder}/scGPT}}}}
  logistic_regression: {{}}
  chance: {{model: majority}}
"""
NETWORKS = ["scgpt", "scgpt-scratch", "scgpt-head", "scgpt-lora"]
OTHERS = ["scbert", "scbert-tuned", "scgpt-probe", "scgpt-neighbours", "logistic_regression", "chance"]


@pytest.mark.slow
def test_a_sweep_of_ten_variants_runs_from_end_to_end(ray_here, tmp_path):
    write(tmp_path / "cells.h5ad")
    write_folder(tmp_path, GENES), write_scbert(tmp_path, GENES)
    file, storage = tmp_path / "variants.yaml", tmp_path / "runs"
    text = SWEEP.format(folder=tmp_path)
    file.write_text(text)
    with pytest.raises(RequestError, match=r"scbert-tuned\(learning_rate=0.0001\) means the same as scbert"):
        sweeps.plan(file, storage)
    file.write_text(text.replace("1e-4, 1e-2", "1e-3, 1e-2"))
    assert sweeps.plan(file, storage).models["scbert-tuned"] == 2 * 2
    outcome = sweeps.run(file, storage)
    assert outcome.is_complete and outcome.finished == 2 * 11
    trials, _ = sweeps.load("variants", storage)
    assert trials["model"].value_counts().to_dict() == dict.fromkeys([*NETWORKS, *OTHERS], 2)
    every, _ = sweeps.load("variants", storage, all_settings=True)
    check_tuned(trials[trials["model"] == "scbert-tuned"], every[every["model"] == "scbert-tuned"])
    folders = {label: storage / "trials" / trials.loc[trials["model"] == label, "key"].iloc[0] for label in NETWORKS}
    check_what_is_kept(folders)
    check_predictions(folders["scgpt-lora"], tmp_path)
    printed = CliRunner().invoke(cli.app, ["results", "variants", "--storage", str(storage)])
    assert "scbert-tuned: tuned over 2 settings on validation cells" in printed.output + printed.stderr
    again = sweeps.run(file, storage)
    assert (again.before, again.finished) == (22, 0)


def check_tuned(chosen: pd.DataFrame, every: pd.DataFrame) -> None:
    axes = ["split"]
    best = every.loc[every.groupby(axes)["validation_macro_f1"].idxmax()].set_index(axes)
    assert len(every) == 4 and set(best["tuned"]) <= {"learning_rate=0.001", "learning_rate=0.01"}
    assert chosen.set_index(axes)["test_macro_f1"].sort_index().equals(best["test_macro_f1"].sort_index())


def check_what_is_kept(folders: dict[str, Path]) -> None:
    """Only what is trained is saved."""
    names = {label: set(load_file(folder / "checkpoint" / "model.safetensors")) for label, folder in folders.items()}
    assert all(name.startswith("cls_decoder.") for name in names["scgpt-head"])
    assert names["scgpt-head"] < names["scgpt-lora"] and names["scgpt-head"] < names["scgpt"]
    assert all(name.endswith((".up", ".down")) for name in names["scgpt-lora"] - names["scgpt-head"])


def check_predictions(folder: Path, tmp_path: Path) -> None:
    """What an adapted network says of its test cells, merged, is what its trial said."""
    asked = ["predict", str(tmp_path / "cells.h5ad"), "--checkpoint", str(folder / "checkpoint")]
    done = CliRunner().invoke(cli.app, [*asked, "--out", str(tmp_path / "out.csv")])
    assert done.exit_code == 0, done.output
    theirs = pd.read_parquet(folder / "predictions.parquet").set_index("cell_id").filter(regex="^p_")
    ours = pd.read_csv(tmp_path / "out.csv").set_index("cell_id").loc[theirs.index, theirs.columns]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert json.loads((folder / "checkpoint" / "model.json").read_text())["options"]["train"]["lora"]["rank"] == 2
