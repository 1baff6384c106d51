"""A model as its trial left it, ready for cells that it has never seen."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from scipy.special import softmax

from data_pipeline.errors import RequestError
from data_pipeline.shards.feed import Feed
from trainables import posthoc
from trainables import spec as registry
from trainables.fitting.features import Given, scaled
from trainables.fitting.kept import put_together
from trainables.fitting.resting import Resting
from trainables.losses import loss_of
from trainables.networks.lora import merge
from trainables.posthoc import averaged
from trainables.spec import Encoded, ModelSpec, Recipe
from trainables.training import checkpoint
from trainables.training.device import MicroBatch, choose_device
from trainables.training.loop import Trainer, seed_torch
from trainables.training.trained import choose
from trainables.trial.files import PLAIN
from trainables.trial.outcome import logits_of
from trainables.trial.package import WEIGHTS, description_of, publish

ADJUSTMENTS = (PLAIN, "temperature", "logit_adjust")  # of posthoc.POSTHOC: those that take no other cells to be made


@dataclass(frozen=True)
class _AtRest:
    """An encoder of counts, and what a network at rest makes of what it gives."""

    base: Any
    network: Resting

    def __call__(self, counts: sparse.csr_matrix, rng: Any, totals: np.ndarray) -> Encoded:
        return self.network(self.base(counts, rng, totals=totals))


@dataclass(frozen=True)
class Annotator:
    """A trained model. `learnt`: its network, or what a baseline's fit returned."""

    spec: ModelSpec
    described: dict[str, Any]
    encoder: Any
    learnt: Any

    @property
    def classes(self) -> list[str]:
        return self.described["classes"]

    @property
    def genes(self) -> list[str]:
        """What its columns of counts are, in order; none where it reads given vectors."""
        return self.described["encoding"]["genes"]

    @property
    def given(self) -> dict[str, Any] | None:
        """Which vectors of cells it reads in place of counts, {"obsm": name} or {"embeddings": file}; None: counts."""
        on = self.described["on"]
        return None if on is None or "model" in on else on

    @property
    def width(self) -> int:
        """How many columns it reads: genes, or numbers of a vector."""
        return self.described["options"]["num_genes"] if self.given else len(self.genes)

    @property
    def needs_totals(self) -> bool:
        """Whether it goes by a cell's counts over all genes measured."""
        on = self.described["on"]
        return not self.given and (self.spec if on is None else registry.get(on["model"])).needs_totals

    def predict(self, cells: sparse.csr_matrix, totals: np.ndarray) -> np.ndarray:
        """Return the probability of each class, float64 [n, C], without adjustment; see `logits`."""
        return self.probabilities(self.logits(cells, totals))

    def logits(self, cells: sparse.csr_matrix, totals: np.ndarray) -> np.ndarray:
        """Return what softmax makes probabilities of, float [n, C], averaged over draws of the encoding as in a trial.

        cells: CSR [n, width], raw counts or vectors; totals: counts per cell over all genes measured, float64 [n].
        """
        more = range(1, self.described["options"].get("draws", 1))
        encoders = [self.encoder, *(self.encoder.redrawn(draw) for draw in more)]
        return averaged([self._logits(self._encoded(encoder(cells, None, totals=totals))) for encoder in encoders])

    def probabilities(self, logits: np.ndarray, adjustment: str = PLAIN) -> np.ndarray:
        """Return the probability of each class, float64 [n, C], after one of ADJUSTMENTS."""
        made = self.described["adjustments"]
        if adjustment == "temperature":
            return softmax(logits.astype(np.float64) / made["temperature"], axis=1)
        if adjustment == "logit_adjust":
            return posthoc.logit_adjust(logits[:0], np.zeros(0, int), np.array(made["prior"]), logits).probabilities
        return softmax(logits.astype(np.float64), axis=1)

    @cached_property
    def _at_once(self) -> MicroBatch:
        """How many cells fit into memory: as many as in training, or fewer."""
        return MicroBatch(self.described["micro_batch"])

    def _encoded(self, encoded: Encoded) -> Encoded:
        scale = self.described["scale"]
        return encoded if scale is None else scaled(encoded, *map(np.array, (scale["mean"], scale["deviation"])))

    def _logits(self, encoded: Encoded) -> np.ndarray:
        if self.spec.kind == "baseline":
            return logits_of(self.learnt.predict_proba(encoded))
        recipe, said = Recipe(**self.described["recipe"]), self.described
        feed = Feed(encoded, np.zeros(len(encoded), np.int64), self.spec.collate, recipe.batch_size)
        trainer = Trainer(self.learnt, recipe, None, feed, said["seed"], choose_device("auto"), at_once=self._at_once)
        return loss_of(said["loss"], said["loss_counts"]).logits(trainer.predict(np.arange(len(encoded))))


