"""The contract of every model, over the files on disk: encode, build or fit, learn, round-trip."""

import numpy as np
import pytest
import torch
from conftest import counts_like, trainable_here
from scipy import sparse

from trainables.spec import ModelSpec, Recipe, get, names

GENES = [f"gene{n}" for n in range(40)]
MODELS = names()
NETWORKS = [name for name in MODELS if get(name).kind == "network"]
BASELINES = [name for name in trainable_here() if get(name).kind == "baseline"]


@pytest.fixture(scope="module")
def cells() -> tuple[sparse.csr_matrix, np.ndarray]:
    """Cells of three types; cell 5 is empty, cell 6 has one gene."""
    counts, labels = counts_like(90, len(GENES), 3)
    counts = counts.tolil()
    counts[5], counts[6] = 0, 0
    counts[6, 3] = 4
    return sparse.csr_matrix(counts, dtype=np.float32), labels


def encoder_of(spec: ModelSpec, counts: sparse.csr_matrix, genes: list[str] = GENES):
    totals = np.asarray(counts.sum(1)).ravel()
    learned = spec.fit_encoder([(counts, totals)], genes) if spec.fit_encoder else None
    return spec.encoder(genes, None, **spec.options(size="tiny").model_dump(), **(learned or {}))


def network_of(spec: ModelSpec, counts: sparse.csr_matrix, num_classes: int = 3) -> torch.nn.Module:
    torch.manual_seed(0)
    options = spec.options(size="tiny").model_dump() | encoder_of(spec, counts).network_options
    return spec.build(num_classes, weights=None, **options)


def test_the_files_are_the_registry():
    assert {"scgpt", "scbert", "geneformer", "logistic_regression", "majority"} <= set(MODELS)
    assert all(get(name).name == name for name in MODELS)
    with pytest.raises(KeyError, match="no model 'scgtp'; did you mean scgpt.*known: celltypist, geneformer, gradient"):
        get("scgtp")


@pytest.mark.parametrize("model", MODELS)
def test_an_encoder_keeps_the_order_of_the_cells_and_survives_empty_ones(model, cells):
    counts, _ = cells
    encoder = encoder_of(get(model), counts)
    encoded = encoder(counts, np.random.default_rng(0))
    assert len(encoded) == len(encoded.offsets) - 1 == 90 and encoded.offsets[-1] == len(encoded.ids)
    assert encoded.values is None or encoded.values.dtype == np.float32
    backwards = encoder(counts[::-1], np.random.default_rng(0))
    assert np.array_equal(backwards.lengths, encoded.lengths[::-1])
    if encoded.values is None:  # nothing is drawn at random: the cells must be the same, not only as long
        assert np.array_equal(backwards.take(np.arange(89, -1, -1)).ids, encoded.ids)


@pytest.mark.parametrize("model", MODELS)
def test_the_same_generator_gives_the_same_input_and_its_identity_is_json(model, cells):
    import json

    counts, _ = cells
    first, again = (encoder_of(get(model), counts) for _ in range(2))
    assert json.dumps(first.identity, sort_keys=True) == json.dumps(again.identity, sort_keys=True)
    a, b = (encoder(counts, np.random.default_rng(7)) for encoder in (first, again))
    assert np.array_equal(a.ids, b.ids)
    assert a.values is None or np.array_equal(a.values, b.values)


@pytest.mark.parametrize("model", [name for name in MODELS if name != "majority"])
def test_other_genes_are_another_encoding(model, cells):
    counts, _ = cells
    spec = get(model)
    other = spec.encoder(GENES[:30], None, **spec.options(size="tiny").model_dump(), **_learned(spec, counts[:, :30]))
    assert other.identity != encoder_of(spec, counts).identity


def _learned(spec: ModelSpec, counts: sparse.csr_matrix) -> dict:
    counts = sparse.csr_matrix(counts)
    if spec.fit_encoder is None:
        return {}
    return spec.fit_encoder([(counts, np.asarray(counts.sum(1)).ravel())], GENES[: counts.shape[1]]) or {}


@pytest.mark.parametrize("model", NETWORKS)
def test_a_network_gives_one_logit_per_cell_and_class_whatever_its_neighbours(model, cells):
    counts, _ = cells
    spec = get(model)
    encoded = encoder_of(spec, counts)(counts, np.random.default_rng(0))
    network = network_of(spec, counts, num_classes=7).eval()
    with torch.no_grad():
        together = network(**spec.collate(encoded, np.arange(20)))
        alone = torch.cat([network(**spec.collate(encoded, np.array([row]))) for row in range(20)])
    assert together.shape == (20, 7) and together.isfinite().all()
    assert torch.allclose(together, alone, atol=2e-6)


@pytest.mark.parametrize("model", NETWORKS)
def test_training_steps_lower_the_loss_and_the_state_round_trips(model, cells):
    counts, labels = cells
    spec = get(model)
    encoded = encoder_of(spec, counts)(counts, np.random.default_rng(0))
    network = network_of(spec, counts)
    batch, truth = spec.collate(encoded, np.arange(90)), torch.from_numpy(labels)
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(network(**batch), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    copy = network_of(spec, counts)
    copy.load_state_dict(network.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(copy.eval()(**batch), network.eval()(**batch))
    assert any(name.startswith(spec.head) for name, _ in network.named_parameters()) and spec.head


@pytest.mark.parametrize("model", NETWORKS)
@pytest.mark.parametrize("size", ["tiny", "small", "official"])
def test_every_size_has_a_recipe(model, size, tmp_path):
    assert all(isinstance(get(model).recipe(weights, size), Recipe) for weights in (None, tmp_path))


@pytest.mark.parametrize("model", BASELINES)
def test_a_baseline_gives_probabilities_over_the_fixed_class_list(model, cells):
    counts, labels = cells
    spec = get(model)
    encoder = encoder_of(spec, counts)
    encoded = encoder(counts, np.random.default_rng(0))
    options = spec.options().model_dump() | encoder.network_options
    fitted = spec.fit(encoded, labels, 5, np.random.default_rng(0), **options)
    probabilities = fitted.predict_proba(encoded)
    assert probabilities.shape == (90, 5) and np.allclose(probabilities.sum(1), 1)
    assert np.all(probabilities[:, 3:] == 0)  # classes without a training cell
    if model != "majority":
        assert (probabilities.argmax(1) == labels).mean() > 0.9


@pytest.mark.parametrize("model", MODELS)
def test_unknown_options_are_refused(model):
    with pytest.raises(ValueError, match="no_such_option"):
        get(model).options(no_such_option=1)
