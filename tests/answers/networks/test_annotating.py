"""`cellskew predict`: what it reads besides counts, what it writes besides a table, which model is meant."""

import json
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from h5ad_files import CELLS, COUNTS, GENES, LABELS, TYPES, write
from scgpt_folder import write_folder
from test_predicting import SWEEP, describe, predict, predict_by, prepared
from test_promote import Sweep
from typer.testing import CliRunner

from data_pipeline.errors import RequestError
from sweeps import cli
from sweeps.answers.networks import meant, predicting, written
from sweeps.commands.networks import _Named
from sweeps.tracking.artifacts import Upload, upload
from trainables.fitting import resting
from trainables.trial.trial import run_trial

VECTORS = (np.eye(3)[LABELS] + np.random.default_rng(0).normal(0, 0.6, (90, 3))).astype(np.float32)


def write_vectors(path: Path, order: np.ndarray | None = None, name: str = "X_uce") -> Path:
    """Write the cells with their vectors in obsm, in another order perhaps."""
    order = np.arange(90) if order is None else order
    cells = anndata.AnnData(COUNTS[order], pd.DataFrame({"celltype": TYPES[order]}, index=np.array(CELLS)[order]))
    cells.var_names = GENES
    cells.obsm[name] = VECTORS[order]
    cells.write_h5ad(path)
    return path


def trained(root: Path, model: str, more: str = "") -> Path:
    """Return the directory of a finished trial on root/cells.h5ad."""
    config = prepared(root, model, SWEEP + more)
    run_trial(config, lambda metrics, path: None, None)
    return Path(config["directory"])


def stored(directory: Path) -> pd.DataFrame:
    return pd.read_parquet(directory / "predictions.parquet").set_index("cell_id")


@pytest.fixture(scope="module")
def regression(tmp_path_factory, ray_here) -> Path:
    """The directory of a finished logistic regression with adjustments, on cells.h5ad two folders above."""
    root = tmp_path_factory.mktemp("regression")
    write(root / "cells.h5ad")
    return trained(root, "logistic_regression: {}", "posthoc: [temperature, logit_adjust]\n")


@pytest.mark.parametrize("model", ["logistic_regression: {%s}", "mlp: {%s, size: tiny, epochs: 2}", "knn: {%s}"])
def test_a_model_on_vectors_reads_those_of_the_new_file(model, tmp_path, ray_here):
    write_vectors(tmp_path / "cells.h5ad")
    directory = trained(tmp_path, model % "on: {obsm: X_uce}")
    theirs, order = stored(directory).filter(like="p_"), np.random.default_rng(1).permutation(90)
    folders, out = [directory / "checkpoint"], tmp_path / "out.parquet"
    predict(folders, write_vectors(tmp_path / "new.h5ad", order), out=out)
    ours = pd.read_parquet(out).set_index("cell_id").loc[theirs.index, theirs.columns]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    other = write_vectors(tmp_path / "other.h5ad", order, "X_other")
    with pytest.raises(RequestError, match="no obsm 'X_uce'.*X_other.*the network that made those of the training"):
        predict(folders, other, out=out)
    assert predict(folders, other, out=out, obsm="X_other").num_cells == 90
    anndata.AnnData(VECTORS[:, :2], pd.DataFrame(index=CELLS)).write_h5ad(tmp_path / "emb.h5ad")
    with pytest.raises(RequestError, match="vectors have 2 numbers, those of the training had 3"):
        predict(folders, other, out=out, embeddings=tmp_path / "emb.h5ad")


@pytest.mark.slow
def test_a_model_on_a_resting_network_makes_the_vectors_itself(tmp_path, ray_here):
    write(tmp_path / "cells.h5ad")
    folder = write_folder(tmp_path, GENES)
    directory = trained(tmp_path, f"knn: {{on: {{model: scgpt, weights: {folder}}}}}")
    theirs = stored(directory).filter(like="p_")
    predict([directory / "checkpoint"], tmp_path / "cells.h5ad", out=tmp_path / "out.parquet")
    ours = pd.read_parquet(tmp_path / "out.parquet").set_index("cell_id").loc[theirs.index, theirs.columns]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    (folder / "best_model.pt").write_bytes(b"others")
    resting._LOADED.clear()  # another process would have it to load
    with pytest.raises(RequestError, match=str(folder)):
        predict([directory / "checkpoint"], tmp_path / "cells.h5ad", out=tmp_path / "out.parquet")


def test_a_baseline_asks_for_the_totals_that_it_was_trained_with(regression, tmp_path):
    """Values are per 10,000 counts of a cell: those of a file that was cut to some genes would be far too large."""
    write(tmp_path / "deep.h5ad", COUNTS * 20)
    with pytest.raises(RequestError, match="goes by a cell's counts over all genes measured"):
        predict([regression / "checkpoint"], tmp_path / "deep.h5ad", out=tmp_path / "out.csv")


