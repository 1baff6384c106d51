"""A linear support vector machine, which benchmarks of cell annotation found hard to beat (Abdelaal et al. 2019)."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import AfterValidator, Field
from scipy import sparse
from scipy.special import softmax

from trainables.fitting.choosing import Held, Targets, Types, best_of, is_there, targets
from trainables.models.logistic_regression.model import encoder, matrix
from trainables.posthoc import fit_temperature
from trainables.spec import Encoded, ModelSpec, Options, ascending

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
MAX_ITERATIONS = 1000  # per C
Margins = TypeVar("Margins")  # a fit with `scores`, `learnt` and a `temperature`
INTERCEPT = 10.0  # the solver's constant gene: so large that the penalty hardly holds intercepts back


class SvmOptions(Options):
    """One machine per type against all others, squared hinge loss, L2 penalty."""

    strengths: Annotated[tuple[Annotated[float, Field(gt=0)], ...], AfterValidator(ascending)] = Field(
        STRENGTHS, min_length=1, description="values of C: the best of these on validation cells"
    )
    max_iterations: int = Field(MAX_ITERATIONS, ge=1, description="of the solver, per C")


@dataclass(frozen=True)
class Fitted:
    """coefficients float64 [G, K], intercepts [K] of the classes of `learnt`; scores are divided by `temperature`."""

    coefficients: np.ndarray
    intercepts: np.ndarray
    learnt: Types
    strength: float
    converged: bool
    iterations: int
    temperature: float = 1.0

    @property
    def numbers(self) -> dict[str, float]:
        """Metrics of the fit: converged (1 or 0) and iterations, at the C chosen."""
        return {"converged": float(self.converged), "iterations": float(self.iterations)}

    def scores(self, encoded: Encoded) -> np.ndarray:
        """Return how far on its side each class's machine sees a cell, float64 [n, C]; -inf without training cells."""
        found = matrix(encoded, len(self.coefficients)) @ self.coefficients + self.intercepts
        return self.learnt.spread(found, -np.inf)

    def predict_proba(self, encoded: Encoded) -> np.ndarray:
        """Return float64 [n, C]: the softmax of the scores over the temperature; 0 for classes without training cells.

        Margins are no probabilities: the temperature makes them some, see `calibrated`, and changes no predicted type.
        """
        return softmax(self.scores(encoded) / self.temperature, axis=1)


def fit(
    encoded: Encoded,
    labels: np.ndarray,
    num_classes: int,
    rng: np.random.Generator,
    *,
    validation: Held | None = None,
    class_weight: np.ndarray | None = None,
    strengths: tuple[float, ...] = STRENGTHS,
    max_iterations: int = MAX_ITERATIONS,
    num_genes: int,
    **options: Any,
) -> Fitted:
    """Return the machines of the C of best macro F1, then log-likelihood, on `validation`; without, the second C.

    class_weight: float [C], what being on the wrong side costs a cell of each class.
    """
    learnt = targets("linear_svm", labels, num_classes, class_weight)
    cells, ordered = matrix(encoded, num_genes), sorted(strengths)
    if len(learnt.types.present) == 1:
        return Fitted(np.zeros((num_genes, 1)), np.zeros(1), learnt.types, ordered[0], True, 0)
    if not is_there(validation):
        return _fitted(cells, learnt, ordered[min(1, len(ordered) - 1)], max_iterations)
    return best_of(_path(cells, learnt, ordered, max_iterations, validation), validation)


def _path(
    cells: sparse.csr_matrix, learnt: Targets, strengths: list[float], max_iterations: int, held: Held
) -> Iterator[Fitted]:
    for strength in strengths:
        yield calibrated(_fitted(cells, learnt, strength, max_iterations), held)


def _fitted(cells: sparse.csr_matrix, learnt: Targets, strength: float, max_iterations: int) -> Fitted:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    machine = LinearSVC(C=strength, dual=False, intercept_scaling=INTERCEPT, max_iter=max_iterations)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ConvergenceWarning)
        machine.fit(cells, learnt.codes, sample_weight=learnt.weights)
    converged = not any(issubclass(one.category, ConvergenceWarning) for one in said)
    coefficients, intercepts = machine.coef_.T, machine.intercept_
    if len(learnt.types.present) == 2:  # one machine tells both: its other side is the other class's score
        coefficients, intercepts = np.hstack([-coefficients, coefficients]), np.hstack([-intercepts, intercepts])
    return Fitted(coefficients, intercepts, learnt.types, strength, converged, int(np.max(machine.n_iter_)))


def calibrated(fitted: Margins, held: Held) -> Margins:
    """Return the fit with the temperature that makes validation cells' types likeliest (Guo 2017, arXiv 1706.04599).

    The cells are weighted to the mix that was trained on, as it is this that probabilities stand for before posthoc.
    One number is fitted, so few validation cells will do; those of types without training cells don't count. It is
    sought within a factor of 100 of the fit's own.
    """
    encoded, labels = held
    rows, codes, weights = fitted.learnt.known(labels)
    scores = fitted.scores(encoded.take(rows))[:, fitted.learnt.present] / fitted.temperature
    return replace(fitted, temperature=fitted.temperature * fit_temperature(scores, codes, weights))


SPEC = ModelSpec(
    name="linear_svm",
    title="Linear support vector machine",
    kind="baseline",
    options=SvmOptions,
    encoder=encoder,
    needs_totals=True,
    fit=fit,
    fitted=Fitted,
    on={},
    scaled=True,
)
