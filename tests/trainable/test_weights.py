"""Files from strangers: read without running what they bring; folders described before they are used."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from official_folders import write_geneformer, write_scbert
from safetensors.torch import save_file
from torch import nn

from data_pipeline.errors import RequestError
from trainables import weights

GENES = [f"R{n}" for n in range(12)]
IDS = [f"ENSG{n:011d}" for n in range(10)]


class Creates:
    """When unpickled, writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "hello")


# --- checkpoints


@pytest.mark.parametrize("wrapper", [None, "model_state_dict", "state_dict"])
@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "safetensors"])
def test_every_format_and_wrapping_gives_the_same_tensors(tmp_path, suffix, wrapper):
    state, path = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor(3)}, tmp_path / f"file.{suffix}"
    if suffix == "safetensors":
        save_file(state, path)
    else:
        torch.save(state if wrapper is None else {"epoch": 3, wrapper: state, "losses": [0.5]}, path)
    loaded = weights.load_state(path)
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[name], state[name]) for name in state)


def test_a_checkpoint_that_would_run_code_is_refused_and_nothing_runs(tmp_path):
    torch.save({"a": torch.ones(1), "b": Creates(tmp_path / "proof")}, tmp_path / "model.pt")
    words = "model.pt: refused, it holds more than weights: it asks for getattr to be run$"
    with pytest.raises(RequestError, match=words):
        weights.load_state(tmp_path / "model.pt")
    assert not (tmp_path / "proof").exists()
    with (tmp_path / "model.pt").open("rb") as file:  # the premise: any other reader would have run it
        assert b"write_text" in file.read()


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_cut_off_checkpoint_is_refused(tmp_path, suffix, share):
    path, state = tmp_path / f"model.{suffix}", {"a": torch.randn(100, 100)}
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(RequestError, match=f"model.{suffix}: (damaged or cut off|refused)"):
        weights.load_state(path)


@pytest.mark.parametrize("content", [[torch.ones(1)], {"a": 3}, torch.ones(2)])
def test_what_is_no_table_of_weights_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(RequestError, match="model.pt: not a table of named weights"):
        weights.load_state(tmp_path / "model.pt")


def test_what_torch_did_not_write_is_refused_without_its_advice_to_load_it_unsafely(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"<html>not found</html>")
    with pytest.raises(
        RequestError, match="model.pt: refused, it is no checkpoint that torch wrote; download it again$"
    ):
        weights.load_state(tmp_path / "model.pt")


@pytest.mark.parametrize("name", ["model.safetensors", "best_model.pt", "token_dictionary.pkl"])
def test_a_file_that_git_lfs_did_not_fetch_is_told_apart_from_a_damaged_one(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0a1b\nsize 41183536\n")
    read = weights.read_dictionary if name.endswith("pkl") else weights.load_state
    with pytest.raises(RequestError, match=f"{name}: only Git LFS's pointer to the file; run `git lfs pull`"):
        read(tmp_path / name)


def test_weights_that_are_not_numbers_are_refused():
    network = nn.Linear(2, 3)
    with pytest.raises(RequestError, match="^here: not all numbers in bias are finite: damaged; download it again$"):
        weights.fill(network, network.state_dict() | {"bias": torch.tensor([0.0, float("nan"), 1.0])}, (), "here: ")


def test_filling_reports_what_stays_random_and_refuses_all_else():
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    before = network[1].weight.clone()
    state = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    body = {name: value for name, value in state.items() if name.startswith("0.")}
    assert weights.fill(network, body | {"1.bias": torch.zeros(9), "extra": torch.ones(1)}, ("1.",)) == [
        "1.weight",
        "1.bias",
    ]
    assert torch.equal(network[1].weight, before) and not network[0].weight.any()
    with pytest.raises(
        RequestError, match=r"^here: the checkpoint lacks 2 of 4 weights of this model: 1.weight, 1.bias$"
    ):
        weights.fill(network, body, (), "here: ")
    wrong = state | {"0.weight": torch.zeros(3, 3)}
    with pytest.raises(RequestError, match=r"0.weight is \[3, 3\] in the checkpoint, \[3, 2\] in the network"):
        weights.fill(network, wrong, ("1.",))


# --- dictionaries


def test_dictionaries_of_plain_values_and_numpy_scalars_are_read(tmp_path):
    content = {
        "a": np.int16(-3),
        "b": np.float64(2.5),
        "c": 7,
        "d": 1.5,
        "e": "name",
        "f": np.float32(0.5),
        "g": np.uint8(9),
    }
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "d.pkl").write_bytes(pickle.dumps(content, protocol))
        read = weights.read_dictionary(tmp_path / "d.pkl")
        assert read == {"a": -3, "b": 2.5, "c": 7, "d": 1.5, "e": "name", "f": 0.5, "g": 9}
        assert {type(value) for value in read.values()} == {int, float, str}


def test_big_endian_numbers_keep_their_value(tmp_path):
    kind = np.dtype(">i4")
    (tmp_path / "d.pkl").write_bytes(pickle.dumps({"a": np.array([5], kind)[0]}))
    assert weights.read_dictionary(tmp_path / "d.pkl") == {"a": 5}
    reader = weights._DataType("i4")
    reader.__setstate__((3, ">", None, None, None, -1, -1, 0))
    assert weights._Scalar(reader, b"\0\0\0\5") == 5


