"""scBERT's network and training against the original implementation's numbers, and against performer-pytorch."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from data_pipeline.errors import RequestError
from data_pipeline.shards.feed import ALL, Batch
from trainables.networks import performer
from trainables.networks.performer import CellHead, PerformerLM
from trainables.spec import get
from trainables.training.loop import Trainer
from trainables.training.optimizer import learning_rate
from trainables.training.trained import choose

SPEC = get("scbert")
GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def golden() -> dict:
    return torch.load(GOLDEN / "scbert.pt", weights_only=True)


@pytest.fixture(scope="module")
def large(shared) -> dict:
    return torch.load(shared / "golden" / "scbert_model.pt", weights_only=True)


def network_of(part: dict, stabiliser: str = "cell") -> PerformerLM:
    """The golden network of 3 blocks, with its head."""
    config = part["config"]
    table = torch.zeros(config["max_seq_len"], config["dim"], dtype=torch.float64)
    sizes = {"depth": config["depth"], "heads": config["heads"], "redraw_after": None}
    network = PerformerLM(table, stabiliser=stabiliser, **sizes)
    network.to_out = CellHead(config["max_seq_len"], config["dim"], config["head"]["out_dim"])
    choose(network, SPEC, "published", True)
    network.load_state_dict(SPEC.convert(part["state_dict"]), strict=True)
    return network.eval()


def small_network(num_tokens: int = 30, train: str = "published", **changes) -> PerformerLM:
    torch.manual_seed(0)
    table = torch.randn(num_tokens, 12, dtype=torch.float64)
    network = PerformerLM(table, **{"depth": 4, "heads": 2, "dim_head": 8, **changes})
    network.to_out = CellHead(num_tokens, 12, 3)
    choose(network, SPEC, train, True)
    return network


def tokens_of(num_cells: int, num_tokens: int = 30) -> torch.Tensor:
    return torch.randint(0, 6, (num_cells, num_tokens), generator=torch.Generator().manual_seed(5))


# --- logits


def test_golden_logits_with_the_same_batch(large):
    part = large["small_depth3_heads2"]
    network, tokens = network_of(part, "batch"), part["inputs"]["tokens"]
    torch.testing.assert_close(network(tokens), part["logits"], atol=1e-6, rtol=0)
    torch.testing.assert_close(network.encode(tokens), part["encodings"], atol=3e-6, rtol=0)


def test_per_cell_logits_are_the_golden_ones_of_a_batch_of_one(large):
    part = large["small_depth3_heads2"]
    network, tokens = network_of(part), part["inputs"]["tokens"]
    together = network(tokens).detach()
    torch.testing.assert_close(together, part["logits_batch1"], atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.cat([network(cell[None]) for cell in tokens]), together, atol=1e-6, rtol=0)
    assert float((together - part["logits"]).abs().max()) > 1e-5  # the batch-wide maximum does matter


def test_golden_logits_of_the_pretraining_head(large):
    part = large["small_depth3_heads2"]
    network = PerformerLM(torch.zeros(38, 200, dtype=torch.float64), depth=3, heads=2, stabiliser="batch").eval()
    network.load_state_dict(SPEC.convert(part["mlm"]["state_dict"]), strict=True)
    torch.testing.assert_close(network(part["inputs"]["tokens"]), part["mlm"]["logits"], atol=1e-6, rtol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_performer_pytorchs_network_gives_the_same_logits():
    """rotary_position_emb=False and attn_out_bias=True are scBERT's; its keys are stabilised per cell and head."""
    from performer_pytorch import PerformerLM as Theirs

    torch.manual_seed(3)
    sizes = {"dim": 24, "depth": 3, "heads": 3, "dim_head": 8}
    theirs = Theirs(num_tokens=7, max_seq_len=40, rotary_position_emb=False, attn_out_bias=True, **sizes).eval()
    ours = PerformerLM(torch.zeros(40, 24), depth=3, heads=3, dim_head=8, stabiliser="head").eval()
    state = {
        name.replace("proj_updater.", ""): tensor
        for name, tensor in theirs.state_dict().items()
        if ".proj_updater.instance" not in name
    }
    state = {name: tensor for name, tensor in state.items() if name in ours.state_dict()}
    ours.load_state_dict(state, strict=True)
    tokens = tokens_of(4, 40)
    torch.testing.assert_close(ours(tokens), theirs(tokens), atol=1e-6, rtol=1e-5)


