"""How steps are made: the optimiser, and the learning rate by round and step, as the published recipes have them."""

import math

import torch
from torch import nn

from trainables.recipe import CYCLE_ROUNDS, Recipe

MIN_COSINE = 1e-6  # the lowest learning rate of cosine_restarts (scBERT)


def learning_rate(recipe: Recipe, number: int, step: int, steps_per_round: float) -> float:
    """Return the learning rate of optimiser step `step` (counted from 0 over all rounds) in round `number` (from 0).

    linear: Hugging Face's, from 0 over `warmup` steps and down to 0. step: x gamma each round. cosine_restarts:
    scBERT's CosineAnnealingWarmupRestarts, stepped per round.
    """
    if recipe.schedule == "step":
        return recipe.learning_rate * recipe.gamma**number
    if recipe.schedule == "linear":
        total = steps_per_round * recipe.epochs
        warmup = recipe.warmup * total if recipe.warmup < 1 else recipe.warmup
        warmup = min(warmup, recipe.warmup_share * total)
        up, down = step / max(1.0, warmup), (total - step) / max(1.0, total - warmup)
        return recipe.learning_rate * (up if step < warmup else max(0.0, down))
    if recipe.schedule == "cosine_restarts":
        return _cosine_restarts(recipe, number)
    return recipe.learning_rate


def _cosine_restarts(recipe: Recipe, number: int) -> float:
    length, top, warmup = CYCLE_ROUNDS, recipe.learning_rate, int(recipe.warmup)
    while number >= length:
        number, length, top = number - length, (length - warmup) * 2 + warmup, top * recipe.gamma
    if number < warmup:
        return MIN_COSINE + (top - MIN_COSINE) * number / warmup
    return MIN_COSINE + (top - MIN_COSINE) * (1 + math.cos(math.pi * (number - warmup) / (length - warmup))) / 2


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return Adam or AdamW over the trainable parameters; weight decay spares biases and norms (1-d), as upstream."""
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trainable if parameter.ndim > 1]
    spared = [parameter for parameter in trainable if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    fused = all(parameter.dtype == torch.float32 for parameter in trainable)
    return kind([group for group in groups if group["params"]], lr=recipe.learning_rate, eps=recipe.eps, fused=fused)
