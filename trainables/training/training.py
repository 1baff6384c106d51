"""A network from its first epoch, or its last checkpoint, to the logits of its best epoch."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax
from sklearn.metrics import f1_score

from trainables import protocol
from trainables.losses import Loss, loss_of
from trainables.material import Material
from trainables.spec import ModelSpec, Recipe
from trainables.training import checkpoint as checkpoints
from trainables.training.loop import Trainer, choose_device, seed_torch

Report = Callable[[dict[str, Any], Path | None], None]


@dataclass(frozen=True)
class Trained:
    """Logits float [n, C] of the best epoch, as the loss reads the outputs, and the numbers of the training."""

    validation_logits: np.ndarray
    test_logits: np.ndarray
    numbers: dict[str, float]
    history: list[dict[str, Any]]
    best: dict[str, torch.Tensor]  # trained parameters and buffers of the best epoch
    best_epoch: int
    base: str  # hash of the frozen parameters
    loss: Loss  # of the last stage: what the logits have learnt


def train_network(spec: ModelSpec, config: dict[str, Any], material: Material, report: Report, start: Path | None):
    """Train `spec`'s network on the material, reporting every epoch; go on from checkpoint `start`.

    Which epochs are saved, `checkpoint_every` says (see checkpoint.Spacing).
    """
    run = _Run(spec, config, material)
    if start is not None:
        run.restore(start)
    for numbers in run.history:
        report(numbers | {"replayed": 1}, None)
    while not run.is_over():
        numbers, path = run.one_epoch()
        report(numbers, path)
    return run.result()


def rehearse(spec: ModelSpec, config: dict[str, Any], material: Material) -> Trainer:
    """Take two steps, and predict, with the longest cells there are; returns the trainer, for the memory it took."""
    trainer = _Run(spec, config, material).trainer
    trainer.recipe = trainer.recipe.model_copy(update={"accumulate": 1, "carry_accumulation": False})
    longest = np.argsort(-material.shards.lengths, kind="stable")[: trainer.feed.batch_size]
    for _ in range(2):
        trainer.train(longest, epoch=0)
    trainer.predict(longest)
    return trainer


class _Run:
    """One network in training: `epochs`, or until patience ends; then crt_epochs in which only the head is trained."""

    def __init__(self, spec: ModelSpec, config: dict[str, Any], material: Material) -> None:
        self.spec, self.config, self.material = spec, config, material
        self.directory = Path(config["directory"])
        self.recipe, network = build(spec, config, material)
        self.trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
        self.total = self.recipe.epochs + self.recipe.crt_epochs
        feed = material.feed(spec, self.recipe.batch_size)
        device = choose_device(config["device"])
        shuffle = "scgpt_unshuffled" not in config["defects"]
        loss = loss_of(config["loss"], material.counts(material.training_rows(0)))
        self.trainer = Trainer(network, self.recipe, loss, feed, config["seed"], device, shuffle)
        self.base = checkpoints.frozen_hash(network, self.trained)
        size = sum(parameter.nbytes for name, parameter in network.named_parameters() if name in self.trained)
        self.spacing = checkpoints.Spacing(config["checkpoint_every"], num_bytes=4 * size)  # weights, best, two moments
        self.epoch, self.since_best, self.best = 0, 0, -np.inf
        self.head_since: int | None = None  # the epoch from which the head alone is retrained
        self.history: list[dict[str, Any]] = []
        self.best_tensors: dict[str, torch.Tensor] | None = None

    def is_over(self) -> bool:
        """Tell whether the last stage has ended."""
        return self._stage_is_over() and (self.head_since is not None or not self.recipe.crt_epochs)

    def _stage_is_over(self) -> bool:
        """Tell whether all epochs of this stage are done, or `patience` of them went by without a better one."""
        recipe, since = self.recipe, self.head_since
        end = recipe.epochs if since is None else since + recipe.crt_epochs
        return self.epoch >= end or (recipe.patience is not None and self.since_best >= recipe.patience)

    def one_epoch(self) -> tuple[dict[str, Any], Path | None]:
        """Train, evaluate, remember the best, save if it is time; returns the epoch's numbers and its checkpoint."""
        if self.head_since is None and self._stage_is_over():
            self._start_head()
        balanced = self.head_since is not None
        rows = self.material.balanced_rows(self.epoch) if balanced else self.material.training_rows(self.epoch)
        progress = self.trainer.train(rows, self.epoch)
        self.epoch += 1
        numbers = {"epoch": self.epoch, "epochs": self.total, "train_loss": progress.loss} | self._validate()
        numbers |= {"seconds_per_epoch": progress.seconds, "load_seconds": progress.load_seconds}
        numbers |= {"micro_batch": self.trainer.micro_batch}
        numbers |= {"cells": progress.cells, "cells_per_second": progress.cells / max(progress.seconds, 1e-9)}
        self._remember(numbers)
        self.history.append(numbers)
        is_due = self.spacing.is_due(self.epoch, progress.seconds)
        if not (is_due or self._must_stop()):
            return numbers, None
        path = self._save()
        numbers |= checkpoints.load(path)["cost"]
        self.spacing.saved(numbers["checkpoint_seconds"])
        return numbers, path

    def _must_stop(self) -> bool:
        """Tell whether the sweep was asked to stop, which it does for each trial once its state is saved."""
        mark = self.config["stop_file"]
        return mark is not None and Path(mark).exists()

    def restore(self, path: Path) -> None:
        """Put back the state of a checkpoint; refuses one whose frozen base is another."""
        state = checkpoints.load(path)
        if state["base"] != self.base:
            raise checkpoints.CheckpointError(
                f"{path}: was trained on other frozen weights than those in {self.config['weights']}; "
                "put the first weights back, or start the trial from scratch (--retry-failed --from-scratch)"
            )
        self.head_since = state["head_since"]
        if self.head_since is not None:
            self._freeze_all_but_head()
        trainer = self.trainer
        checkpoints.restore_weights(trainer.network, checkpoints.tensors(path, "weights.safetensors"))
        optimizer = checkpoints.tensors(path, "optimizer.safetensors")
        checkpoints.restore_optimizer(trainer.network, trainer.optimizer, optimizer)
        trainer.scaler.load_state_dict(state["scaler"])
        trainer.steps, trainer.micro_batch = state["steps"], state["micro_batch"]
        trainer.carry = [np.array(rows, dtype=np.int64) for rows in state["carry"]]
        self.epoch, self.history = state["epoch"], state["history"]
        self.history[-1] |= state["cost"]  # known only once the epoch's numbers were in the checkpoint
        self.spacing.saved(state["cost"]["checkpoint_seconds"])
        self.best, self.since_best = state["best"] if state["best"] is not None else -np.inf, state["since_best"]
        self.best_tensors = checkpoints.tensors(path, "best.safetensors")

    def result(self) -> Trained:
        """Return the logits of the best epoch on validation and test cells."""
        checkpoints.restore_weights(self.trainer.network, self.best_tensors)
        begin = time.perf_counter()
        validation = self._predict(self.material.validation)
        test = self._predict(self.material.test)
        seconds = sum(numbers["seconds_per_epoch"] for numbers in self.history)
        cells = sum(numbers["cells"] for numbers in self.history)
        numbers = {
            "seconds_per_epoch": seconds / len(self.history),
            "cells_per_second": cells / max(seconds, 1e-9),
            "predict_seconds": time.perf_counter() - begin,
            "epochs_run": len(self.history),
            "checkpoint_share": sum(one.get("checkpoint_seconds", 0.0) for one in self.history) / max(seconds, 1e-9),
            "micro_batch": self.trainer.micro_batch,
        }
        best_epoch = self.epoch - self.since_best
        loss = self.trainer.loss
        return Trained(validation, test, numbers, self.history, self.best_tensors, best_epoch, self.base, loss)

    def _predict(self, rows: np.ndarray) -> np.ndarray:
        """Return the logits of the cells `rows`, float [n, C], as the loss reads the network's outputs."""
        outputs = self.trainer.predict(rows) if len(rows) else np.zeros((0, len(self.material.classes)), np.float32)
        return self.trainer.loss.logits(outputs)

    def _validate(self) -> dict[str, float]:
        on_test = "select_on_test" in self.config["defects"]
        rows = self.material.test if on_test else self.material.validation
        return validation_numbers(self._predict(rows), self.material.labels[rows]) if len(rows) else {}

    def _remember(self, numbers: dict[str, Any]) -> None:
        """Keep the weights if this epoch is the best by the recipe's measure; without validation cells, the last is."""
        value = numbers.get(self.recipe.select, float(self.epoch))
        value = -value if self.recipe.select == "val_loss" and self.recipe.select in numbers else value
        self.since_best += 1
        if value > self.best or self.best_tensors is None:
            self.best, self.since_best = value, 0
            tensors = checkpoints.trained_tensors(self.trainer.network, self.trained)
            self.best_tensors = {name: tensor.clone() for name, tensor in tensors.items()}

    def _save(self) -> Path:
        trainer = self.trainer
        files = {
            "weights.safetensors": checkpoints.trained_tensors(trainer.network, self.trained),
            "optimizer.safetensors": checkpoints.optimizer_tensors(trainer.network, trainer.optimizer),
            "best.safetensors": self.best_tensors,
        }
        state = {
            "base": self.base,
            "history": self.history,
            "best": None if np.isinf(self.best) else self.best,
            "since_best": self.since_best,
            "head_since": self.head_since,
            "steps": trainer.steps,
            "micro_batch": trainer.micro_batch,
            "carry": [rows.tolist() for rows in trainer.carry],
            "scaler": trainer.scaler.state_dict(),
        }
        return checkpoints.save(self.directory, self.epoch, files, state)

    def _start_head(self) -> None:
        """Begin the second stage: the best weights so far, a fresh head, everything else frozen (cRT, Kang 2020)."""
        network = self.trainer.network
        checkpoints.restore_weights(network, self.best_tensors)
        seed_torch(self.config["seed"], "head")
        for name, module in network.named_modules():
            if f"{name}.".startswith(self.spec.head) and hasattr(module, "reset_parameters"):
                module.reset_parameters()
        self.best, self.since_best, self.best_tensors = -np.inf, 0, None
        self.head_since = self.epoch
        self._freeze_all_but_head()

    def _freeze_all_but_head(self) -> None:
        for name, parameter in self.trainer.network.named_parameters():
            parameter.requires_grad_(name.startswith(self.spec.head))
        loss = loss_of(self.config["loss"], self.material.balanced_counts)  # balanced rows: no loss need do it again
        self.trainer.loss = loss
        self.trainer.start(self.recipe.model_copy(update={"schedule": "constant"}))


def build(spec: ModelSpec, config: dict[str, Any], material: Material) -> tuple[Recipe, torch.nn.Module]:
    """Return the resolved recipe and the network, its fresh weights drawn from the trial's seed."""
    options, overrides = protocol.apply(config["defects"], config["options"], config["recipe"])
    options = spec.options(**options).model_dump()
    weights = None if config["weights"] is None else Path(config["weights"])
    recipe = protocol.resolve_recipe(spec.recipe(weights is not None, options["size"]), overrides)
    seed_torch(config["seed"], "init")
    return recipe, spec.build(len(material.classes), weights=weights, **(options | material.shards.network_options))


def validation_numbers(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return loss (mean cross-entropy), accuracy and macro F1 over the classes that have cells here."""
    predicted = logits.argmax(1)
    present = np.unique(labels)
    return {
        "val_loss": float(-log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels].mean()),
        "val_accuracy": float((predicted == labels).mean()),
        "val_macro_f1": float(f1_score(labels, predicted, labels=present, average="macro", zero_division=0)),
    }
