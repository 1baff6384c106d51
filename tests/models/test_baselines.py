"""Baselines: the optimum is scikit-learn's, C comes from validation, and odd training sets are no error."""

import numpy as np
import pytest
from conftest import counts_like, trainable_here
from pydantic import ValidationError
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from data_pipeline.errors import RequestError
from trainables.losses import LOSSES
from trainables.metrics import evaluate
from trainables.models.logistic_regression.model import fit, matrix
from trainables.models.logistic_regression.solver import TOLERANCE, Problem
from trainables.spec import Encoded, get

NUM_GENES = 60


def encoded(num_cells: int = 400, num_types: int = 4, seed: int = 0, model: str = "logistic_regression") -> tuple:
    counts, labels = counts_like(num_cells, NUM_GENES, num_types, seed)
    return get(model).encoder([f"gene{i}" for i in range(NUM_GENES)])(counts, np.random.default_rng(0)), labels


def random_rows(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def objective(
    cells: sparse.csr_matrix, labels: np.ndarray, weights: np.ndarray, found: tuple, penalty: str, c: float
) -> float:
    coefficients, intercepts = found
    scores = cells @ coefficients + intercepts
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    size = np.abs(coefficients).sum() if penalty == "l1" else (coefficients**2).sum() / 2
    return -(weights * logs[np.arange(len(labels)), labels]).sum() + size / c


def problem_of(penalty: str, weighted: bool) -> Problem:
    tokens, labels = encoded()
    weights = np.where(labels == 0, 4.0, 1.0) if weighted else np.ones(len(labels))
    return Problem(matrix(tokens, NUM_GENES), labels, weights / weights.mean(), 4, penalty)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_l2_optimum_is_scikit_learns(weighted: bool):
    problem = problem_of("l2", weighted)
    theirs = LogisticRegression(C=0.1, max_iter=2000, tol=1e-7)
    theirs.fit(problem.cells.astype(np.float64), problem.targets, sample_weight=problem.weights)
    (ours,) = problem.path([0.1], 500)
    values = [
        objective(problem.cells, problem.targets, problem.weights, found, "l2", 0.1)
        for found in ((ours.coefficients, ours.intercepts), (theirs.coef_.T, theirs.intercept_))
    ]
    assert ours.converged
    assert values[0] == pytest.approx(values[1], rel=1e-3)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_l1_optimum_meets_its_conditions(weighted: bool):
    problem = problem_of("l1", weighted)
    (ours,) = problem.path([1.0], 500)
    assert ours.converged
    scores = problem.cells @ ours.coefficients + ours.intercepts
    residuals = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True) - np.eye(4)[problem.targets]
    gradient = problem.cells.T @ (problem.weights[:, None] * residuals)  # of the log-loss; the penalty's is +-1 / C
    used = ours.coefficients != 0
    errors = -np.bincount(problem.targets, (problem.weights[:, None] * residuals)[np.arange(400), problem.targets])
    slack = 2 * TOLERANCE * errors + 0.01  # twice the limit of each class, and the rounding of float32
    assert 0.03 < used.mean() < 0.8
    assert (np.where(used, 0, np.abs(gradient)) <= 1 + slack).all()
    assert (np.where(used, np.abs(gradient + np.sign(ours.coefficients)), 0) <= slack).all()
    assert (np.abs((problem.weights[:, None] * residuals).sum(axis=0)) <= slack).all()  # intercepts are not penalised


def test_a_whole_path_ends_where_a_cold_start_does():
    tokens, labels = encoded()
    problem = Problem(matrix(tokens, NUM_GENES), labels, np.ones(len(labels)), 4, "l1")
    *_, last = problem.path([0.01, 0.1, 1.0], 500)
    (alone,) = problem.path([1.0], 500)
    ends = [
        objective(problem.cells, labels, problem.weights, (found.coefficients, found.intercepts), "l1", 1.0)
        for found in (last, alone)
    ]
    assert ends[0] == pytest.approx(ends[1], rel=0.02)


def test_too_few_iterations_are_told():
    tokens, labels = encoded()
    for penalty in ("l1", "l2"):
        fitted = fit(tokens, labels, 4, random_rows(), penalty=penalty, max_iterations=2)
        assert not fitted.converged
        assert fitted.iterations == 2
        assert fit(tokens, labels, 4, random_rows(), penalty=penalty).converged


def test_c_is_the_best_on_validation():
    tokens, labels = encoded(1200, 6)
    train, held = np.arange(0, 1200, 2), np.arange(1, 1200, 2)
    validation = (tokens.take(held), labels[held])
    chosen = fit(tokens.take(train), labels[train], 6, random_rows(), validation=validation)
    alone = {
        c: fit(tokens.take(train), labels[train], 6, random_rows(), strengths=(c,))
        for c in (1e-7, 0.01, 0.1, 1.0, 10.0)
    }
    scores = {
        c: evaluate(f.predict_proba(validation[0]), labels[held], np.ones(6))["macro_f1"] for c, f in alone.items()
    }
    assert scores[chosen.strength] >= max(scores.values()) - 0.02  # a path ends a little off a cold start
    assert scores[1e-7] < 0.5 < scores[chosen.strength]


