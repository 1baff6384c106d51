"""The way of a batch to a GPU, played through without one: made ahead, pinned, and no step waits for the device."""

import contextlib
import threading

import numpy as np
import pytest
import torch
from test_loop import Cells, Linear, collate, plain
from torch import nn

from data_pipeline.shards.encoded import Encoded
from data_pipeline.shards.feed import Batch, Feed
from trainables.losses import LOSSES
from trainables.networks import attention
from trainables.spec import Recipe, get
from trainables.training import loop
from trainables.training.finite import NonFiniteLoss
from trainables.training.loop import Trainer
from trainables.training.prefetch import ahead

META = torch.device("meta")  # holds no numbers: whoever asks for one, which on a GPU means waiting for it, raises


def batch_of(row: int) -> Batch:
    return Batch({"row": torch.tensor(row)}, np.array([0]), np.array([row]))


# --- the thread


def test_batches_come_in_order_prepared_by_another_thread():
    names = []
    batches = ahead(map(batch_of, range(7)), lambda batch: names.append(threading.current_thread().name) or batch)
    assert [int(batch.rows[0]) for batch in batches] == list(range(7))
    assert len(set(names)) == 1 and names[0].startswith("prefetch")
    assert list(ahead([], lambda batch: batch)) == []


def test_the_next_batch_is_made_while_the_reader_is_busy_but_no_more_than_two():
    made = [threading.Event() for _ in range(6)]
    batches = ahead(map(batch_of, range(6)), lambda batch: made[int(batch.rows[0])].set() or batch)
    next(batches)
    assert made[1].wait(5) and made[2].wait(5)  # without the reader asking for them
    assert not made[3].wait(0.05)
    next(batches)
    assert made[3].wait(5)
    batches.close()


def test_an_error_in_the_thread_is_raised_at_its_batch():
    def prepare(batch: Batch) -> Batch:
        if batch.rows[0] == 2:
            raise MemoryError("no pinned memory left")
        return batch

    seen = []
    with pytest.raises(MemoryError, match="no pinned memory left"):
        seen += [int(batch.rows[0]) for batch in _noting(ahead(map(batch_of, range(5)), prepare), seen)]
    assert seen == [0, 1]


def _noting(batches, seen: list[int]):
    for batch in batches:
        seen.append(int(batch.rows[0]))
        yield batch


def test_a_reader_that_stops_early_ends_the_thread():
    batches = ahead(map(batch_of, range(100)), lambda batch: batch)
    next(batches)
    batches.close()
    assert not any(thread.name.startswith("prefetch") for thread in threading.enumerate())


# --- the loop on a GPU


@pytest.fixture
def gpu(monkeypatch) -> list[str]:
    """The loop believes in a GPU; returns in which threads tensors were pinned."""
    threads: list[str] = []
    monkeypatch.setattr(Trainer, "on_gpu", True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: threads.append(threading.current_thread().name) or x)
    return threads


def test_training_and_predicting_ahead_give_what_they_give_without(monkeypatch, request):
    def outcome() -> tuple[torch.Tensor, np.ndarray]:
        cells = Cells()
        torch.manual_seed(0)
        feed = Feed(cells, cells.labels, collate, 16)
        trainer = Trainer(Linear(), Recipe(batch_size=16, precision="float32"), plain, feed, 0, torch.device("cpu"))
        trainer.train(np.arange(60), 0)
        return trainer.network.layer.weight.detach().clone(), trainer.predict(np.arange(60))

    wanted = outcome()
    threads = request.getfixturevalue("gpu")
    found = outcome()
    assert torch.equal(found[0], wanted[0]) and np.array_equal(found[1], wanted[1])
    assert sum(name.startswith("prefetch") for name in threads) == 8  # the inputs of 4 + 4 batches, none on the way


def test_a_loss_that_is_not_a_number_is_told_later_but_never_touches_the_weights(gpu):
    """The flag stays on the device; the fused optimiser reads it there, the host at the end of the epoch."""
    seen: list[torch.Tensor] = []

    def poisoned(logits, labels, progress):
        seen.append(trainer.network.layer.weight.detach().clone())
        return plain(logits, labels, progress) * (float("nan") if len(seen) == 2 else 1)

    cells = Cells()
    feed = Feed(cells, cells.labels, collate, 16)
    trainer = Trainer(Linear(), Recipe(batch_size=16, precision="float32"), poisoned, feed, 0, torch.device("cpu"))
    with pytest.raises(NonFiniteLoss, match="NaN or infinite in round 1, within the 64 steps before step 5"):
        trainer.train(np.arange(64), 0)
    assert not torch.equal(seen[0], seen[1])
    assert all(torch.equal(seen[1], weight) for weight in (*seen[2:], trainer.network.layer.weight))


def some_cells(model: str) -> tuple[dict, Encoded]:
    """Return (what `build` needs, three cells encoded)."""
    from scipy import sparse

    genes = [f"g{number}" for number in range(30)]
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(1.0, (3, 30)).astype(np.float32))
    encoder = get(model).encoder(genes, size="tiny")
    return encoder.network_options, encoder(counts, np.random.default_rng(0))


class Plain(torch.optim.SGD):
    """Stands for the fused optimiser, which takes the flag `found_inf` but only tensors of a real device."""

    def __init__(self, parameters) -> None:
        super().__init__(parameters)
        self.defaults["fused"] = True

    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.add_(parameter.grad, alpha=-group["lr"])


def trainer_on_meta(monkeypatch, network: nn.Module, loss, feed: Feed, rate: float) -> Trainer:
    """A trainer on a device without numbers; kernels, autocast and optimiser, which need a real one, are replaced."""

    def kernel(q, k, v, offsets_q, offsets_k, longest_q: int, longest_k: int, dropout: float):
        assert type(longest_q) is int and type(longest_k) is int and dropout == rate
        return q + v[: len(q)].sum() + k.sum()

    monkeypatch.setattr(attention, "cuda_kernel", lambda dtype, dropout: kernel)
    monkeypatch.setattr(torch, "autocast", lambda *device, **options: contextlib.nullcontext())
    monkeypatch.setattr(loop, "make_optimizer", lambda net, recipe: Plain(net.parameters()))
    return Trainer(network, Recipe(precision="float32"), loss, feed, 0, META)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("model", ["scgpt", "scbert", "geneformer"])
def test_no_step_asks_the_device_for_a_number(gpu, monkeypatch, model, loss):
    spec, (options, encoded) = get(model), some_cells(model)
    rate = {} if model == "scbert" else {"dropout": 0.2}
    network = spec.build(3, size="tiny", **options, **rate)
    feed = Feed(encoded, np.array([0, 2, 1]), spec.collate, 3)
    trainer = trainer_on_meta(monkeypatch, network, LOSSES[loss]([9, 5, 1]), feed, rate.get("dropout", 0.0))
    trainer.network.train()
    total = trainer._step([feed.batch(np.arange(3))], 1e-4, 14)
    assert total.device == META and trainer.steps == 1 and gpu


def test_a_step_that_asks_for_a_number_would_be_noticed(gpu, monkeypatch):
    class Curious(Linear):
        def forward(self, values):
            return super().forward(values) * float(values.sum())

    cells = Cells()
    feed = Feed(cells, cells.labels, collate, 16)
    trainer = trainer_on_meta(monkeypatch, Curious(), plain, feed, 0.0)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        trainer._step([feed.batch(np.arange(16))], 1e-4, 0)
