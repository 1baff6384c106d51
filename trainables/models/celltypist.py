"""CellTypist's recipe: one-vs-rest logistic regression by gradient descent, again on each type's strongest genes.

Source: Dominguez Conde et al. 2022, Science 376, eabl5197, and the package's `train` with use_SGD, mini_batch,
feature_selection and balance_cell_type. The package itself isn't driven: its usual solver asks scikit-learn for
`multi_class`, which there is no longer. What differs from it: the first fit, which only chooses genes, leaves zeros
zero (the package's with_mean=False) and takes training cells as they come; balanced batches are drawn with replacement,
as without it an epoch of all cells balances nothing; probabilities are a softmax of the scores over a temperature.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from pydantic import Field
from scipy import sparse
from scipy.special import softmax

from trainables.fitting.choosing import Held, Targets, Types, is_there, targets
from trainables.models.linear_svm import calibrated
from trainables.models.logistic_regression.model import encoder, matrix
from trainables.spec import Encoded, ModelSpec, Options

LARGEST = 10.0  # standard deviations above its mean, to which a gene's value is cut


class CellTypistOptions(Options):
    """The package's defaults."""

    top_genes: int = Field(
        300, ge=1, description="of each type, by their coefficients in the first fit: all that the second one sees"
    )
    alpha: float = Field(1e-4, gt=0, description="strength of the L2 penalty")
    epochs: int = Field(10, ge=1, description="of each fit")
    batch_size: int = Field(1000, ge=1, description="cells per batch")
    batches: int = Field(100, ge=1, description="per epoch, at most; fewer where all cells are fewer")


@dataclass(frozen=True)
class Scaling:
    """Each gene to mean 0 and variance 1 of the training cells, cut at LARGEST. mean, scale: float64 [G]."""

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, cells: sparse.csr_matrix) -> "Scaling":
        """Return that of cells, CSR [n, G]; a gene that doesn't vary stays as it is."""
        from sklearn.utils.sparsefuncs import mean_variance_axis

        mean, variance = mean_variance_axis(cells.astype(np.float64), axis=0)
        return cls(mean, np.where(variance > 0, np.sqrt(variance), 1.0))

    def take(self, genes: np.ndarray) -> "Scaling":
        return Scaling(self.mean[genes], self.scale[genes])

    def cut(self, cells: sparse.csr_matrix) -> sparse.csr_matrix:
        """Return the cells, CSR [n, G], values of more than LARGEST at LARGEST, in their own units."""
        limits = self.mean + LARGEST * self.scale
        return sparse.csr_matrix(
            (np.minimum(cells.data, limits[cells.indices]), cells.indices, cells.indptr), cells.shape
        )


@dataclass(frozen=True)
class Fitted:
    """coefficients float64 [g, K], intercepts [K]: of scaled values of `genes` int64 [g], for classes of `learnt`."""

    genes: np.ndarray
    scaling: Scaling
    coefficients: np.ndarray
    intercepts: np.ndarray
    num_genes: int
    learnt: Types
    temperature: float = 1.0
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def prior(self) -> np.ndarray:
        """The class mix that is learnt, float64 [C]: of balanced batches, whatever the training cells' is."""
        return self.learnt.mix

    def scores(self, encoded: Encoded) -> np.ndarray:
        """Return each class's decision score, float64 [n, C]; -inf without training cells."""
        cells = self.scaling.cut(matrix(encoded, self.num_genes)[:, self.genes])
        slopes = self.coefficients / self.scaling.scale[:, None]
        return self.learnt.spread(cells @ slopes - self.scaling.mean @ slopes + self.intercepts, -np.inf)

    def predict_proba(self, encoded: Encoded) -> np.ndarray:
        """Return float64 [n, C]: the softmax of the scores over the temperature, which changes no predicted type."""
        return softmax(self.scores(encoded) / self.temperature, axis=1)


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
    """Return the second fit, with the temperature that `validation` prefers; without one, the spread of its scores.

    class_weight: float [C]: batches have the classes in these proportions; None: all alike.
    """
    chosen, learnt = CellTypistOptions(**options), _balanced(labels, num_classes, class_weight)
    cells = matrix(encoded, num_genes)
    scaling, everything = Scaling.of(cells), np.arange(num_genes)
    if len(learnt.types.present) == 1:
        return Fitted(everything, scaling, np.zeros((num_genes, 1)), np.zeros(1), num_genes, learnt.types)
    first = _untrained(chosen, rng)
    _train(first, scaling.cut(cells) @ sparse.diags_array(1 / scaling.scale), learnt, _shuffled(learnt, chosen, rng))
    genes = strongest(first.coef_, chosen.top_genes)
    second, scaling, seen = _untrained(chosen, rng), scaling.take(genes), matrix(encoded, num_genes)[:, genes]
    _train(second, Scaled(scaling.cut(seen), scaling), learnt, _drawn(learnt, chosen, rng))
    coefficients, intercepts = _of_each_class(second)
    numbers = {"genes_kept": float(len(genes))}
    found = Fitted(genes, scaling, coefficients, intercepts, num_genes, learnt.types, numbers=numbers)
    found = replace(found, temperature=_spread(found, encoded))
    return calibrated(found, validation) if is_there(validation) else found


