"""Geneformer's ranks against the original pipeline's tokens, its vocabularies, and its folders."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from official_folders import write_dictionaries, write_geneformer
from scipy import sparse

from data_pipeline.errors import RequestError
from trainables.spec import get

SPEC = get("geneformer")
IDS = [f"ENSG{n:011d}" for n in range(10)]
RUNS = ["v2", "v2_len12", "v1cfg", "v1cfg_len10", "v1release"]


@pytest.fixture(scope="module")
def golden() -> dict:
    return torch.load(Path(__file__).parents[1] / "golden" / "geneformer.pt", weights_only=True)["inputs"]


def lists_of(encoded) -> list[list[int]]:
    return [part.tolist() for part in np.split(encoded.ids, encoded.offsets[1:-1])]


def folder_of(golden: dict, version: str, parent: Path) -> Path:
    for name, content in (("token_dictionary", f"token_dict_{version}"), ("gene_median_dictionary", "medians")):
        (parent / f"{name}_gc1M.pkl").write_bytes(pickle.dumps(golden[content]))
    return parent


# --- tokens


@pytest.mark.parametrize("layout", ["sparse", "dense"])
@pytest.mark.parametrize("run", RUNS)
def test_golden_tokens(golden, tmp_path, run, layout):
    expected, version = golden[f"{run}_{layout}"], run[:2]
    longest = {} if "len" not in run else {"max_length": expected["model_input_size"]}
    encoder = SPEC.encoder(golden["ensembl_ids"], folder_of(golden, version, tmp_path), **longest)
    encoded = encoder(sparse.csr_matrix(golden["counts"].numpy()), None, golden["n_counts"].numpy())
    found = lists_of(encoded)
    empty = [2, 3] if version == "v2" else []
    assert empty in found  # a cell without known genes: upstream drops it but for the release of V1, we keep the order
    if run != "v1release":
        found.remove(empty)
    assert found == [list(tokens) for tokens in expected["input_ids"]]
    assert encoded.ids.dtype == np.uint16


def test_ranks_of_equal_values_are_in_gene_order(golden):
    """Upstream's sort isn't stable, so that any order within ties would do; ours is always the same."""
    ties = golden["rank_with_ties"]
    vector = ties["vector"].numpy()
    encoder = SPEC.encoder(list("abcdefg"), model_version="V1")
    ranked = lists_of(encoder(sparse.csr_matrix(vector), None))[0]
    by_hand = sorted(np.flatnonzero(vector), key=lambda column: (-vector[column], column))
    assert ranked == [2 + column for column in by_hand]
    upstream = ties["tokenize_cell"].numpy() - 10
    assert vector[upstream].tolist() == vector[np.array(ranked) - 2].tolist()


def test_totals_cancel_within_a_cell_but_medians_do_not():
    counts = sparse.csr_matrix([[4.0, 3.0, 0.0, 2.0]])
    plain = SPEC.encoder(list("abcd"), model_version="V1")
    assert lists_of(plain(counts, None)) == lists_of(plain(counts, None, np.array([1e6]))) == [[2, 3, 5]]
    scaled = SPEC.encoder(list("abcd"), medians=[4.0, 1.5, 1.0, 0.5], model_version="V1")
    assert lists_of(scaled(counts, None)) == [[5, 3, 2]]
    assert scaled.identity != plain.identity


def test_the_published_column_tokens(golden):
    """Ties in the notebook's order are pandas' quicksort's: tokens may be permuted within equal values."""
    encoder = SPEC.encoder(golden["ensembl_ids"], column_tokens=True, max_length=2048)
    counts = golden["counts"].numpy()
    found = lists_of(encoder(sparse.csr_matrix(counts), None))
    for cell, ours, theirs in zip(counts, found, golden["seed_notebook_tokens"]["input_ids"], strict=True):
        assert sorted(ours) == sorted(theirs) and cell[ours].tolist() == cell[list(theirs)].tolist()
    first_two = sparse.csr_matrix(([1.0, 2.0], ([0, 0], [0, 1])), shape=(1, len(counts[0])))
    assert lists_of(encoder(first_two, None)) == [[1, 0]]  # <mask> and <pad> taken for genes


