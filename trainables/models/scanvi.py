"""scANVI: a generative model of counts whose latent space is taught the types, and a classifier of places in it.

Source: Xu et al. 2021, Molecular Systems Biology 17, e9620, by scvi-tools (the extra cellskew[scvi]): scVI without
labels first, then scANVI from its weights, as scvi-tools advises. Every training cell has its label, and cells are of
one batch: a baseline isn't told donors. It learns on a CPU, as other baselines do, so that the same seed gives the same
numbers wherever it runs.
"""

from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field
from scipy import sparse
from scipy.special import softmax

from data_pipeline.errors import RequestError
from data_pipeline.scvi_tools import as_cells, lacking, open_scvi, training
from trainables.fitting.choosing import Held, Targets, Types, is_there, targets
from trainables.models.logistic_regression.model import matrix
from trainables.spec import Encoded, ModelSpec, Options

BATCH = 128  # cells of a step; more where the last step of a pass would have fewer than SMALLEST
LEAST_STEPS = 400  # with labels: of 130 cells, one step a pass, 10 passes found 0.4 of the types, 50 all of them
SMALLEST = 3  # that a norm over the cells of a step takes
NO_LABEL = "unlabelled"  # what scvi-tools would call cells without one: there is none
NAMED = "{:06d}"  # a type's number as a name, such that names are in the order of numbers


class ScanviOptions(Options):
    """scvi-tools' defaults: one hidden layer in each part, zero-inflated negative binomials."""

    hidden: int = Field(128, ge=1, description="units of each hidden layer")
    latent: int = Field(10, ge=1, description="dimensions of the latent space")
    epochs: int | None = Field(
        None, ge=1, description="of scVI, without labels, at most; default 400, fewer from 20,000 cells on"
    )
    labelled_epochs: int | None = Field(
        None, ge=1, description="of scANVI, with labels, at most; default 10, more where these were under 400 steps"
    )
    patience: int = Field(
        45,
        ge=1,
        description="epochs without a better bound, with labels a better loss, on validation cells that end it",
    )

    def idle(self, pretrained: bool) -> dict[str, str]:
        known = self.epochs is not None and self.labelled_epochs is not None
        usual = type(self).model_fields["patience"].default  # which may end the training, where this turns that off
        late = known and min(self.patience, usual) >= max(self.epochs, self.labelled_epochs)
        return super().idle(pretrained) | ({"patience": "fewer epochs are trained than it waits"} if late else {})


class Encoder:
    """ids = gene column, values = raw counts."""

    def __init__(self, num_genes: int) -> None:
        self.identity: dict[str, Any] = {"encoder": "counts", "version": 1, "genes": num_genes}
        self.network_options: dict[str, Any] = {"num_genes": num_genes}
        self.coverage: dict[str, Any] = {"genes": num_genes, "known": num_genes, "share": 1.0, "unknown": []}

    def __call__(self, counts: sparse.csr_matrix, rng: Any, totals: np.ndarray | None = None) -> Encoded:
        """Return the non-zero genes of each cell in column order."""
        cells = sparse.csr_matrix(counts, dtype=np.float32, copy=True)
        cells.sum_duplicates()
        cells.eliminate_zeros()
        return Encoded(cells.indices.astype(np.int32), cells.data, cells.indptr.astype(np.int64))


@dataclass(frozen=True)
class Layer:
    """weights float32 [in, out], bias float32 [out]."""

    weights: np.ndarray
    bias: np.ndarray

    def __call__(self, cells: np.ndarray | sparse.csr_matrix) -> np.ndarray:
        return cells @ self.weights + self.bias


@dataclass(frozen=True)
class Classifier:
    """What of scANVI names a cell, in the order of layers: counts to hidden, to its place, to hidden, to types."""

    hidden: Layer
    place: Layer
    judged: Layer
    types: Layer

    def probabilities(self, counts: sparse.csr_matrix) -> np.ndarray:
        """Return float64 [n, K] of counts, CSR [n, G], by the mean of each cell's place."""
        places = self.place(np.maximum(self.hidden(counts.log1p()), 0))
        return softmax(self.types(np.maximum(self.judged(places), 0)).astype(np.float64), axis=1)


@dataclass(frozen=True)
class Fitted:
    """`classifier` None: one class alone is certain. It is all that is kept: naming cells needs no scvi-tools."""

    classifier: Classifier | None
    num_genes: int
    learnt: Types
    numbers: dict[str, float] = field(default_factory=dict)

    def predict_proba(self, encoded: Encoded) -> np.ndarray:
        """Return float64 [n, C]; 0 for classes without training cells."""
        if self.classifier is None:
            return self.learnt.spread(np.ones((len(encoded), len(self.learnt.present))))
        return self.learnt.spread(self.classifier.probabilities(matrix(encoded, self.num_genes)))


def encoder(genes: list[str], weights: None = None, **options: Any) -> Encoder:
    """Return the encoder; every gene is its own column."""
    return Encoder(len(genes))


