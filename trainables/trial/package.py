"""What a trial has learnt as a folder that can be used without the sweep: weights, and what they mean.

<folder>/model.safetensors   a network's trained parameters and buffers of the best epoch; a baseline's arrays
<folder>/model.json          model, options, classes, cells per class, encoding (genes, what was learnt) or vectors
                             (`on`) and their scale, adjustments made after training, tree of types, origin; of a
                             network its base and how it was trained, of a baseline its plain values (`learnt`)
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from data_pipeline.atomic import replacing
from data_pipeline.errors import RequestError
from data_pipeline.hashes import of_names
from trainables import protocol
from trainables.config import TrialConfig
from trainables.fitting.features import Scaled
from trainables.fitting.kept import taken_apart
from trainables.material import Material
from trainables.posthoc import fit_temperature
from trainables.spec import Fitted, ModelSpec
from trainables.training.checkpoint import sha256, write_tensors
from trainables.training.training import Trained
from trainables.trial.outcome import MODEL_FOLDER

VERSION = 5
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
SOME = 200  # training cells whose names are kept as hashes, for whoever evaluates on cells that were trained on
LEAST = 0.05  # of the validation cells have a lower highest probability than what counts as low


def publish_network(spec: ModelSpec, config: TrialConfig, material: Material, trained: Trained) -> Path:
    """Make the folder of a network's trial, by rename; returns it."""
    described = _describe(spec, config, material, trained.loss.prior, trained.validation_logits) | {
        "weights": None if config.weights is None else str(config.weights),
        "base": trained.base,
        "recipe": trained.recipe.model_dump() | {"precision": trained.tags["precision"].split()[0]},
        "micro_batch": trained.numbers["micro_batch"],
        "loss": config.loss,
        "loss_counts": trained.loss.counts_C.tolist(),
        "seed": config.stage_seed("init"),
        "best_round": trained.best_round,
    }
    return publish(config.directory / MODEL_FOLDER, trained.best, described)


def publish_baseline(
    spec: ModelSpec,
    config: TrialConfig,
    material: Material,
    fitted: Fitted,
    prior: np.ndarray,
    validation_logits: np.ndarray,
) -> Path | None:
    """Make the folder of a baseline's trial, by rename; returns it, None where the model isn't one that can be kept."""
    if spec.fitted is None:
        return None
    arrays, plain = taken_apart(fitted)
    described = _describe(spec, config, material, prior, validation_logits) | {"learnt": plain}
    return publish(config.directory / MODEL_FOLDER, arrays, described)


def publish(folder: Path, tensors: dict[str, Any], described: dict[str, Any]) -> Path:
    """Make a folder of tensors, torch's or numpy's, and what they mean, by rename; returns it."""
    import torch

    with replacing(folder, alone=True) as part:
        part.mkdir()
        write_tensors(part / WEIGHTS, {name: torch.as_tensor(tensor) for name, tensor in tensors.items()})
        text = json.dumps(described | {"sha256": sha256(part / WEIGHTS)}, indent=1, ensure_ascii=False)
        (part / DESCRIPTION).write_text(text, encoding="utf-8")
    return folder


def is_adapted(description: Path) -> bool:
    """Tell whether a folder's model.json is of a network with adapters, which hold little without their base."""
    return isinstance(json.loads(description.read_text(encoding="utf-8")).get("options", {}).get("train"), dict)


def _describe(
    spec: ModelSpec, config: TrialConfig, material: Material, prior: np.ndarray, validation_logits: np.ndarray
) -> dict[str, Any]:
    """Return everything but the weights; frozen parameters come from `weights`, or were drawn from `seed`."""
    options, _ = protocol.apply(config.defects, config.options, {})
    encoding = {} if config.encoding is None else json.loads(config.encoding.read_text(encoding="utf-8"))
    cells = {"natural": material.natural, "train": material.kept}
    return {
        "version": VERSION,
        "model": spec.name,
        "options": spec.options(**options).model_dump() | material.shards.network_options,
        "classes": material.classes,
        "cells": {name: material.counts(rows).tolist() for name, rows in cells.items()},
        "encoding": encoding,
        "on": config.on,
        "tree": config.tree,
        "scale": _scale(material.shards),
        "adjustments": _adjustments(prior, validation_logits, material.labels[material.validation]),
        "some_cells": some_of(material.shards.cell_ids.take(material.kept).to_pylist()),
        "trial": config.key,
    }


def some_of(names: Iterable[str]) -> list[str]:
    """Return what stands for up to SOME of the names, the same of the same names: a sample, as hashes are by chance."""
    return sorted(of_names(names))[:SOME]


def _scale(shards: Any) -> dict[str, list[float]] | None:
    """Return what vectors were brought to mean 0 and variance 1 by, None where they, or genes, came as they are."""
    if not isinstance(shards, Scaled):
        return None
    return {"mean": shards.mean.tolist(), "deviation": shards.deviation.tolist()}


def _adjustments(prior: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return what adjusts probabilities after training, and what those of validation cells [v] tell of other cells'.

    temperature, prior: see posthoc; low: the highest probability that LEAST of the validation cells fall short of, None
    without any.
    """
    highest = softmax(logits.astype(np.float64), axis=1).max(axis=1) if len(labels) else None
    return {
        "temperature": fit_temperature(logits, labels),
        "prior": np.asarray(prior, dtype=np.float64).tolist(),
        "low": None if highest is None else float(np.quantile(highest, LEAST)),
    }


def description_of(folder: Path) -> dict[str, Any]:
    """Return what a folder's model.json says; RequestError if the folder isn't whole, or of another version."""
    missing = [name for name in (DESCRIPTION, WEIGHTS) if not (folder / name).exists()]
    if missing:
        raise RequestError(
            f"{folder}: has no {' and no '.join(missing)}; give the folder `checkpoint` of a finished run"
        )
    try:
        described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        digest, version = described["sha256"], described["version"]
    except (OSError, ValueError, KeyError) as error:
        raise RequestError(f"{folder / DESCRIPTION}: damaged ({error}); fetch the folder again") from error
    if version != VERSION:
        raise RequestError(
            f"{folder}: is of version {version}, and this cellskew reads {VERSION}; train the model again, "
            "or use the cellskew that made it"
        )
    if sha256(folder / WEIGHTS) != digest:
        raise RequestError(f"{folder / WEIGHTS}: not the bytes that were written; fetch the folder again")
    return described
