"""Logistic regression learns a type of ten cells among thousands, and agrees with scikit-learn on real cells."""

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from data_pipeline.reading.h5ad import open_cells
from data_pipeline.reading.known.catalog import resolve
from trainables.fitting.choosing import score
from trainables.metrics import evaluate
from trainables.models.logistic_regression import products, solver
from trainables.models.logistic_regression.model import STRENGTHS, Fitted, fit
from trainables.models.logistic_regression.solver import Problem
from trainables.spec import Encoded, get

HELD = (1500, 750, 250, 400)
NUM_GENES = 100  # of the real data


def made_up(sizes: tuple[int, ...], seed: int = 0) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Return log counts [n, 40] and labels of four types; the last is like the first but for three markers."""
    rng = np.random.default_rng(seed)
    rates = np.full((4, 40), 0.3)
    for kind in range(3):
        rates[kind, 8 * kind : 8 * kind + 8] = 2
    rates[3] = rates[0]
    rates[3, 30:33] = 4
    labels = np.repeat(np.arange(4), sizes)
    return sparse.csr_matrix(np.log1p(rng.poisson(rates[labels])).astype(np.float32)), labels


def weights_of(labels: np.ndarray, weighted: bool) -> np.ndarray:
    return (len(labels) / 4 / np.bincount(labels))[labels] if weighted else np.ones(len(labels))


def rare_recall(problem: Problem, strength: float) -> tuple[float, bool]:
    (found,) = problem.path([strength], 5000)
    cells, labels = made_up(HELD, seed=1)
    predicted = (cells @ found.coefficients + found.intercepts).argmax(axis=1)
    return float((predicted == 3)[labels == 3].mean()), found.converged


def check_rare_recall(sizes: tuple[int, ...], penalty: str, weighted: bool, strength: float, monkeypatch) -> None:
    cells, labels = made_up(sizes)
    problem = Problem(cells, labels, weights_of(labels, weighted), 4, penalty)
    ours, converged = rare_recall(problem, strength)
    monkeypatch.setattr(solver, "TOLERANCE", 1e-4)  # of a class's error: 1e-8 or less per cell, where it is rare
    exact, _ = rare_recall(problem, strength)
    assert converged
    assert ours == pytest.approx(exact, abs=0.01)
    assert exact > 0.3  # else there would be nothing to learn


BOTH = pytest.mark.parametrize("weighted", [False, True])
PENALTIES = pytest.mark.parametrize("penalty", ["l1", "l2"])


@PENALTIES
@BOTH
def test_a_type_of_few_cells_is_learnt(penalty: str, weighted: bool, monkeypatch):
    check_rare_recall((6000, 3000, 988, 12), penalty, weighted, 1.0, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(30_000, 15_000, 4_990, 10), (90_000, 45_000, 14_980, 20)])
@pytest.mark.parametrize("strength", [1.0, 10.0])
@PENALTIES
@BOTH
def test_a_type_of_ten_cells_among_fifty_thousand_is_learnt(
    sizes: tuple[int, ...], strength: float, penalty: str, weighted: bool, monkeypatch
):
    check_rare_recall(sizes, penalty, weighted, strength, monkeypatch)


def test_a_gene_that_only_a_rare_type_wants_is_let_in():
    cells, labels = made_up((6000, 3000, 988, 12))
    (found,) = Problem(cells, labels, np.ones(10_000), 4, "l1").path([1.0], 2000)
    assert (found.coefficients[30:33, 3] > 0).all()


def test_a_fit_tells_whether_it_converged():
    cells, labels = made_up((600, 300, 100, 12))
    tokens = Encoded(cells.indices, cells.data, cells.indptr.astype(np.int64))
    stopped, done = (fit(tokens, labels, 4, np.random.default_rng(0), max_iterations=n) for n in (2, 500))
    assert stopped.numbers == {"converged": 0.0, "iterations": 2.0}
    assert done.numbers["converged"] == 1.0 and 2 < done.numbers["iterations"] < 500


@pytest.mark.parametrize("most", [0, 10**9])
def test_products_by_mkl_are_scipys(most: int, monkeypatch):
    monkeypatch.setattr(products, "MOST_COPIED", most)  # 0: no second copy for those from the other side
    cells, rng = made_up((60, 30, 10, 5))[0], np.random.default_rng(0)
    ours, columns, rows = products.Products(cells), rng.normal(size=(40, 3)), rng.normal(size=(105, 3))
    columns, rows = columns.astype(np.float32), rows.astype(np.float32)
    np.testing.assert_allclose(ours.times(columns), cells @ columns, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours.transposed_times(rows), cells.T @ rows, rtol=1e-5, atol=1e-5)


def test_a_path_is_left_where_a_rough_solution_is_behind():
    cells, labels = made_up((600, 300, 100, 12))
    problem, roughly = Problem(cells, labels, np.ones(len(labels)), 4, "l1"), []
    is_over = lambda rough: roughly.append(rough.iterations) or len(roughly) == 2  # noqa: E731
    (found,) = problem.path([0.1, 1.0, 10.0], 500, is_over)
    assert found.strength == 0.1 and found.converged and 0 < roughly[0] < found.iterations


def test_fit_and_the_sweep_file_have_the_same_defaults():
    import inspect

    given = {name: parameter.default for name, parameter in inspect.signature(fit).parameters.items()}
    options = get("logistic_regression").options()
    assert {name: given[name] for name in ("penalty", "strengths", "max_iterations")} == options.model_dump(
        include={"penalty", "strengths", "max_iterations"}
    )


def theirs(parts: tuple, classes: int) -> Fitted:
    """Return scikit-learn's regression at a tight tolerance, C chosen from the same ones by the same rule."""
    (train, labels), (held, truth) = parts
    means, fits = train.mean(axis=0), []
    for strength in STRENGTHS:
        found = LogisticRegression(C=strength, tol=1e-6, max_iter=5000).fit(train - means, labels)
        coefficients, intercepts = np.zeros((train.shape[1], classes)), np.full(classes, -np.inf)
        coefficients[:, found.classes_], intercepts[found.classes_] = (
            found.coef_.T,
            found.intercept_ - found.coef_ @ means,
        )
        fits.append(Fitted(coefficients, intercepts, strength, True, 0))
    return max(fits, key=lambda fitted: score(fitted.predict_proba(held), truth))