def test_gene_vectors_are_added_in_position_order():
    network = small_network()
    swapped = tokens_of(1)
    expected = network.token_emb(swapped) + network.pos_emb.emb.weight.float()
    torch.testing.assert_close(network.embed(swapped), expected)
    assert network.pos_emb.emb.weight.dtype == torch.float64 and not network.pos_emb.emb.weight.requires_grad


# --- official names


def test_official_key_table_matches_one_to_one_at_full_size():
    table = json.loads((GOLDEN / "scbert_keys.json").read_text())
    with torch.device("meta"):
        network = PerformerLM(torch.empty(16907, 200, dtype=torch.float64), depth=6, heads=10)
    ours = {name: [list(value.shape), str(value.dtype)] for name, value in network.state_dict().items()}
    assert ours == table
    assert sum(math.prod(shape) for name, (shape, _) in table.items() if "projection" not in name) - 1 == 8_388_607


def test_published_freezing_trains_the_last_block_but_one(golden, large):
    trained = [name for name, p in network_of(large["small_depth3_heads2"]).named_parameters() if p.requires_grad]
    assert sorted(trained) == sorted(golden["trainable"])
    assert {name.split(".")[3] for name in trained if name.startswith("performer")} == {"1"}  # of blocks 0, 1, 2


@pytest.mark.parametrize(("train", "frozen"), [("published", 2), ("head", 4), ("all", 0)])
def test_no_gradient_flows_where_nothing_is_trained(train, frozen):
    network = small_network(train=train)
    assert network.num_frozen == frozen
    network(tokens_of(2)).sum().backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert network.prefix(tokens_of(2)).requires_grad == (train == "all")


# --- training


def test_golden_training_trace_with_carried_accumulation(large):
    """36 losses over 3 epochs of 12 cells, a step every 5 cells: the remainder of an epoch counts in the next one."""
    trace, losses = large["train"], []
    recipe = SPEC.recipe(None, "official")
    recipe = recipe.model_copy(update={"accumulate": trace["grad_acc"], "carry_accumulation": True, "epochs": 3})

    def loss(logits, labels, progress):
        losses.append(functional.cross_entropy(logits, labels))
        return losses[-1]

    def batch(rows: np.ndarray, part: slice = ALL) -> Batch:
        return Batch({"tokens": trace["tokens"][rows]}, trace["labels"].numpy()[rows], rows)

    feed = SimpleNamespace(
        batch_size=1,
        batch=batch,
        order=lambda rows, *_: rows,
        batches=lambda rows: (batch(rows[i : i + 1]) for i in range(len(rows))),
    )
    network = network_of(large["small_depth3_heads2"], "batch")
    trainer = Trainer(network, recipe, loss, feed, 0, torch.device("cpu"))
    for epoch in range(3):
        trainer.train(np.arange(12), epoch)
        assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(trace["lrs"][epoch], rel=1e-6)
    ours = [value.item() for value in losses]
    assert len(ours) == 34 and len(trainer.carry) == 2  # the last two wait for a fourth epoch
    assert ours == pytest.approx(trace["losses"][:34], rel=1e-4)


def test_learning_rates_are_upstreams_over_two_cycles(golden):
    recipe = SPEC.recipe(None, "official")
    rates = [learning_rate(recipe, epoch, 0, 1) for epoch in range(60)]
    assert rates == pytest.approx(golden["lr_by_epoch"], rel=1e-9)