def test_without_validation_c_is_the_one_nearest_one():
    tokens, labels = encoded()
    assert fit(tokens, labels, 4, random_rows(), strengths=(0.001, 0.5, 30.0)).strength == 0.5
    nothing = (tokens.take(np.zeros(0, int)), labels[:0])
    assert fit(tokens, labels, 4, random_rows(), strengths=(0.001, 0.5), validation=nothing).strength == 0.5


def test_probabilities_cover_the_fixed_class_list():
    tokens, labels = encoded()
    fitted = fit(tokens, np.where(labels == 3, 5, labels), 7, random_rows())
    probabilities = fitted.predict_proba(tokens)
    assert probabilities.shape == (400, 7)
    assert probabilities.dtype == np.float64
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(400))
    assert (probabilities[:, [3, 4, 6]] == 0).all()
    assert (probabilities[:, 5] > 0).all()


def test_one_class_alone_is_certain():
    tokens, _ = encoded()
    probabilities = fit(tokens, np.full(400, 2), 3, random_rows()).predict_proba(tokens)
    assert (probabilities == [0, 0, 1]).all()


def test_a_class_of_one_cell_and_two_classes():
    tokens, labels = encoded(200, 2)
    labels = np.zeros(200, np.int64)
    labels[17] = 1
    fitted = fit(tokens, labels, 2, random_rows(), strengths=(10.0,))
    assert fitted.predict_proba(tokens).argmax(axis=1)[17] == 1


def test_class_weights_raise_the_rare_class_and_only_their_proportions_matter():
    counts, labels = counts_like(600, NUM_GENES, 2, 3)
    rng = np.random.default_rng(0)
    noisy = sparse.csr_matrix(counts.multiply(rng.random(counts.shape) < 0.05))  # so little is left that types overlap
    tokens = get("logistic_regression").encoder(["g"] * NUM_GENES)(noisy, rng)
    kept = np.flatnonzero((labels == 0) | (rng.random(600) < 0.1))
    tokens, labels = tokens.take(kept), labels[kept]
    weight = LOSSES["weighted"](np.bincount(labels)).weights
    plain = fit(tokens, labels, 2, random_rows(), strengths=(0.1,))
    weighted, scaled = (
        fit(tokens, labels, 2, random_rows(), strengths=(0.1,), class_weight=w) for w in (weight, 10 * weight)
    )
    rare = [(found.predict_proba(tokens).argmax(axis=1) == 1)[labels == 1].mean() for found in (plain, weighted)]
    assert rare[1] > rare[0] + 0.1
    assert scaled.coefficients == pytest.approx(weighted.coefficients)


def test_cells_without_counts_and_genes_unseen_in_training_are_no_error():
    tokens, labels = encoded()
    empty = Encoded(np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(3, np.int64))
    fitted = fit(tokens, labels, 4, random_rows())
    assert fitted.predict_proba(empty).shape == (2, 4)
    more = Encoded(np.array([0, 10**6], np.int32), np.ones(2, np.float32), np.array([0, 2]))
    assert np.isfinite(fitted.predict_proba(more)).all()


def test_the_encoder_normalises_by_the_totals_given():
    counts = sparse.csr_matrix([[3.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    encoder = get("logistic_regression").encoder(["a", "b", "c"])
    plain, wide = encoder(counts, random_rows()), encoder(counts, random_rows(), totals=np.array([40.0, 7.0]))
    assert plain.ids.tolist() == [0, 2]
    assert plain.offsets.tolist() == [0, 2, 2]
    assert plain.values == pytest.approx(np.log1p([7500, 2500]), rel=1e-6)
    assert wide.values == pytest.approx(np.log1p([750, 250]), rel=1e-6)


def test_the_same_seed_gives_the_same_fit():
    tokens, labels = encoded()
    first, second = (fit(tokens, labels, 4, random_rows(1)) for _ in range(2))
    assert np.array_equal(first.coefficients, second.coefficients)


def test_majority_answers_the_training_proportions():
    tokens, labels = encoded(model="majority")
    fitted = get("majority").fit(tokens, np.array([0, 0, 0, 2]), 4, random_rows())
    assert fitted.predict_proba(tokens.take(np.arange(3))).tolist() == [[0.75, 0, 0.25, 0]] * 3
    weighted = get("majority").fit(tokens, np.array([0, 0, 0, 2]), 3, random_rows(), class_weight=[1, 1, 3])
    assert weighted.predict_proba(tokens).argmax(axis=1).tolist() == [0] * 400
    assert weighted.prior == pytest.approx([0.5, 0, 0.5])


@pytest.mark.parametrize(
    "options", [{"penalty": "elastic"}, {"strengths": ()}, {"strengths": (0.1, -1.0)}, {"max_iterations": 0}]
)
def test_senseless_options_are_refused(options: dict):
    with pytest.raises(ValidationError, match=next(iter(options))):
        get("logistic_regression").options(**options)


@pytest.mark.parametrize("model", [name for name in trainable_here() if get(name).kind == "baseline"])
def test_no_training_cell_is_refused(model: str):
    tokens, labels = encoded(model=model)
    with pytest.raises(RequestError, match=f"{model}: there is no training cell"):
        get(model).fit(tokens.take(np.zeros(0, int)), labels[:0], 4, random_rows(), num_genes=NUM_GENES)
