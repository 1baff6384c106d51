"""What of a network is trained: the head on frozen features, adapters that start as nothing, what the authors train."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import trial_config
from safetensors.torch import load_file

from data_pipeline.errors import RequestError
from trainables.config import read
from trainables.material import open_material
from trainables.networks import lora
from trainables.spec import get, names
from trainables.training import checkpoint
from trainables.training.trained import choose, wake
from trainables.training.training import build
from trainables.trial.trial import run_trial

NETWORKS = [name for name in names() if get(name).files]  # whose authors pretrained them
DROPOUT = {"scgpt": {"dropout": 0.3}, "geneformer": {"dropout": 0.3}, "scbert": {}}
LORA = {"lora": {"rank": 2, "dropout": 0.25}}


def built(tmp_path: Path, model: str, train, **options):
    """Return a tiny network, made as in a trial, and a batch of its cells."""
    config = read(trial_config(tmp_path, model, options={"train": train} | options))
    material = open_material(config)
    feed = material.feed(get(model), 8)
    return build(get(model), config, material)[1], feed.batch(np.arange(8)).inputs


def logits(network, inputs) -> torch.Tensor:
    with torch.no_grad():
        return network(**inputs)


@pytest.mark.parametrize("model", NETWORKS)
def test_a_head_learns_on_features_that_neither_change_nor_drop(model, tmp_path):
    spec, (network, inputs) = get(model), built(tmp_path, model, "head", **DROPOUT[model])
    trained = {name for name, one in network.named_parameters() if one.requires_grad}
    assert trained == {name for name, _ in network.named_parameters() if name.startswith((spec.head, *spec.fresh))}
    wake(network)
    if model == "geneformer":
        network.dropout = 0.0  # the head's own, behind the pooler
    torch.manual_seed(0)
    first = logits(network, inputs)
    assert torch.equal(first, logits(network, inputs)) and torch.equal(first, logits(network.eval(), inputs))
    whole, _ = built(tmp_path / "whole", model, "all", **DROPOUT[model])
    wake(whole)
    if DROPOUT[model]:
        assert not torch.equal(logits(whole, inputs), logits(whole, inputs))


@pytest.mark.parametrize("model", NETWORKS)
@pytest.mark.parametrize("targets", ["usual", "all"])
def test_adapters_start_as_the_network_without_them_bit_for_bit(model, targets, tmp_path):
    spec, (plain, inputs) = get(model), built(tmp_path, model, "all")
    adapted, _ = built(tmp_path, model, {"lora": {"targets": spec.adaptable.layers}} if targets == "all" else LORA)
    assert torch.equal(logits(plain.eval(), inputs), logits(adapted.eval(), inputs))
    base = {name: one for name, one in plain.named_parameters() if not name.startswith((spec.head, *spec.fresh))}
    trained = {name for name, one in adapted.named_parameters() if one.requires_grad}
    adapters = [name.split(".") for name in trained - {name for name, _ in plain.named_parameters()}]
    assert not trained & set(base) and {name[-1] for name in adapters} == {"up", "down"}
    wanted = spec.adaptable.layers if targets == "all" else spec.adaptable.usual
    assert {name[-5] for name in adapters} == set(wanted)


@pytest.mark.parametrize("model", NETWORKS)
def test_merged_adapters_compute_what_they_computed_beside(model, tmp_path):
    network, inputs = built(tmp_path, model, {"lora": {"targets": get(model).adaptable.layers}})
    with torch.no_grad():
        for name, one in network.named_parameters():
            if name.endswith(".up"):
                one.normal_(std=0.3)
    before, names_before = logits(network.eval(), inputs), {name for name, _ in network.named_parameters()}
    lora.merge(network)
    torch.testing.assert_close(logits(network, inputs), before, atol=1e-5, rtol=0)
    plain, _ = built(tmp_path, model, "all")
    assert {name for name, _ in network.named_parameters()} == {name for name, _ in plain.named_parameters()}
    assert names_before != {name for name, _ in plain.named_parameters()}
    assert not torch.equal(logits(plain.eval(), inputs), before)


@pytest.mark.parametrize("train", ["head", LORA], ids=["head", "lora"])
def test_a_killed_and_resumed_trial_ends_bit_identical_and_saves_what_is_trained_alone(train, tmp_path):
    found = []
    for name, dies in (("whole", False), ("killed", True)):
        config = trial_config(tmp_path / name, "scgpt", options={"train": train}, recipe={"epochs": 2, "crt_epochs": 1})
        if dies:
            with pytest.raises(KeyboardInterrupt):
                run_trial(config, _dies, None)
        final = run_trial(config, lambda metrics, path: None, checkpoint.newest(Path(config["directory"])))
        found.append({name: value for name, value in final.items() if name.startswith(("test_", "val_"))})
    assert found[0] == found[1]
    folder = Path(config["directory"]) / "checkpoint"
    saved = load_file(folder / "model.safetensors")
    assert all(name.startswith("cls_decoder.") or name.endswith((".up", ".down")) for name in saved)
    assert json.loads((folder / "model.json").read_text())["options"]["train"] == (
        train if train == "head" else {"lora": {"rank": 2, "alpha": 16.0, "dropout": 0.25, "targets": None}}
    )


def _dies(metrics: dict, path: Path | None) -> None:
    if path is not None:
        raise KeyboardInterrupt


def test_published_freezing_is_scberts_own(tmp_path):
    network, _ = built(tmp_path, "scbert", "published")
    trained = {name for name, one in network.named_parameters() if one.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"to_out", "norm", "performer"}
    for model in ("scgpt", "geneformer"):
        network, _ = built(tmp_path / model, model, "published")
        assert all(one.requires_grad for one in network.parameters())


def test_a_rank_that_weights_cannot_have_is_refused():
    network = get("scgpt").build(3, num_tokens=20, size="tiny")
    with pytest.raises(RequestError, match="rank 33 is more than the 96 x 32 weights"):
        choose(network, get("scgpt"), {"lora": {"rank": 33}}, pretrained=True)
