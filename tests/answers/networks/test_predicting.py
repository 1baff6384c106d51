"""`cellskew predict`: a trained network annotates cells of another file as it did those of its own trial."""

import json
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import trainable_here
from h5ad_files import GENES, write
from official_folders import write_scbert
from safetensors.torch import load_file
from scgpt_folder import write_folder
from test_promote import Sweep
from typer.testing import CliRunner

from data_pipeline.errors import RequestError
from sweeps import cli
from sweeps.answers.networks import predicting
from sweeps.answers.networks.meant import Meant
from sweeps.drive import contents
from sweeps.drive.preparing.prepare import open_datasets, prepare
from sweeps.file.config import parse
from sweeps.tracking.artifacts import Upload, upload
from sweeps.tracking.places import local_path
from trainables.spec import get
from trainables.trial.trial import run_trial

ALL = trainable_here()
SWEEP = """
name: annotators
datasets: [{{name: small, path: {path}, label: celltype}}]
genes: {{select: hvg, n: 30}}
models: {{{models}}}
"""


@pytest.fixture(scope="module")
def trials(tmp_path_factory, ray_here) -> dict[str, Path]:
    """The directory of a finished trial per model, on the cells of cells.h5ad two folders above."""
    root = tmp_path_factory.mktemp("annotators")
    write(root / "cells.h5ad")
    told = {name: "size: tiny, epochs: 2" if get(name).kind == "network" else "" for name in ALL}
    return {name: trained(root, f"{name}: {{{text}}}") for name, text in told.items()}


def trained(root: Path, model: str, text: str = SWEEP) -> Path:
    """Return the directory of a finished trial on root/cells.h5ad."""
    config = prepared(root, model, text)
    run_trial(config, lambda metrics, path: None, None)
    return Path(config["directory"])


def prepared(root: Path, model: str, text: str) -> dict:
    """Return what a trial on root/cells.h5ad is told, what it needs being made."""
    sweep = parse(text.format(path=root / "cells.h5ad", models=model), root / "annotators.yaml")
    cells = open_datasets(sweep, root)
    (trial,) = contents.known(sweep, cells, root).trials()
    (paths,) = prepare([trial.config()], cells, root)
    return trial.config() | paths | {"directory": str(root / "trials" / trial.key)}


@pytest.fixture
def new_cells(trials, tmp_path) -> Path:
    """The same cells in a file of their own: no labels, cells and genes in another order, one gene that nobody has."""
    cells = anndata.read_h5ad(write(tmp_path / "fresh.h5ad"))
    del cells.obs["celltype"]
    cells = cells[np.random.default_rng(2).permutation(cells.n_obs)].copy()
    order = np.random.default_rng(1).permutation(cells.n_vars)
    more = anndata.AnnData(np.zeros((cells.n_obs, 1), np.float32), cells.obs, pd.DataFrame(index=["UNHEARD-OF"]))
    more.X = type(cells.X)(more.X) if not isinstance(cells.X, np.ndarray) else more.X
    mixed = anndata.concat([cells[:, order], more], axis=1)
    mixed.write_h5ad(tmp_path / "new.h5ad")
    return tmp_path / "new.h5ad"


def annotate(directory: Path, data: Path, out: Path, least: float = 0.5, **options):
    return predict([directory / "checkpoint"], data, options=options, out=out, min_genes=least)


def predict(folders: list[Path], data: Path, progress=lambda done, total: None, adjustment: str = "none", **wish):
    models = [Meant(folder, str(folder), adjustment) for folder in folders]
    return predicting.predict(models, str(data), predicting.Wish(**wish), progress)


@pytest.mark.parametrize("model", ALL)
def test_cells_are_annotated_as_in_the_trial(model, trials, new_cells, tmp_path):
    found = annotate(trials[model], new_cells, tmp_path / "out.parquet")
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert found.num_cells == len(table) == 90 and found.known == found.genes == 30
    assert found.types["cells"].sum() == len(table) and found.types["cells"].is_monotonic_decreasing
    theirs = pd.read_parquet(trials[model] / "predictions.parquet").set_index("cell_id")
    ours = table.set_index("cell_id").loc[theirs.index]
    scores = [name for name in theirs.columns if name.startswith("p_")]
    assert np.allclose(table[scores].sum(1), 1, atol=1e-5)
    assert (table["probability"] == table[scores].max(1)).all()
    np.testing.assert_allclose(ours[scores], theirs[scores], atol=1e-5)
    assert ours["prediction"].tolist() == theirs["prediction"].tolist()


