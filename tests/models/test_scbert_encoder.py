"""scBERT's tokens against the original pipeline's, and its folders: what is read off them and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from official_folders import write_scbert
from scipy import sparse

from data_pipeline.errors import RequestError
from trainables.spec import get

SPEC = get("scbert")
GENES = [f"R{n}" for n in range(12)]


@pytest.fixture(scope="module")
def golden() -> dict:
    return torch.load(Path(__file__).parents[1] / "golden" / "scbert.pt", weights_only=True)["inputs"]


@pytest.fixture
def listed(golden, tmp_path) -> Path:
    """A folder with the golden gene list alone: an encoder needs no more."""
    (tmp_path / "genes.txt").write_text("\n".join(golden["ref_genes"]))
    return tmp_path


def cells_of(golden: dict) -> sparse.csr_matrix:
    return sparse.csr_matrix(golden["counts"].numpy())


def tokens_of(encoded) -> np.ndarray:
    return encoded.ids.reshape(len(encoded), -1)


def test_golden_tokens_in_the_order_of_the_list(golden, listed):
    encoder, counts = SPEC.encoder(golden["genes"], listed), cells_of(golden)
    encoded = encoder(counts, np.random.default_rng(0))
    assert encoded.ids.dtype == np.uint8 and encoded.values is None
    assert np.array_equal(tokens_of(encoded), golden["tokens"].numpy())
    np.testing.assert_allclose(encoder.values(counts).toarray(), golden["X"].numpy(), atol=1e-6)
    assert SPEC.collate(encoded, np.array([3, 0]))["tokens"].tolist() == golden["tokens"][[3, 0]].tolist()


def test_totals_over_all_measured_genes_give_the_same_tokens(golden, listed):
    """Counts per 10,000 refer to the listed genes: those of other columns go off the total."""
    encoder, counts = SPEC.encoder(golden["genes"], listed), cells_of(golden)
    totals = np.asarray(counts.sum(1)).ravel()
    assert encoder.coverage["known"] < len(golden["genes"])
    assert np.array_equal(encoder(counts, None, totals).ids, encoder(counts, None).ids)
    assert not np.array_equal(encoder(counts, None, 3 * totals).ids, encoder(counts, None).ids)


def test_cells_under_200_genes_are_named_as_upstream_names_them(golden, listed):
    kept = SPEC.encoder(golden["genes"], listed).enough_genes(cells_of(golden))
    assert not kept.all()
    assert [cell for cell, is_kept in zip(golden["cells"], kept, strict=True) if is_kept] == golden["kept_min200"]


def test_an_empty_cell_is_all_zeros_and_no_cell_depends_on_its_neighbours(listed, golden):
    encoder, counts = SPEC.encoder(golden["genes"], listed), cells_of(golden).tolil()
    counts[2] = 0
    tokens = tokens_of(encoder(counts.tocsr(), None))
    assert not tokens[2].any()
    assert np.array_equal(tokens[[0, 1, 3]], golden["tokens"].numpy()[[0, 1, 3]])


@pytest.mark.parametrize("gene_set", ["list", "dataset"])
def test_two_columns_for_one_gene_are_added_up_and_named(tmp_path, gene_set):
    folder = write_scbert(tmp_path, GENES)
    encoder = SPEC.encoder(["R1", "R0", "new", "R1"], folder, gene_set=gene_set)
    alone = SPEC.encoder(["R1", "R0", "new"], folder, gene_set=gene_set)
    counts, added = [[3.0, 900.0, 97.0, 9.0], [5.0, 0.0, 0.0, 0.0]], [[12.0, 900.0, 97.0], [5.0, 0.0, 0.0]]
    for totals in (None, np.array([5000.0, 10.0])):
        tokens = tokens_of(encoder(sparse.csr_matrix(counts), None, totals))
        assert np.array_equal(tokens, tokens_of(alone(sparse.csr_matrix(added), None, totals)))
    assert encoder.coverage["added_up"] == 1 and encoder.coverage["together"] == [["R1", "R1"]]
    assert encoder.identity != alone.identity


def test_ensembl_ids_are_looked_up_or_refused(tmp_path):
    import pickle

    folder, ids = write_scbert(tmp_path, GENES), [f"ENSG{n:011d}.{n + 1}" for n in range(12)]
    with pytest.raises(RequestError, match="are Ensembl ids .ENSG00000000000.1, .*gene_names"):
        SPEC.encoder(ids, folder)
    names = {"older": ids[4].split(".")[0]} | {gene: ids[n].split(".")[0] for n, gene in enumerate(GENES)}
    (folder / "gene_name_id_dict_gc104M.pkl").write_bytes(pickle.dumps(names))
    assert SPEC.encoder(ids[::-1], folder).places.tolist() == list(range(11, -1, -1))


def test_a_gene_list_saved_on_windows_is_read_whole(tmp_path):
    folder = write_scbert(tmp_path, GENES)
    (folder / "genes.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(GENES).encode())
    assert SPEC.encoder(GENES, folder).coverage["known"] == len(GENES)


def test_other_genes_are_refused_with_the_share_and_the_way_out(tmp_path):
    folder = write_scbert(tmp_path, GENES)
    strange = ["R1", *(f"mouse{n}" for n in range(19))]
    with pytest.raises(RequestError, match=r"only 1 of 20 genes \(5%; R1, mouse0, mouse1, ...\).*10% are needed"):
        SPEC.encoder(strange, folder)
    assert SPEC.encoder(strange, folder, min_coverage=0.05).coverage["share"] == 0.05


# --- from gene list to network


def test_weights_are_read_off_the_folder_and_only_the_head_stays_random(tmp_path):
    folder = write_scbert(tmp_path, GENES, depth=4, heads=3)
    network = SPEC.build(5, folder)
    saved = torch.load(folder / "panglao_pretrain.pth", weights_only=True)["model_state_dict"]
    saved = {name.removeprefix("module."): tensor for name, tensor in saved.items()}
    state = network.state_dict()
    assert network.fresh == [name for name in state if name.startswith("to_out.")] and len(network.fresh) == 8
    for name in state.keys() - set(network.fresh):
        assert torch.equal(state[name], saved[name]), name
    assert len(network.performer.net.layers) == 4 and network.performer.net.layers[0][0].fn.heads == 3
    encoder = SPEC.encoder(GENES[::-1], folder)
    batch = SPEC.collate(encoder(sparse.csr_matrix(np.eye(12)), None), np.arange(3))
    assert network(**batch).shape == (3, 5)


def test_selected_genes_take_their_own_gene_vectors_along(tmp_path):
    folder = write_scbert(tmp_path, GENES)
    encoder = SPEC.encoder(["R7", "new", "R2"], folder, gene_set="dataset")
    table = np.load(folder / "gene2vec_16906.npy")
    network = SPEC.build(2, folder, gene_set="dataset", **encoder.network_options)
    np.testing.assert_array_equal(network.pos_emb.emb.weight.numpy(), np.vstack([table[[7, 2]], np.zeros((1, 6))]))
    tokens = tokens_of(encoder(sparse.csr_matrix([[0.0, 5.0, 3.0]]), None))
    assert tokens.tolist() == [[0, 5, 0]] and network(torch.from_numpy(tokens.astype(np.int64))).shape == (1, 2)


def test_the_published_misalignment_takes_gene_vectors_by_position(tmp_path):
    folder = write_scbert(tmp_path, GENES)
    encoder = SPEC.encoder(["R7", "new", "R2"], folder, misaligned_gene2vec=True)
    network = SPEC.build(2, folder, misaligned_gene2vec=True, **encoder.network_options)
    table = np.load(folder / "gene2vec_16906.npy")
    np.testing.assert_array_equal(network.pos_emb.emb.weight.numpy(), table[:4])  # the extra token gets gene 3's
    assert tokens_of(encoder(sparse.csr_matrix([[0.0, 5.0, 0.0]]), None)).tolist() == [[0, 5, 0, 0]]
    with pytest.raises(RequestError, match="14 genes, 12 vectors"):
        SPEC.encoder([*GENES, "a", "b"], folder, misaligned_gene2vec=True)


def test_the_published_double_log_flattens_the_tokens():
    counts = sparse.csr_matrix(np.array([[1.0, 20.0, 400.0, 9579.0]]))
    plain, twice = (SPEC.encoder(list("abcd"), double_log=double) for double in (False, True))
    assert tokens_of(plain(counts, None)).tolist() == [[1, 4, 5, 5, 0]]
    logged = np.log1p(counts.toarray())
    expected = np.minimum(np.log2(1 + logged / logged.sum() * 1e4), 5).astype(int)
    assert tokens_of(twice(counts, None))[0, :4].tolist() == expected[0].tolist() == [5, 5, 5, 5]
    assert plain.identity != twice.identity


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _change(folder: Path, change) -> None:
    saved = torch.load(folder / "panglao_pretrain.pth", weights_only=True)["model_state_dict"]
    torch.save(change(saved), folder / "panglao_pretrain.pth")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "gene2vec_16906.npy").unlink(), "gene2vec_16906.npy is missing; it is linked from the README"),
        (lambda f: (f / "genes.txt").unlink(), "genes.txt or panglao_10000.h5ad is missing; panglao_10000.h5ad is"),
        (lambda f: _cut(f / "panglao_pretrain.pth"), "panglao_pretrain.pth: damaged or cut off"),
        (lambda f: _change(f, lambda s: {n: t for n, t in s.items() if "to_k" not in n}), "lacks 3 of"),
        (lambda f: _change(f, lambda s: s | {"module.norm.weight": torch.zeros(9)}), "norm.weight is [9] in the"),
        (lambda f: _change(f, lambda s: {"bert.pooler": torch.zeros(2)}), "not scBERT's weights"),
        (lambda f: (f / "genes.txt").write_text("R0\nR1\n"), "2 genes"),
    ],
)
def test_a_spoilt_folder_is_refused_with_the_file_and_the_reason(tmp_path, spoil, words):
    folder = write_scbert(tmp_path, GENES)
    spoil(folder)
    with pytest.raises(RequestError) as refusal:
        SPEC.build(2, folder)
    assert words in str(refusal.value) and str(folder) in str(refusal.value)
