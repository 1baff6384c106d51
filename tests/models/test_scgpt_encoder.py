"""scGPT's encoder against upstream's bins and tokens, bit for bit, and what it does with genes it doesn't know."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from scgpt_folder import write_folder
from scipy import sparse

from data_pipeline.errors import RequestError
from trainables.models.scgpt import encoder as encoding
from trainables.spec import get

GOLDEN = Path(__file__).parents[1] / "golden"
SPEC = get("scgpt")


@pytest.fixture(scope="module")
def inputs() -> dict:
    return torch.load(GOLDEN / "scgpt_inputs.pt", weights_only=True)


@pytest.mark.parametrize(
    ("case", "prepare"),
    [
        ("raw_log1p_dense", encoding.log_normalised),
        ("normed_nolog_csr", encoding.normalised),
        ("nonorm_n_bins11", lambda counts, offsets: counts),
    ],
)
def test_golden_bins_bit_for_bit(inputs, case, prepare):
    wanted, counts = inputs[case], sparse.csr_matrix(inputs["counts"].numpy())
    offsets = counts.indptr.astype(np.int64)
    generator = np.random.RandomState(wanted["np_random_seed"])
    bins = encoding.bin_values(prepare(counts.data, offsets), offsets, wanted["n_bins"], generator.random)
    np.testing.assert_array_equal(bins, wanted["binned"].numpy()[counts.nonzero()])
    assert generator.rand() == wanted["next_rand"]  # as many draws as upstream, none for the empty cell


def test_golden_normalisation(inputs):
    counts = sparse.csr_matrix(inputs["counts"].numpy())
    offsets, places = counts.indptr.astype(np.int64), counts.nonzero()
    wanted = inputs["normed_nolog_csr"]["X_normed"].numpy()[places]
    np.testing.assert_array_equal(encoding.normalised(counts.data, offsets), wanted)
    logged = encoding.log_normalised(counts.data, offsets)
    np.testing.assert_allclose(logged, inputs["raw_log1p_dense"]["X_log1p"].numpy()[places], rtol=1e-7)


@pytest.mark.parametrize("case", ["tok_max3001", "tok_max12", "tok_max3001_zero", "tok_max10_zero"])
def test_golden_tokens(inputs, case):
    wanted = inputs[case]
    encoder = SPEC.encoder(inputs["genes"], max_length=wanted["max_len"], include_zero=wanted["include_zero_gene"])
    bins = sparse.csr_matrix(inputs["raw_log1p_dense"]["binned"].numpy())
    tokens = encoder.tokens(bins, np.random.RandomState(wanted["np_random_seed"]))
    pad = inputs["vocab"]["<pad>"]
    for cell, (ids, values) in enumerate(zip(wanted["genes"].numpy(), wanted["values"].numpy(), strict=True)):
        here = slice(*tokens.offsets[cell : cell + 2])
        np.testing.assert_array_equal(tokens.ids[here], ids[ids != pad])
        np.testing.assert_array_equal(tokens.values[here], values[ids != pad])


def test_whole_encoder_is_binning_then_tokens(inputs):
    """One legacy generator through both steps, as in upstream's script; cells 3 (empty) and 5 (one gene) included."""
    encoder = SPEC.encoder(inputs["genes"], max_length=12)
    generator = np.random.RandomState(123)
    encoded = encoder(sparse.csr_matrix(inputs["counts"].numpy()), generator)
    replay = np.random.RandomState(123)
    replay.rand(int((inputs["counts"] > 0).sum()))
    bins = sparse.csr_matrix(inputs["raw_log1p_dense"]["binned"].numpy())
    wanted = encoder.tokens(bins, replay)
    np.testing.assert_array_equal(encoded.ids, wanted.ids)
    np.testing.assert_array_equal(encoded.values, wanted.values)
    assert encoded.lengths.tolist() == [12, 12, 12, 1, 12, 2, 12]


