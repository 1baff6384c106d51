"""Gradient boosted trees on the most variable genes: what wins most contests over tables."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import Field
from scipy import sparse
from scipy.special import expit, softmax

from trainables.fitting.choosing import Held, Types, is_there, targets
from trainables.models.logistic_regression.model import encoder, matrix
from trainables.spec import Encoded, ModelSpec, Options

DETAILS = {  # held fixed
    "max_bins": 64,  # of a gene's values, few of which differ
    "l2_regularization": 1.0,  # without it leaves of few cells are so sure that validation ends the training at once
    "max_features": 0.2,  # of the genes are looked at for a split, drawn anew each time
}


class BoostingOptions(Options):
    """scikit-learn's HistGradientBoostingClassifier; how many rounds count, validation cells say."""

    variable_genes: int = Field(
        2000, ge=1, description="of those the sweep chose: the most variable among the training cells"
    )
    rounds: int = Field(30, ge=1, description="at most, a tree per type each")
    patience: int = Field(5, ge=1, description="rounds without a lower log-loss on validation cells that end it")
    learning_rate: float = Field(0.3, gt=0, le=1, description="share of a tree that is added")
    leaves: int = Field(15, ge=2, description="of a tree, at most")
    leaf_cells: int = Field(5, ge=1, description="training cells in a leaf, at least: rare types need few")

    def idle(self, pretrained: bool) -> dict[str, str]:
        late = {"patience": f"in {self.rounds} rounds it can end nothing before the last"}
        usual = type(self).model_fields["patience"].default  # which may end the training, where this turns that off
        return super().idle(pretrained) | (late if min(self.patience, usual) >= self.rounds else {})


@dataclass(frozen=True)
class Trees:
    """The nodes of all trees, laid end to end: plain numbers, that they can be kept without scikit-learn's objects.

    baseline float64 [K]: scores before the first tree; roots int64 [T]: the first node of each tree, the trees of a
    round one after the other, K of them; features int64 [N], a column of the cells; thresholds float64 [N]; left,
    right int64 [N]: where a cell goes on whose value is at most the threshold, or is not; a leaf's are itself; values
    float64 [N], of leaves. K is 1 for two classes, whose score is that of the second.
    """

    baseline: np.ndarray
    roots: np.ndarray
    features: np.ndarray
    thresholds: np.ndarray
    left: np.ndarray
    right: np.ndarray
    values: np.ndarray

    def probabilities(self, cells: np.ndarray) -> np.ndarray:
        """Return float64 [n, classes] of cells, float32 [n, features]."""
        scores = np.tile(self.baseline, (len(cells), 1))
        for number, root in enumerate(self.roots):
            scores[:, number % len(self.baseline)] += self.values[self._leaves(cells, root)]
        if len(self.baseline) == 1:
            return np.hstack([1 - expit(scores), expit(scores)])
        return softmax(scores, axis=1)

    def _leaves(self, cells: np.ndarray, root: int) -> np.ndarray:
        """Return the leaf that each cell ends in, int64 [n]."""
        at, rows = np.full(len(cells), root), np.arange(len(cells))
        while True:
            is_left = cells[rows, self.features[at]] <= self.thresholds[at]
            after = np.where(is_left, self.left[at], self.right[at])
            if np.array_equal(after, at):
                return at
            at = after


