"""scGPT's network against the logits and training traces of the original implementation, and against its wheel."""

import importlib
import json
import sys
import types
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

from data_pipeline.errors import RequestError
from data_pipeline.shards.encoded import Encoded
from trainables.models.scgpt.model import DROPPED
from trainables.networks.scgpt import ScGPT
from trainables.spec import get
from trainables.training.loop import make_optimizer
from trainables.training.optimizer import learning_rate

GOLDEN = Path(__file__).parents[1] / "golden"
SPEC = get("scgpt")


@pytest.fixture(scope="module")
def golden() -> dict:
    return torch.load(GOLDEN / "scgpt_model.pt", weights_only=True)


def network_of(config: dict, **options) -> ScGPT:
    sizes = {"width": config["d_model"], "hidden": config["d_hid"], "num_layers": config["nlayers"]}
    sizes |= {"num_heads": config["nhead"], "num_layers_cls": config["nlayers_cls"]}
    return ScGPT(config["ntoken"], config["n_cls"], **sizes, **{"dropout": 0.0, **options})


def packed(inputs: dict) -> dict[str, torch.Tensor]:
    """The padded golden batch as our network takes it: padding gone."""
    real = inputs["src"] != inputs["pad_id"]
    offsets = functional.pad(real.sum(1).cumsum(0), (1, 0))
    return {"ids": inputs["src"][real], "values": inputs["values"][real], "offsets": offsets}


def renamed(state: dict, names: list[str]) -> dict:
    return dict(zip(names, state.values(), strict=True))


# --- logits and training


@pytest.mark.parametrize("layout", ["in_proj", "Wqkv", "_impl", "module"])
def test_golden_logits_in_every_official_layout(golden, layout):
    state = golden["state_dict"]
    if layout in ("Wqkv", "_impl"):
        state = renamed(state, golden["flash_names" if layout == "Wqkv" else "impl_names"])
        assert any(f"self_attn.{layout}." in name for name in state)
    if layout == "module":
        state = {f"module.{name}": tensor for name, tensor in state.items()}
    network = network_of(golden["config"]).eval()
    network.load_state_dict(SPEC.convert(state), strict=True)
    torch.testing.assert_close(network(**packed(golden["inputs"])), golden["logits"]["vanilla"], atol=2e-6, rtol=0)
    torch.testing.assert_close(network.embed(**packed(golden["inputs"])), golden["cell_emb"], atol=2e-6, rtol=0)


def test_golden_logits_of_upstreams_pre_norm(golden):
    network = network_of(golden["config"], pre_norm=True).eval()
    network.load_state_dict(SPEC.convert(golden["state_dict"]), strict=True)
    logits = network(**packed(golden["inputs"]))
    torch.testing.assert_close(logits, golden["logits"]["flash_prenorm"], atol=2e-6, rtol=0)
    assert not torch.allclose(logits, golden["logits"]["vanilla"], atol=1e-2)


def test_shared_golden_logits(shared):
    full = torch.load(shared / "golden" / "scgpt_model.pt", weights_only=True)
    for name in ("vanilla", "flash", "flash_prenorm"):
        network = network_of(full[name]["config"], pre_norm=full[name]["config"]["pre_norm"]).eval()
        network.load_state_dict(SPEC.convert(full[name]["state_dict"]), strict=True)
        logits = network(**packed(full[name]["inputs"]))
        torch.testing.assert_close(logits, full[name]["logits"], atol=2e-6, rtol=0)


@pytest.mark.parametrize("kind", ["vanilla", "flash"])
def test_golden_training_trace(golden, kind):
    """Losses, gradient norms before clipping and rates of 4 steps; upstream steps its schedule after each here."""
    trace, batch = golden["train"][kind], packed(golden["inputs"])
    recipe = SPEC.recipe(None, "official").model_copy(update={"eps": trace["eps"]})
    network = network_of(golden["config"])
    network.load_state_dict(SPEC.convert(golden["state_dict"]), strict=True)
    optimizer = make_optimizer(network, recipe)
    for step, (loss, norm, rate) in enumerate(zip(trace["losses"], trace["grad_norms"], trace["lrs"], strict=True)):
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = learning_rate(recipe, step, step, 1)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate, rel=1e-6)
        ours = functional.cross_entropy(network(**batch), golden["inputs"]["labels"])
        optimizer.zero_grad()
        ours.backward()
        assert ours.item() == pytest.approx(loss, rel=1e-4)
        assert clip_grad_norm_(network.parameters(), recipe.clip).item() == pytest.approx(norm, rel=1e-4)
        optimizer.step()
    if kind == "vanilla":
        final = SPEC.convert(golden["final_state_dict"])
        for name, tensor in network.state_dict().items():
            if name.endswith("Wqkv.bias"):  # the keys' biases change no logit: their gradient is rounding noise
                tensor, final[name] = (bias.view(3, -1)[[0, 2]] for bias in (tensor, final[name]))
            torch.testing.assert_close(tensor, final[name], atol=2e-6, rtol=1e-4, msg=name)