def test_cells_are_named_at_a_level_of_a_tree_each_type_with_the_sum_of_those_below(trials, new_cells, tmp_path):
    """With the tree of the training, or one that is named; without either it is refused."""
    plain = tmp_path / "plain.parquet"
    annotate(trials["logistic_regression"], new_cells, plain)
    fine, types = (
        pd.read_parquet(plain),
        json.loads((trials["logistic_regression"] / "checkpoint/model.json").read_text()),
    )
    first, *others = types["classes"]
    tree = {first: "cell"} | dict.fromkeys(others, "other") | {"other": "cell"}
    (tmp_path / "tree.yaml").write_text(json.dumps(tree))
    rolled, folder = tmp_path / "rolled.parquet", trials["logistic_regression"] / "checkpoint"
    with pytest.raises(RequestError, match="--level 1: the model's dataset had no `tree:` in its sweep; name one with"):
        predict([folder], new_cells, out=rolled, level=1)
    predict([folder, trials["knn"] / "checkpoint"], new_cells, out=rolled, level=1, tree=tmp_path / "tree.yaml")
    assert set(pd.read_parquet(rolled).filter(like="p_")) == {f"p_{first}", "p_other"}
    shutil.copytree(folder, tmp_path / "checkpoint")
    describe(tmp_path / "checkpoint", tree=tree)
    found = predict([tmp_path / "checkpoint"], new_cells, out=rolled, level=1)
    table = pd.read_parquet(rolled)
    np.testing.assert_allclose(table["p_other"], fine[[f"p_{name}" for name in others]].sum(axis=1), rtol=1e-5)
    assert (table["p_other"] > table[f"p_{first}"]).tolist() == (table["prediction"] == "other").tolist()
    assert set(found.types["class"]) <= {first, "other"}
    with pytest.raises(RequestError, match="ask for one"):
        predict([tmp_path / "checkpoint"], new_cells, out=rolled, level=1, evaluate="celltype")


def test_doubts_about_the_new_file_are_said_and_none_that_are_of_training(trials, new_cells, tmp_path, capsys):
    cells = anndata.read_h5ad(new_cells)
    cells.X = (cells.X > 0).astype(np.float32)
    cells = anndata.concat([cells, cells], index_unique="-")  # twins
    cells.obs["is_primary_data"] = False
    cells.write_h5ad(tmp_path / "mask.h5ad")
    found = annotate(trials["scgpt"], tmp_path / "mask.h5ad", tmp_path / "out.parquet")
    predicting.show(found, lambda doubt: f"said: {doubt}")
    assert len(found.doubts) == 1 and "may be no counts: every number that isn't 0 is 1" in found.doubts[0]
    assert f"note: said: {tmp_path}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("model", "train"), [("scgpt", "all"), ("scgpt", "{lora: {rank: 2, targets: [Wqkv, linear2]}}"), ("scbert", "head")]
)
def test_what_stayed_frozen_comes_from_the_weights_it_was_trained_on(model, train, trials, new_cells, tmp_path):
    write(tmp_path / "cells.h5ad")
    folder = {"scgpt": write_folder, "scbert": write_scbert}[model](tmp_path, GENES)
    directory = trained(tmp_path, f"{model}: {{weights: {folder}, epochs: 1, train: {train}}}")
    annotate(directory, new_cells, tmp_path / "out.parquet")
    theirs = pd.read_parquet(directory / "predictions.parquet").set_index("cell_id").filter(like="p_")
    ours = pd.read_parquet(tmp_path / "out.parquet").set_index("cell_id").loc[theirs.index, theirs.columns]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    shutil.rmtree(folder)
    with pytest.raises(RequestError, match=f"{folder}"):
        annotate(directory, new_cells, tmp_path / "out.parquet")


def test_several_draws_of_scgpts_bins_are_averaged_in_the_trial_and_in_predict(trials, new_cells, tmp_path):
    root = trials["scgpt"].parents[1]
    directory = trained(root, "scgpt: {size: tiny, epochs: 2, draws: 3}")
    theirs = pd.read_parquet(directory / "predictions.parquet").set_index("cell_id").filter(like="p_")
    single = pd.read_parquet(trials["scgpt"] / "predictions.parquet").set_index("cell_id").filter(like="p_")
    assert np.abs(theirs - single.loc[theirs.index]).to_numpy().max() > 1e-4, "the same training, other draws beside"
    annotate(directory, new_cells, tmp_path / "out.parquet")
    ours = pd.read_parquet(tmp_path / "out.parquet").set_index("cell_id").loc[theirs.index, theirs.columns]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.fixture(scope="module")