@pytest.mark.parametrize("adjustment", ["temperature", "logit_adjust"])
def test_adjustments_are_those_of_the_trial(adjustment, regression, tmp_path):
    data = regression.parents[1] / "cells.h5ad"
    predict([regression / "checkpoint"], data, adjustment=adjustment, out=tmp_path / "out.parquet")
    found, theirs = pd.read_parquet(tmp_path / "out.parquet").set_index("cell_id"), stored(regression)
    assert found.loc[theirs.index, "prediction"].tolist() == theirs[f"prediction.{adjustment}"].tolist()
    predict([regression / "checkpoint"], data, out=tmp_path / "plain.parquet")
    assert not np.allclose(found["probability"], pd.read_parquet(tmp_path / "plain.parquet")["probability"])
    with pytest.raises(RequestError, match="prior_shift is made of all test cells together"):
        meant.check_adjustment("prior_shift")


def test_known_types_give_the_numbers_of_the_trial(regression, tmp_path, capsys):
    cells = anndata.read_h5ad(regression.parents[1] / "cells.h5ad")[list(stored(regression).index)].copy()
    cells.write_h5ad(tmp_path / "test.h5ad")
    found = predict([regression / "checkpoint"], tmp_path / "test.h5ad", evaluate="celltype")
    theirs = json.loads((regression / "result.json").read_text())["final"]
    ours = {f"test_{name}": value for name, value in found.judged.numbers.items()}
    assert len(ours) > 15 and ours == pytest.approx({name: theirs[name] for name in ours}, abs=1e-6)
    assert found.judged.trained_on == 0
    cells.obs["celltype"] = ["Kupffer", "", *cells.obs["celltype"][2:].astype(str)]
    cells.write_h5ad(tmp_path / "more.h5ad")
    more = predict([regression / "checkpoint"], tmp_path / "more.h5ad", evaluate="celltype").judged
    assert (more.unknown, more.unlabelled, more.types["test"].sum()) == ({"Kupffer": 1}, 1, len(cells) - 2)
    renamed = predict([regression / "checkpoint"], tmp_path / "more.h5ad", evaluate="celltype", renames=(("T", ""),))
    assert renamed.judged.unlabelled == 1 + (cells.obs["celltype"] == "T").sum()
    predicting.show(renamed, str)
    shown = capsys.readouterr().out
    assert "in no number: Kupffer (1)" in shown
    first = renamed.judged.types.iloc[0]
    assert f"{first['recall']:.3f} [{first['recall_low']:.2f}, {first['recall_high']:.2f}]" in shown
    known = predict([regression / "checkpoint"], regression.parents[1] / "cells.h5ad", evaluate="celltype")
    predicting.show(known, str)
    assert (
        known.judged.trained_on == 1 and "100% of the cells that were trained on are in this" in capsys.readouterr().out
    )
    with pytest.raises(RequestError, match="has no obs\\['cell_type'\\]; did you mean celltype"):
        predict([regression / "checkpoint"], tmp_path / "more.h5ad", evaluate="cell_type")


def test_a_copy_of_the_file_has_columns_that_scanpy_reads(regression, tmp_path):
    counts = COUNTS.tolil()
    counts[5] = 0
    write(tmp_path / "new.h5ad", counts.tocsr(), {"cellskew_type": ["old"] * 90, "mine": np.arange(90)})
    before = (tmp_path / "new.h5ad").read_bytes()
    asked = {"options": {"empty_cells": "drop"}, "h5ad": tmp_path / "out.h5ad", "out": tmp_path / "o.csv"}
    predict([regression / "checkpoint"], tmp_path / "new.h5ad", sure=0.9993, **asked)
    found, table = anndata.read_h5ad(tmp_path / "out.h5ad"), pd.read_csv(tmp_path / "o.csv", index_col="cell_id")
    assert (tmp_path / "new.h5ad").read_bytes() == before and (counts.tocsr() != found.X).nnz == 0
    obs = found.obs.drop(index="cell5")
    assert list(found.obs)[:1] == ["mine"] and obs["cellskew_type"].dtype == "category"
    assert obs["cellskew_type"].tolist() == table["prediction"].tolist() and table.index.tolist() == obs.index.tolist()
    assert list(found.obs["cellskew_type"].cat.categories) == ["B", "NK", "T", "unassigned"]
    for name in ("probability", "entropy"):
        np.testing.assert_allclose(obs[f"cellskew_{name}"], table[name], rtol=1e-5)
    assert (obs["cellskew_unassigned"] == (table["probability"] < 0.9993)).all() and obs["cellskew_unassigned"].any()
    assert (obs["cellskew_second"].astype(str) != obs["cellskew_type"].astype(str)).all()
    scores = table.filter(like="p_")
    assert obs["cellskew_second"].tolist() == [row.sort_values().index[-2][2:] for _, row in scores.iterrows()]
    left_out = found.obs.loc["cell5"]
    assert pd.isna(left_out["cellskew_type"]) and np.isnan(left_out["cellskew_probability"])
    assert list(found.uns["cellskew"]["models"]) == [str(regression / "checkpoint")]
    again = {"options": {"empty_cells": "drop"}, "h5ad": tmp_path / "out.h5ad"}
    with pytest.raises(RequestError, match="is the file that is annotated; name another"):
        predict([regression / "checkpoint"], tmp_path / "out.h5ad", **again)


