"""The model to beat first: it never looks at a cell and answers the training proportions."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import sparse

from trainables.fitting.choosing import targets
from trainables.spec import Encoded, ModelSpec, Options


class Encoder:
    """One dummy token per cell: the model needs to know how many cells there are, and nothing else."""

    def __init__(self) -> None:
        self.identity: dict[str, Any] = {"encoder": "majority", "version": 1}
        self.network_options: dict[str, Any] = {}
        self.coverage: dict[str, Any] = {"genes": 0, "known": 0, "share": 1.0, "unknown": []}

    def __call__(
        self,
        counts: sparse.csr_matrix,
        rng: np.random.Generator | np.random.RandomState,
        totals: np.ndarray | None = None,
    ) -> Encoded:
        num_cells = counts.shape[0]
        return Encoded(np.zeros(num_cells, np.int32), None, np.arange(num_cells + 1, dtype=np.int64))


@dataclass(frozen=True)
class Fitted:
    """The training proportions."""

    prior: np.ndarray
    numbers: dict[str, float] = field(default_factory=dict)

    def predict_proba(self, encoded: Encoded) -> np.ndarray:
        """Return float64 [n, C]: the same row for every cell."""
        return np.tile(self.prior, (len(encoded), 1))


def encoder(genes: list[str], weights: None = None, **options: Any) -> Encoder:
    """Return the encoder; any genes will do."""
    return Encoder()


def fit(
    encoded: Encoded,
    labels: np.ndarray,
    num_classes: int,
    rng: np.random.Generator,
    *,
    validation: tuple[Encoded, np.ndarray] | None = None,
    class_weight: np.ndarray | None = None,
    **options: Any,
) -> Fitted:
    """Return the class proportions of `labels` int64 [n], each class times its `class_weight` [C] where given."""
    return Fitted(targets("majority", labels, num_classes, class_weight).types.mix)


SPEC = ModelSpec(
    name="majority",
    title="Training proportions",
    kind="baseline",
    options=Options,
    encoder=encoder,
    fit=fit,
    fitted=Fitted,
)