def _spread(found: Fitted, encoded: Encoded) -> float:
    """Return the standard deviation of the scores of cells: with few epochs they are as large as the first steps."""
    return float(found.scores(encoded)[:, found.learnt.present].std()) or 1.0


def strongest(coefficients: np.ndarray, number: int) -> np.ndarray:
    """Return the genes that are among the `number` of largest absolute coefficient of any class [K, G], ascending."""
    return np.unique(np.argsort(-np.abs(coefficients), axis=1, kind="stable")[:, :number])


@dataclass(frozen=True)
class Scaled:
    """Cells, CSR [n, G], whose rows are scaled as they are asked for, float32: all at once would be dense."""

    cells: sparse.csr_matrix
    scaling: Scaling

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return ((self.cells[rows].toarray() - self.scaling.mean) / self.scaling.scale).astype(np.float32)


def _balanced(labels: np.ndarray, num_classes: int, class_weight: np.ndarray | None) -> Targets:
    sizes = np.maximum(np.bincount(labels, minlength=num_classes), 1)
    return targets("celltypist", labels, num_classes, (1.0 if class_weight is None else class_weight) / sizes)


def _per_epoch(learnt: Targets, chosen: CellTypistOptions) -> int:
    return min(chosen.batches * chosen.batch_size, len(learnt.codes))


def _shuffled(learnt: Targets, chosen: CellTypistOptions, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the rows of each batch, none twice in an epoch."""
    for _ in range(chosen.epochs):
        order = rng.permutation(len(learnt.codes))[: _per_epoch(learnt, chosen)]
        yield from (order[start : start + chosen.batch_size] for start in range(0, len(order), chosen.batch_size))


def _drawn(learnt: Targets, chosen: CellTypistOptions, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the rows of each balanced batch, drawn with replacement."""
    for _ in range(chosen.epochs):
        order = rng.choice(len(learnt.codes), _per_epoch(learnt, chosen), p=learnt.weights / learnt.weights.sum())
        yield from (order[start : start + chosen.batch_size] for start in range(0, len(order), chosen.batch_size))


def _untrained(chosen: CellTypistOptions, rng: np.random.Generator) -> Any:
    from sklearn.linear_model import SGDClassifier

    return SGDClassifier(loss="log_loss", alpha=chosen.alpha, random_state=int(rng.integers(2**31)))


def _train(machine: Any, cells: Any, learnt: Targets, batches: Iterator[np.ndarray]) -> None:
    """Train on batches of `cells`, anything with rows."""
    classes = np.arange(len(learnt.types.present))
    for rows in batches:
        machine.partial_fit(cells[rows], learnt.codes[rows], classes=classes)


def _of_each_class(machine: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return (coefficients [G, K], intercepts [K]); of two classes one machine tells both, by its two sides."""
    coefficients, intercepts = machine.coef_.T.astype(np.float64), machine.intercept_.astype(np.float64)
    if coefficients.shape[1] == 1:
        return np.hstack([-coefficients, coefficients]), np.hstack([-intercepts, intercepts])
    return coefficients, intercepts


SPEC = ModelSpec(
    name="celltypist",
    title="CellTypist's recipe",
    kind="baseline",
    options=CellTypistOptions,
    encoder=encoder,
    needs_totals=True,
    fit=fit,
    fitted=Fitted,
)