def test_projections_are_redrawn_at_every_interval_plus_first_call(golden):
    network = small_network(redraw_after=golden["redraw_interval"])
    blocks = network.performer.net.layers
    for call, redrawn, counter in golden["redraw_log"]:
        before = [block[0].fn.fast_attention.projection_matrix.clone() for block in blocks]
        network.train()
        network(tokens_of(1))
        after = [block[0].fn.fast_attention.projection_matrix for block in blocks]
        assert [not torch.equal(a, b) for a, b in zip(after, before, strict=True)] == [redrawn] * len(blocks), call
        assert int(network.state_dict()["performer.calls_since_last_redraw"]) == counter
        network.eval()
        network(tokens_of(1))  # never counts


def test_redraws_follow_from_torchs_seed_and_can_be_switched_off():
    drawn = []
    for _ in range(2):
        network = small_network(redraw_after=0)
        torch.manual_seed(9)
        network.train()(tokens_of(1))
        drawn.append(network.performer.net.layers[1][0].fn.fast_attention.projection_matrix)
    assert torch.equal(*drawn)
    fixed = small_network(redraw_after=None)
    before = fixed.state_dict()
    fixed.train()(tokens_of(1))
    assert all(torch.equal(before[name], value) for name, value in fixed.state_dict().items())


def test_the_published_count_of_calls_comes_with_the_weights():
    network = small_network()
    state = network.state_dict() | {"performer.calls_since_last_redraw": torch.tensor(performer.REDRAW_AFTER)}
    network.load_state_dict(state, strict=True)
    before = network.performer.net.layers[0][0].fn.fast_attention.projection_matrix.clone()
    network.train()(tokens_of(1))
    assert not torch.equal(before, network.performer.net.layers[0][0].fn.fast_attention.projection_matrix)
    with pytest.raises(RuntimeError, match="calls_since_last_redraw"):
        network.load_state_dict({name: value for name, value in state.items() if "calls" not in name}, strict=True)


def test_a_cached_prefix_changes_neither_logits_nor_gradients():
    network, found = small_network(), []
    prefix = network.prefix(tokens_of(3))
    for given in (None, prefix):
        network.zero_grad()
        logits = network(tokens_of(3), prefix=given)
        logits.sum().backward()
        found.append([logits.detach(), *(p.grad.clone() for p in network.parameters() if p.requires_grad)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_cache_of_the_frozen_prefix_is_exact_bounded_and_notices_changes():
    plain, cached = small_network(redraw_after=None), small_network(redraw_after=None, cache_gigabytes=1e-3)
    size, tokens = 30 * 12 * 4, tokens_of(5)
    for _ in range(2):
        assert torch.equal(cached(tokens), plain(tokens))
    assert (cached.cache.hits, cached.cache.misses) == (5, 5)
    assert cached.cache.room == 1_000_000 - 5 * size
    mixed = torch.cat([tokens[3:], tokens.flip(1)[:1], tokens[:1]])
    torch.testing.assert_close(cached(mixed), plain(mixed), atol=1e-6, rtol=0)  # the new cell was computed alone
    assert (cached.cache.hits, cached.cache.misses) == (8, 6)
    for network in (plain, cached):
        with torch.no_grad():
            network.performer.net.layers[0][0].norm.weight.mul_(1.5)
    assert torch.equal(cached(tokens), plain(tokens))
    choose(cached, SPEC, "head", True)
    assert torch.equal(cached(tokens), plain(tokens)) and cached.cache.version[0] == 4
    cached.cache.capacity, cached.cache.version = 2 * size + 1, None
    assert torch.equal(cached(tokens), plain(tokens)) and len(cached.cache.kept) == 2


@pytest.mark.parametrize("options", [{}, {"fix_projections": True, "stabiliser": "batch"}])
def test_a_cache_of_what_changes_is_refused(options):
    with pytest.raises(RequestError, match="cache_gigabytes keeps what never changes: set fix_projections"):
        SPEC.build(3, num_tokens=20, size="tiny", cache_gigabytes=1, **options)
