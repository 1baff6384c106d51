"""The training loop: schedules by their formulas, accumulation, retreat on out-of-memory, stop at NaN."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from data_pipeline.shards.encoded import Encoded
from data_pipeline.shards.feed import Feed
from trainables.budget import Budget
from trainables.spec import Recipe
from trainables.training.device import MicroBatch, choose_device, precision_of
from trainables.training.finite import NonFiniteLoss
from trainables.training.loop import Trainer
from trainables.training.optimizer import MIN_COSINE, learning_rate
from trainables.training.passes import Passes

CPU = torch.device("cpu")


class Cells:
    """Shards of cells with two numbers each."""

    def __init__(self, num_cells: int = 64) -> None:
        rng = np.random.default_rng(0)
        self.labels = rng.integers(0, 2, num_cells)
        self.values = (rng.normal(size=(num_cells, 2)) + 2 * self.labels[:, None]).astype(np.float32)
        self.lengths = np.full(num_cells, 2)

    def take(self, rows: np.ndarray) -> Encoded:
        return Encoded(np.zeros(2 * len(rows), int), self.values[rows].ravel(), np.arange(len(rows) + 1) * 2)


def collate(encoded: Encoded, rows: np.ndarray) -> dict:
    return {"values": torch.from_numpy(encoded.values.reshape(-1, 2))}


class Linear(nn.Module):
    """Logits from two numbers; runs out of memory above `fits` cells, as a GPU would."""

    def __init__(self, fits: int = 10**9, error: Exception | None = None) -> None:
        super().__init__()
        self.layer, self.fits = nn.Linear(2, 2), fits
        self.error = torch.OutOfMemoryError("CUDA out of memory") if error is None else error

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if len(values) > self.fits and self.training:
            raise self.error
        return self.layer(values)


def plain(logits, labels, progress):
    return F.cross_entropy(logits, labels)


def make_trainer(recipe: Recipe, network: nn.Module | None = None, loss=plain) -> Trainer:
    cells = Cells()
    torch.manual_seed(0)
    network = Linear() if network is None else network
    return Trainer(network, recipe, loss, Feed(cells, cells.labels, collate, recipe.batch_size), 0, CPU)


def weights_after(recipe: Recipe, network: nn.Module | None = None, epochs: int = 2) -> torch.Tensor:
    trainer = make_trainer(recipe, network)
    for epoch in range(epochs):
        trainer.train(np.arange(60), epoch)
    return trainer.network.layer.weight.detach().clone()


def test_step_schedule_shrinks_by_gamma_each_epoch():
    recipe = Recipe(schedule="step", gamma=0.9, learning_rate=1e-4)
    assert [learning_rate(recipe, e, 99, 7) for e in range(3)] == pytest.approx([1e-4, 0.9e-4, 0.81e-4])


def rates(recipe: Recipe) -> list[float]:
    """The learning rates of all its steps, ten a round."""
    return [learning_rate(recipe, step // 10, step, 10) for step in range(10 * recipe.epochs)]


@pytest.mark.parametrize("schedule", ["constant", "step", "linear", "cosine_restarts"])
@pytest.mark.parametrize("epochs", [1, 2, 15, 16])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_settings_of_a_schedule_are_idle_where_no_rate_depends_on_them(schedule, epochs, share):
    recipe = Recipe(schedule=schedule, epochs=epochs, gamma=0.9, warmup=0.3, warmup_share=share)
    others = {"gamma": 0.5, "warmup": 0.2, "warmup_share": 0.4 if share == 0.5 else 0.05}
    changes = {
        name for name, value in others.items() if rates(recipe.model_copy(update={name: value})) != rates(recipe)
    }
    assert set(others) - set(recipe.idle()) == changes


@pytest.mark.parametrize(("more", "rounds"), [({}, 6), ({"steps": 4}, 4), ({"crt_epochs": 9}, 9)])
def test_patience_is_idle_where_it_ends_nothing_early(more, rounds):
    """The first round is the best so far: the k-th after it without a better one ends a stage after k + 1 rounds."""
    found = [number for number in range(1, 12) if "patience" not in Recipe(epochs=6, patience=number, **more).idle()]
    assert found == [number for number in range(1, 12) if number + 1 < rounds]


def test_linear_schedule_is_that_of_transformers():
    from transformers import get_linear_schedule_with_warmup

    recipe = Recipe(schedule="linear", warmup=5, learning_rate=5e-5, epochs=2)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=5e-5)
    reference = get_linear_schedule_with_warmup(optimizer, 5, 20)
    for step in range(20):
        assert learning_rate(recipe, step // 10, step, 10) == pytest.approx(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()


def test_cosine_restarts_are_those_published_for_scbert():
    recipe = Recipe(schedule="cosine_restarts", warmup=5, learning_rate=1e-4, gamma=0.9)
    published = [1e-6, 2.08e-5, 4.06e-5, 6.04e-5, 8.02e-5, 1e-4, 9.758e-5, 9.055e-5, 7.960e-5, 6.580e-5, 5.050e-5]
    published += [3.520e-5, 2.140e-5, 1.045e-5, 3.423e-6, 1e-6, 1.88e-5]
    assert [learning_rate(recipe, epoch, 0, 1) for epoch in range(17)] == pytest.approx(published, rel=1e-3)
    assert learning_rate(recipe, 40, 0, 1) == pytest.approx(MIN_COSINE)  # the third cycle begins


def test_accumulated_gradients_are_summed_not_averaged():
    whole = weights_after(Recipe(batch_size=30, clip=None, optimizer="adam"), epochs=1)
    summed = weights_after(Recipe(batch_size=15, accumulate=2, clip=None), epochs=1)
    assert torch.allclose(whole, summed, atol=1e-6)  # Adam is blind to the factor of two; the direction must agree
    assert not torch.allclose(whole, weights_after(Recipe(batch_size=15, clip=None), epochs=1), atol=1e-6)


def test_an_owed_partial_accumulation_is_carried_into_the_next_epoch():
    trainer = make_trainer(Recipe(budget="epochs", batch_size=16, accumulate=3, carry_accumulation=True))
    trainer.train(np.arange(64), 0)
    assert (trainer.steps, [len(rows) for rows in trainer.carry]) == (1, [16])
    trainer.train(np.arange(64), 1)
    assert (trainer.steps, [len(rows) for rows in trainer.carry]) == (2, [16])  # the second step saw 1 + 3 batches


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_result():
    recipe = Recipe(batch_size=32)
    torch.manual_seed(0)
    small = Linear(fits=8)
    trainer = make_trainer(recipe, small)
    torch.manual_seed(0)
    trainer.network.load_state_dict(Linear().state_dict())
    progress = trainer.train(np.arange(60), 0)
    assert (trainer.micro_batch, progress.cells) == (8, 60)
    assert torch.allclose(trainer.network.layer.weight, weights_after(recipe, epochs=1), atol=1e-6)


def test_other_errors_are_no_lack_of_memory():
    broken = make_trainer(Recipe(batch_size=32), Linear(fits=8, error=RuntimeError("size mismatch")))
    with pytest.raises(RuntimeError, match="size mismatch"):
        broken.train(np.arange(60), 0)


def test_out_of_memory_with_a_single_cell_fails_with_the_figures():
    trainer = make_trainer(Recipe(batch_size=32), Linear(fits=0))
    with pytest.raises(MemoryError, match="even with cells of at most 2 tokens, one at a time: CUDA out of memory"):
        trainer.train(np.arange(60), 0)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_whoever_runs_out_of_memory_is_given_fewer_cells(error):
    trainer = make_trainer(Recipe(batch_size=32), Linear(fits=8, error=error))
    trainer.train(np.arange(60), 0)
    assert trainer.micro_batch == 8


def test_prediction_keeps_to_what_training_retreated_to_and_retreats_itself():
    class Narrow(Linear):
        def forward(self, values):
            if len(values) > self.fits:
                raise self.error
            return self.layer(values)

    trainer = make_trainer(Recipe(batch_size=32), Narrow(fits=8))
    trainer.train(np.arange(60), 0)
    trainer.network.fits = 3
    rows = np.arange(60)[::-1]
    found = trainer.predict(rows)
    trainer.network.fits = 60
    assert trainer.micro_batch == 2 and np.allclose(found, trainer.predict(rows), atol=1e-6)


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_memory_that_runs_out_in_the_first_step_of_the_optimiser_is_tried_again(monkeypatch, clip, precision):
    recipe = Recipe(batch_size=32, clip=clip, precision=precision)
    whole = make_trainer(recipe)
    whole.train(np.arange(64), 0)
    trainer, failed = make_trainer(recipe), []
    step = trainer.optimizer.step

    def first_fails(*args, **kwargs):
        if not failed:
            failed.append(1)
            trainer.optimizer.state[trainer.network.layer.weight] = {"step": torch.tensor(0.0)}  # no moments yet
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(*args, **kwargs)

    monkeypatch.setattr(trainer.optimizer, "step", first_fails)
    trainer.train(np.arange(64), 0)
    assert failed and trainer.steps == whole.steps == 2
    assert torch.allclose(trainer.network.layer.weight, whole.network.layer.weight, atol=1e-3)


def test_what_failed_work_held_is_let_go_before_it_is_tried_again():
    import gc
    import weakref

    held = []

    def work() -> int:
        graph = torch.zeros(3)
        held.append(weakref.ref(graph))
        if len(held) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return len(held)

    gc.disable()
    try:
        assert MicroBatch(8).attempt(work, 8, lambda: held.append(held[0]()), lambda: "cells") == 3
    finally:
        gc.enable()
    assert held[1] is None, "while memory is cleared nothing holds the failed graph"


def test_a_loss_that_is_not_a_number_stops_before_the_weights_are_touched():
    calls = []

    def poisoned(logits, labels, progress):
        calls.append(1)
        return F.cross_entropy(logits, labels) * (float("nan") if len(calls) == 2 else 1)

    trainer = make_trainer(Recipe(batch_size=32), loss=poisoned)
    seen = []
    step = trainer.optimizer.step
    trainer.optimizer.step = lambda: (step(), seen.append(trainer.network.layer.weight.detach().clone()))
    with pytest.raises(NonFiniteLoss, match=r"nan in round 1, step 2, cells in rows \d+, .*lower learning_rate"):
        trainer.train(np.arange(64), 0)
    assert len(seen) == 1 and torch.equal(trainer.network.layer.weight, seen[0])


@pytest.mark.parametrize("clip", [1.0, None])
def test_an_infinite_gradient_of_a_finite_loss_stops_too(clip):
    class Exploding(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * float("inf")

    exploding = lambda logits, labels, p: F.cross_entropy(Exploding.apply(logits), labels)  # noqa: E731
    trainer = make_trainer(Recipe(clip=clip), loss=exploding)
    before = trainer.network.layer.weight.detach().clone()
    with pytest.raises(NonFiniteLoss):
        trainer.train(np.arange(64), 0)
    assert torch.equal(trainer.network.layer.weight, before)


def test_predictions_come_in_the_order_of_the_rows():
    trainer = make_trainer(Recipe(batch_size=7))
    rows = np.array([5, 3, 60, 3, 0])
    alone = np.concatenate([trainer.predict(rows[i : i + 1]) for i in range(len(rows))])
    assert np.allclose(trainer.predict(rows), alone, atol=1e-6)


def test_weight_decay_spares_biases_and_norms():
    trainer = make_trainer(Recipe(optimizer="adamw", weight_decay=0.1))
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [0.1, 0.0]
    assert [len(group["params"]) for group in trainer.optimizer.param_groups] == [1, 1]


def test_auto_device_is_the_cpu_without_a_gpu():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_float16_scales_the_loss_only_where_it_is_used():
    assert not make_trainer(Recipe(precision="float32")).scaler.is_enabled()
    assert make_trainer(Recipe(precision="bfloat16")).train(np.arange(64), 0).loss > 0


def test_in_float16_a_loss_that_is_not_finite_is_skipped_and_one_that_never_is_ends_the_trial():
    calls = []

    def poisoned(logits, labels, progress):
        calls.append(1)
        return F.cross_entropy(logits, labels) * (float("inf") if len(calls) in bad else 1)

    bad = {2}
    trainer = make_trainer(Recipe(batch_size=32, precision="float16"), loss=poisoned)
    assert np.isfinite(trainer.train(np.arange(64), 0).loss)
    assert trainer.scaler.get_scale() < 2.0**16
    bad = range(10**6)
    with pytest.raises(NonFiniteLoss, match="in float16 no step up to round"):
        for number in range(1, 100):
            trainer.train(np.arange(64), number)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_parameters_of_16_bits_are_trained_without_the_fused_optimiser(monkeypatch, on_gpu):
    monkeypatch.setattr(Trainer, "on_gpu", on_gpu)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: x)
    trainer = make_trainer(Recipe(batch_size=32, learning_rate=0.1, precision="bfloat16"), Linear().bfloat16())
    before = trainer.network.layer.weight.detach().clone()
    trainer.train(np.arange(64), 0)
    assert not trainer.optimizer.defaults["fused"] and not torch.equal(trainer.network.layer.weight, before)


def test_numbers_that_a_card_only_emulates_are_not_chosen(monkeypatch):
    """A V100 or T4 says that it supports bfloat16, unless it is asked without emulation."""
    for native, wanted in ((True, torch.bfloat16), (False, torch.float16)):
        says = lambda including_emulation=True, native=native: including_emulation or native  # noqa: E731
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", says)
        assert precision_of(Recipe(), torch.device("cuda")) is wanted
    assert precision_of(Recipe(), CPU) is precision_of(Recipe(precision="float32"), torch.device("cuda"))


class OneByOne(Linear):
    """A network whose cells don't depend on their neighbours; notes how many go through it together."""

    cells_are_independent = True

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, values):
        self.seen.append(len(values))
        return self.layer(values)


@pytest.mark.parametrize("budget", ["epochs", "steps"])
def test_batches_of_one_are_fused_on_a_gpu_into_the_same_steps(monkeypatch, budget):
    recipe = Recipe(batch_size=1, accumulate=30, clip=None, precision="float32", learning_rate=0.01, budget=budget)

    def trained() -> tuple[torch.Tensor, int, int]:
        torch.manual_seed(0)
        trainer = make_trainer(recipe, OneByOne())
        if budget == "epochs":
            trainer.train(np.arange(64), 0)
        else:
            trainer.train_steps(Passes(lambda number: np.random.default_rng(number).permutation(64)), Budget(3, 1), 0)
        most = max(trainer.network.seen)
        assert trainer.predict(np.arange(64)).shape == (64, 2)
        return trainer.network.layer.weight.detach(), trainer.steps, most

    alone = trained()
    monkeypatch.setattr(Trainer, "on_gpu", True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: x)
    fused = trained()
    assert torch.allclose(alone[0], fused[0], atol=1e-6) and alone[1] == fused[1] == 3
    assert (alone[2], fused[2]) == (1, 15), "the largest divisor of 30 up to 20"