def open_model(folder: Path) -> Annotator:
    """Return the model in a trial's folder `checkpoint`; RequestError if it isn't whole, or its base isn't there."""
    described = description_of(folder)
    spec = registry.get(described["model"])
    learnt = (_fitted if spec.kind == "baseline" else _network)(spec, described, folder)
    return Annotator(spec, described, _encoder(spec, described), learnt)


def write_merged(folder: Path, whole: Path) -> Path:
    """Make a folder of an adapted network's, in which adapters and the weights beside them are one; returns it.

    Its `weights` are read for the vocabulary alone. RequestError as in `open_model`.
    """
    annotator = open_model(folder)
    every = {name for name, _ in annotator.learnt.named_parameters()}
    described = annotator.described | {"options": annotator.described["options"] | {"train": "all"}}
    described["base"] = checkpoint.frozen_hash(annotator.learnt, every)
    return publish(whole, checkpoint.trained_tensors(annotator.learnt, every), described)


def _encoder(spec: ModelSpec, described: dict[str, Any]) -> Any:
    """Return what makes a model's input of counts, or of vectors."""
    on, genes = described["on"], described["encoding"]["genes"]
    if on is not None and "model" not in on:
        return Given(described["options"]["num_genes"], on["sha256"], described["encoding"]["identity"]["where"])
    if on is not None:
        base = registry.get(on["model"]).encoder(genes, Path(on["weights"]), **on["options"])
        return _AtRest(base, Resting(base, on["model"], Path(on["weights"]), on["options"], on["sha256"]))
    options, _ = _options(spec, described)
    return spec.encoder(genes, _weights(described), **options, **described["encoding"]["learned"])


def _network(spec: ModelSpec, described: dict[str, Any], folder: Path) -> Any:
    options, own = _options(spec, described)
    weights = _weights(described)
    seed_torch(described["seed"])
    network = spec.build(len(described["classes"]), weights=weights, **options, **own)
    choose(network, spec, options.get("train"), weights is not None)
    tensors = checkpoint.tensors(folder, WEIGHTS)
    checkpoint.restore_weights(network, tensors)
    if checkpoint.frozen_hash(network, set(tensors)) != described["base"]:
        raise RequestError(
            f"{folder}: was trained on other frozen weights than those in {weights}; put the first ones back there"
        )
    merge(network)
    return network


def _fitted(spec: ModelSpec, described: dict[str, Any], folder: Path) -> Any:
    arrays = {name: tensor.numpy() for name, tensor in checkpoint.tensors(folder, WEIGHTS).items()}
    try:
        return put_together(spec.fitted, arrays, described["learnt"])
    except (KeyError, TypeError) as error:
        raise RequestError(
            f"{folder}: {spec.name} keeps other things by now than it did then ({error}); train the model again, or "
            "use the cellskew that made it"
        ) from error


def _options(spec: ModelSpec, described: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the model's options, and what its network has to know of the encoding."""
    known = spec.options.model_fields
    every = described["options"].items()
    return {name: one for name, one in every if name in known}, {name: one for name, one in every if name not in known}


def _weights(described: dict[str, Any]) -> Path | None:
    weights = described.get("weights")
    return None if weights is None else Path(weights)
