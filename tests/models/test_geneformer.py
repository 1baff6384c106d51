"""Geneformer's network and training against the original's numbers, and against transformers' modules."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

from data_pipeline.shards.encoded import Encoded
from trainables.models.geneformer.model import IGNORED
from trainables.networks.bert import Bert
from trainables.spec import get
from trainables.training.loop import make_optimizer
from trainables.training.optimizer import learning_rate

SPEC = get("geneformer")
GOLDEN = Path(__file__).parents[1] / "golden"
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SIZES = {  # published models: vocabulary, width, layers, heads, hidden, positions
    "V1-6L": (25426, 256, 6, 4, 512, 2048),
    "V1-12L": (25426, 512, 12, 8, 1024, 2048),
    "V2-12L-95M": (20275, 512, 12, 8, 1024, 4096),
    "V2-20L-95M": (20275, 896, 20, 14, 1792, 4096),
    "V2-104M": (20275, 768, 12, 12, 3072, 4096),
    "V2-316M": (20275, 1152, 18, 18, 4608, 4096),
}


@pytest.fixture(scope="module")
def golden() -> dict:
    return torch.load(GOLDEN / "geneformer.pt", weights_only=True)


def network_of(golden: dict, **changes) -> Bert:
    network = Bert(golden["config"] | changes, golden["num_labels"])
    network.load_state_dict(SPEC.convert(golden["state_dict"]), strict=True)
    return network


def ragged(batch: dict) -> Encoded:
    """The golden batch without its padding."""
    mask = batch["attention_mask"].bool()
    offsets = functional.pad(mask.sum(1).cumsum(0), (1, 0))
    return Encoded(batch["input_ids"][mask].numpy(), None, offsets.numpy())


# --- logits


def test_golden_logits_padded_and_packed(golden):
    network, batch = network_of(golden).eval(), golden["batch"]
    assert int((batch["attention_mask"] == 0).sum()) > 0
    padded = network(batch["input_ids"], batch["attention_mask"])
    packed = network(**SPEC.collate(ragged(batch), np.arange(len(padded))))
    for logits in (padded, packed):
        torch.testing.assert_close(logits, golden["logits"], atol=2e-6, rtol=0)
    torch.testing.assert_close(network(batch["input_ids"]), golden["logits_without_mask"], atol=2e-6, rtol=0)


def test_the_shared_golden_holds_the_same_numbers(golden, shared):
    full = torch.load(shared / "golden" / "geneformer_model.pt", weights_only=True)["bert"]
    batch, network = full["inputs"], network_of(full, **NO_DROPOUT)
    for name in ("logits", "logits_sdpa"):
        logits = network(batch["input_ids"], batch["attention_mask"])
        torch.testing.assert_close(logits, full[name], atol=2e-6, rtol=0)
    assert torch.equal(full["logits"], golden["logits"])


def test_a_cells_logits_depend_neither_on_its_neighbours_nor_on_padding(golden):
    network, encoded = network_of(golden).eval(), ragged(golden["batch"])
    together = network(**SPEC.collate(encoded, np.arange(4)))
    for cell in range(4):
        alone = network(**SPEC.collate(encoded, np.array([cell])))
        torch.testing.assert_close(alone[0], together[cell], atol=1e-6, rtol=0)


def test_a_cell_without_tokens_reads_one_pad(golden):
    network = network_of(golden).eval()
    encoded = Encoded(np.array([5, 7], np.uint16), None, np.array([0, 0, 2]))
    batch = SPEC.collate(encoded, np.array([1, 0]))
    assert batch["input_ids"].tolist() == [5, 7, 0] and batch["offsets"].tolist() == [0, 2, 3]
    assert batch["positions"].tolist() == [0, 1, 0]
    torch.testing.assert_close(network(**batch)[1], network(torch.tensor([[0]]))[0])


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_transformers_module_gives_the_same_logits_and_gradients(activation):
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 40}
    config = sizes | {"vocab_size": 50, "max_position_embeddings": 30, "hidden_act": activation} | NO_DROPOUT
    theirs = BertForSequenceClassification(BertConfig(**config, num_labels=4, attn_implementation="sdpa"))
    ours = Bert(config, 4)
    ours.load_state_dict(SPEC.convert(theirs.state_dict()), strict=True)
    ids, mask = torch.randint(1, 50, (5, 30)), torch.ones(5, 30, dtype=torch.int64)
    mask[1, 11:], mask[4, 1:] = 0, 0
    logits = theirs(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(ours(ids, mask), logits, atol=2e-6, rtol=1e-5)
    logits.square().sum().backward()
    ours(ids, mask).square().sum().backward()
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, atol=1e-6, rtol=1e-4, msg=name)


# --- training


@pytest.mark.parametrize("trace", ["train_freeze0", "train_freeze2"])
def test_golden_training_trace(golden, trace):
    """Losses, gradient norms before clipping and rates, with the published recipe's optimiser and schedule."""
    trace, batch = golden[trace], golden["batch"]
    changes = {
        "learning_rate": trace["lr"],
        "warmup": float(trace["warmup"]),
        "epochs": trace["total_steps"],
        "warmup_share": 1.0,
    }
    recipe = SPEC.recipe(None, "official").model_copy(update=changes)
    assert recipe.weight_decay == trace["weight_decay"] and recipe.optimizer == "adamw"
    network = network_of(golden, **NO_DROPOUT)
    network.bert.encoder.layer[: trace["freeze_layers"]].requires_grad_(False)
    optimizer = make_optimizer(network, recipe)
    for step, (loss, norm, rate) in enumerate(zip(trace["losses"], trace["grad_norms"], trace["lrs"], strict=True)):
        assert learning_rate(recipe, 0, step, 1) == pytest.approx(rate, rel=1e-6, abs=1e-12)
        for group in optimizer.param_groups:
            group["lr"] = rate
        ours = functional.cross_entropy(network(batch["input_ids"], batch["attention_mask"]), batch["labels"])
        optimizer.zero_grad()
        ours.backward()
        assert ours.item() == pytest.approx(loss, rel=1e-4)
        assert clip_grad_norm_(network.parameters(), recipe.clip).item() == pytest.approx(norm, rel=1e-4)
        optimizer.step()