def test_column_tokens_past_the_vocabulary_are_refused(tmp_path):
    folder = write_geneformer(tmp_path, IDS, "V1")
    with pytest.raises(RequestError, match="each of 20 genes its column as token, but only 12 tokens exist"):
        SPEC.encoder(IDS + [f"x{n}" for n in range(10)], folder, column_tokens=True)


def test_fitted_medians_are_those_of_the_non_zero_values_per_10000():
    counts = np.random.default_rng(0).poisson(0.7, (50, 8)).astype(np.float32)
    counts[:, 3] = 0
    totals = counts.sum(1) + 5
    blocks = [(sparse.csr_matrix(counts[a : a + 20]), totals[a : a + 20]) for a in (0, 20, 40)]
    fitted = SPEC.fit_encoder(blocks, list("abcdefgh"))["medians"]
    shares = counts / totals[:, None] * 1e4
    expected = [np.median(column[column > 0]) if column.any() else 0.0 for column in shares.T]
    np.testing.assert_allclose(fitted, expected, rtol=1e-6)
    encoder = SPEC.encoder(list("abcdefgh"), medians=fitted)
    assert encoder.coverage["unknown"] == ["d"] and encoder.network_options["num_tokens"] == 12
    json.dumps(fitted)


def test_medians_of_many_cells_come_from_every_second_or_fourth(monkeypatch):
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(2.0, (80, 5)).astype(np.float32))
    totals = np.full(80, 10.0)
    blocks = [(counts[a : a + 9], totals[a : a + 9]) for a in range(0, 80, 9)]
    monkeypatch.setattr("trainables.models.geneformer.medians.FIT_VALUES", counts[::4].nnz + 20)
    assert counts[::2].nnz > counts[::4].nnz + 20
    assert SPEC.fit_encoder(blocks, list("abcde")) == SPEC.fit_encoder([(counts[::4], totals[::4])], list("abcde"))
    assert SPEC.fit_encoder([], list("ab")) == {"medians": [0.0, 0.0]}


# --- vocabularies


def test_columns_of_one_gene_are_summed_under_all_its_names(tmp_path):
    folder = write_geneformer(tmp_path, IDS, "V2")
    encoder = SPEC.encoder([IDS[3], "G1", "OLD3", "ENSG00000000005.7", "old1", "nobody"], folder)
    assert encoder.places.tolist() == [0, 1, 0, 2, 1, -1] and encoder.coverage["known"] == 5
    counts = sparse.csr_matrix(
        [[1.0, 4.0, 4.0, 4.0, 0.0, 9.0]]
    )  # per median: gene 3 5 / 1.3, gene 1 4 / 1.1, gene 5 4 / 1.5
    assert lists_of(encoder(counts, None)) == [[2, 4 + 3, 4 + 1, 4 + 5, 3]]


@pytest.mark.parametrize(("version", "longest", "num_tokens"), [("V1", 2048, 25426), ("V2", 4096, 20275)])
def test_the_real_dictionaries_of_both_versions(shared, version, longest, num_tokens):
    folder = shared / "vocab" / "geneformer"  # both versions' files lie in it
    genes = ["ENSG00000139618.19", "CD3E", "MS4A1", "NKG7", "no_such_gene"]
    encoder = SPEC.encoder(genes, folder, model_version=version)
    assert encoder.coverage["unknown"] == ["no_such_gene"]
    assert encoder.network_options == {"num_tokens": num_tokens, "num_positions": longest}
    encoded = encoder(sparse.csr_matrix([[0.0, 2.0, 1.0, 0.0, 7.0]]), None)
    assert len(encoded.ids) == (2 if version == "V1" else 4)


