"""What a sweep prepares for trials whose strategy makes cells: the cells, once, and how far they are from real ones."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import ray
from conftest import make_shards
from h5ad_files import COUNTS, TYPES, write
from official_folders import write_scbert
from scgpt_folder import write_folder

from data_pipeline.errors import RequestError
from data_pipeline.genes import select_hvg
from data_pipeline.reading.cells import Cells
from data_pipeline.rows import choice, synthesize
from data_pipeline.rows.generated import load_cells, save_cells
from data_pipeline.rows.synthesize import Made, scvi, smote
from data_pipeline.shards.encoded import Encoded
from data_pipeline.shards.shards import Shards
from sweeps.drive.preparing import tasks
from sweeps.drive.preparing.making import Readable, distances
from sweeps.drive.preparing.prepare import Preparation, check, open_datasets, prepare
from sweeps.drive.preparing.tasks import Task, make_files
from sweeps.drive.workshop import Workshop
from sweeps.file.config import parse
from trainables.models.geneformer.medians import fit_encoder
from trainables.spec import get
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


def test_cells_and_table_are_made_once_and_a_lost_table_is_made_again(tmp_path, ray_here):
    first = prepared(tmp_path, "{kind: smote, cells: 40}")
    table, made = Path(first["distances"]).read_bytes(), times(tmp_path)
    assert prepared(tmp_path, "{kind: smote, cells: 40}") == first and times(tmp_path) == made
    Path(first["distances"]).unlink()
    prepared(tmp_path, "{kind: smote, cells: 40}")
    assert Path(first["distances"]).read_bytes() == table
    assert {path for path, time in times(tmp_path).items() if made[path] != time} == {Path(first["distances"])}


def times(folder: Path) -> dict[Path, int]:
    """Return when each prepared file was written."""
    files = [path for name in ("generated", "genes", "shards") for path in (folder / name).rglob("*")]
    return {path: path.stat().st_mtime_ns for path in files if path.is_file() and path.name != "checked.json"}


@pytest.mark.parametrize("model", ["logistic_regression", "scbert"])
def test_made_cells_of_a_file_with_some_of_the_genes_are_on_the_scale_of_the_real_ones(tmp_path, ray_here, model):
    """Totals over all measured genes are 200 times what the file holds; made cells are given theirs."""
    write(tmp_path / "small.h5ad", obs={"celltype": TYPES, "n": 200 * np.asarray(COUNTS.sum(axis=1)).ravel()})
    text = SWEEP.replace("label: celltype", "label: celltype, totals: n").format(
        path=tmp_path / "small.h5ad", strategy="{kind: smote, cells: 40}", model=model, more=""
    )
    spec = parse(text, tmp_path / "made.yaml")
    config, cells = spec.trials()[0].config(), open_datasets(spec, tmp_path)
    (paths,) = prepare([config], cells, tmp_path)
    features = get(model).features
    real, made = (features(whole(paths[name])).data for name in ("shards", "generated"))
    assert made[made > 0].mean() == pytest.approx(real[real > 0].mean(), rel=0.3)
    table = pd.read_csv(paths["distances"])
    assert table["made_library"].to_numpy() == pytest.approx(table["real_library"].to_numpy(), rel=0.3)
    assert table["auc"].max() < 0.97 and table["auc"].mean() < 0.9
    assert wrong_scale(tmp_path, cells["small"], paths, model)["auc"].min() > 0.99


def whole(folder: str) -> Encoded:
    shards = Shards(Path(folder))
    return shards.take(np.arange(len(shards)))


def wrong_scale(folder: Path, cells: Cells, paths: dict, model: str) -> pd.DataFrame:
    """Return the table of made cells whose totals are the sums of the genes in the file."""
    (file,) = (folder / "generated").glob("*.npz")
    made = load_cells(file, cells.classes)
    made = replace(made, digest="wrong", totals=np.asarray(made.counts.sum(axis=1)).ravel())
    encoder = get(model).encoder(cells.genes, None)
    readable = Readable(cells.counts, cells.totals, cells.labels, cells.classes, True)
    encoded = Path(paths["shards"]), make_shards(made, encoder, folder / "wrong")
    distances(folder / "wrong.csv", readable, np.arange(90), file, encoded, model, (0, "distances"))
    return pd.read_csv(folder / "wrong.csv")


def test_made_cells_are_encoded_anew_where_they_are_others(tmp_path, ray_here):
    first = prepared(tmp_path, "{kind: smote, cells: 40}")
    (file,) = (tmp_path / "generated").glob("*.npz")
    made = load_cells(file, ["B", "NK", "T"])
    save_cells(file, made.counts[::-1], made.labels[::-1], made.totals[::-1])  # as other hardware might make them
    second = prepared(tmp_path, "{kind: smote, cells: 40}")
    assert first["generated"] != second["generated"] and first["distances"] != second["distances"]
    assert np.array_equal(Shards(Path(second["generated"])).labels, made.labels[::-1])


GENES = """
name: genes
datasets: [{{name: small, path: {path}, label: celltype}}]
genes: {{select: hvg, n: 12, fit: {fit}}}
skews: [natural, {{kind: rarefy, class: NK, cells: 2}}]
strategies: [none, oversample]
models: {{geneformer: {{size: tiny}}, logistic_regression: {{}}}}
"""


@pytest.mark.parametrize("fit", ["kept", "natural"])
def test_genes_and_medians_are_fitted_on_what_the_trial_may_know(tmp_path, ray_here, fit):
    """`kept`: the cells that the skew has left; `natural`: all training cells. What is the same is made once."""
    path, told = write(tmp_path / "small.h5ad"), []
    spec = parse(GENES.format(path=path, fit=fit), tmp_path / "genes.yaml")
    trials, cells = spec.trials(), open_datasets(spec, tmp_path)
    configs = [trial.config() for trial in trials]
    made = prepare(configs, cells, tmp_path, lambda *count: told.append(count))
    opened, chosen = cells["small"], {}
    for trial, config, paths in zip(trials, configs, made, strict=True):
        rows = choice.choose(opened.labels, opened.classes, config["split"], config["skew"])
        known = opened.take(rows.kept if fit == "kept" else rows.split.train)
        columns = select_hvg(lambda known=known: [known], 40, 12)
        encoding = json.loads(Path(paths["encoding"]).read_text())
        assert encoding["genes"] == [opened.genes[column] for column in columns]
        if config["model"] == "geneformer":
            totals = np.asarray(known.sum(axis=1, dtype=np.float64)).ravel()
            assert encoding["learned"] == fit_encoder([(known[:, columns], totals)], encoding["genes"])
        chosen.setdefault(trial.labels["skew"], set()).add(tuple(encoding["genes"]))
        assert trial.tags().get("cellskew.genes_fit") == (None if fit == "kept" else "natural")
    assert all(len(genes) == 1 for genes in chosen.values())
    num_sets = len(set.union(*chosen.values()))
    assert num_sets == (2 if fit == "kept" else 1)
    assert (
        len(list((tmp_path / "genes").glob("hvg-*"))) == len(list((tmp_path / "genes").glob("learned-*"))) == num_sets
    )
    assert [one for one in told if one[0] == "preparing: genes"][-1] == ("preparing: genes", num_sets, num_sets)
    assert {what for what, *_ in told} >= {"preparing: geneformer's medians", "preparing: blocks encoded"}


def test_what_code_from_outside_has_learnt_and_encoded_is_made_anew_by_other_code(tmp_path):
    codes = [{}, {"code": None}, {"code": "one"}, {"code": "two"}]
    for model, of in (
        ("geneformer", lambda made, config: made.encoders._learned_file(config)),
        ("logistic_regression", lambda made, config: made._jobs(config)[0].folder),
    ):
        spec = sweep_of(tmp_path, "none", model=model)
        made = Preparation(open_datasets(spec, tmp_path), tmp_path, lambda *said: None)
        ours, same, one, two = (of(made, spec.trials()[0].config() | code) for code in codes)
        assert ours == same and len({ours, one, two}) == 3


def test_all_that_cannot_be_made_is_refused_at_once(tmp_path, ray_here):
    def refuses(path: Path, words: str) -> None:
        raise RequestError(words)

    with pytest.raises(RequestError) as refused:
        make_files({tmp_path / str(n): Task("cells", refuses, (f"no {n}",)) for n in range(3)}, lambda *count: None)
    assert sorted(refused.value.problems) == ["no 0", "no 1", "no 2"]


def test_a_file_that_only_the_worker_sees_is_no_file(tmp_path, ray_here, monkeypatch):
    """As where each node has a storage folder of its own."""
    monkeypatch.setattr(tasks, "SEEN_WITHIN", 0.5)
    with pytest.raises(RequestError, match="one that all nodes share; name such a folder with --storage"):
        make_files({tmp_path / "elsewhere": Task("genes", lambda path: None, ())}, lambda *count: None)


def test_cells_by_a_deep_model_are_made_on_a_gpu_where_there_is_one(tmp_path, ray_with_gpus):
    def where(path: Path) -> None:
        path.write_text(",".join(map(str, ray.get_gpu_ids())))

    two = {tmp_path / "cpu": Task("genes", where, ()), tmp_path / "gpu": Task("cells", where, (), on_gpu=True)}
    make_files(two, lambda *count: None)
    assert (tmp_path / "cpu").read_text() == "" and (tmp_path / "gpu").read_text() != ""
    assert scvi.on_gpu and not hasattr(smote, "on_gpu")


def test_cells_of_a_node_that_is_lost_are_made_where_there_is_room(tmp_path, monkeypatch):
    """Ray would wait without end for a GPU that nobody has any more."""

    def get(made: Callable) -> None:
        if "scheduling_strategy" in made.keywords:
            raise ray.exceptions.TaskUnschedulableError("the node is gone")
        made.args[-1].write_text("made")

    def remote(**place) -> Callable:
        return lambda attempt: SimpleNamespace(remote=partial(partial, attempt, **place))

    fake = SimpleNamespace(remote=remote, wait=lambda refs, timeout: (refs, []), get=get, exceptions=ray.exceptions)
    monkeypatch.setattr(tasks, "ray", fake)
    paths, told = [tmp_path / str(number) for number in range(3)], []
    todo = {path: Task("cells", print, (), on_gpu=path.name != "2") for path in paths}
    work = Workshop(lambda: 4.0, lambda kind: {"ab" * 28: 2})
    make_files(todo, lambda *count: told.append(count), work)
    assert all(path.exists() for path in paths) and not work.lent
    assert told[-1] == ("preparing: cells", 3, 3)


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
        return Made(made * (0.001 if unscaled else 1.0), labels[:4], np.arange(4))

    monkeypatch.setitem(synthesize.SYNTHESIZERS, "scvi", scvi)
    defect = "defects: [scvi_unscaled]"
    scaled, unscaled = (prepared(tmp_path, "scvi", model="majority", more=more) for more in ("", defect))
    assert scaled["generated"] != unscaled["generated"] and scaled["distances"] != unscaled["distances"]
    libraries = [pd.read_csv(config["distances"])["made_library"].max() for config in (scaled, unscaled)]
    assert libraries[0] < 100 and libraries[1] == 1e4  # taken for counts per 10,000 as they stand


def test_scbert_reads_nothing_but_zeros_in_the_published_unscaled_cells(tmp_path, ray_here, monkeypatch):
    """Shares below 1, rounded down: the published mismatch with real cells, whose values are per 10,000."""

    def scvi(counts, labels, rng, *, cells: int = 5, unscaled: bool = False):
        made = counts[:4].copy()
        return Made(made.multiply(1 / made.sum(axis=1)).tocsr(), labels[:4], np.arange(4))

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
        check([trial.config() for trial in spec.trials()], open_datasets(spec, tmp_path), tmp_path)
    assert len(refused.value.problems) == 2
    assert all(f"{path}: damaged or cut off" in str(refused.value) for path in checkpoints.values())
    assert not (tmp_path / "shards").exists()
