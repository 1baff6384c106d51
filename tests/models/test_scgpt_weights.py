"""Folders in scGPT's official layout: what is read off them, what stays random, and what is refused."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from scgpt_folder import folder_args, write_folder
from scipy import sparse

from data_pipeline.errors import RequestError
from trainables.models.scgpt.model import HEAD
from trainables.spec import get

SPEC = get("scgpt")


def test_weights_are_read_off_the_folder_and_only_the_head_stays_random(tmp_path):
    folder = write_folder(tmp_path, ["A", "B", "C"], n_cls=9)
    network = SPEC.build(4, folder)
    saved = SPEC.convert(torch.load(folder / "best_model.pt", weights_only=True))
    for name, tensor in network.state_dict().items():
        assert name.startswith(HEAD) or torch.equal(tensor, saved[name]), name
    assert network.fresh == [name for name in network.state_dict() if name.startswith(HEAD)]
    assert not torch.equal(network.cls_decoder._decoder[0].weight, saved["cls_decoder._decoder.0.weight"])
    encoder = SPEC.encoder(["C", "A"], folder)
    encoded = encoder(sparse.csr_matrix([[1.0, 2.0]]), np.random.default_rng(0))
    assert network(**SPEC.collate(encoded, np.array([0]))).shape == (1, 4)


def test_attention_that_cannot_be_renamed_is_refused(tmp_path):
    """The trap of loading by name and shape: attention would silently stay random."""
    folder = write_folder(tmp_path, ["A"])
    state = torch.load(folder / "best_model.pt", weights_only=True)
    lost = {name.replace("Wqkv", "packed_qkv"): tensor for name, tensor in state.items()}
    torch.save(lost, folder / "best_model.pt")
    with pytest.raises(RequestError, match="packed_qkv"):
        SPEC.build(2, folder)
    torch.save({name: tensor for name, tensor in state.items() if "Wqkv" not in name}, folder / "best_model.pt")
    with pytest.raises(RequestError, match="self_attn.Wqkv.weight"):
        SPEC.build(2, folder)


def test_missing_special_tokens_get_rows_of_their_own(tmp_path):
    folder = write_folder(tmp_path, ["A", "B"], special=())
    assert SPEC.encoder(["B", "A"], folder).cls == 3
    network = SPEC.build(2, folder)
    saved = torch.load(folder / "best_model.pt", weights_only=True)["encoder.embedding.weight"]
    assert len(saved) == 2 and network.encoder.embedding.weight.shape[0] == 5
    assert torch.equal(network.encoder.embedding.weight[:2], saved)
    assert [name for name in network.fresh if "[" in name] == [
        f"encoder.embedding.weight[{token}]" for token in ("<pad>", "<cls>", "<eoc>")
    ]


@pytest.mark.parametrize(
    ("special", "rows", "named"),
    [((), 1, "1 beyond them (B)"), (("<pad>", "<cls>", "<eoc>"), 3, "2 beyond them (<cls>")],
)
def test_a_table_that_ends_before_its_vocabulary_is_refused(tmp_path, special, rows, named):
    folder = write_folder(tmp_path, ["A", "B"], special=special)
    state = torch.load(folder / "best_model.pt", weights_only=True)
    state["encoder.embedding.weight"] = state["encoder.embedding.weight"][:rows]
    torch.save(state, folder / "best_model.pt")
    with pytest.raises(RequestError) as refusal:
        SPEC.build(2, folder)
    assert named in str(refusal.value) and f"has {rows} rows for tokens" in str(refusal.value)


def test_two_ensembl_ids_of_one_symbol_are_added_up_and_named(tmp_path):
    ids = ["ENSG00000000003", "ENSG00000000005.2", "ENSG00000000007"]
    folder = write_folder(tmp_path, ["A", "B"])
    names = {"A": "ENSG00000000003", "B": "ENSG00000000005", "A-1": "ENSG00000000007"}
    (folder / "gene_name_id_dict.pkl").write_bytes(pickle.dumps(names))
    assert SPEC.encoder(ids, folder).coverage["added_up"] == 0
    (folder / "vocab.json").write_text(json.dumps({"A": 0, "B": 1, "<pad>": 2, "<cls>": 3, "<eoc>": 4}))
    twice = SPEC.encoder(["A", "B", "A"], folder)
    once = SPEC.encoder(["A", "B"], folder)
    counts, added = sparse.csr_matrix([[2.0, 4.0, 3.0], [0.0, 1.0, 2.0]]), sparse.csr_matrix([[5.0, 4.0], [2.0, 1.0]])
    found, wanted = twice(counts), once(added)
    for part in ("ids", "values", "offsets"):
        assert np.array_equal(getattr(found, part), getattr(wanted, part))
    assert twice.coverage["together"] == [["A", "A"]] and twice.identity != once.identity


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda folder: (folder / "vocab.json").unlink(),
            "vocab.json is missing; download the whole-human folder from https://",
        ),
        (lambda folder: (folder / "args.json").write_text('{"embsize": 8'), "args.json: damaged or cut off"),
        (lambda folder: (folder / "args.json").write_text("{}"), "args.json: nlayers is missing"),
        (lambda folder: (folder / "vocab.json").write_text('{"A": 0, "B": 0}'), "a number of its own"),
        (lambda folder: _cut_file(folder / "best_model.pt"), "damaged or cut off"),
        (lambda folder: _other_args(folder, nlayers=3), "layers.2"),
        (lambda folder: _other_args(folder, nlayers=1), "1 layers doesn't have"),
        (lambda folder: _other_args(folder, embsize=16), "in the checkpoint"),
        (lambda folder: _other_args(folder, nheads=3), "isn't a multiple of nheads 3"),
        (lambda folder: _other_args(folder, nheads=0), "nheads is missing, or no whole number from 1 on"),
        (lambda folder: _other_args(folder, dropout="x"), "args.json: dropout: Input should be a valid number"),
        (lambda folder: _other_args(folder, n_layers_cls=0), "args.json: n_layers_cls: Input should be greater than"),
    ],
)
def test_a_spoilt_folder_is_refused_with_the_file_and_the_reason(tmp_path, spoil, words):
    folder = write_folder(tmp_path, ["A", "B"])
    spoil(folder)
    with pytest.raises(RequestError) as refusal:
        SPEC.build(2, folder)
    assert words in str(refusal.value) and str(folder) in str(refusal.value)


def _cut_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _other_args(folder: Path, **changes: int) -> None:
    (folder / "args.json").write_text(json.dumps(folder_args() | changes))


def test_another_models_folder_is_refused(tmp_path):
    (tmp_path / "panglao_pretrain.pth").write_bytes(b"")
    with pytest.raises(RequestError, match="scbert"):
        SPEC.build(2, tmp_path)


def test_sizes_cannot_be_set_against_the_weights(tmp_path):
    with pytest.raises(RequestError, match="width: the weights .* fix it"):
        SPEC.build(2, write_folder(tmp_path, ["A"]), width=64)


@pytest.mark.slow
def test_a_folder_of_the_official_size_loads_within_two_and_a_half_times_its_size(tmp_path):
    """51 million parameters: 205 MB on disk beside the pre-training heads; pytest -s shows the peak."""
    genes = [f"G{number}" for number in range(60_694)]
    args = folder_args(embsize=512, nheads=8, d_hid=512, nlayers=12, dropout=0.2)
    folder = write_folder(tmp_path, genes, args=args)
    size = (folder / "best_model.pt").stat().st_size
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    network = SPEC.build(10, folder)
    peak = _resident("VmHWM") - before
    print(f"peak memory while loading: {peak / 1e9:.2f} GB")
    assert 50e6 < sum(parameter.numel() for parameter in network.parameters()) < 51e6
    assert peak < 2.5 * size, f"{peak / 1e9:.2f} GB for a file of {size / 1e9:.2f} GB"


def _resident(kind: str) -> int:
    """This process's memory in bytes: VmRSS now, VmHWM the most since the mark was last reset."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith(kind)).split()[1]) * 1024
