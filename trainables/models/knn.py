"""k nearest neighbours among principal components: what a reader of an embedding does by eye."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field
from scipy import sparse

from trainables.fitting.choosing import Held, Types, best_of, is_there, targets
from trainables.models.logistic_regression.model import encoder, matrix
from trainables.spec import Encoded, ModelSpec, Options, ascending

COMPONENTS, NEIGHBOURS, USUAL = 50, (5, 10, 20, 40), 15
SMALL = 500  # cells or genes; fewer are taken apart exactly
TIE = 1e-6  # of a vote, by which the nearest cell counts more
ROUNDING = 1e-6  # of the largest singular value: axes of less are none


class KnnOptions(Options):
    """How near cells vote. A cell that a strategy repeats is one neighbour, with as many votes as it is repeated."""

    components: int = Field(
        COMPONENTS,
        ge=0,
        description="principal components of the log-normalised values, of the training cells; 0: the values as they "
        "are, the default with `on:`",
    )
    neighbours: Annotated[tuple[Annotated[int, Field(ge=1)], ...], AfterValidator(ascending)] = Field(
        NEIGHBOURS, min_length=1, description="how many cells vote: the best of these on validation cells"
    )


@dataclass(frozen=True)
class Fitted:
    """Training cells where they lie, each once, and their votes.

    mean float64 [G], axes float64 [G, P]: a cell lies at (values - mean) @ axes, without axes at its values; places
    float32 [m, P]; codes int64 [m], votes float64 [m], of mean 1: a cell's class among those of `learnt`, and its
    weight there.
    """

    mean: np.ndarray
    axes: np.ndarray | None
    places: np.ndarray
    codes: np.ndarray
    votes: np.ndarray
    learnt: Types
    neighbours: int
    numbers: dict[str, float] = field(default_factory=dict)

    def predict_proba(self, encoded: Encoded) -> np.ndarray:
        """Return float64 [n, C]: the shares of the votes, one more vote being spread as the training mix is.

        So no type with training cells has probability 0, and few neighbours say less than many (Dirichlet's prior).
        """
        return self.voted(self.nearest(encoded, self.neighbours))

    def nearest(self, encoded: Encoded, number: int) -> np.ndarray:
        """Return the training cells nearest to each cell, nearest first, int64 [n, number] or as many as there are."""
        from sklearn.neighbors import NearestNeighbors

        number = min(number, len(self.places))
        if not len(encoded):
            return np.zeros((0, number), np.int64)
        searched = NearestNeighbors(algorithm="brute").fit(self.places)
        return searched.kneighbors(placed(encoded, self.mean, self.axes), number, return_distance=False)

    def voted(self, nearest: np.ndarray) -> np.ndarray:
        """Return the probabilities, float64 [n, C], that cells with these neighbours, nearest first, get.

        A nearer cell has a millionth more of a vote, so that no tie is left to the order of types or to rounding.
        """
        votes, rows = np.zeros((len(nearest), len(self.learnt.present))), np.arange(len(nearest))
        for place, cells in enumerate(nearest.T):
            votes[rows, self.codes[cells]] += self.votes[cells] * (1 + TIE / (1 + place))
        voted = self.learnt.spread(votes) + self.learnt.mix
        return voted / voted.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class _AmongKnown:
    """A fit whose validation cells' neighbours have been found: another k costs no second search."""

    fitted: Fitted
    nearest: np.ndarray

    def predict_proba(self, encoded: Encoded) -> np.ndarray:
        return self.fitted.voted(self.nearest[:, : self.fitted.neighbours])


def placed(encoded: Encoded, mean: np.ndarray, axes: np.ndarray | None) -> np.ndarray:
    """Return where cells lie, float32 [n, P]; without axes P is G."""
    cells = matrix(encoded, len(mean))
    return (cells.toarray() if axes is None else cells @ axes - mean @ axes).astype(np.float32)


def fit(
    encoded: Encoded,
    labels: np.ndarray,
    num_classes: int,
    rng: np.random.Generator,
    *,
    validation: Held | None = None,
    class_weight: np.ndarray | None = None,
    components: int = COMPONENTS,
    neighbours: tuple[int, ...] = NEIGHBOURS,
    num_genes: int,
    **options: Any,
) -> Fitted:
    """Return the training cells with the k of best macro F1, then log-likelihood, on `validation`; without one, 15.

    class_weight: float [C], how many votes a cell of each class has; only their proportions matter.
    """
    learnt = targets("knn", labels, num_classes, class_weight)
    cells = matrix(encoded, num_genes)
    first, which = _each_once(cells, labels)
    mean, axes = principal_axes(cells[first], components, rng)
    votes = np.bincount(which, learnt.weights)
    places = placed(encoded.take(first), mean, axes)
    found = Fitted(mean, axes, places, learnt.codes[first], votes / votes.mean(), learnt.types, min(neighbours))
    if not is_there(validation):
        return replace(found, neighbours=min(neighbours, key=lambda number: abs(number - USUAL)))
    nearest = found.nearest(validation[0], max(neighbours))
    fits = (_AmongKnown(replace(found, neighbours=number), nearest) for number in sorted(neighbours))
    return best_of(fits, validation).fitted


def principal_axes(
    cells: sparse.csr_matrix, components: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return (mean [G], axes [G, P]) of cells, CSR [n, G]: the P first principal axes along which they differ.

    None for axes where cells stay where they are: none are wanted, or there is but one cell or gene.
    Few cells or genes are taken apart exactly: ARPACK's answer depends on its last one where ranks are wanting.
    """
    from sklearn.decomposition import PCA

    number = min(components, min(cells.shape) - 1)
    if number < 1:
        return np.zeros(cells.shape[1]), None
    small = min(cells.shape) <= SMALL
    solver = PCA(number, svd_solver="full" if small else "arpack", random_state=int(rng.integers(2**31)))
    solver.fit(cells.toarray().astype(np.float64) if small else cells.astype(np.float64))
    there = solver.singular_values_ > ROUNDING * solver.singular_values_[0]
    return solver.mean_, solver.components_[there].T


def _each_once(cells: sparse.csr_matrix, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (the first row of each profile with another label or counts, int64 [m]; which of these a row has, [n])."""
    known: dict[tuple[int, bytes, bytes], int] = {}
    which = np.empty(len(labels), dtype=np.int64)
    for row, (start, end) in enumerate(zip(cells.indptr, cells.indptr[1:], strict=False)):
        profile = (int(labels[row]), cells.indices[start:end].tobytes(), cells.data[start:end].tobytes())
        which[row] = known.setdefault(profile, len(known))
    return np.unique(which, return_index=True)[1], which


SPEC = ModelSpec(
    name="knn",
    title="k nearest neighbours",
    kind="baseline",
    options=KnnOptions,
    encoder=encoder,
    needs_totals=True,
    fit=fit,
    fitted=Fitted,
    on={"components": 0},
)