def test_dictionaries_may_lie_as_in_a_clone_of_the_repository(tmp_path):
    folder = write_geneformer(tmp_path, IDS, "V2")
    beside = tmp_path / "geneformer"
    beside.mkdir()
    for path in folder.glob("*.pkl"):
        path.rename(beside / path.name)
    (beside / "gene_dictionaries_30m").mkdir()
    write_dictionaries(beside / "gene_dictionaries_30m", IDS[:4], "V1")
    assert SPEC.encoder(IDS, folder).network_options["num_tokens"] == 14
    with pytest.raises(
        RequestError, match=r"no token dictionary V1 of 14 tokens .config.json.; found .*gc30M.pkl \(V1, 6"
    ):
        SPEC.encoder(IDS, folder, model_version="V1")


def test_strange_genes_and_impossible_lengths_are_refused(tmp_path):
    folder = write_geneformer(tmp_path, IDS)
    with pytest.raises(RequestError, match=r"only 0 of 2 genes \(0%; a, b, ...\) are in Geneformer's vocabulary"):
        SPEC.encoder(["a", "b"], folder)
    with pytest.raises(RequestError, match="max_length 33: these weights read 32 tokens"):
        SPEC.encoder(IDS, folder, max_length=33)


# --- from dictionaries to network


@pytest.mark.parametrize("version", ["V1", "V2"])
@pytest.mark.parametrize("safetensors", [True, False])
def test_an_mlm_checkpoint_fills_everything_but_pooler_and_classifier(tmp_path, version, safetensors):
    folder = write_geneformer(tmp_path, IDS, version, safetensors=safetensors)
    encoder = SPEC.encoder(IDS, folder)
    network = SPEC.build(3, folder, **encoder.network_options)
    assert sorted(network.fresh) == [
        "bert.pooler.dense.bias", "bert.pooler.dense.weight", "classifier.bias", "classifier.weight",
    ]  # fmt: skip
    from trainables.weights import load_state

    saved = load_state(next(folder.glob("*model*")))
    for name in network.state_dict().keys() - set(network.fresh):
        assert torch.equal(network.state_dict()[name], saved[name]), name
    encoded = encoder(sparse.csr_matrix(np.eye(10)), None)
    assert network(**SPEC.collate(encoded, np.arange(4))).shape == (4, 3)


def _config(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(
        json.dumps({name: value for name, value in config.items() if value is not None})
    )


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json is missing; it is in the model's folder at"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors or pytorch_model.bin is missing"),
        (lambda f: _cut(f / "config.json"), "config.json: damaged or cut off"),
        (lambda f: _cut(f / "model.safetensors"), "model.safetensors: damaged or cut off"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json: holds a list, not a table of names"),
        (lambda f: _config(f, num_attention_heads=0), "num_attention_heads is missing, or no whole number from 1 on"),
        (lambda f: _config(f, hidden_size=None, vocab_size="many"), "config.json: hidden_size is missing"),
        (lambda f: _config(f, num_attention_heads=3), "isn't a multiple of num_attention_heads"),
        (lambda f: _config(f, hidden_act="swish"), "hidden_act 'swish' is unknown"),
        (lambda f: _config(f, num_hidden_layers=3), "lacks 16 of"),
        (lambda f: _config(f, num_hidden_layers=1), "weights that config.json's network doesn't have: bert.encoder"),
        (lambda f: _config(f, intermediate_size=20), "is [12, 8] in the checkpoint, [20, 8] in the network"),
        (lambda f: _config(f, vocab_size=9), "vocab_size 9 is less than the token dictionary's 14"),
    ],
)
def test_a_spoilt_folder_is_refused_with_the_file_and_the_reason(tmp_path, spoil, words):
    folder = write_geneformer(tmp_path, IDS)
    spoil(folder)
    with pytest.raises(RequestError) as refusal:
        SPEC.build(2, folder, num_tokens=14)
    assert words in str(refusal.value) and str(folder) in str(refusal.value)