def test_official_key_table_matches_one_to_one_at_full_size():
    table = {name: torch.empty(shape, device="meta") for name, shape in _table().items()}
    with torch.device("meta"):
        network = SPEC.build(table["cls_decoder.out_layer.bias"].shape[0], num_tokens=60697, size="official")
    converted = SPEC.convert(table)
    own = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert {name: tensor.shape for name, tensor in converted.items()} == own
    gone = set(table) - set(converted)
    assert len(table) == 169 and gone == {name for name in table if name.startswith("decoder.fc.")}
    assert sum(tensor.numel() for tensor in table.values()) == 51_336_715


def _table() -> dict[str, list[int]]:
    return json.loads((GOLDEN / "scgpt_human_keys.json").read_text())


def test_convert_leaves_strangers_for_strict_loading_to_refuse(golden):
    state = golden["state_dict"] | {"mvc_decoder.W.weight": torch.zeros(2, 2), "flag_encoder.weight": torch.zeros(2)}
    assert not any(name.startswith(DROPPED) for name in SPEC.convert(state))
    stranger = SPEC.convert(state | {"dsbn.weight": torch.zeros(3)})
    with pytest.raises(RuntimeError, match="dsbn.weight"):
        network_of(golden["config"]).load_state_dict(stranger, strict=True)


# --- the installed wheel


@pytest.fixture(scope="module")
def upstream() -> types.ModuleType:
    """scgpt/model/model.py alone: the package itself can't be imported beside this torch."""
    found = find_spec("scgpt")
    if found is None:
        pytest.skip("the scgpt wheel isn't installed")
    package = types.ModuleType("scgpt_model_alone")
    package.__path__ = [str(Path(found.origin).parent / "model")]
    sys.modules["scgpt_model_alone"] = package
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("scgpt_model_alone.model")


def test_same_weights_same_logits_as_the_wheel(upstream, rng):
    sizes = {"d_model": 32, "nhead": 4, "d_hid": 48, "nlayers": 3, "nlayers_cls": 2, "n_cls": 6, "dropout": 0.3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = upstream.TransformerModel(
            60, vocab={"<pad>": 57}, pad_value=-2, use_fast_transformer=False, do_mvc=True, **sizes
        ).eval()
    ours = network_of({"ntoken": 60, **sizes}).eval()
    ours.load_state_dict(SPEC.convert(theirs.state_dict()), strict=True)
    lengths = [30, 1, 7, 19]
    src, values = torch.full((4, 40), 57), torch.full((4, 40), -2.0)
    for row, length in enumerate(lengths):
        src[row, :length] = torch.from_numpy(rng.integers(0, 57, length))
        values[row, :length] = torch.from_numpy(rng.integers(0, 900, length)).float()
    assert values.max() > 512  # both cut values there
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch on the nested tensors of its own fast path
        expected = theirs(src, values, src_key_padding_mask=src == 57, CLS=True)["cls_output"]
        logits = ours(**packed({"src": src, "values": values, "pad_id": 57}))
    torch.testing.assert_close(logits, expected, atol=2e-6, rtol=0)


# --- the network's use


def batch_of(lengths: list[int], num_tokens: int, rng: np.random.Generator) -> Encoded:
    total = sum(lengths)
    values = rng.integers(0, 51, total).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Encoded(rng.integers(0, num_tokens, total).astype(np.int32), values, offsets)


def test_a_cells_logits_do_not_depend_on_its_batch(rng):
    network = SPEC.build(4, num_tokens=50, size="tiny").eval()
    encoded = batch_of([5, 1, 17, 9], 50, rng)
    together = network(**SPEC.collate(encoded, np.array([2, 0, 3, 1])))
    alone = torch.cat([network(**SPEC.collate(encoded, np.array([row]))) for row in (2, 0, 3, 1)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


def test_the_batch_tells_the_longest_cell(rng):
    """So that no kernel has to ask the GPU; the network works it out where `longest` is missing."""
    network = SPEC.build(4, num_tokens=50, size="tiny").eval()
    batch = SPEC.collate(batch_of([5, 17, 9], 50, rng), np.array([2, 1]))
    assert set(batch) == {"ids", "values", "offsets", "longest"} and batch["longest"] == 17
    assert batch["offsets"].tolist() == [0, 9, 26]
    assert torch.equal(network(**batch), network(batch["ids"], batch["values"], batch["offsets"]))


def test_heads_must_divide_the_width():
    with pytest.raises(RequestError, match="width 101 isn't a multiple of num_heads 2"):
        SPEC.build(3, num_tokens=9, width=101, num_heads=2)


def test_build_without_weights_needs_the_vocabularys_size():
    with pytest.raises(ValueError, match="num_tokens"):
        SPEC.build(3, size="tiny")


def test_fine_tuning_has_the_published_eps_and_training_from_scratch_adams(tmp_path):
    recipes = [SPEC.recipe(tmp_path, "small"), SPEC.recipe(None, "official"), SPEC.recipe(None, "small")]
    assert [recipe.eps for recipe in recipes] == [1e-4, 1e-8, 1e-8]