@dataclass(frozen=True)
class Fitted:
    """genes int64 [g]: the columns that the trees look at, of `num_genes`; `trees` None: one class alone is certain."""

    genes: np.ndarray
    num_genes: int
    trees: Trees | None
    rounds: int
    learnt: Types
    numbers: dict[str, float] = field(default_factory=dict)

    def predict_proba(self, encoded: Encoded) -> np.ndarray:
        """Return float64 [n, C] after the rounds that count; 0 for classes without training cells."""
        if self.trees is None or not len(encoded):
            return self.learnt.spread(np.ones((len(encoded), len(self.learnt.present))))
        return self.learnt.spread(self.trees.probabilities(dense(encoded, self.genes, self.num_genes)))


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
    """Return the trees up to the round of least log-loss on `validation`; without one, all `rounds`.

    class_weight: float [C], the weight of a cell by its class; options: those of BoostingOptions.
    """
    learnt, chosen = targets("gradient_boosting", labels, num_classes, class_weight), BoostingOptions(**options)
    genes = most_variable(matrix(encoded, num_genes), chosen.variable_genes)
    if len(learnt.types.present) == 1:
        return Fitted(genes, num_genes, None, 0, learnt.types)
    held = _known(validation, learnt.types, genes, num_genes) if is_there(validation) else {}
    trees = _untrained(chosen, bool(held), rng)
    trees.fit(dense(encoded, genes, num_genes), learnt.codes, sample_weight=learnt.weights, **held)
    best = int(np.argmax(trees.validation_score_[1:])) + 1 if held else trees.n_iter_
    return Fitted(genes, num_genes, _nodes(trees, best), best, learnt.types, {"iterations": float(best)})


def _nodes(trees: Any, rounds: int) -> Trees:
    """Return the nodes of the first `rounds` of a fitted HistGradientBoostingClassifier."""
    nodes = [tree.nodes for trees_of_round in trees._predictors[:rounds] for tree in trees_of_round]
    roots = np.cumsum([0, *map(len, nodes)], dtype=np.int64)
    every, own = np.concatenate(nodes), np.arange(roots[-1])
    first, is_leaf = np.repeat(roots[:-1], [len(one) for one in nodes]), every["is_leaf"].astype(bool)
    return Trees(
        baseline=trees._baseline_prediction.ravel().astype(np.float64),
        roots=roots[:-1],
        features=np.where(is_leaf, 0, every["feature_idx"]),
        thresholds=every["num_threshold"],
        left=np.where(is_leaf, own, first + every["left"]),
        right=np.where(is_leaf, own, first + every["right"]),
        values=every["value"],
    )


def _untrained(chosen: BoostingOptions, stops: bool, rng: np.random.Generator) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        learning_rate=chosen.learning_rate,
        max_iter=chosen.rounds,
        max_leaf_nodes=chosen.leaves,
        min_samples_leaf=chosen.leaf_cells,
        early_stopping=stops,
        n_iter_no_change=chosen.patience,
        random_state=int(rng.integers(2**31)),
        **DETAILS,
    )


def _known(held: Held, learnt: Types, genes: np.ndarray, num_genes: int) -> dict[str, np.ndarray]:
    """Return the validation cells of types that have training cells, as scikit-learn takes them; {} without any."""
    rows, codes, weights = learnt.known(held[1])
    if not len(rows):
        return {}
    cells = dense(held[0].take(rows), genes, num_genes)
    return {"X_val": cells, "y_val": codes, "sample_weight_val": weights}


def most_variable(cells: sparse.csr_matrix, number: int) -> np.ndarray:
    """Return the columns of the `number` genes of greatest variance, ascending int64, of cells CSR [n, G]."""
    means = np.bincount(cells.indices, cells.data, cells.shape[1]) / cells.shape[0]
    squares = np.bincount(cells.indices, cells.data.astype(np.float64) ** 2, cells.shape[1]) / cells.shape[0]
    return np.sort(np.argsort(-(squares - means**2), kind="stable")[:number])


def dense(encoded: Encoded, genes: np.ndarray, num_genes: int) -> np.ndarray:
    """Return the cells' values of these genes, float32 [n, g]."""
    return matrix(encoded, num_genes)[:, genes].toarray()


SPEC = ModelSpec(
    name="gradient_boosting",
    title="Gradient boosted trees",
    kind="baseline",
    options=BoostingOptions,
    encoder=encoder,
    needs_totals=True,
    fit=fit,
    fitted=Fitted,
)
