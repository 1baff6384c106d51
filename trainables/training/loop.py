"""Train a network for a round, predict with it; stop at NaN.

The only file that seeds torch. Everything random in round r follows from (seed, r), so a round redone is the same. A
round is a number of optimiser steps, or an epoch: one pass over the rows.
"""

import dataclasses
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

from data_pipeline.seeds import derive
from data_pipeline.shards.feed import Batch, Feed
from trainables.budget import Budget, steps_per_pass
from trainables.spec import Recipe
from trainables.training import checkpoint
from trainables.training import device as devices
from trainables.training.device import MicroBatch, precision_of
from trainables.training.finite import CHECK_EVERY, Watch
from trainables.training.optimizer import learning_rate, make_optimizer
from trainables.training.passes import Passes
from trainables.training.prefetch import ahead
from trainables.training.team import Team
from trainables.training.trained import wake

LABELS = "labels"  # travel to the device with a batch's inputs


def seed_torch(seed: int, *stage: str | int) -> None:
    """Seed torch on every device for the named stage."""
    torch.manual_seed(derive(seed, *stage))


@dataclass
class Progress:
    """What one round of training yields: mean loss per cell, cells, seconds in steps (loading and evaluation apart)."""

    loss: float
    cells: int
    seconds: float
    load_seconds: float