def test_bins_stay_between_the_edges_they_equal(rng):
    """For any generator: upstream's deterministic bound, and a value that equals no edge has but one bin."""
    values = np.log1p(rng.integers(1, 5, 300)).astype(np.float32)
    bins = encoding.bin_values(values, np.array([0, 300]), 51, rng.random)
    edges = np.quantile(values, np.linspace(0, 1, 50))
    assert (np.digitize(values, edges, right=True) + 1 <= bins).all() and (bins <= np.digitize(values, edges)).all()
    assert bins.min() >= 1 and bins.max() <= 50 and len(set(bins[values == values.min()])) > 1


def test_edges_equal_numpy_quantile_for_any_row(rng):
    rows = [rng.gamma(1, 3, size).astype(np.float32) for size in (1, 2, 3, 49, 50, 51, 700)]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    edges = encoding.edges_of(np.concatenate([np.sort(row) for row in rows]), offsets, 51)
    for row, found in zip(rows, edges, strict=True):
        np.testing.assert_array_equal(found, np.quantile(row, np.linspace(0, 1, 50)))


def cells_with_ties(num_cells: int = 600, num_genes: int = 80, seed: int = 0) -> sparse.csr_matrix:
    """Return counts of which most are 1, so that most bins are drawn."""
    return sparse.csr_matrix(np.random.default_rng(seed).poisson(0.7, (num_cells, num_genes)).astype(np.float32))


def test_a_cells_tokens_are_its_own_wherever_it_stands(rng):
    """Bins were drawn by position: a file in another order, or other blocks, gave its cells other inputs."""
    counts, encoder = cells_with_ties(), SPEC.encoder([f"g{n}" for n in range(80)], max_length=30)
    whole = encoder(counts, np.random.default_rng(0))
    assert (whole.lengths == 30).any() and (whole.lengths < 30).any()
    order = rng.permutation(counts.shape[0])
    shuffled = encoder(counts[order], np.random.default_rng(1)).take(np.argsort(order))
    alone = [encoder(counts[cell]) for cell in range(counts.shape[0])]
    for found in (shuffled, encoding.concatenate(alone)):
        assert np.array_equal(found.ids, whole.ids) and np.array_equal(found.values, whole.values)


def test_the_order_of_the_genes_in_the_file_changes_no_bin(tmp_path, rng):
    genes = [f"g{n}" for n in range(80)]
    counts, folder, order = cells_with_ties(50), write_folder(tmp_path, genes), rng.permutation(80)
    one, other = SPEC.encoder(genes, folder)(counts), SPEC.encoder([genes[n] for n in order], folder)(counts[:, order])
    for cell in range(50):
        here = slice(*one.offsets[cell : cell + 2])
        assert dict(zip(one.ids[here], one.values[here], strict=True)) == dict(
            zip(other.ids[here], other.values[here], strict=True)
        )


def test_draws_are_even_independent_and_new_for_another_cell_or_draw():
    counts, encoder = cells_with_ties(4000), SPEC.encoder([f"g{n}" for n in range(80)])
    shares = encoder._shares(counts, counts.indptr.astype(np.int64))
    assert shares.min() >= 0 and shares.max() < 1
    found = np.histogram(shares, 50, (0, 1))[0]
    assert ((found - found.mean()) ** 2 / found.mean()).sum() < 90  # chi-square, 49 degrees of freedom: 1 in 3,000
    by_gene = np.zeros((4000, 80))
    by_gene[counts.nonzero()] = shares - 0.5
    assert np.abs(np.corrcoef(by_gene.T) - np.eye(80)).max() < 0.12  # 0.016 is the standard error
    changed = counts[:1].copy()
    changed.data[0] += 1
    again = encoder._shares(changed, changed.indptr.astype(np.int64))
    assert (again != shares[: len(again)]).mean() > 0.99
    first, second = encoder(counts[:100]), encoder.redrawn(1)(counts[:100])
    assert np.array_equal(first.ids, second.ids) and (first.values != second.values).mean() > 0.3
    assert not np.array_equal(encoder.redrawn(9)(counts[:100]).values, second.values)
    assert encoder.redrawn(1).identity != encoder.identity == encoder.redrawn(0).identity