def test_a_file_that_takes_no_columns_is_refused_before_its_cells_are_annotated(regression, tmp_path):
    import h5py

    shutil.copyfile(regression.parents[1] / "cells.h5ad", tmp_path / "old.h5ad")
    with h5py.File(tmp_path / "old.h5ad", "r+") as file:
        number = file["X"].attrs["shape"][0]
        del file["obs"]
        file["obs"] = np.array([(f"cell{at}".encode(),) for at in range(number)], dtype=[("index", "S12")])
    with pytest.raises(RequestError, match="table of an anndata older than 0.7, which takes no more columns"):
        predict([regression / "checkpoint"], tmp_path / "old.h5ad", h5ad=tmp_path / "o.h5ad", out=tmp_path / "o.csv")
    assert not (tmp_path / "o.csv").exists()


def test_a_type_may_be_called_unassigned_where_no_cell_is_left_so(regression, tmp_path):
    shutil.copytree(regression / "checkpoint", tmp_path / "checkpoint")
    classes = json.loads((tmp_path / "checkpoint" / "model.json").read_text())["classes"]
    describe(tmp_path / "checkpoint", classes=["unassigned", *classes[1:]])
    out, data = tmp_path / "out.h5ad", regression.parents[1] / "cells.h5ad"
    predict([tmp_path / "checkpoint"], data, h5ad=out)
    found = anndata.read_h5ad(out).obs
    assert list(found["cellskew_type"].cat.categories) == ["unassigned", *classes[1:]]
    assert (found["cellskew_type"] == "unassigned").any() and not found["cellskew_unassigned"].any()


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_table_is_written_piece_by_piece(suffix, regression, tmp_path, monkeypatch):
    data, folders = regression.parents[1] / "cells.h5ad", [regression / "checkpoint"]
    predict(folders, data, out=tmp_path / f"whole.{suffix}")
    monkeypatch.setattr(predicting, "BLOCK", 7)
    monkeypatch.setattr(written, "ROWS", 20)
    predict(folders, data, out=tmp_path / f"cut.{suffix}")
    read = pd.read_csv if suffix == "csv" else pd.read_parquet
    pd.testing.assert_frame_equal(*(read(tmp_path / f"{name}.{suffix}") for name in ("whole", "cut")))


def test_probabilities_that_are_low_throughout_are_warned_of(regression, tmp_path, capsys):
    data = regression.parents[1] / "cells.h5ad"
    usual = predict([regression / "checkpoint"], data, out=tmp_path / "out.csv")
    assert usual.low < 0.2
    strange = write(tmp_path / "strange.h5ad", COUNTS[:, np.random.default_rng(0).permutation(COUNTS.shape[1])])
    found = predict([regression / "checkpoint"], strange, out=tmp_path / "out.csv")
    assert found.low > 0.2
    predicting.show(found, str)
    assert "probabilities are low" in "".join(capsys.readouterr())


# which model is meant


def test_a_promoted_model_is_used_by_its_name(regression, tmp_path, blank_database):
    sweep = Sweep(tmp_path, blank_database)
    upload(regression, Upload(sweep.baseline.artifact_uri, None, with_checkpoint=True))
    run_id = sweep.end(sweep.baseline)
    sweep.promote(run_id)
    data = regression.parents[1] / "cells.h5ad"
    for words in (["--model", "annotator"], ["--model", "models:/annotator/1"], ["--run", run_id]):
        done = predict_by(words, tmp_path, data)
        assert done.exit_code == 0 and "90 cells annotated by 30 of the model's 30 genes" in done.output, done.output
    missing = predict_by(["--model", "annotater/2"], tmp_path, data)
    assert "no registered model 'annotater' of version 2; `cellskew promote`" in str(missing.exception)


def test_models_beside_the_best_choice_are_not_given_its_adjustment_unasked(tmp_path):
    best = meant.Best("logit_adjust", ["a"], ["best: lr"])
    for given in (["b"], [], []), ([], [Path("x")], []), ([], [], ["named"]):
        named = _Named(*given, None, lambda *asked: best, False)
        said = pytest.raises(RequestError, match="goes with posthoc logit_adjust.*--posthoc none")
        with said, named.opened(tmp_path, None):
            pass


def test_options_that_say_nothing_or_two_things_are_refused(tmp_path):
    for words, said in (
        ([], "say what is wanted: a table"),
        (["-o", "x.csv", "--type", "B"], "name its sweep with --best NAME"),
        (["-o", "x.csv", "--best", "a", "--ensemble", "b"], "give one of the two"),
        (["-o", "x.csv", "--best", "a.zip"], "a bundle has no trained models"),
        (["-o", "x.csv", "--run", "a", "--posthoc", "temprature"], "did you mean temperature"),
    ):
        done = CliRunner().invoke(cli.app, ["predict", "x.h5ad", "--storage", str(tmp_path), *words])
        assert isinstance(done.exception, RequestError) and said in str(done.exception), done.output
