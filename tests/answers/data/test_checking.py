"""`cellskew check` with a weights folder: complete or not, what is missing and where it is had, what starts anew."""

from pathlib import Path

import pytest
from official_folders import write_geneformer
from scgpt_folder import write_folder

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


def test_a_baseline_has_no_weights(tmp_path, storage):
    with pytest.raises(RequestError, match="logistic_regression has none; it is fitted to your cells"):
        check("pbmc68k_reduced", {}, ["logistic_regression"], tmp_path, storage)