def check_beside_scikit_learn(source: str | dict, tmp_path: Path) -> None:
    opened = open_cells(resolve(source, tmp_path), tmp_path)
    counts, rng = opened.take(np.arange(opened.num_cells)), np.random.default_rng(0)
    varied = np.argsort(-(counts.multiply(counts).mean(axis=0) - np.square(counts.mean(axis=0))).A1)[:NUM_GENES]
    tokens = get("logistic_regression").encoder([""] * NUM_GENES)(counts[:, np.sort(varied)], rng, opened.totals)
    part = rng.permutation(opened.num_cells) % 4  # half trains, a quarter chooses C, a quarter tests
    trained, held, tested = np.flatnonzero(part < 2), np.flatnonzero(part == 2), np.flatnonzero(part == 3)
    labels, classes = opened.labels, len(opened.classes)
    validation = (tokens.take(held), labels[held])
    ours = fit(tokens.take(trained), labels[trained], classes, rng, validation=validation, num_genes=NUM_GENES)
    cells = sparse.csr_matrix((tokens.values, tokens.ids, tokens.offsets), shape=(opened.num_cells, NUM_GENES))
    reference = theirs(((cells[trained].toarray().astype(np.float64), labels[trained]), validation), classes)
    scores = [
        evaluate(found.predict_proba(tokens.take(tested)), labels[tested], np.ones(classes))["macro_f1"]
        for found in (ours, reference)
    ]
    assert ours.converged
    assert scores[0] == pytest.approx(scores[1], abs=0.005)
    assert scores[1] > 0.5


@pytest.mark.parametrize("name", ["pbmc68k_reduced", "baron_pancreas"])
def test_macro_f1_on_installed_data_is_scikit_learns(name: str, tmp_path: Path):
    check_beside_scikit_learn(name, tmp_path)


def test_macro_f1_on_zheng_cells_is_scikit_learns(zheng11: Path, tmp_path: Path):
    check_beside_scikit_learn({"name": "zheng11", "path": str(zheng11), "label": "celltype"}, tmp_path)
