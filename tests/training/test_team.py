"""Workers that train one network together: the steps of one, whatever the batches; refused where they can't be."""

import multiprocessing
import socket
from pathlib import Path

import numpy as np
import pytest
from conftest import trial_config
from test_loop import make_trainer
from torch import nn

from data_pipeline.errors import RequestError
from data_pipeline.shards.feed import Batch
from trainables.spec import Recipe, get, names
from trainables.training.team import Team, joined
from trainables.trial.trial import assist, run_trial

NETWORKS = [name for name in names() if get(name).kind == "network"]
STILL = {"scgpt": {"dropout": 0.0}, "geneformer": {"dropout": 0.0}, "mlp": {"dropout": 0.0}, "scbert": {}}
UNEVEN = {"batch_size": 7, "accumulate": 3, "epochs": 3}  # no number of cells here divides by it
AS_ONE = ("train_loss", "val_loss", "val_macro_f1", "cells", "optimizer_steps", "test_macro_f1", "test_brier")


@pytest.mark.parametrize("size", [1, 2, 3])
def test_each_cell_of_a_batch_has_one_worker_and_batches_of_one_take_turns(size):
    rows = np.arange(10)
    parts = [rows[Team(rank, size).part(4)] for rank in range(size)]
    assert sorted(np.concatenate(parts)) == rows.tolist()
    takers = [[rank for rank in range(size) if len(rows[:1][Team(rank, size).part(n)])] for n in range(2 * size)]
    assert takers == [[n % size] for n in range(2 * size)]


def test_masks_differ_between_workers_and_the_first_draws_what_one_alone_does():
    assert [Team(rank, 3).stream for rank in range(3)] == [(), ("worker", 1), ("worker", 2)]


@pytest.mark.parametrize("network", [nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), "batch"])
def test_a_network_whose_cells_depend_on_each_other_is_trained_on_one_gpu_alone(network):
    if network == "batch":
        network = nn.Linear(2, 2)
        network.cells_are_independent = False
    Team().check(network)
    with pytest.raises(RequestError, match="on 2 GPUs each sees a part of a batch.*gpu: 1"):
        Team(1, 2).check(network)


def test_a_part_of_a_batch_knows_the_whole():
    assert Batch({}, np.zeros(1), np.arange(1), np.arange(3)).whole.tolist() == [0, 1, 2]
    assert Batch({}, np.zeros(3), np.arange(3)).whole.tolist() == [0, 1, 2]


def test_in_float16_a_worker_without_a_cell_of_the_first_step_takes_it_too(monkeypatch):
    monkeypatch.setattr(Team, "share", lambda team, tensors: None)
    monkeypatch.setattr(Team, "add", lambda team, tensor: tensor.add_(1))  # as if the other worker's numbers were 1
    trainer = make_trainer(Recipe(batch_size=1, precision="float16"))
    trainer.team, before = Team(1, 2), trainer.network.layer.weight.detach().clone()
    trainer.train(np.arange(1), 0)
    assert trainer.steps == 1 and not before.equal(trainer.network.layer.weight)


def helper(port: int, config: dict, checkpoint: Path | None, size: int, rank: int) -> None:
    with joined(port, Team(rank, size), on_gpu=False):
        assist(config, checkpoint)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def together(config: dict, size: int, checkpoint: Path | None = None, report=None) -> list[dict]:
    """Run a trial by so many processes, this one the first; returns what it reports."""
    reports: list[dict] = []
    port, spawn = free_port(), multiprocessing.get_context("spawn")
    helpers = [spawn.Process(target=helper, args=(port, config, checkpoint, size, rank)) for rank in range(1, size)]
    for one in helpers:
        one.start()
    try:
        with joined(port, Team(0, size), on_gpu=False):
            run_trial(config, report or (lambda metrics, path: reports.append(metrics)), checkpoint)
    finally:
        for one in helpers:
            one.join(60)
            one.kill()
    return reports


def alone(config: dict) -> list[dict]:
    reports: list[dict] = []
    run_trial(config, lambda metrics, path: reports.append(metrics), None)
    return reports


def numbers(reports: list[dict]) -> list[list[float]]:
    return [[float(one[name]) for name in AS_ONE if name in one] for one in reports]


@pytest.mark.slow
@pytest.mark.parametrize("model", NETWORKS)
def test_two_workers_come_to_the_losses_of_one(tmp_path, model):
    for budget, more in (("steps", {}), ("epochs", {"carry_accumulation": True})):
        config = trial_config(tmp_path / budget, model, options={"size": "tiny"} | STILL[model])
        config |= {"recipe": UNEVEN | {"budget": budget} | more, "loss": {"kind": "weighted"}}
        found = numbers(together(config | {"directory": str(tmp_path / budget / "two")}, 2))
        wanted = numbers(alone(config | {"directory": str(tmp_path / budget / "one")}))
        np.testing.assert_allclose(np.array(found[:-1]), np.array(wanted[:-1]), rtol=0, atol=1e-5)
        np.testing.assert_allclose(found[-1], wanted[-1], rtol=0, atol=1e-5)
