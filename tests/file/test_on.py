"""`on:` of a model: vectors of cells in place of genes, known by what their files hold."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scgpt_folder import write_folder
from sweep_files import parse, problems

from data_pipeline.errors import RequestError
from data_pipeline.reading.h5ad import open_cells
from data_pipeline.reading.known.catalog import resolve
from data_pipeline.shards.writing import Job, write_here
from sweeps.drive import contents
from sweeps.drive.preparing.encoders import Encoders
from sweeps.drive.preparing.prepare import Preparation
from trainables.trial import run_trial

HEAD = "name: small\ndatasets: [pbmc68k_reduced]\nstrategies: [none, smote]\nlosses: [cross_entropy, focal]\n"


def sweep(models: str, **options):
    return parse(f"{HEAD}models: {{{models}}}\n", **options)


@pytest.mark.parametrize(
    "on, said",
    [
        ("{obsn: X}", "models.p.on.obsn: unknown word of on 'obsn'; did you mean obsm?"),
        ("{obsm: X, embeddings: x.h5ad}", "models.p.on: obsm and embeddings are two things"),
        ("X_uce", 'models.p.on: "X_uce" must be a mapping: {obsm: X_uce}'),
        ("{}", "models.p.on: {} must be a mapping"),
        ("{embeddings: 3}", "models.p.on.embeddings: 3 must be a text"),
        ("{embeddings: nowhere.h5ad}", "nowhere.h5ad is not there; give an h5ad file with one vector per cell"),
        ("{model: knn}", "models.p.on.model: knn has no pretrained weights, so no features; known: geneformer, scgpt"),
        ("{model: scbert, weights: /x}", "scbert gives no vector per cell"),
        ("{model: scgtp, weights: /x}", "unknown network 'scgtp'; did you mean scgpt?"),
        ("{model: scgpt}", "models.p.on: scgpt without weights is a random network"),
        ("{model: scgpt, weights: /nowhere}", "models.p.on.weights: the folder /nowhere is not there"),
        ("{model: scgpt, weights: /nowhere, train: head}", "rests as a whole: leave `train` out"),
    ],
)
def test_what_on_can_not_be_is_said_once(on, said):
    assert said in "\n".join(problems(f"{HEAD}models: {{p: {{model: knn, on: {on}}}}}\n"))


@pytest.mark.parametrize("model", ["majority", "gradient_boosting", "scgpt"])
def test_a_model_of_genes_is_on_nothing_else(model):
    (said,) = problems(f"{HEAD}models: {{{model}: {{on: {{obsm: X}}}}}}\n")
    assert f"{model} takes genes alone; what takes vectors of cells: knn, linear_svm, logistic_regression, mlp" in said


def test_made_cells_have_no_vectors_and_such_trials_are_left_out_with_a_word():
    spec = sweep("p: {model: knn, on: {obsm: X}}, knn: {}")
    assert [(one.label, one.labels["strategy"]) for one in spec.trials()] == [
        ("p", "none"),
        ("knn", "none"),
        ("knn", "smote"),
    ]
    assert "p has no vectors of cells that smote makes; left out" in spec.impossible()
    assert spec.models[0].options["components"] == 0 and spec.models[1].options["components"] == 50


@pytest.fixture
def places(tmp_path):
    """A dataset with obsm X_uce, the same vectors in a file of their own, and its opened cells."""
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(3), 40)
    names = [f"cell{number}" for number in range(120)]
    vectors = (np.eye(3)[labels] @ rng.normal(size=(3, 6)) + 0.2 * rng.normal(size=(120, 6))).astype(np.float32)
    obs = pd.DataFrame({"type": [f"t{label}" for label in labels]}, index=names)
    genes = pd.DataFrame(index=[f"G{number}" for number in range(20)])
    table = ad.AnnData(rng.poisson(1 + labels[:, None] * (np.arange(20) % 3), (120, 20)).astype(np.float32), obs, genes)
    table.obsm["X_uce"] = vectors
    table.write_h5ad(tmp_path / "my.h5ad")
    order = rng.permutation(120)
    ad.AnnData(vectors[order], obs.iloc[order]).write_h5ad(tmp_path / "emb.h5ad")
    return tmp_path, open_cells(resolve({"path": str(tmp_path / "my.h5ad"), "label": "type"}, tmp_path))


def trials(folder, cells, models: str):
    text = f"name: s\ndatasets: [{{path: {folder}/my.h5ad, label: type}}]\nmodels: {{{models}}}\n"
    return contents.known(parse(text), {"my": cells}, folder, keep=False).trials()


def test_a_key_is_what_the_vectors_are_not_where_they_lie(places):
    folder, cells = places
    (folder / "moved").mkdir()
    first, uce, other = trials(
        folder,
        cells,
        f"a: {{model: knn, on: {{embeddings: {folder}/emb.h5ad}}}}, b: {{model: knn, on: {{obsm: X_uce}}}}, "
        "c: {model: knn, on: {obsm: X_b}}",
    )
    assert len({first.key, uce.key, other.key}) == 3
    (folder / "emb.h5ad").rename(folder / "moved" / "x.h5ad")
    (moved,) = trials(folder, cells, f"z: {{model: knn, on: {{embeddings: {folder}/moved/x.h5ad}}}}")
    assert moved.key == first.key and moved.is_known
    assert moved.tags()["cellskew.on"] == "embeddings x.h5ad" and str(folder) not in str(moved.params())
    (folder / "moved" / "x.h5ad").write_bytes((folder / "my.h5ad").read_bytes())
    (changed,) = trials(folder, cells, f"z: {{model: knn, on: {{embeddings: {folder}/moved/x.h5ad}}}}")
    assert changed.key != moved.key


def test_vectors_that_are_not_there_are_refused_before_anything_is_made(places):
    folder, cells = places
    genes, vectors = trials(folder, cells, "knn: {}, p: {model: knn, on: {obsm: X_uc}}")
    with pytest.raises(RequestError, match="has no obsm 'X_uc'; did you mean X_uce?"):
        Preparation({"my": cells}, folder / "runs", lambda *said: None).check([genes.config(), vectors.config()])
    assert not (folder / "runs").exists()
    listed = trials(folder, cells, "knn: {}, p: {model: knn, on: {obsm: X_uc}}, o: {model: knn, on: {obsm: Y}}")
    with pytest.raises(RequestError) as caught:
        contents.check_vectors(listed, {"my": cells})
    assert len(caught.value.problems) == 2, "all at once, before a run is registered"


def test_trials_on_obsm_on_a_file_and_on_a_resting_network(places):
    folder, cells = places
    weights = write_folder(folder, cells.genes)
    found = {}
    for trial in trials(
        folder,
        cells,
        f"file: {{model: knn, on: {{embeddings: {folder}/emb.h5ad}}}}, obsm: {{model: knn, on: {{obsm: X_uce}}}}, "
        f"rest: {{model: knn, on: {{model: scgpt, weights: {weights}}}}}",
    ):
        encoders, config = Encoders({"my": cells}, folder), trial.config()
        job = Job(encoders.seen(config), encoders.encoder(config)[0], folder / "shards")
        job = encoders.at_rest(job, config) or job
        write_here(job)
        config |= {"shards": str(job.folder), "directory": str(folder / trial.label), "device": "cpu"}
        found[trial.label] = run_trial(config, lambda *said: None, None)
    assert found["file"]["test_macro_f1"] == found["obsm"]["test_macro_f1"] > 0.9
    assert 0 < found["rest"]["test_macro_f1"] <= 1, "random weights: whatever they give"