def test_weight_decay_spares_what_upstream_spares(golden):
    network = network_of(golden)
    optimizer = make_optimizer(network, SPEC.recipe(None, "official"))
    names = {parameter: name for name, parameter in network.named_parameters()}
    decayed = [names[p] for group in optimizer.param_groups if group["weight_decay"] > 0 for p in group["params"]]
    assert sorted(decayed) == sorted(golden["train_freeze0"]["decay_params"])


# --- official names


@pytest.mark.parametrize("model", SIZES)
def test_published_models_have_our_parameters_at_full_size(model):
    tables = json.loads((GOLDEN / "geneformer_keys.json").read_text())
    published = next(table for name, table in tables.items() if name.startswith(model))
    fields = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    config = dict(zip((*fields, "max_position_embeddings"), SIZES[model], strict=True))
    with torch.device("meta"):
        network = Bert(config, 10)
    shapes = {name: list(value.shape) for name, value in network.state_dict().items()}
    assert sum(parameter.numel() for parameter in network.bert.parameters()) == published["bert_params"]
    if "keys" in published:
        assert shapes == published["keys"]


def test_what_an_mlm_checkpoint_leaves_fresh_is_upstreams(golden):
    official = set(golden["mlm_keys"])
    ours = set(network_of(golden).state_dict())
    converted = set(SPEC.convert(dict.fromkeys(official)))
    assert sorted(ours - converted) == golden["mlm_to_cls"]["missing_keys"]
    assert sorted(name for name in official - converted if "decoder" not in name) == sorted(
        golden["mlm_to_cls"]["unexpected_keys"]
    )
    assert "bert.embeddings.position_ids" in IGNORED


# --- recipe


@pytest.mark.parametrize(("layers", "warmup"), [(6, 500), (12, 0), (18, 0)])
def test_the_published_warm_up_belongs_to_models_of_six_layers(layers, warmup, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": layers}))
    recipe = SPEC.recipe(tmp_path, "small")
    assert (recipe.warmup, recipe.learning_rate, recipe.epochs, recipe.length_aware) == (warmup, 5e-5, 10, False)


@pytest.mark.parametrize("rows", [40, 350, 30_000])
def test_small_training_sets_reach_the_full_rate(rows, tmp_path):
    """500 steps of warm-up are more than 40 rows have in all: their highest rate was 8 % of the published one."""
    recipe = SPEC.recipe(tmp_path, "small")
    per_round = -(-rows // recipe.batch_size)
    total = per_round * recipe.epochs
    rates = [learning_rate(recipe, step // per_round, step, per_round) for step in range(total)]
    assert max(rates) > 0.95 * recipe.learning_rate
    assert rates.index(max(rates)) <= min(500, 0.1 * total) + 1
