"""Multinomial logistic regression on log-normalised values: the baseline that a foundation model has to beat."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field
from scipy import sparse

from data_pipeline.normalise import log_normalised
from trainables.fitting.choosing import Best, Types, is_there, targets
from trainables.spec import Encoded, ModelSpec, Options, ascending

if TYPE_CHECKING:
    from trainables.models.logistic_regression.solver import Problem, Solution

STRENGTHS = (0.01, 0.1, 1.0, 10.0)
MAX_ITERATIONS = 500  # per C


class LogisticOptions(Options):
    """`strengths`: the values of C (inverse regularisation) to choose from on validation.

    L2 is the default: with few cells per type (the quickstart's data, 200 genes, 5 splits, no strategy) its macro F1
    was 0.731 against 0.687 with L1, and 0.722 against 0.580 undersampled. With all cells and 2,000 genes L1 was ahead,
    0.874 to 0.848 (3 splits each of the Zheng and Baron data), in a third of the time.
    """

    penalty: Literal["l1", "l2"] = "l2"
    strengths: Annotated[tuple[Annotated[float, Field(gt=0)], ...], AfterValidator(ascending)] = Field(
        STRENGTHS, min_length=1
    )
    max_iterations: int = Field(MAX_ITERATIONS, ge=1)


class Encoder:
    """ids = gene column, values = log1p(counts per 10,000 of the cell's total)."""

    def __init__(self, num_genes: int) -> None:
        self.identity: dict[str, Any] = {"encoder": "log1p_cp10k", "version": 1, "genes": num_genes}
        self.network_options: dict[str, Any] = {"num_genes": num_genes}
        self.coverage: dict[str, Any] = {"genes": num_genes, "known": num_genes, "share": 1.0, "unknown": []}

    def __call__(
        self,
        counts: sparse.csr_matrix,
        rng: np.random.Generator | np.random.RandomState,
        totals: np.ndarray | None = None,
    ) -> Encoded:
        """Return the non-zero genes of each cell in column order; `totals` float [n] over all measured genes."""
        logs = log_normalised(counts, totals)
        return Encoded(logs.indices.astype(np.int32), logs.data.astype(np.float32), logs.indptr.astype(np.int64))


@dataclass(frozen=True)
class Fitted:
    """coefficients float64 [G, C], intercepts [C] (-inf: no training cells), the C chosen, and how the fit went."""

    coefficients: np.ndarray
    intercepts: np.ndarray
    strength: float
    converged: bool
    iterations: int

    @property
    def numbers(self) -> dict[str, float]:
        """Metrics of the fit: converged (1 or 0) and iterations, at the C chosen."""
        return {"converged": float(self.converged), "iterations": float(self.iterations)}

    def predict_proba(self, encoded: Encoded) -> np.ndarray:
        """Return float64 [n, C]; 0 for classes that had no training cells."""
        scores = matrix(encoded, len(self.coefficients)) @ self.coefficients + self.intercepts
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return scores / scores.sum(axis=1, keepdims=True)


def encoder(genes: list[str], weights: None = None, **options: Any) -> Encoder:
    """Return the encoder; every gene is its own column."""
    return Encoder(len(genes))


def matrix(encoded: Encoded, num_genes: int) -> sparse.csr_matrix:
    """Return the cells as float32 CSR [n, num_genes]; genes from num_genes on, unseen in training, are left out."""
    width = max(num_genes, int(encoded.ids.max(initial=-1)) + 1)
    cells = sparse.csr_matrix((encoded.values, encoded.ids, encoded.offsets), shape=(len(encoded), width))
    return cells if width == num_genes else cells[:, :num_genes]


def fit(
    encoded: Encoded,
    labels: np.ndarray,
    num_classes: int,
    rng: np.random.Generator,
    *,
    validation: tuple[Encoded, np.ndarray] | None = None,
    class_weight: np.ndarray | None = None,
    penalty: str = "l2",
    strengths: tuple[float, ...] = STRENGTHS,
    max_iterations: int = MAX_ITERATIONS,
    num_genes: int | None = None,
    **options: Any,
) -> Fitted:
    """Return the regression with the C of best macro F1, then log-loss, on `validation`; without one, the C nearest 1.

    labels: int64 [n]. class_weight: float [C], the weight of a cell by its class; scaled to mean 1 over the cells.
    """
    from trainables.models.logistic_regression.solver import Problem, Solution

    learnt = targets("logistic_regression", labels, num_classes, class_weight)
    width = int(encoded.ids.max(initial=-1)) + 1 if num_genes is None else num_genes
    if len(learnt.types.present) == 1:
        return _over_all_classes(Solution(np.zeros((width, 1)), np.zeros(1), strengths[0], True, 0), learnt.types)
    problem = Problem(matrix(encoded, width), learnt.codes, learnt.weights, len(learnt.types.present), penalty)
    spread = partial(_over_all_classes, learnt=learnt.types)
    if not is_there(validation):
        usual = min(strengths, key=lambda strength: abs(np.log(strength)))
        return spread(next(problem.path([usual], max_iterations)))
    return _best(problem, spread, Best(*validation), strengths, max_iterations)


def _best(
    problem: "Problem",
    spread: "Callable[[Solution], Fitted]",
    best: Best,
    strengths: tuple[float, ...],
    max_iterations: int,
) -> Fitted:
    """Return the best of the path, which is left where a rough solution is behind already."""
    for found in problem.path(strengths, max_iterations, lambda rough: best.is_behind(spread(rough))):
        best.meet(spread(found))
    return best.fitted


def _over_all_classes(found: Any, learnt: Types) -> Fitted:
    """Spread a Solution for the classes present over the fixed class list."""
    coefficients = learnt.spread(found.coefficients)
    intercepts = learnt.spread(found.intercepts[None], -np.inf)[0]
    return Fitted(coefficients, intercepts, found.strength, found.converged, found.iterations)


SPEC = ModelSpec(
    name="logistic_regression",
    title="Logistic regression",
    kind="baseline",
    options=LogisticOptions,
    encoder=encoder,
    needs_totals=True,
    fit=fit,
    fitted=Fitted,
    on={},
    scaled=True,
)
