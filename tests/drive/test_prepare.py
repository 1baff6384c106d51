"""What a sweep prepares for trials whose strategy makes cells: the cells, once, and how far they are from real ones."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from h5ad_files import write
from official_folders import write_scbert
from scgpt_folder import write_folder

from data_pipeline.errors import RequestError
from data_pipeline.rows import synthesize
from data_pipeline.shards.shards import Shards
from sweeps.drive.prepare import open_datasets, prepare
from sweeps.file.config import parse
from trainables.trial.trial import run_trial

SWEEP = """
name: made
datasets: [{{name: small, path: {path}, label: celltype}}]
skews: [{{kind: exponential, ratio: 2}}]
strategies: [{strategy}]
models: {{{model}: {{}}}}
{more}
"""


def sweep_of(folder: Path, strategy: str, model: str = "logistic_regression", more: str = ""):
    path = folder / "small.h5ad"
    if not path.exists():
        write(path)
    return parse(SWEEP.format(path=path, strategy=strategy, model=model, more=more), folder / "made.yaml")


def prepared(folder: Path, strategy: str, **options) -> dict:
    """Return the configuration of the sweep's only trial, everything it needs made."""
    spec = sweep_of(folder, strategy, **options)
    (trial,) = spec.trials()
    cells = open_datasets(spec, folder)
    (paths,) = prepare([trial.config()], cells, folder)
    return trial.config() | paths | {"directory": str(folder / "trials" / trial.key)}


def test_made_cells_come_with_a_table_of_their_distance_that_joins_the_trials_files(tmp_path, ray_here):
    config = prepared(tmp_path, "{kind: smote, cells: 40}")
    final = run_trial(config, lambda metrics, path: None, None)
    table = pd.read_csv(Path(config["directory"]) / "generated_cells.csv")
    assert table["class"].tolist() == ["B", "NK", "T"]
    assert (table["real"] + table["made"] == 40).all() and table["real"].nunique() == 3  # the skew's three sizes
    assert final["generated_cells"] == table["made"].sum()
    assert final["generated_mean_correlation"] == pytest.approx(table["mean_correlation"].mean())
    assert final["generated_mean_correlation"] > 0.8
    assert final["generated_auc"] == pytest.approx(table["auc"].mean())
    assert table["auc"].between(0, 1).all()
    assert final["train_rows"] == final["train_cells"] + table["made"].sum() == 120


def test_a_trial_that_makes_no_cells_has_no_such_table(tmp_path, ray_here):
    config = prepared(tmp_path, "oversample")
    final = run_trial(config, lambda metrics, path: None, None)
    assert not (Path(config["directory"]) / "generated_cells.csv").exists()
    assert not [name for name in final if name.startswith("generated")]


def test_cells_and_table_are_made_once_and_a_lost_table_is_made_again(tmp_path, ray_here, monkeypatch):
    first = prepared(tmp_path, "{kind: smote, cells: 40}")
    table = Path(first["distances"]).read_bytes()
    monkeypatch.setitem(synthesize.SYNTHESIZERS, "smote", synthesize.smote)  # the signature stays, calling it must not
    monkeypatch.setattr("data_pipeline.rows.synthesize._interpolated", None)
    assert prepared(tmp_path, "{kind: smote, cells: 40}") == first
    Path(first["distances"]).unlink()
    prepared(tmp_path, "{kind: smote, cells: 40}")
    assert Path(first["distances"]).read_bytes() == table


def test_where_every_class_has_enough_cells_none_are_made_and_the_trial_is_that_of_none(tmp_path, ray_here):
    numbers = []
    for strategy in ("{kind: smote, cells: 1}", "none"):
        final = run_trial(prepared(tmp_path, strategy), lambda metrics, path: None, None)
        numbers.append({name: final[name] for name in final if name.startswith(("test_", "train_"))})
        assert final.get("generated_cells", 0) == 0
    assert numbers[0] == numbers[1]


def test_the_published_unscaled_cells_are_others_than_the_scaled_ones(tmp_path, ray_here, monkeypatch):
    def scvi(counts, labels, rng, *, cells: int = 5, unscaled: bool = False):
        made = counts[:4].copy()
        return made * (0.001 if unscaled else 1.0), labels[:4]

    monkeypatch.setitem(synthesize.SYNTHESIZERS, "scvi", scvi)
    defect = "defects: [scvi_unscaled]"
    scaled, unscaled = (prepared(tmp_path, "scvi", model="majority", more=more) for more in ("", defect))
    assert scaled["generated"] != unscaled["generated"] and scaled["distances"] != unscaled["distances"]
    libraries = [pd.read_csv(config["distances"])["made_library"].max() for config in (scaled, unscaled)]
    assert libraries[0] == pytest.approx(1000 * libraries[1])


def test_scbert_reads_nothing_but_zeros_in_the_published_unscaled_cells(tmp_path, ray_here, monkeypatch):
    """Shares below 1, rounded down: the published mismatch with real cells, whose values are per 10,000."""

    def scvi(counts, labels, rng, *, cells: int = 5, unscaled: bool = False):
        made = counts[:4].copy()
        return made.multiply(1 / made.sum(axis=1)).tocsr(), labels[:4]

    monkeypatch.setitem(synthesize.SYNTHESIZERS, "scvi", scvi)
    tokens = {}
    for more in ("", "defects: [scvi_unscaled]"):
        config = prepared(tmp_path, "scvi", model="scbert", more=more)
        tokens[more] = Shards(Path(config["generated"])).take(np.arange(4)).ids
    assert tokens[""].max() == 5 and not tokens["defects: [scvi_unscaled]"].any()


def test_only_a_declared_defect_makes_unscaled_cells(tmp_path):
    with pytest.raises(RequestError, match="unknown parameter of scvi 'unscaled'"):
        sweep_of(tmp_path, "{kind: scvi, unscaled: true}")


@pytest.mark.parametrize("strategy", ["{kind: smote, cells: 40}", "tomek"])
def test_the_seed_decides_what_is_made(tmp_path, ray_here, strategy):
    def made(seed: int) -> np.ndarray:
        config = prepared(tmp_path, strategy, model="majority", more=f"splits: {{seeds: [{seed}]}}")
        return config["generated"] or np.load(config["rows"])

    assert np.array_equal(made(0), made(0))
    assert not np.array_equal(made(0), made(1))


def test_weights_that_do_not_load_are_refused_before_anything_is_made(tmp_path):
    """Both folders at once, though encoding needs neither of the files."""
    genes = [f"GENE{number}" for number in range(40)]
    folders = {"scgpt": write_folder(tmp_path, genes), "scbert": write_scbert(tmp_path, genes)}
    checkpoints = {"scgpt": folders["scgpt"] / "best_model.pt", "scbert": folders["scbert"] / "panglao_pretrain.pth"}
    for path in checkpoints.values():
        path.write_bytes(path.read_bytes()[:500])
    models = ", ".join(f"{name}: {{weights: {folder}}}" for name, folder in folders.items())
    text = SWEEP.format(path=write(tmp_path / "small.h5ad"), strategy="none", model="majority", more="")
    spec = parse(text.replace("{majority: {}}", f"{{{models}}}"), tmp_path / "made.yaml")
    with pytest.raises(RequestError) as refused:
        prepare([trial.config() for trial in spec.trials()], open_datasets(spec, tmp_path), tmp_path)
    assert len(refused.value.problems) == 2
    assert all(f"{path}: damaged or cut off" in str(refused.value) for path in checkpoints.values())
    assert not (tmp_path / "shards").exists()