def cut_cells(tmp_path_factory) -> Path:
    """A file of few of the genes measured, with the counts over all of them in a column: as pbmc68k_reduced is."""
    path = write(tmp_path_factory.mktemp("cut") / "all.h5ad")
    cells = anndata.read_h5ad(path)
    cells.obs["n_counts"] = np.asarray(cells.X.sum(1)).ravel() * 100
    cells.write_h5ad(path.with_name("cells.h5ad"))
    return path.with_name("cells.h5ad")


def test_totals_of_the_training_are_asked_for_where_they_matter(cut_cells, tmp_path, ray_here):
    """They were forgotten: cells were annotated by the sums of the file, here a hundredth of what training had."""
    text = SWEEP.replace("label: celltype", "label: celltype, totals: n_counts")
    directory = trained(cut_cells.parent, "scbert: {size: tiny, epochs: 2}", text)
    theirs = pd.read_parquet(directory / "predictions.parquet").set_index("cell_id").filter(like="p_")
    with pytest.raises(RequestError, match="the column 'n_counts'.*--totals, or say --totals sum"):
        annotate(directory, cut_cells, tmp_path / "out.parquet")
    found = {}
    for totals in ("n_counts", "sum"):
        annotate(directory, cut_cells, tmp_path / "out.parquet", totals=totals)
        found[totals] = pd.read_parquet(tmp_path / "out.parquet").set_index("cell_id").loc[theirs.index, theirs.columns]
    np.testing.assert_allclose(found["n_counts"], theirs, atol=1e-6)
    assert np.abs(found["sum"] - theirs).to_numpy().max() > 1e-3


def test_a_file_of_sums_of_another_size_than_the_trainings_is_asked_about(trials, new_cells, tmp_path):
    cells = anndata.read_h5ad(new_cells)
    cells.X = cells.X * 20
    cells.write_h5ad(tmp_path / "deep.h5ad")
    with pytest.raises(RequestError, match="the sum of the file .median"):
        annotate(trials["scbert"], tmp_path / "deep.h5ad", tmp_path / "out.csv")
    assert annotate(trials["scbert"], tmp_path / "deep.h5ad", tmp_path / "out.csv", totals="sum").num_cells == 90
    assert annotate(trials["scgpt"], tmp_path / "deep.h5ad", tmp_path / "out.csv").num_cells == 90, (
        "has no need of them"
    )


def test_annotating_again_says_the_same_and_csv_will_do(trials, new_cells, tmp_path):
    annotate(trials["scgpt"], new_cells, tmp_path / "one.csv")
    annotate(trials["scgpt"], new_cells, tmp_path / "two.csv")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    assert list(pd.read_csv(tmp_path / "one.csv"))[:3] == ["cell_id", "prediction", "probability"]


def test_blocks_of_cells_change_nothing(trials, new_cells, tmp_path, monkeypatch):
    annotate(trials["geneformer"], new_cells, tmp_path / "whole.parquet")
    monkeypatch.setattr(predicting, "BLOCK", 7)
    annotate(trials["geneformer"], new_cells, tmp_path / "cut.parquet")
    whole, cut = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("whole", "cut"))
    assert cut["cell_id"].tolist() == whole["cell_id"].tolist()
    np.testing.assert_allclose(cut.filter(like="p_"), whole.filter(like="p_"), atol=1e-5)


def test_genes_that_are_not_there_count_as_not_expressed_but_too_many_are_refused(trials, new_cells, tmp_path):
    wanted = json.loads((trials["scbert"] / "checkpoint" / "model.json").read_text())["encoding"]["genes"]
    cells = anndata.read_h5ad(new_cells)
    cells.var_names = [f"other {name}" if name in wanted[:20] else name for name in cells.var_names]
    cells.write_h5ad(tmp_path / "fewer.h5ad")
    with pytest.raises(RequestError) as caught:
        annotate(trials["scbert"], tmp_path / "fewer.h5ad", tmp_path / "out.csv")
    assert "has 10 of the model's 30 genes (33%" in str(caught.value) and "--min-genes" in str(caught.value)
    assert not (tmp_path / "out.csv").exists()
    found = annotate(trials["scbert"], tmp_path / "fewer.h5ad", tmp_path / "out.csv", least=0.3)
    assert (found.known, found.genes) == (10, 30)


