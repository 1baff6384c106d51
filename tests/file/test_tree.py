"""`tree:` of a dataset: by what it says part of its trials' keys, and of no other's."""

import pytest
import yaml

from data_pipeline.errors import RequestError
from sweeps.drive.forecast.planning import plan
from sweeps.file import config

SWEEP = "name: x\ndatasets: [{name: pbmc68k_reduced%s}]\nmodels: [majority]\n"


def keys(tmp_path, more: str = "", **options) -> list[str]:
    (tmp_path / "x.yaml").write_text(SWEEP % more)
    return [trial.declared for trial in config.load(tmp_path / "x.yaml", **options).trials()]


def test_a_tree_is_known_by_what_it_says_and_its_file_found_from_anywhere(tmp_path):
    (tmp_path / "a.yaml").write_text("CD34+: cell\nDendritic: cell\n")
    (tmp_path / "b.yaml").write_text("Dendritic: cell\nCD34+: cell\n")
    (tmp_path / "c.yaml").write_text("Dendritic: cell\nCD34+: Dendritic\n")
    plain, first, same, other = (keys(tmp_path, more) for more in ("", *(f", tree: {one}.yaml" for one in "abc")))
    assert first == same and len({*plain, *first, *other}) == 3
    stored = config.load(tmp_path / "x.yaml").given
    again = config.parse(yaml.safe_dump(stored), tmp_path.parent / "elsewhere.yaml")
    assert [trial.declared for trial in again.trials()] == other
    assert again.trials()[0].config()["tree"] == {"Dendritic": "cell", "CD34+": "Dendritic"}
    (tree,) = [value for name, value in again.trials()[0].params().items() if "tree" in name]
    assert len(tree) == 16, "MLflow takes few characters of a type's name, and few of a value"
    assert "tree" not in config.load(tmp_path / "x.yaml").trials()[0].described["dataset"]


def test_a_tree_that_is_not_there_is_said_with_its_line(tmp_path):
    with pytest.raises(RequestError, match=r"x.yaml:2: datasets\[0\].tree: .*none.yaml: can't be read"):
        keys(tmp_path, ", tree: none.yaml")


def test_plan_refuses_a_tree_or_table_that_is_not_there_though_weights_may_be_elsewhere(tmp_path):
    (tmp_path / "x.yaml").write_text(SWEEP % ", tree: none.yaml")
    with pytest.raises(RequestError, match="none.yaml: can't be read as a tree of cell types: .*No such file"):
        plan(config.load(tmp_path / "x.yaml", check_files=False), tmp_path)
    (tmp_path / "x.yaml").write_text(SWEEP % ", labels: {map: none.csv}")
    with pytest.raises(RequestError, match="none.csv"):
        plan(config.load(tmp_path / "x.yaml", check_files=False), tmp_path)


def test_plan_says_what_vectors_are_made_of_that_is_not_here(tmp_path):
    models = "{a: {model: knn, on: {embeddings: none.h5ad}}, b: {model: knn, on: {model: scgpt, weights: none}}}"
    (tmp_path / "x.yaml").write_text((SWEEP % "").replace("[majority]", models))
    said = plan(config.load(tmp_path / "x.yaml", check_files=False), tmp_path).notes
    assert f"embeddings of a are not on this machine: {tmp_path / 'none.h5ad'}" in said
    assert f"weights of b are not on this machine: {tmp_path / 'none'}" in said