def fit(
    encoded: Encoded,
    labels: np.ndarray,
    num_classes: int,
    rng: np.random.Generator,
    *,
    validation: Held | None = None,
    class_weight: np.ndarray | None = None,
    num_genes: int,
    **options: Any,
) -> Fitted:
    """Return the classifier; `validation` says when enough has been learnt, and nothing else.

    RequestError for a `class_weight`, which scANVI's loss can't take, and without scvi-tools.
    """
    if class_weight is not None:
        raise RequestError("scanvi weighs no types: leave out losses that do, or balance rows with a strategy")
    chosen, learnt = ScanviOptions(**options), targets("scanvi", labels, num_classes)
    if len(learnt.types.present) == 1:
        return Fitted(None, num_genes, learnt.types)
    counts, codes = matrix(encoded, num_genes), learnt.codes
    if is_there(validation):
        rows, known, _ = learnt.types.known(validation[1])
        counts = sparse.vstack([counts, matrix(validation[0].take(rows), num_genes)], format="csr")
        codes = np.concatenate([codes, known])
    model = _trained(counts, codes, learnt, chosen, int(rng.integers(2**31)))
    numbers = {"iterations": float(model.epochs)}
    return Fitted(_classifier(model.module), num_genes, learnt.types, numbers)


@dataclass(frozen=True)
class _Trained:
    module: Any
    epochs: int


def _trained(
    counts: sparse.csr_matrix, codes: np.ndarray, learnt: Targets, chosen: ScanviOptions, seed: int
) -> _Trained:
    """Return scANVI's module after training on the first cells, as many as `learnt` has; the others validate."""
    scvi = open_scvi("model scanvi", seed)
    number = len(learnt.codes)
    cells = as_cells(counts, {"celltype": pd.Categorical([NAMED.format(code) for code in codes])})
    parts = [np.arange(number), np.arange(number, len(codes)), np.arange(0)]
    how = {
        "datasplitter_kwargs": {"external_indexing": parts},
        "batch_size": _batch_size(number),
        "accelerator": "cpu",
        "devices": 1,
        "enable_progress_bar": False,
        "logger": False,
    }
    stops = {"early_stopping": True, "early_stopping_patience": chosen.patience} if len(parts[1]) else {}
    labelled = stops and stops | {"early_stopping_monitor": "validation_classification_loss"}
    with training():
        scvi.model.SCVI.setup_anndata(cells, labels_key="celltype")
        first = scvi.model.SCVI(cells, n_hidden=chosen.hidden, n_latent=chosen.latent)
        first.train(max_epochs=chosen.epochs or _usual_epochs(number), **how, **stops)
        second = scvi.model.SCANVI.from_scvi_model(first, unlabeled_category=NO_LABEL)
        second.train(max_epochs=chosen.labelled_epochs or _usual_labelled(number), **how, **labelled)
    return _Trained(second.module, sum(model.trainer.current_epoch for model in (first, second)))


def _usual_epochs(number: int) -> int:
    """Return scvi-tools' own number of passes over so many training cells."""
    return max(1, min(400, round(400 * 20_000 / number)))


def _usual_labelled(number: int) -> int:
    """Return scvi-tools' own number of passes, more where few cells make few steps: these learn nothing in ten."""
    return max(10, ceil(LEAST_STEPS / ceil(number / BATCH)))


def _batch_size(number: int) -> int:
    """Return the size of a step such that none of a pass over `number` cells is nearly empty."""
    sizes = range(BATCH, 2 * BATCH)
    return next((size for size in sizes if number % size == 0 or number % size >= SMALLEST), BATCH)


def _classifier(module: Any) -> Classifier:
    """Return what of scANVI's module names cells."""
    hidden = _with_norm(*module.z_encoder.encoder.fc_layers[0][:2])
    judging, types = module.classifier.classifier
    layers = (hidden, _plain(module.z_encoder.mean_encoder), _with_norm(*judging.fc_layers[0][:2]), _plain(types))
    if not all(np.isfinite(layer.weights).all() for layer in layers):
        raise RequestError("scanvi: the training ended in weights that are not finite; try fewer epochs")
    return Classifier(*layers)


def _with_norm(linear: Any, norm: Any) -> Layer:
    """Return a layer with the norm behind it, as it is once training has ended, folded in."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return _layer(linear.weight * scale[:, None], (linear.bias - norm.running_mean) * scale + norm.bias)


def _plain(linear: Any) -> Layer:
    return _layer(linear.weight, linear.bias)


def _layer(weight: Any, bias: Any) -> Layer:
    return Layer(weight.detach().cpu().numpy().T.copy(), bias.detach().cpu().numpy().copy())


SPEC = ModelSpec(
    name="scanvi",
    title="scANVI",
    kind="baseline",
    options=ScanviOptions,
    encoder=encoder,
    fit=fit,
    fitted=Fitted,
    weighs=False,
    lacking=partial(lacking, "model scanvi"),
)