@dataclass
class Trainer:
    """A network being trained. `loss(logits_BC, labels_B, progress)`; `carry`: rows whose step is still owed.

    On a GPU batches of one cell are fused where cells don't depend on their neighbours: the same sum of gradients.
    team: see there; all its workers call the same methods in the same order.
    """

    network: nn.Module
    recipe: Recipe
    loss: Any
    feed: Feed
    seed: int
    device: torch.device
    shuffle: bool = True
    steps: int = 0
    carry: list[np.ndarray] = field(default_factory=list)
    at_once: MicroBatch | None = None
    team: Team = field(default_factory=Team.here)

    def __post_init__(self) -> None:
        self.network.to(self.device)
        self.team.check(self.network)
        self.watch = Watch(self.device, self.on_gpu)
        self.start(self.recipe)
        self.at_once = MicroBatch(self.feed.batch_size) if self.at_once is None else self.at_once

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def micro_batch(self) -> int:
        """Cells on the device at once, at most."""
        return self.at_once.size

    @micro_batch.setter
    def micro_batch(self, size: int) -> None:
        self.at_once.size = size

    def start(self, recipe: Recipe, seed: int | None = None) -> None:
        """Begin anew with a fresh optimiser over the parameters that are trainable now, and with another seed."""
        self.recipe, self.seed = recipe, self.seed if seed is None else seed
        devices.allow_tf32(self.device, recipe.tf32)
        self.fused = devices.fusible(self.network, recipe) if self.on_gpu else 1
        if self.fused > 1:
            self.feed = dataclasses.replace(self.feed, batch_size=self.fused)
            self.network.cells_are_calls = True
        self.optimizer = make_optimizer(self.network, recipe)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self._dtype() is torch.float16)
        self._let_go()

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
        order, size = self.order(rows, epoch), self.feed.batch_size
        batches = (order[start : start + size] for start in range(0, len(order), size))
        return self._round(batches, epoch, steps_per_pass(self.recipe, len(rows)))

    def train_steps(self, passes: Passes, budget: Budget, number: int) -> Progress:
        """Take the steps of a round (counted from 0) on the rows that come next."""
        size, num_batches = self.feed.batch_size, budget.steps_in(number) * self._batches_per_step
        batches = (passes.take(size) for _ in range(num_batches))
        return self._round(batches, number, budget.per_round)

    @property
    def _batches_per_step(self) -> int:
        return self.recipe.accumulate // self.fused

    def _round(self, batches: Iterable[np.ndarray], number: int, steps_per_round: float) -> Progress:
        """batches: their rows."""
        seed_torch(self.seed, "round", number, *self.team.stream)
        self.team.share(self._trainable())
        wake(self.network)
        total = torch.zeros((), device=self.device)
        cells, start, loading = 0, time.perf_counter(), 0.0
        for window in self._windows(batches):
            loading += window.load_seconds
            rate = learning_rate(self.recipe, number, self.steps, steps_per_round)
            total += self._step(window.batches, rate, number)
            cells += sum(len(batch.whole) for batch in window.batches)
        loss = float(total) / max(1, cells)  # waits for the device
        self._stop_if_flagged(number)
        return Progress(loss, cells, time.perf_counter() - start - loading, loading)

    @torch.no_grad()
    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Return the logits of the cells `rows`, float32 [n, C], in that order."""
        self.network.eval()
        team = self.team if len(rows) >= self.team.size else Team()  # each has a cell, or all have all of them
        places = self.feed.longest_first(rows)[team.part(0)]
        parts = [self._logits(batch) for batch in self._ready(self.feed.batches(rows[places]))]
        if not parts:
            return np.zeros((0, 0), np.float32)
        logits = torch.zeros(len(rows), parts[0].shape[1])
        logits[torch.from_numpy(places)] = torch.cat(parts).cpu()
        team.add(logits)
        return logits.numpy()

    def _logits(self, batch: Batch) -> Tensor:
        def work() -> Tensor:
            return torch.cat([self._forward(piece.inputs) for piece in self._pieces(batch)])

        return self.at_once.attempt(work, len(batch.rows), lambda: None, lambda: self._about([batch]))

    def _forward(self, inputs: dict[str, Any]) -> Tensor:
        with devices.autocast(self.device, self._dtype()):
            return self.network(**self._move(inputs)).float()

    def _windows(self, batches: Iterable[np.ndarray]) -> Iterator["_Window"]:
        """Yield the batches of each optimiser step. An epoch's last partial one is stepped or, as scBERT has it, owed.

        What is owed adds to the first step of the next epoch, which still waits for as many batches of its own.
        """
        window, num_carried = _Window(list(self._mine(self.carry))), len(self.carry)
        self.carry = []
        clock = time.perf_counter()
        for batch in self._ready(self._mine(batches)):
            window.batches.append(batch)
            window.load_seconds += time.perf_counter() - clock
            if len(window.batches) == self._batches_per_step + num_carried:
                yield window
                window, num_carried = _Window([]), 0
            clock = time.perf_counter()
        if self.recipe.carry_accumulation:
            self.carry = [batch.whole for batch in window.batches]
        elif window.batches:
            yield window

    def _trainable(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def _mine(self, batches: Iterable[np.ndarray]) -> Iterator[Batch]:
        """Yield of each batch of rows what this worker takes of it."""
        return (self.feed.batch(rows, self.team.part(number)) for number, rows in enumerate(batches))

    def _step(self, batches: list[Batch], rate: float, number: int) -> Tensor:
        """One optimiser step; returns the sum of the cells' losses. Fewer cells at once where memory runs out."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

        def work() -> Tensor:
            total = self._backward(batches, number)
            if self.team.size == 1:
                self._apply(batches, number)
            return total

        most = max(len(batch.rows) for batch in batches)
        total = self.at_once.attempt(work, most, self._let_go, lambda: self._about(batches))
        if self.team.size > 1:  # outside of what is tried again, as the others don't
            total = self.team.add_up(self._trainable(), list(self.network.buffers()), total)
            self._apply(batches, number)
        self.steps += 1
        if self.steps % CHECK_EVERY == 0:
            self._stop_if_flagged(number)
        return total

    def _backward(self, batches: list[Batch], number: int) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        self.scaler.scale(total)  # its first use makes the scale, which a worker without a cell of the step needs too
        for batch in batches:
            per_cell = 1 / min(len(batch.whole), self.recipe.batch_size)
            for piece in self._pieces(batch):
                labels = self._move({LABELS: torch.from_numpy(piece.labels)})[LABELS]
                loss = self.loss(self._forward(piece.inputs), labels, min(1.0, number / self.recipe.epochs))
                if not self.scaler.is_enabled() and self.team.size == 1:  # which else skips the step
                    self.watch.look(loss, number, self.steps + 1, batch.rows)
                self.scaler.scale(loss * (len(piece.rows) * per_cell)).backward()
                total += loss.detach() * len(piece.rows)
        return total.nan_to_num() if self.scaler.is_enabled() else total

    def _pieces(self, batch: Batch) -> list[Batch]:
        """Return the batch cut to micro-batches; the batch itself while memory suffices."""
        pieces = self.at_once.pieces(len(batch.rows))
        return [batch] if len(pieces) == 1 else [self.feed.batch(batch.rows[piece]) for piece in pieces]

    def _apply(self, batches: list[Batch], number: int) -> None:
        """Let the optimiser step, unless a gradient isn't finite: then no weight changes."""
        if self.scaler.is_enabled():
            if self.recipe.clip is not None:
                self.scaler.unscale_(self.optimizer)
                clip_grad_norm_(self.network.parameters(), self.recipe.clip)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            return
        self.watch.look(self._clipped_norm(), number, self.steps + 1, batches[-1].whole)
        if self.on_gpu and self.optimizer.defaults.get("fused"):
            self.optimizer.found_inf = self.watch.flag  # fused Adam leaves the weights alone where this isn't 0
        else:
            self._stop_if_flagged(number)
        self.optimizer.step()

    def _clipped_norm(self) -> Tensor:
        """Return the norm of all gradients, before they are clipped, if they are."""
        if self.recipe.clip is not None:
            return clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        return get_total_norm([one.grad for one in self.network.parameters() if one.grad is not None])

    def _let_go(self) -> None:
        """Drop gradients, and what a first step that failed has left half made."""
        self.network.zero_grad(set_to_none=True)  # or gradients of what is frozen now would count in the clipping
        if any("exp_avg_sq" not in state for state in self.optimizer.state.values()):
            self.optimizer.state.clear()
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.scaler.is_enabled())
        scaler.load_state_dict(self.scaler.state_dict())  # without the mark that gradients are unscaled
        self.scaler = scaler

    def _about(self, batches: list[Batch]) -> str:
        return f"cells of at most {max(int(self.feed.shards.lengths[batch.whole].max()) for batch in batches)} tokens"

    def _stop_if_flagged(self, number: int) -> None:
        self.watch.stop_if_flagged(number, self.steps + 1, self.scaler)

    def _dtype(self) -> torch.dtype:
        return precision_of(self.recipe, self.device)

    def _ready(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """Return the batches; for a GPU they are made and pinned ahead by a thread."""
        return ahead(batches, devices.pinned_batch) if self.on_gpu else batches

    def _move(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return devices.move(inputs, self.device) if self.on_gpu else inputs


@dataclass
class _Window:
    batches: list[Batch]
    load_seconds: float = 0.0
