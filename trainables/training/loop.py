"""Train a network for a round, predict with it: device, precision, out-of-memory retreat, stop at NaN.

The only file that seeds torch. Everything random in round r follows from (seed, r), so a round redone is the same. A
round is a number of optimiser steps, or an epoch: one pass over the rows.
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from data_pipeline.seeds import derive
from data_pipeline.shards.feed import Batch, Feed
from trainables.budget import Budget, steps_per_pass
from trainables.spec import Recipe
from trainables.training import checkpoint
from trainables.training.passes import Passes
from trainables.training.prefetch import ahead
from trainables.training.schedule import learning_rate

RETREATS = 3  # how often a micro-batch may be halved after running out of memory
LABELS = "labels"  # travel to the device with a batch's inputs
CHECK_EVERY = 64  # steps between looks at the device's not-a-number flag on CUDA, where each look waits for the GPU


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient is NaN or infinite; raised before the weights are touched."""


def seed_torch(seed: int, *stage: str | int) -> None:
    """Seed torch on every device for the named stage."""
    torch.manual_seed(derive(seed, *stage))


def choose_device(wanted: str) -> torch.device:
    """Return the device for "auto", "cpu" or "cuda"."""
    return torch.device("cuda" if wanted == "auto" and torch.cuda.is_available() else wanted.replace("auto", "cpu"))


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return Adam or AdamW over the trainable parameters; weight decay spares biases and norms (1-d), as upstream."""
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trainable if parameter.ndim > 1]
    spared = [parameter for parameter in trainable if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    fused = all(parameter.dtype == torch.float32 for parameter in trainable)
    return kind([group for group in groups if group["params"]], lr=recipe.learning_rate, eps=recipe.eps, fused=fused)


@dataclass
class Progress:
    """What one round of training yields: mean loss per cell, cells, seconds in steps (loading and evaluation apart)."""

    loss: float
    cells: int
    seconds: float
    load_seconds: float


@dataclass
class Trainer:
    """A network being trained. `loss(logits_BC, labels_B, progress)`; `carry`: rows whose step is still owed."""

    network: nn.Module
    recipe: Recipe
    loss: Any
    feed: Feed
    seed: int
    device: torch.device
    shuffle: bool = True
    steps: int = 0
    carry: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.network.to(self.device)
        self.micro_batch = self.feed.batch_size
        self._non_finite = torch.zeros((), device=self.device)
        self.start(self.recipe)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def start(self, recipe: Recipe, seed: int | None = None) -> None:
        """Begin anew with a fresh optimiser over the parameters that are trainable now, and with another seed."""
        self.recipe, self.seed = recipe, self.seed if seed is None else seed
        self.network.zero_grad(set_to_none=True)  # or gradients of what is frozen now would count in the clipping
        self.optimizer = make_optimizer(self.network, recipe)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self._dtype() is torch.float16)

    def state(self) -> dict[str, Any]:
        """Return what, with the tensors of weights and optimiser, fixes how the training goes on; JSON-able."""
        carry = [rows.tolist() for rows in self.carry]
        counts = {"steps": self.steps, "micro_batch": self.micro_batch}
        return counts | {"carry": carry, "scaler": self.scaler.state_dict()}

    def restore(self, state: dict[str, Any], optimizer: dict[str, Tensor]) -> None:
        """Put back what `state` gave, and the optimiser's tensors; after `start`, the weights in place."""
        checkpoint.restore_optimizer(self.network, self.optimizer, optimizer)
        self.scaler.load_state_dict(state["scaler"])
        self.steps, self.micro_batch = state["steps"], state["micro_batch"]
        self.carry = [np.array(rows, dtype=np.int64) for rows in state["carry"]]

    def order(self, rows: np.ndarray, number: int) -> np.ndarray:
        """Return the rows of a pass in the order in which they are trained on."""
        return self.feed.order(rows, self.seed, number, self.recipe.length_aware, self.shuffle)

    def train(self, rows: np.ndarray, epoch: int) -> Progress:
        """Train on `rows` once; `epoch` counts from 0."""
        batches = self.feed.batches(self.order(rows, epoch))
        return self._round(batches, epoch, steps_per_pass(self.recipe, len(rows)))

    def train_steps(self, passes: Passes, budget: Budget, number: int) -> Progress:
        """Take the steps of a round (counted from 0) on the rows that come next."""
        size, num_batches = self.recipe.batch_size, budget.steps_in(number) * self.recipe.accumulate
        batches = (self.feed.batch(passes.take(size)) for _ in range(num_batches))
        return self._round(batches, number, budget.per_round)

    def _round(self, batches: Iterable[Batch], number: int, steps_per_round: float) -> Progress:
        seed_torch(self.seed, "round", number)
        self.network.train()
        total = torch.zeros((), device=self.device)
        cells, start, loading = 0, time.perf_counter(), 0.0
        for window in self._windows(batches):
            loading += window.load_seconds
            rate = learning_rate(self.recipe, number, self.steps, steps_per_round)
            total += self._step(window.batches, rate, number)
            cells += sum(len(batch.rows) for batch in window.batches)
        loss = float(total) / max(1, cells)  # waits for the device
        self._raise_if_flagged(number)
        return Progress(loss, cells, time.perf_counter() - start - loading, loading)

    @torch.no_grad()
    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Return the logits of the cells `rows`, float32 [n, C], in that order."""
        self.network.eval()
        parts, order = [], []
        for batch in self._ready(self.feed.evaluation(rows)):
            with self._autocast():
                parts.append(self.network(**self._move(batch.inputs)).float())
        order = np.argsort(-self.feed.shards.lengths[rows], kind="stable")
        logits = torch.cat(parts).cpu().numpy() if parts else np.zeros((0, 0), np.float32)
        return logits[np.argsort(order, kind="stable")]

    def _windows(self, batches: Iterable[Batch]) -> Iterator["_Window"]:
        """Yield the batches of each optimiser step. An epoch's last partial one is stepped or, as scBERT has it, owed.

        What is owed adds to the first step of the next epoch, which still waits for `accumulate` batches of its own.
        """
        window, num_carried = _Window([self.feed.batch(owed) for owed in self.carry]), len(self.carry)
        self.carry = []
        clock = time.perf_counter()
        for batch in self._ready(batches):
            window.batches.append(batch)
            window.load_seconds += time.perf_counter() - clock
            if len(window.batches) == self.recipe.accumulate + num_carried:
                yield window
                window, num_carried = _Window([]), 0
            clock = time.perf_counter()
        if self.recipe.carry_accumulation:
            self.carry = [batch.rows for batch in window.batches]
        elif window.batches:
            yield window

    def _step(self, batches: list[Batch], rate: float, epoch: int) -> Tensor:
        """One optimiser step; returns the sum of the cells' losses. Halves the micro-batch when memory runs out."""
        for retreat in range(RETREATS + 1):
            try:
                total = self._backward(batches, epoch)
                break
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                self._retreat(retreat, batches, error)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._apply(batches, epoch)
        return total

    def _backward(self, batches: list[Batch], epoch: int) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for batch in batches:
            for piece in self._pieces(batch):
                moved = self._move(piece.inputs | {LABELS: torch.from_numpy(piece.labels)})
                labels = moved.pop(LABELS)
                with self._autocast():
                    logits = self.network(**moved)
                loss = self.loss(logits.float(), labels, min(1.0, epoch / self.recipe.epochs))
                self._check(loss, epoch, batch)
                self.scaler.scale(loss * (len(piece.rows) / len(batch.rows))).backward()
                total += loss.detach() * len(piece.rows)
        return total

    def _pieces(self, batch: Batch) -> list[Batch]:
        """Return the batch cut to micro-batches; the batch itself while memory suffices."""
        if len(batch.rows) <= self.micro_batch:
            return [batch]
        starts = range(0, len(batch.rows), self.micro_batch)
        return [self.feed.batch(batch.rows[start : start + self.micro_batch]) for start in starts]

    def _apply(self, batches: list[Batch], epoch: int) -> None:
        if self.recipe.clip is not None:
            self.scaler.unscale_(self.optimizer)
            norm = clip_grad_norm_(self.network.parameters(), self.recipe.clip)
            if not self.scaler.is_enabled():
                self._check(norm, epoch, batches[-1])
        if self.on_gpu and not self.scaler.is_enabled():
            self.optimizer.found_inf = self._non_finite  # fused Adam leaves the weights alone where this isn't 0
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.steps += 1
        if self.steps % CHECK_EVERY == 0:
            self._raise_if_flagged(epoch)

    def _retreat(self, retreat: int, batches: list[Batch], error: BaseException) -> None:
        longest = max(int(self.feed.shards.lengths[batch.rows].max()) for batch in batches)
        if retreat == RETREATS or self.micro_batch == 1:
            size = f"{self.micro_batch} cells of at most {longest} tokens"
            raise MemoryError(f"out of memory even with micro-batches of {size}: {error}") from error
        self.micro_batch = max(1, min(self.micro_batch, max(len(batch.rows) for batch in batches)) // 2)
        self.optimizer.zero_grad(set_to_none=True)
        if self.on_gpu:
            torch.cuda.empty_cache()

    def _check(self, value: Tensor, epoch: int, batch: Batch) -> None:
        """Stop before the weights are touched. On CUDA the flag stays on the device and is looked at now and then."""
        if self.on_gpu:
            self._non_finite = torch.maximum(self._non_finite, (~torch.isfinite(value.detach())).float())
        elif not torch.isfinite(value.detach()):
            rows = ", ".join(map(str, batch.rows[:8])) + (", ..." if len(batch.rows) > 8 else "")
            raise NonFiniteLoss(
                f"the loss or its gradient is {float(value.detach())} in epoch {epoch + 1}, step {self.steps + 1}, "
                f"cells in rows {rows}; lower learning_rate, or look at these cells"
            )

    def _raise_if_flagged(self, epoch: int) -> None:
        if self.on_gpu and float(self._non_finite):
            raise NonFiniteLoss(
                f"the loss or its gradient became NaN or infinite in epoch {epoch + 1}, "
                f"within the {CHECK_EVERY} steps before step {self.steps + 1}; lower learning_rate"
            )

    def _dtype(self) -> torch.dtype:
        if self.recipe.precision == "auto":
            if not self.on_gpu:
                return torch.float32
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        return getattr(torch, self.recipe.precision)

    def _autocast(self) -> contextlib.AbstractContextManager:
        dtype = self._dtype()
        return contextlib.nullcontext() if dtype is torch.float32 else torch.autocast(self.device.type, dtype)

    def _ready(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """Return the batches; for a GPU they are made and pinned ahead by a thread."""
        return ahead(batches, _pinned_batch) if self.on_gpu else batches

    def _move(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the inputs on the device; from pinned memory, as only such copies don't make the host wait."""
        if not self.on_gpu:
            return inputs
        moved = {name: value for name, value in _pinned(inputs).items() if isinstance(value, Tensor)}
        return inputs | {name: value.to(self.device, non_blocking=True) for name, value in moved.items()}


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)  # the latter on a CPU


def _pinned_batch(batch: Batch) -> Batch:
    return dataclasses.replace(batch, inputs=_pinned(batch.inputs))


def _pinned(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs with every tensor in pinned memory; those that are stay where they are."""
    return {name: value.pin_memory() if isinstance(value, Tensor) else value for name, value in inputs.items()}


@dataclass
class _Window:
    batches: list[Batch]
    load_seconds: float = 0.0
