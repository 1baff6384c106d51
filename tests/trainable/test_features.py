"""Vectors of cells as a model's input: a resting network's are what its head gets; scales come from training."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import counts_like, made_up_cells, trial_config
from official_folders import write_geneformer
from scgpt_folder import write_folder
from scipy import sparse

from data_pipeline.errors import RequestError
from data_pipeline.shards.shards import Shards
from data_pipeline.shards.writing import Job, write_here
from trainables.fitting import features, resting
from trainables.fitting.contents import contents_of
from trainables.fitting.features import Given, Scaled
from trainables.fitting.resting import Resting
from trainables.spec import get
from trainables.trial import run_trial

GENES = [f"G{number}" for number in range(40)]


def at_rest(encoder, model: str, folder) -> Resting:
    options = get(model).options().model_dump()
    return Resting(encoder, model, folder, options, contents_of(model, folder))


def test_a_resting_networks_vectors_are_what_its_head_is_given(tmp_path):
    folder, spec = write_folder(tmp_path, GENES), get("scgpt")
    options, counts = spec.options().model_dump(), counts_like(70, len(GENES), 3)[0]
    totals = np.asarray(counts.sum(axis=1)).ravel()
    encoder = spec.encoder(GENES, folder, **options)
    encoded, rests = encoder(counts, np.random.default_rng(0), totals=totals), at_rest(encoder, "scgpt", folder)
    found = pickle.loads(pickle.dumps(rests))(encoded)
    vectors, network = torch.from_numpy(found.values.reshape(70, -1)), rests._network()
    with torch.no_grad():
        whole = network(**spec.collate(encoded, np.arange(70)))
        ours = network.get_submodule(spec.rests)(vectors)
    assert torch.allclose(ours, whole, atol=1e-5) and ours.std() > 0


@pytest.mark.parametrize("model", ["scgpt", "geneformer"])
def test_nothing_that_no_published_file_has_is_in_a_vector(model, tmp_path):
    """What weights don't fill is drawn at random, and anew in each process."""
    genes = [f"ENSG{number:011d}" for number in range(40)] if model == "geneformer" else GENES
    folder, spec = (
        write_geneformer(tmp_path, genes) if model == "geneformer" else write_folder(tmp_path, genes),
        get(model),
    )
    options, counts = spec.options().model_dump(), counts_like(20, len(genes), 3)[0]
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        resting._LOADED.clear()
        encoder = spec.encoder(genes, folder, **options)
        totals = np.asarray(counts.sum(axis=1)).ravel()
        encoded = encoder(counts, np.random.default_rng(0), totals=totals)
        found.append(at_rest(encoder, model, folder)(encoded).values.reshape(20, -1))
    assert np.array_equal(*found) and found[0].std() > 0 and len(np.unique(found[0], axis=0)) > 10


def test_other_weights_and_other_options_are_other_vectors(tmp_path):
    folder, spec = write_folder(tmp_path, GENES), get("scgpt")
    options = spec.options().model_dump()
    base = spec.encoder(GENES, folder, **options)
    one, other = (Resting(base, "scgpt", folder, options, digest).identity for digest in ("a", "b"))
    assert one != other and one["base"] == base.identity


def test_numbers_that_are_not_finite_are_refused():
    vectors = np.ones((4, 3))
    vectors[2, 1] = np.nan
    with pytest.raises(RequestError, match="obsm X: the vectors of 1 cells have numbers that are not finite"):
        Given(3, "hash", "obsm X")(sparse.csr_matrix(vectors), None)
    assert features.packed(np.zeros((2, 3)), "x").lengths.tolist() == [3, 3], "a zero is a number too"


@pytest.mark.parametrize("model", ["logistic_regression", "linear_svm", "mlp", "knn"])
def test_a_model_on_tiny_vectors_learns_as_on_large_ones(model, tmp_path):
    """Vectors come in any scale; one that a penalty takes for nothing would look like a bad embedding."""
    cells = made_up_cells()
    rng, kinds = np.random.default_rng(0), np.eye(len(cells.classes))[cells.labels]
    vectors = 1e-3 * (kinds @ rng.normal(size=(kinds.shape[1], 8)) + 0.3 * rng.normal(size=(len(kinds), 8))) + 5
    cells = replace(cells, counts=sparse.csr_matrix(vectors.astype(np.float32)))
    job = Job(cells, Given(8, "hash", "obsm X"), tmp_path / "shards")
    write_here(job)
    recipe = {"epochs": 8, "learning_rate": 0.01} if model == "mlp" else {}
    options = dict(get(model).on)
    config = trial_config(tmp_path, model, recipe=recipe, options=options)
    config |= {"shards": str(job.folder), "on": {"obsm": "X"}}
    assert run_trial(config, lambda *said: None, None)["test_macro_f1"] > 0.9


def test_scales_are_those_of_the_rows_given(tmp_path):
    vectors = sparse.csr_matrix(np.random.default_rng(0).normal(3, 2, (300, 5)).astype(np.float32))
    cells = replace(made_up_cells(), counts=vectors)
    job = Job(cells, Given(5, "hash", "obsm X"), tmp_path)
    write_here(job)
    scaled = Scaled(Shards(job.folder), np.arange(100))
    first = scaled.take(np.arange(100)).values.reshape(100, 5)
    assert np.allclose(first.mean(axis=0), 0, atol=1e-5) and np.allclose(first.std(axis=0), 1, atol=1e-5)
    assert abs(scaled.take(np.arange(100, 300)).values.mean()) > 1e-4
