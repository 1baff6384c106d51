"""A multilayer perceptron over genes: the smallest network, trained as the large ones are."""

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from trainables.models.logistic_regression.model import encoder
from trainables.spec import Encoded, ModelSpec, Options, Recipe

HEAD = "head."
WIDTHS = {"tiny": (16,), "small": (128,)}


class MlpOptions(Options):
    """The network's shape. There are no published weights, and so no official size."""

    size: Literal["tiny", "small"] = Field("small", description="16 or 128 hidden units, unless `hidden` says it")
    hidden: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None, min_length=1, description="units of each hidden layer; default by size"
    )
    dropout: float = Field(0.2, ge=0, lt=1, description="share of hidden units left out in training")

    @model_validator(mode="before")
    @classmethod
    def _in_one_way(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Say layers of a size by that size, and size nothing else: the same network is written in one way."""
        hidden, size = given.get("hidden"), given.get("size", "small")
        if not isinstance(hidden, list | tuple) or size not in WIDTHS:
            return given
        named = {widths: name for name, widths in WIDTHS.items()}.get(tuple(hidden))
        return given | {"size": named or "small", "hidden": None if named else tuple(hidden)}


def recipe(weights: Path | None, size: str) -> Recipe:
    """Return a recipe that learns from scratch; published weights there are none."""
    return Recipe(
        epochs=20,
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=1e-2,
        schedule="linear",
        warmup=0.1,
        precision="float32",
    )


def collate(encoded: Encoded, rows: np.ndarray) -> dict[str, Any]:
    """Return the cells `rows` as the network takes them: each value with its gene and its cell."""
    import torch

    part = encoded.take(rows)
    return {
        "genes": torch.from_numpy(part.ids.astype(np.int64)),
        "cells": torch.from_numpy(np.repeat(np.arange(len(part)), part.lengths)),
        "values": torch.from_numpy(np.ascontiguousarray(part.values, dtype=np.float32)),
        "num_cells": len(part),
    }


def build(num_classes: int, weights: None = None, *, num_genes: int, **options: Any) -> Any:
    """Return the network, its weights drawn at random. num_genes: the encoder's `network_options`."""
    from trainables.networks.mlp import Mlp

    chosen = MlpOptions(**options)
    return Mlp(num_genes, num_classes, chosen.hidden or WIDTHS[chosen.size], chosen.dropout)


SPEC = ModelSpec(
    name="mlp",
    title="Multilayer perceptron",
    kind="network",
    options=MlpOptions,
    encoder=encoder,
    needs_totals=True,
    recipe=recipe,
    collate=collate,
    build=build,
    head=HEAD,
    on={},
    scaled=True,
)