@pytest.mark.parametrize(("name", "size"), [("token_dictionary_gc30M", 25426), ("gene_median_dictionary_gc95M", 42005)])
def test_the_official_dictionaries_are_read_as_pickle_reads_them(shared, name, size):
    read = weights.read_dictionary(shared / "vocab" / "geneformer" / f"{name}.pkl")
    assert len(read) == size and all(type(value) in (int, float) for value in read.values())
    known = {"token_dictionary_gc30M": {"<pad>": 0, "<mask>": 1, "ENSG00000000003": 2}}
    assert known.get(name, {"ENSG00000121410": 1.7629378614450941}).items() <= read.items()


def _attack(path: Path) -> list[bytes]:
    import os

    class System:
        def __reduce__(self):
            return os.system, (f"touch {path}",)

    nested = {"token": {"deep": Creates(path)}}
    by_hand = f"cbuiltins\neval\n(S'open({str(path)!r}, \"w\")'\ntR.".encode()
    rebuilt = b"cnumpy.core.multiarray\nscalar\n(cbuiltins\nexec\nS''\ntR."
    return [pickle.dumps({"a": Creates(path)}), pickle.dumps(nested), pickle.dumps({"a": System()}), by_hand, rebuilt]


@pytest.mark.parametrize("number", range(5))
def test_a_malicious_dictionary_is_refused_and_nothing_runs(tmp_path, number):
    (tmp_path / "token_dictionary.pkl").write_bytes(_attack(tmp_path / "proof")[number])
    with pytest.raises(RequestError, match="token_dictionary.pkl: refused, it asks for .* to be run"):
        weights.read_dictionary(tmp_path / "token_dictionary.pkl")
    assert not (tmp_path / "proof").exists()


def test_the_attack_would_have_worked(tmp_path):
    pickle.loads(_attack(tmp_path / "proof")[0])
    assert (tmp_path / "proof").read_text() == "hello"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps({"a": 1})[:-3], "damaged, cut off"),
        (b"", "damaged, cut off"),
        (b"not a pickle", "damaged, cut off"),
        (pickle.dumps([1, 2]), "holds a list, not a dictionary"),
        (pickle.dumps({"a": [1]}), "this one holds other things"),
        (pickle.dumps({3: "a"}), "this one holds other things"),
        (pickle.dumps({"a": np.array(["x"])[0]}), "refused|other things"),
        (pickle.dumps({"a": np.ones(2)}), "refused, it asks for numpy"),
    ],
)
def test_other_files_are_refused_as_dictionaries(tmp_path, content, words):
    (tmp_path / "d.pkl").write_bytes(content)
    with pytest.raises(RequestError, match=f"d.pkl: .*({words})"):
        weights.read_dictionary(tmp_path / "d.pkl")


# --- folders


def test_another_models_folder_is_named_as_such(tmp_path):
    from scgpt_folder import write_folder

    folders = {
        "scgpt": write_folder(tmp_path, GENES),
        "scbert": write_scbert(tmp_path, GENES),
        "geneformer": write_geneformer(tmp_path, IDS),
    }
    from trainables.spec import get

    for model in folders:
        for owner, folder in folders.items():
            if owner != model:
                for use in (lambda: get(model).build(2, folder), lambda: get(model).encoder(GENES, folder)):  # noqa: B023
                    with pytest.raises(RequestError, match=f"this is a folder of {owner}, not of {model}"):
                        use()
                found = weights.describe(model, folder, GENES)
                assert not found["missing"] and len(found["problems"]) == 1
        with pytest.raises(RequestError, match=f"nowhere: no such folder .for {model} it holds"):
            get(model).build(2, tmp_path / "nowhere")


@pytest.mark.parametrize("model", ["scgpt", "scbert", "geneformer"])
def test_a_whole_folder_is_described_with_coverage_and_what_stays_random(tmp_path, model):
    from scgpt_folder import write_folder

    write = {"scgpt": write_folder, "scbert": write_scbert, "geneformer": write_geneformer}[model]
    known = IDS if model == "geneformer" else GENES
    found = weights.describe(model, write(tmp_path, known), [*known[:6], "stranger", "other"])
    assert found["complete"] and not found["missing"] and not found["problems"]
    assert (found["coverage"]["known"], found["coverage"]["share"]) == (6, 0.75)
    head = {"scgpt": "cls_decoder.", "scbert": "to_out.", "geneformer": ("classifier.", "bert.pooler.")}[model]
    assert found["fresh"] and all(name.startswith(head) for name in found["fresh"])


def test_an_incomplete_folder_is_described_with_all_that_is_missing(tmp_path):
    folder = write_geneformer(tmp_path, IDS)
    (folder / "model.safetensors").unlink()
    (folder / "gene_median_dictionary_gc104M.pkl").unlink()
    found = weights.describe("geneformer", folder, IDS)
    assert not found["complete"] and found["coverage"] is None and found["fresh"] is None
    assert list(found["missing"]) == ["model.safetensors or pytorch_model.bin", "gene_median_dictionary*.pkl"]
    assert "huggingface.co/ctheodoris/Geneformer" in found["missing"]["gene_median_dictionary*.pkl"]
    assert any("gene_median_dictionary_gc104M.pkl is missing" in problem for problem in found["problems"])
