"""`cellskew check`: a weights folder, complete or not; a data file that isn't ready, and what to type."""

import json
from pathlib import Path

import numpy as np
import pytest
from h5ad_files import COUNTS, TYPES, log1p, write
from official_folders import write_geneformer
from scgpt_folder import write_folder
from typer.testing import CliRunner

from data_pipeline.errors import RequestError
from sweeps import cli
from sweeps.answers.data import checking
from sweeps.answers.data.checking import check


@pytest.fixture(scope="module")
def storage(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("storage")


def genes_of(storage: Path) -> list[str]:
    from data_pipeline.reading.h5ad import open_cells
    from data_pipeline.reading.known.catalog import resolve

    return open_cells(resolve("pbmc68k_reduced", storage)).genes


def test_a_complete_folder_names_what_is_newly_initialised(tmp_path, storage, capsys):
    folder = write_folder(tmp_path, genes_of(storage)[:400])
    found = check("pbmc68k_reduced", {}, ["scgpt"], folder, storage)
    assert found["weights"]["complete"] and found["coverage"]["scgpt"]["known"] == 400
    checking.show(found, as_json=False)
    said = " ".join(capsys.readouterr().out.split())
    assert "knows 400 of 765 genes" in said and "newly initialised: cls_decoder." in said
    assert said.endswith("the file can be used")


def test_a_folder_that_lacks_a_file_says_which_and_where_to_get_it(tmp_path, storage, capsys):
    folder = write_folder(tmp_path, genes_of(storage)[:400])
    (folder / "best_model.pt").unlink()
    found = check("pbmc68k_reduced", {}, ["scgpt"], folder, storage)
    assert not found["weights"]["complete"] and list(found["weights"]["missing"]) == ["best_model.pt"]
    checking.show(found, as_json=False)
    said = " ".join(capsys.readouterr().out.split())
    assert "best_model.pt is missing; download the whole-human folder" in said and "can be used" not in said


def test_all_that_is_missing_is_said_once_and_the_command_ends_with_exit_code_2(tmp_path, storage, capsys, monkeypatch):
    folder = write_geneformer(tmp_path, [f"ENSG{n:011d}" for n in range(10)])
    for name in ("model.safetensors", "token_dictionary_gc104M.pkl", "gene_median_dictionary_gc104M.pkl"):
        (folder / name).unlink()
    words = ["cellskew", "check", "pbmc68k_reduced", "--model", "geneformer", "--weights", str(folder)]
    monkeypatch.setattr("sys.argv", [*words, "--storage", str(storage)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 2 and "can't be used as it is" in said and "file can be used" not in said
    lost = ("model.safetensors or pytorch_model.bin", "token_dictionary*.pkl", "gene_median_dictionary*.pkl")
    assert [said.count(f"{name} is missing") for name in lost] == [1, 1, 1]


@pytest.mark.parametrize("model", ["logistic_regression", "mlp"])
def test_a_model_without_published_weights_has_none(tmp_path, storage, model):
    with pytest.raises(RequestError, match=f"{model} has none; it is fitted to your cells"):
        check("pbmc68k_reduced", {}, [model], tmp_path, storage)
    assert model not in check("pbmc68k_reduced", {}, None, None, storage)["coverage"]


def command(*words: object) -> tuple[int, str]:
    """Return exit code and output of a `cellskew` command."""
    ended = CliRunner().invoke(cli.app, list(map(str, words)))
    return ended.exit_code, " ".join((ended.output + str(ended.exception or "")).split())


def scaled(path: Path) -> Path:
    """A file as scanpy's tutorial leaves it: X scaled, the logarithms in raw."""
    return write(path, x=log1p(COUNTS).toarray() - 1, raw=log1p(COUNTS))


def test_scaled_values_with_logarithms_in_raw_are_told_what_to_declare(tmp_path):
    path, storage = scaled(tmp_path / "scaled.h5ad"), tmp_path / "storage"
    _, said = command("check", path, "--label", "celltype", "--storage", storage)
    assert "use `--layer raw` with `--values log1p --base e --target-sum 10000`" in said
    code, said = command(
        "check", path, "--label", "celltype", "--layer", "raw", "--values", "log1p", "--storage", storage
    )
    assert code == 0 and "each cell scaled to 10,000 counts, its own number is lost" in said
    assert "counts per cell" not in said


def test_logarithms_that_can_be_declared_are_not_sent_away(tmp_path):
    path = write(tmp_path / "logs.h5ad", x=log1p(COUNTS))
    _, said = command("check", path, "--label", "celltype", "--storage", tmp_path / "storage")
    assert "declare `--values log1p --base e --target-sum 10000`." in said and "No layer" not in said


def test_totals_and_a_fixed_test_file_can_be_given(tmp_path):
    obs = {"celltype": TYPES, "n_counts": 100 + np.asarray(COUNTS.sum(axis=1)).ravel()}
    path = write(tmp_path / "train.h5ad", obs=obs)
    test = write(tmp_path / "test.h5ad", obs=obs, cells=[f"test{n}" for n in range(90)])
    words = ("check", path, "--label", "celltype", "--twins", "ignore", "--storage", tmp_path / "storage", "--json")
    code, said = command(*words, "--totals", "n_counts", "--test-path", test)
    found = json.loads(said)
    assert code == 0 and found["fixed_test"] == 90
    assert found["totals"]["maximum"] == obs["n_counts"].max()


def test_columns_of_donors_age_and_batch_are_no_candidates_for_labels(tmp_path):
    rng = np.random.default_rng(0)
    obs = {name: rng.choice(["a", "b", "c"], 90) for name in ("patient", "age_group", "batch", "Development_stage")}
    obs |= {"clusters": rng.integers(0, 3, 90), "age": rng.integers(30, 40, 90), "annotation": TYPES}
    path = write(tmp_path / "cells.h5ad", obs=obs)
    _, said = command("check", path, "--storage", tmp_path / "storage")
    assert "Columns that could: annotation (3 values), clusters (3 values)." in said