def test_unknown_genes_are_left_out_before_totals(tmp_path):
    folder = write_folder(tmp_path, ["A", "B", "C"])
    encoder = SPEC.encoder(["X", "B", "A"], folder)
    with_x = encoder(sparse.csr_matrix([[900.0, 3, 1]]), np.random.default_rng(0))
    without = encoder(sparse.csr_matrix([[0.0, 3, 1]]), np.random.default_rng(0))
    assert with_x.ids.tolist() == without.ids.tolist() == [4, 1, 0]
    assert with_x.values.tolist() == without.values.tolist()
    assert encoder.coverage["known"] == 2 and "X" in encoder.coverage["unknown"]


def test_symbols_are_matched_with_their_case(tmp_path):
    folder, mouse = write_folder(tmp_path, ["A", "B"]), ["A", *(f"mouse{number}" for number in range(19))]
    with pytest.raises(RequestError, match="only 0 of 2 genes .0%; a, b, .* scGPT's vocabulary .*gene_names"):
        SPEC.encoder(["a", "b"], folder)
    with pytest.raises(RequestError, match="only 1 of 20 genes .5%; .* 10% are needed; .*, or lower min_coverage"):
        SPEC.encoder(mouse, folder)
    assert SPEC.encoder(mouse, folder, min_coverage=0.05).coverage["share"] == 0.05


def test_negative_counts_are_refused():
    encoder = SPEC.encoder(["A", "B"])
    with pytest.raises(RequestError, match="negative"):
        encoder(sparse.csr_matrix([[1.0, -1.0]]), np.random.default_rng(0))


def test_stored_zeros_and_unsorted_columns_change_nothing():
    encoder = SPEC.encoder(["A", "B", "C"])
    messy = sparse.csr_matrix((np.float32([2, 0, 7]), np.array([2, 1, 0]), np.array([0, 3])), (1, 3))
    tidy = sparse.csr_matrix([[7.0, 0, 2]])
    first, second = (encoder(counts, np.random.RandomState(1)) for counts in (messy, tidy))
    assert first.ids.tolist() == second.ids.tolist() and first.values.tolist() == second.values.tolist()
    assert messy.data.tolist() == [2, 0, 7]  # the caller's counts are left alone


def test_identity_follows_vocabulary_and_options(tmp_path):
    base = SPEC.encoder(["A", "B"]).identity
    assert base == SPEC.encoder(["A", "B"]).identity and json.dumps(base)
    others = [SPEC.encoder(["A", "B"], n_bins=11), SPEC.encoder(["A", "B"], max_length=9)]
    others += [
        SPEC.encoder(["A", "B"], include_zero=True),
        SPEC.encoder(["B", "A"], write_folder(tmp_path, ["A", "B"])),
    ]
    others += [SPEC.encoder(["B", "C", "A"])]
    identities = [json.dumps(other.identity) for other in others]
    assert len({json.dumps(base), *identities}) == 6


def test_ensembl_ids_need_a_dictionary(tmp_path, shared):
    folder, genes = write_folder(tmp_path, ["CD3E", "MS4A1"]), ["ENSG00000198851.3", "ENSG00000156738"]
    with pytest.raises(RequestError, match="gene_name_id_dict"):
        SPEC.encoder(genes, folder)
    source = shared / "vocab" / "geneformer" / "gene_name_id_dict_gc95M.pkl"
    (folder / source.name).write_bytes(source.read_bytes())
    assert SPEC.encoder(genes, folder).ids.tolist() == [0, 1]


def test_the_wheels_census_vocabulary_covers_real_data(shared, zheng11, tmp_path):
    found = find_spec("scgpt")
    if found is None:
        pytest.skip("the scgpt wheel isn't installed")
    anndata = pytest.importorskip("anndata")
    census = Path(found.origin).parent / "tokenizer" / "default_census_vocab.json"
    (tmp_path / "vocab.json").write_text(census.read_text())
    encoder = SPEC.encoder(list(anndata.read_h5ad(zheng11, backed="r").var_names), tmp_path)
    assert encoder.network_options["num_tokens"] == 60_697 and encoder.cls == 60_695
    assert 0.85 < encoder.coverage["share"] < 0.95