def test_names_of_another_kind_are_told(trials, new_cells, tmp_path):
    cells = anndata.read_h5ad(new_cells)
    cells.var_names = [f"ENSG{n:011d}" for n in range(cells.n_vars)]
    cells.write_h5ad(tmp_path / "ids.h5ad")
    with pytest.raises(RequestError, match="the model knows symbols, the file has Ensembl ids.*--gene-names"):
        annotate(trials["scgpt"], tmp_path / "ids.h5ad", tmp_path / "out.csv", least=0.0)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors; give the folder"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "not the bytes that were written"),
        (lambda folder: (folder / "model.json").write_text("{"), "model.json: damaged"),
        (lambda folder: describe(folder, version=4), "is of version 4, .*; train the model again"),
        (lambda folder: describe(folder, base="0"), "trained on other frozen weights"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(harm, said, trials, new_cells, tmp_path):
    shutil.copytree(trials["geneformer"] / "checkpoint", tmp_path / "trial" / "checkpoint")
    harm(tmp_path / "trial" / "checkpoint")
    with pytest.raises(RequestError, match=said):
        annotate(tmp_path / "trial", new_cells, tmp_path / "out.csv")


def describe(folder: Path, **changes) -> None:
    described = json.loads((folder / "model.json").read_text()) | changes
    (folder / "model.json").write_text(json.dumps(described))


def test_values_that_are_no_counts_are_refused_as_in_a_sweep(trials, new_cells, tmp_path):
    cells = anndata.read_h5ad(new_cells)
    cells.X = cells.X * 0.7
    cells.write_h5ad(tmp_path / "scaled.h5ad")
    with pytest.raises(RequestError, match="non-integer values.*aren't counts"):
        annotate(trials["scgpt"], tmp_path / "scaled.h5ad", tmp_path / "out.csv")
    with pytest.raises(RequestError, match="ends in .parquet or .csv"):
        annotate(trials["scgpt"], new_cells, tmp_path / "out.xlsx")


def test_cells_of_lower_probability_are_unassigned_and_nothing_else_changes(trials, new_cells, tmp_path):
    annotate(trials["scgpt"], new_cells, tmp_path / "all.parquet")
    whole = pd.read_parquet(tmp_path / "all.parquet")
    sure, folder = float(whole["probability"].median()), trials["scgpt"] / "checkpoint"
    predict([folder], new_cells, out=tmp_path / "sure.parquet", sure=sure)
    some = pd.read_parquet(tmp_path / "sure.parquet")
    low = whole["probability"] < sure
    assert 0 < low.sum() < len(low) and (some.loc[low, "prediction"] == "unassigned").all()
    assert some[~low].equals(whole[~low]) and some.drop(columns="prediction").equals(whole.drop(columns="prediction"))
    shutil.copytree(folder, tmp_path / "checkpoint")
    classes = json.loads((folder / "model.json").read_text())["classes"]
    describe(tmp_path / "checkpoint", classes=["unassigned", *classes[1:]])
    fails = lambda done, total: pytest.fail("cells were annotated before it was refused")  # noqa: E731
    with pytest.raises(RequestError, match="a type of the training is called unassigned"):
        predict([tmp_path / "checkpoint"], new_cells, fails, out=tmp_path / "sure.parquet", sure=sure)


# several networks


def test_an_ensemble_has_mean_probabilities_and_says_where_its_networks_agree(trials, new_cells, tmp_path):
    tables, folders = [], [trials[name] / "checkpoint" for name in ("scgpt", "geneformer")]
    for name in ("scgpt", "geneformer"):
        annotate(trials[name], new_cells, tmp_path / f"{name}.parquet")
        tables.append(pd.read_parquet(tmp_path / f"{name}.parquet"))
    found = predict(folders, new_cells, out=tmp_path / "both.parquet")
    both = pd.read_parquet(tmp_path / "both.parquet")
    scores = [name for name in both if name.startswith("p_")]
    np.testing.assert_allclose(both[scores], (tables[0][scores] + tables[1][scores]) / 2, atol=1e-6)
    votes = sum((table["prediction"] == both["prediction"]).to_numpy() for table in tables) / 2
    assert both["agreement"].tolist() == votes.tolist() and found.agreed == (votes == 1).sum() < len(both)
    assert "agreement" not in tables[0], "one network agrees with itself"


def test_networks_of_other_types_make_no_ensemble(trials, new_cells, tmp_path):
    shutil.copytree(trials["scgpt"] / "checkpoint", tmp_path / "checkpoint")
    classes = json.loads((tmp_path / "checkpoint" / "model.json").read_text())["classes"]
    describe(tmp_path / "checkpoint", classes=["unheard-of", *classes[1:]])
    folders = [trials["scgpt"] / "checkpoint", tmp_path / "checkpoint"]
    said = f"only some of the models know .*{classes[0]}.*; an ensemble's must know the same types"
    with pytest.raises(RequestError, match=said):
        predict(folders, new_cells, out=tmp_path / "out.csv")
    with pytest.raises(RequestError, match="named twice: .*checkpoint"):
        predict(folders[:1] * 2, new_cells, out=tmp_path / "out.csv")


def test_runs_and_folders_make_an_ensemble(trials, new_cells, tmp_path, blank_database):
    sweep = Sweep(tmp_path, blank_database)
    run_id = sweep.end(sweep.network, checkpoint=str(trials["scbert"] / "checkpoint"))
    done = predict_by(["--run", run_id, "--checkpoint", trials["scgpt"] / "checkpoint"], tmp_path, new_cells)
    assert done.exit_code == 0 and "2 models: mean probabilities; all of them name the same type" in done.output


# by run


def predict_by(words: list, storage: Path, new_cells: Path):
    given = ["predict", str(new_cells), "--storage", str(storage), "-o", str(storage / "out.parquet"), *map(str, words)]
    return CliRunner().invoke(cli.app, given)


def test_a_run_is_found_in_mlflow_and_its_uploaded_checkpoint_used(trials, new_cells, tmp_path, blank_database):
    sweep = Sweep(tmp_path, blank_database)
    upload(trials["scgpt"], Upload(sweep.network.artifact_uri, None, with_checkpoint=True))
    run_id = sweep.end(sweep.network)
    done = predict_by(["--run", run_id], tmp_path, new_cells)
    assert done.exit_code == 0, done.output
    assert "cells annotated by 30 of the model's 30 genes" in done.output
    annotate(trials["scgpt"], new_cells, tmp_path / "by folder.parquet")
    same = [pd.read_parquet(tmp_path / name) for name in ("out.parquet", "by folder.parquet")]
    pd.testing.assert_frame_equal(*same)


def test_a_linked_checkpoint_is_used_where_it_lies(trials, new_cells, tmp_path, blank_database):
    sweep = Sweep(tmp_path, blank_database)
    run_id = sweep.end(sweep.network, checkpoint=str(trials["scbert"] / "checkpoint"))
    assert predict_by(["--run", run_id], tmp_path, new_cells).exit_code == 0
    assert (tmp_path / "out.parquet").exists()


def test_runs_without_a_network_to_use_are_refused(trials, new_cells, tmp_path, blank_database):
    sweep = Sweep(tmp_path, blank_database)
    sweep.tracker.finish(sweep.baseline.run_id, "FINISHED", {})
    run_id = sweep.end(sweep.network)
    for run, said in (
        (run_id, "has no checkpoint among its artifacts"),
        (sweep.baseline.run_id, "an earlier version trained it, which kept none of a baseline"),
        ("0" * 32, "has no trial's run"),
    ):
        done = predict_by(["--run", run], tmp_path, new_cells)
        assert isinstance(done.exception, RequestError) and said in str(done.exception)
    neither = predict_by([], tmp_path, new_cells)
    assert "say which model: --run RUN_ID, --checkpoint FOLDER" in str(neither.exception)


@pytest.mark.parametrize("linked", [False, True])
def test_an_adapted_network_is_promoted_with_its_base(linked, trials, new_cells, tmp_path, blank_database):
    write(tmp_path / "cells.h5ad")
    folder = write_folder(tmp_path, GENES)
    directory = trained(tmp_path, f"scgpt: {{weights: {folder}, epochs: 1, train: {{lora: {{rank: 2}}}}}}")
    sweep = Sweep(tmp_path / "runs", blank_database)
    if linked:
        run_id = sweep.end(sweep.network, checkpoint=str(directory / "checkpoint"))
    else:
        upload(directory, Upload(sweep.network.artifact_uri, None, with_checkpoint=True))
        run_id = sweep.end(sweep.network)
    first, again = sweep.promote(run_id), sweep.promote(run_id)
    assert (first.version, first.new, again.version, again.new) == ("1", True, "1", False)
    annotate(directory, new_cells, tmp_path / "before.parquet")
    state = torch.load(folder / "best_model.pt", weights_only=True)
    torch.save({name: tensor + 1 for name, tensor in state.items()}, folder / "best_model.pt")
    with pytest.raises(RequestError, match="was trained on other frozen weights"):
        annotate(directory, new_cells, tmp_path / "after.parquet")
    merged = local_path(first.place)
    assert merged.name == "merged" and len(load_file(merged / "model.safetensors")) > 20
    shutil.copytree(merged, tmp_path / "alone" / "checkpoint")
    annotate(tmp_path / "alone", new_cells, tmp_path / "after.parquet")
    ours, theirs = (pd.read_parquet(tmp_path / f"{name}.parquet").filter(like="p_") for name in ("after", "before"))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
