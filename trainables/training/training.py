"""A network from its first round, or its last checkpoint, to the logits of its best round."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_pipeline.shards.shards import Shards, Stored
from trainables import protocol
from trainables.config import LEAVE, TrialConfig
from trainables.cost import Cost
from trainables.losses import Loss, loss_of
from trainables.material import Material
from trainables.metrics import validation_numbers
from trainables.posthoc import averaged
from trainables.spec import ModelSpec, Recipe
from trainables.training import checkpoint as checkpoints
from trainables.training.device import choose_device, tags
from trainables.training.loop import Progress, Trainer, seed_torch
from trainables.training.passes import Passes
from trainables.training.stages import Stage, stages_of
from trainables.training.trained import choose

Report = Callable[[dict[str, Any], Path | None], None]


@dataclass(frozen=True)
class Trained:
    """Logits float [n, C] of the best round (from 1 on), as the loss reads the outputs; numbers of the training."""

    validation_logits: np.ndarray
    test_logits: np.ndarray
    numbers: dict[str, float]
    history: list[dict[str, Any]]
    best: dict[str, torch.Tensor]  # trained parameters and buffers of the best round
    best_round: int
    base: str  # hash of the frozen parameters
    loss: Loss  # of the last stage, until its best round: what the logits have learnt
    recipe: Recipe
    tags: dict[str, str]  # how it was computed: precision, device


def train_network(
    spec: ModelSpec, config: TrialConfig, material: Material, report: Report, start: Path | None, cost: Cost
) -> Trained:
    """Train `spec`'s network on the material, reporting every round; go on from checkpoint `start`.

    Which rounds are saved, `checkpoint_every` says (see checkpoint.Spacing). cost: is told what earlier legs took.
    """
    run = _Run(spec, config, material, cost)
    if start is not None:
        run.restore(start)
    for numbers in run.at.history:
        report(numbers | {"replayed": 1}, None)
    while run.goes_on():
        report(*run.one_round())
    return run.result()


def rehearse(spec: ModelSpec, config: TrialConfig, material: Material) -> Trainer:
    """Take two steps, and predict, with the longest cells there are; returns the trainer, for the memory it took."""
    trainer = _Run(spec, config, material, Cost(False)).trainer
    trainer.recipe = trainer.recipe.model_copy(update={"accumulate": 1, "carry_accumulation": False})
    longest = np.argsort(-material.shards.lengths, kind="stable")[: trainer.feed.batch_size]
    for _ in range(2):
        trainer.train(longest, epoch=0)
    trainer.predict(longest)
    return trainer


@dataclass
class _Place:
    """Where a training is, all that a checkpoint holds beside tensors and the trainer's own numbers.

    stage, round: index of the stage, rounds of it that are over; passes: see Passes.place; best: of the selection
    metric in this stage, None before its first round; since_best: rounds since.
    """

    stage: int = 0
    round: int = 0
    passes: tuple[int, int] = (0, 0)
    best: float | None = None
    since_best: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


class _Run:
    """One network in training: stage after stage, each until its budget is spent or its patience at an end."""

    def __init__(self, spec: ModelSpec, config: TrialConfig, material: Material, cost: Cost) -> None:
        self.config, self.material, self.cost = config, material, cost
        recipe, network = build(spec, config, material)
        self.stages = stages_of(recipe, material, spec.head)
        self.trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
        features = material.features  # whose network isn't here, but hashed
        self.base = checkpoints.frozen_hash(network, self.trained) if features is None else features.origin["frozen"]
        size = sum(parameter.nbytes for name, parameter in network.named_parameters() if name in self.trained)
        self.spacing = checkpoints.Spacing(config.checkpoint_every, num_bytes=4 * size)  # weights, best, two moments
        device, feed = choose_device(config.device), material.feed(spec, recipe.batch_size)
        shuffle = "scgpt_unshuffled" not in config.defects
        self.trainer = Trainer(network, recipe, None, feed, 0, device, shuffle)
        self.at, self.best_tensors = _Place(), None
        self._begin(self.stages[0])

    @property
    def stage(self) -> Stage:
        return self.stages[self.at.stage]

    def goes_on(self) -> bool:
        """Tell whether there is a round to come; begins the next stage where one has ended."""
        if self._stage_is_over() and self.at.stage + 1 < len(self.stages):
            checkpoints.restore_weights(self.trainer.network, self.best_tensors)
            self.at, self.best_tensors = _Place(stage=self.at.stage + 1, history=self.at.history), None
            self._make_head_anew()
            self._begin(self.stage)
        return not self._stage_is_over()

    def _stage_is_over(self) -> bool:
        """Tell whether the stage's budget is spent, or `patience` of its rounds went by without a better one."""
        recipe = self.stage.recipe
        return self.at.round >= recipe.epochs or (recipe.patience is not None and self.at.since_best >= recipe.patience)

    def one_round(self) -> tuple[dict[str, Any], Path | None]:
        """Train, evaluate, remember the best, save if it is time; returns the round's numbers and its checkpoint."""
        progress = self._train()
        self.at.round += 1
        numbers = self._numbers(progress) | self._validate()
        self._remember(numbers)
        self.at.history.append(numbers)
        is_due = self.spacing.is_due(numbers["epoch"], progress.seconds)
        if not (self.trainer.team.leads and (is_due or self._must_stop())):
            return numbers, None
        path = self._save()
        numbers |= checkpoints.load(path)["cost"]
        self.spacing.saved(numbers["checkpoint_seconds"])
        return numbers, path

    def _train(self) -> Progress:
        """Train for a round: its steps, or with the budget of epochs a pass."""
        if self.stage.recipe.budget == "epochs":
            return self.trainer.train(self.stage.rows(self.at.round), self.at.round)
        passes = Passes(self._order, self.at.passes)
        progress = self.trainer.train_steps(passes, self.stage.budget, self.at.round)
        self.at.passes = passes.place
        return progress

    def _order(self, number: int) -> np.ndarray:
        return self.trainer.order(self.stage.rows(number), number)

    def _numbers(self, progress: Progress) -> dict[str, Any]:
        """Return what is reported of a round: `epoch` is its number over all stages, from 1."""
        rounds = sum(stage.budget.rounds for stage in self.stages)
        numbers = {"epoch": len(self.at.history) + 1, "epochs": rounds, "train_loss": progress.loss}
        numbers |= {"seconds_per_epoch": progress.seconds, "load_seconds": progress.load_seconds}
        numbers |= {"micro_batch": self.trainer.micro_batch, "optimizer_steps": self.trainer.steps}
        return numbers | {"cells": progress.cells, "cells_per_second": progress.cells / max(progress.seconds, 1e-9)}

    def _must_stop(self) -> bool:
        """Tell whether the sweep was asked to stop, or this trial to leave its node, once its state is saved."""
        marks = (self.config.stop_file, self.config.directory / LEAVE)
        return any(mark is not None and mark.exists() for mark in marks)

    def restore(self, path: Path) -> None:
        """Put back the state of a checkpoint; refuses one whose frozen base is another."""
        state = checkpoints.load(path)
        if state["base"] != self.base:
            raise checkpoints.CheckpointError(
                f"{path}: was trained on other frozen weights than those in {self.config.weights}; "
                "put the first weights back, or start the trial from scratch (--retry-failed --from-scratch)"
            )
        self.at = _Place(**state["at"])
        self.at.history[-1] |= state["cost"]  # known only once the round's numbers were in the checkpoint
        self._begin(self.stage)
        network = self.trainer.network
        checkpoints.restore_weights(network, checkpoints.tensors(path, "weights.safetensors"))
        self.trainer.restore(state["trainer"], checkpoints.tensors(path, "optimizer.safetensors"))
        self.spacing.saved(state["cost"]["checkpoint_seconds"])
        self.cost.add(state["legs"])
        self.best_tensors = checkpoints.tensors(path, "best.safetensors")

    def result(self) -> Trained:
        """Return the logits of the best round on validation and test cells."""
        trainer, history = self.trainer, self.at.history
        checkpoints.restore_weights(trainer.network, self.best_tensors)
        begin = time.perf_counter()
        validation, test = self._averaged(self.material.validation), self._averaged(self.material.test)
        best_round = len(history) - self.at.since_best
        numbers = self._totals() | {"predict_seconds": time.perf_counter() - begin, "best_round": best_round}
        return Trained(
            validation_logits=validation,
            test_logits=test,
            numbers=numbers,
            history=history,
            best=self.best_tensors,
            best_round=best_round,
            base=self.base,
            loss=trainer.loss.until(self._progress_of_best()),
            recipe=trainer.recipe,
            tags=tags(trainer.recipe, trainer.device),
        )

    def _totals(self) -> dict[str, float]:
        """Return the numbers of all rounds together."""
        history = self.at.history
        seconds = sum(numbers["seconds_per_epoch"] for numbers in history)
        cells = sum(numbers["cells"] for numbers in history)
        return {
            "seconds_per_epoch": seconds / len(history),
            "cells_per_second": cells / max(seconds, 1e-9),
            "epochs_run": len(history),
            "optimizer_steps": self.trainer.steps,
            "cells_seen": cells,
            "checkpoint_share": sum(one.get("checkpoint_seconds", 0.0) for one in history) / max(seconds, 1e-9),
            "micro_batch": self.trainer.micro_batch,
        }

    def _progress_of_best(self) -> float:
        """Return how far the stage was in the best round, as the loss was told."""
        return (self.at.round - self.at.since_best - 1) / self.stage.recipe.epochs

    def _averaged(self, rows: np.ndarray) -> np.ndarray:
        """Return the logits of the cells `rows`, their probabilities averaged over the draws of their encoding."""
        own, found = self.trainer.feed, [self._predict(rows)]
        for folder in self.config.redrawn:
            features = self.config.features
            shards = Stored(Shards(features[str(folder)])) if features else Shards(folder)
            self.trainer.feed = dataclasses.replace(own, shards=shards)
            found.append(self._predict(rows))
        self.trainer.feed = own
        return averaged(found)

    def _predict(self, rows: np.ndarray) -> np.ndarray:
        """Return the logits of the cells `rows`, float [n, C], as the loss reads the network's outputs."""
        outputs = self.trainer.predict(rows) if len(rows) else np.zeros((0, len(self.material.classes)), np.float32)
        return self.trainer.loss.logits(outputs)

    def _validate(self) -> dict[str, float]:
        on_test = "select_on_test" in self.config.defects
        rows = self.material.test if on_test else self.material.validation
        return validation_numbers(self._predict(rows), self.material.labels[rows]) if len(rows) else {}

    def _remember(self, numbers: dict[str, Any]) -> None:
        """Keep the weights if this round is the best by the recipe's measure; without validation cells, the last is."""
        measure = self.stage.recipe.select
        value = numbers.get(measure, float(self.at.round))
        value = -value if measure == "val_loss" and measure in numbers else value
        self.at.since_best += 1
        if self.best_tensors is None or self.at.best is None or value > self.at.best:
            self.at.best, self.at.since_best = value, 0
            tensors = checkpoints.trained_tensors(self.trainer.network, self.trained)
            self.best_tensors = {name: tensor.clone() for name, tensor in tensors.items()}

    def _save(self) -> Path:
        trainer = self.trainer
        files = {
            "weights.safetensors": checkpoints.trained_tensors(trainer.network, self.trained),
            "optimizer.safetensors": checkpoints.optimizer_tensors(trainer.network, trainer.optimizer),
            "best.safetensors": self.best_tensors,
        }
        state = {"base": self.base, "at": dataclasses.asdict(self.at), "trainer": trainer.state()}
        state["legs"] = self.cost.so_far()
        return checkpoints.save(self.config.directory, len(self.at.history), files, state)

    def _make_head_anew(self) -> None:
        """Draw the weights of the stage's head, which learns on top of the best weights so far (cRT, Kang 2020)."""
        seed_torch(self.config.stage_seed(self.stage.name), "init")
        for name, module in self.trainer.network.named_modules():
            if f"{name}.".startswith(self.stage.head) and hasattr(module, "reset_parameters"):
                module.reset_parameters()

    def _begin(self, stage: Stage) -> None:
        """Give the trainer what the stage trains, by which loss, with which random numbers."""
        if stage.head is not None:
            for name, parameter in self.trainer.network.named_parameters():
                parameter.requires_grad_(name.startswith(stage.head))
        self.trainer.loss = loss_of(self.config.loss, stage.class_counts, self.material.below(self.config.tree))
        self.trainer.start(stage.recipe, self.config.stage_seed(stage.name))


def build(spec: ModelSpec, config: TrialConfig, material: Material) -> tuple[Recipe, torch.nn.Module]:
    """Return the resolved recipe and the network, or the head that is trained on features.

    Fresh weights are drawn from the seeds of split and trial.
    """
    options, _ = protocol.apply(config.defects, config.options, {})
    options, recipe = spec.options(**options).model_dump(), protocol.recipe_of(spec, config)
    seed_torch(config.stage_seed("init"))
    network_options = options | material.shards.network_options
    make = spec.build if material.features is None else spec.build_head
    network = make(len(material.classes), weights=config.weights, **network_options)
    choose(network, spec, options.get("train"), config.weights is not None)
    return recipe, network
