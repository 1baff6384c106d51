"""A trained network as a folder that can be used without the sweep: its weights, and what they mean.

<folder>/model.safetensors   trained parameters and buffers of the best epoch
<folder>/model.json          model, options for `build`, classes, encoding (genes, what was learnt), base, origin
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from scipy.special import softmax

from data_pipeline.atomic import replacing
from data_pipeline.errors import RequestError
from data_pipeline.shards.feed import Feed
from trainables import protocol
from trainables import spec as registry
from trainables.config import TrialConfig
from trainables.losses import loss_of
from trainables.material import Material
from trainables.networks.lora import merge
from trainables.posthoc import averaged
from trainables.spec import Encoded, ModelSpec, Recipe
from trainables.training import checkpoint
from trainables.training.checkpoint import sha256, write_tensors
from trainables.training.device import MicroBatch, choose_device
from trainables.training.loop import Trainer, seed_torch
from trainables.training.trained import choose
from trainables.training.training import Trained
from trainables.trial.outcome import MODEL_FOLDER

VERSION = 4
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


def publish_model(spec: ModelSpec, config: TrialConfig, material: Material, trained: Trained) -> Path:
    """Make the folder of a trial, by rename; returns it."""
    return _publish(config.directory / MODEL_FOLDER, trained.best, _describe(spec, config, material, trained))


def _publish(folder: Path, tensors: dict[str, Any], described: dict[str, Any]) -> Path:
    with replacing(folder, alone=True) as part:
        part.mkdir()
        write_tensors(part / WEIGHTS, tensors)
        text = json.dumps(described | {"sha256": sha256(part / WEIGHTS)}, indent=1, ensure_ascii=False)
        (part / DESCRIPTION).write_text(text, encoding="utf-8")
    return folder


def is_adapted(description: Path) -> bool:
    """Tell whether a folder's model.json is of a network with adapters, which hold little without their base."""
    return isinstance(json.loads(description.read_text(encoding="utf-8")).get("options", {}).get("train"), dict)


def write_merged(folder: Path, whole: Path) -> Path:
    """Make a folder of an adapted network's, in which adapters and the weights beside them are one; returns it.

    Its `weights` are read for the vocabulary alone. RequestError as in `open_model`.
    """
    annotator = open_model(folder)
    every = {name for name, _ in annotator.network.named_parameters()}
    described = annotator.described | {"options": annotator.described["options"] | {"train": "all"}}
    described["base"] = checkpoint.frozen_hash(annotator.network, every)
    return _publish(whole, checkpoint.trained_tensors(annotator.network, every), described)


def _describe(spec: ModelSpec, config: TrialConfig, material: Material, trained: Trained) -> dict[str, Any]:
    """Return everything but the weights; frozen parameters come from `weights`, or were drawn from `seed`."""
    options, _ = protocol.apply(config.defects, config.options, {})
    encoding = {} if config.encoding is None else json.loads(config.encoding.read_text(encoding="utf-8"))
    return {
        "version": VERSION,
        "model": spec.name,
        "options": spec.options(**options).model_dump() | material.shards.network_options,
        "classes": material.classes,
        "encoding": encoding,
        "weights": None if config.weights is None else str(config.weights),
        "base": trained.base,
        "recipe": trained.recipe.model_dump() | {"precision": trained.tags["precision"].split()[0]},
        "micro_batch": trained.numbers["micro_batch"],
        "loss": config.loss,
        "loss_counts": trained.loss.counts_C.tolist(),
        "seed": config.stage_seed("init"),
        "best_round": trained.best_round,
        "trial": config.key,
    }


@dataclass(frozen=True)
class Annotator:
    """A trained network, ready for cells that it has never seen. genes: what its columns of counts are, in order."""

    spec: ModelSpec
    described: dict[str, Any]
    encoder: Any
    network: Any
    at_once: MicroBatch  # cells that fit into memory, as in training, or fewer

    @property
    def classes(self) -> list[str]:
        return self.described["classes"]

    @property
    def genes(self) -> list[str]:
        return self.described["encoding"]["genes"]

    def predict(self, counts: sparse.csr_matrix, totals: np.ndarray) -> np.ndarray:
        """Return the probability of each class, float64 [n, C], averaged over draws of the encoding as in the trial.

        counts: raw, CSR [n, len(genes)]; totals: counts per cell over all genes measured, float64 [n].
        """
        more = range(1, self.described["options"].get("draws", 1))
        encoders = [self.encoder, *(self.encoder.redrawn(draw) for draw in more)]
        logits = averaged([self._logits(encoder(counts, None, totals=totals)) for encoder in encoders])
        return softmax(logits.astype(np.float64), axis=1)

    def _logits(self, encoded: Encoded) -> np.ndarray:
        recipe = Recipe(**self.described["recipe"])
        feed = Feed(encoded, np.zeros(len(encoded), np.int64), self.spec.collate, recipe.batch_size)
        trainer = Trainer(
            self.network, recipe, None, feed, self.described["seed"], choose_device("auto"), at_once=self.at_once
        )
        outputs = trainer.predict(np.arange(len(encoded)))
        return loss_of(self.described["loss"], self.described["loss_counts"]).logits(outputs)


def open_model(folder: Path) -> Annotator:
    """Return the network in a trial's folder `checkpoint`; RequestError if it isn't whole, or its base isn't there."""
    described = _description(folder)
    spec, weights = registry.get(described["model"]), described["weights"]
    weights = None if weights is None else Path(weights)
    options = {name: value for name, value in described["options"].items() if name in spec.options.model_fields}
    network_options = {name: value for name, value in described["options"].items() if name not in options}
    encoder = spec.encoder(described["encoding"]["genes"], weights, **options, **described["encoding"]["learned"])
    seed_torch(described["seed"])
    network = spec.build(len(described["classes"]), weights=weights, **options, **network_options)
    choose(network, spec, options.get("train"), weights is not None)
    tensors = checkpoint.tensors(folder, WEIGHTS)
    checkpoint.restore_weights(network, tensors)
    if checkpoint.frozen_hash(network, set(tensors)) != described["base"]:
        raise RequestError(
            f"{folder}: was trained on other frozen weights than those in {weights}; put the first ones back there"
        )
    merge(network)
    return Annotator(spec, described, encoder, network, MicroBatch(described["micro_batch"]))


def _description(folder: Path) -> dict[str, Any]:
    missing = [name for name in (DESCRIPTION, WEIGHTS) if not (folder / name).exists()]
    if missing:
        raise RequestError(
            f"{folder}: has no {' and no '.join(missing)}; give the folder `checkpoint` of a finished network's run"
        )
    try:
        described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        digest, version = described["sha256"], described["version"]
    except (OSError, ValueError, KeyError) as error:
        raise RequestError(f"{folder / DESCRIPTION}: damaged ({error}); fetch the folder again") from error
    if version != VERSION:
        raise RequestError(f"{folder}: is of version {version}, not {VERSION}; use the cellskew that made it")
    if sha256(folder / WEIGHTS) != digest:
        raise RequestError(f"{folder / WEIGHTS}: not the bytes that were written; fetch the folder again")
    return described
