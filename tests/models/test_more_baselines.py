"""Neighbours, support vector machines, trees and the perceptron: theirs by another way, and honest probabilities."""

from pathlib import Path

import numpy as np
import pytest
from conftest import counts_like, trial_config
from pydantic import ValidationError
from scipy.special import softmax
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from trainables.fitting.kept import taken_apart
from trainables.losses import LOSSES
from trainables.models import celltypist, gradient_boosting, knn, linear_svm
from trainables.models.logistic_regression.model import matrix
from trainables.posthoc import POSTHOC
from trainables.spec import Encoded, get
from trainables.training.checkpoint import newest
from trainables.trial import run_trial

NUM_GENES = 60
FITTED = ("knn", "linear_svm", "gradient_boosting", "celltypist")
FEW = {"gradient_boosting": {"rounds": 12, "learning_rate": 0.5}}  # enough for made-up types
EVERY = pytest.mark.parametrize("model", FITTED)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def cells() -> tuple[Encoded, np.ndarray]:
    """600 cells of four types that overlap, four counts of ten kept."""
    counts, labels = counts_like(600, NUM_GENES, 4)
    thinned = counts.copy()
    thinned.data = np.random.default_rng(1).binomial(counts.data.astype(int), 0.4).astype(np.float32)
    thinned.eliminate_zeros()
    return get("knn").encoder([""] * NUM_GENES)(thinned, rng()), labels


def parts(cells: tuple[Encoded, np.ndarray]) -> tuple[tuple[Encoded, np.ndarray], tuple[Encoded, np.ndarray]]:
    encoded, labels = cells
    part = np.random.default_rng(2).permutation(len(labels)) % 2
    return tuple((encoded.take(np.flatnonzero(part == one)), labels[part == one]) for one in (0, 1))


def fitted(model: str, train: tuple[Encoded, np.ndarray], num_classes: int = 4, **given: object) -> object:
    options = get(model).options(**FEW.get(model, {})).model_dump() | given
    return get(model).fit(*train, num_classes, rng(), num_genes=NUM_GENES, **options)


@EVERY
def test_the_same_seed_gives_the_same_probabilities_which_sum_to_one(model, cells):
    train, held = parts(cells)
    first, again = (fitted(model, train, validation=held).predict_proba(held[0]) for _ in range(2))
    assert np.array_equal(first, again) and first.dtype == np.float64
    assert first.sum(axis=1) == pytest.approx(np.ones(len(first)))
    assert (first.argmax(axis=1) == held[1]).mean() > 0.6


@EVERY
def test_types_without_training_cells_are_never_predicted_though_validation_has_them(model, cells):
    (encoded, labels), (held, truth) = parts(cells)
    kept = np.flatnonzero(labels != 1)
    found = fitted(model, (encoded.take(kept), labels[kept]), validation=(held, truth)).predict_proba(held)
    assert (found[:, 1] == 0).all() and np.isfinite(found).all() and (found[:, [0, 2, 3]] > 0).all()


@EVERY
def test_what_is_kept_knows_nothing_of_single_training_cells_but_neighbours_places(model, cells):
    """Twice the cells, kept in as many bytes; knn keeps each cell's place, class and votes."""
    (encoded, labels), _ = parts(cells)
    some = {} if model != "knn" else {"components": 3}
    sizes = []
    for rows in (np.arange(0, 280, 2), np.arange(280)):
        kept, _ = taken_apart(fitted(model, (encoded.take(rows), labels[rows]), **some))
        sizes.append({name: len(array) for name, array in kept.items() if not name.startswith("trees")})
    grown = {name for name in sizes[0] if sizes[1][name] != sizes[0][name]}
    assert grown == ({"places", "codes", "votes"} if model == "knn" else set())


def test_ties_of_neighbours_are_neither_the_lists_nor_roundings_to_decide(cells):
    """With two neighbours that name two types alike, the nearer one is right, in whatever order types are listed."""
    (encoded, labels), (held, _) = parts(cells)
    even = np.concatenate([np.flatnonzero(labels == kind)[:60] for kind in range(4)])
    one, other = (fitted("knn", (encoded.take(even), order[even]), neighbours=(2,)) for order in (labels, 3 - labels))
    found, turned = (model.predict_proba(held) for model in (one, other))
    assert np.array_equal(found.argmax(1), 3 - turned.argmax(1))
    for heat in (0.3, 0.7, 1.3, 2.1):
        assert np.array_equal(softmax(np.log(found) / heat, axis=1).argmax(1), found.argmax(1))


@EVERY
def test_two_types_one_type_and_no_cell_to_predict(model, cells):
    train, held = parts(cells)
    pair = np.flatnonzero(train[1] < 2)
    two = fitted(model, (train[0].take(pair), train[1][pair]), validation=held)
    assert (two.predict_proba(held[0]).argmax(axis=1) == held[1])[held[1] < 2].mean() > 0.8
    alone = fitted(model, (train[0], np.full(len(train[1]), 2)), validation=held).predict_proba(held[0])
    assert (alone == [0, 0, 1, 0]).all()
    assert two.predict_proba(held[0].take(np.zeros(0, int))).shape == (0, 4)


@EVERY
def test_class_weights_raise_the_rare_type_and_only_their_proportions_matter(model, cells):
    (encoded, labels), (held, truth) = parts(cells)
    rare = np.flatnonzero(labels == 3)[8:]
    kept = np.setdiff1d(np.arange(len(labels)), rare)
    train = encoded.take(kept), labels[kept]
    weights = LOSSES["weighted"](np.bincount(train[1])).weights
    given = {"knn": {"neighbours": (10,)}, "celltypist": {"alpha": 0.1}}.get(model, {})
    plain, weighted, scaled = (
        fitted(model, train, class_weight=one, **given).predict_proba(held) for one in (None, weights, 10 * weights)
    )
    mass = [found[truth == 3, 3].mean() for found in (plain, weighted)]
    assert mass[1] > mass[0] + 0.02
    assert np.allclose(weighted, scaled, atol=1e-6)


@EVERY
def test_probabilities_are_no_surer_than_they_are_right(model, cells):
    train, held = parts(cells)
    encoded, truth = held[0].take(np.arange(150)), held[1][:150]
    tested = held[0].take(np.arange(150, len(held[1])))
    found = fitted(model, train, validation=(encoded, truth)).predict_proba(tested)
    sure, right = found.max(axis=1).mean(), (found.argmax(axis=1) == held[1][150:]).mean()
    assert abs(sure - right) < 0.12


@EVERY
def test_a_trial_has_numbers_and_every_adjustment(model, tmp_path):
    config = trial_config(tmp_path, model, posthoc=list(POSTHOC), options=FEW.get(model, {}))
    final = run_trial(config, lambda numbers, checkpoint: None, None)
    assert final["test_macro_f1"] > 0.9
    assert {f"{name}_applied" for name in POSTHOC if name != "none"} <= set(final)


def test_neighbours_are_those_that_scikit_learn_finds(cells):
    train, held = parts(cells)
    found = fitted("knn", train, neighbours=(9,))
    theirs = KNeighborsClassifier(9, algorithm="brute", weights="uniform").fit(found.places, found.codes)
    nearest = theirs.kneighbors(knn.placed(held[0], found.mean, found.axes), return_distance=False)
    votes = np.stack([np.bincount(train[1][cells], minlength=4) for cells in nearest])
    mix = np.bincount(train[1]) / len(train[1])
    assert len(found.places) == len(train[1]) and found.axes.shape[1] <= 50
    assert found.predict_proba(held[0]) == pytest.approx((votes + mix) / 10)


def test_cells_that_are_repeated_are_cells_that_weigh_more(cells):
    train, held = parts(cells)
    rows = np.concatenate([np.arange(len(train[1])), np.repeat(np.flatnonzero(train[1] == 3), 4)])
    repeated = fitted("knn", (train[0].take(rows), train[1][rows]), neighbours=(9,))
    weighted = fitted("knn", train, class_weight=np.array([1, 1, 1, 5]), neighbours=(9,))
    assert len(repeated.places) == len(train[1])
    assert repeated.predict_proba(held[0]) == pytest.approx(weighted.predict_proba(held[0]))


def test_k_is_what_validation_cells_prefer(cells):
    train, held = parts(cells)
    noisy = train[1].copy()
    noisy[::3] = np.random.default_rng(0).integers(0, 4, len(noisy[::3]))
    assert fitted("knn", (train[0], noisy), validation=held, neighbours=(1, 20)).neighbours == 20
    assert fitted("knn", train, neighbours=(1, 20)).neighbours == 20, "the nearest to 15, where nothing tells"


def test_machines_are_scikit_learns_and_the_temperature_changes_no_type(cells):
    train, held = parts(cells)
    found = fitted("linear_svm", train, strengths=(0.1,), validation=held)
    theirs = LinearSVC(C=0.1, dual=False, intercept_scaling=linear_svm.INTERCEPT)
    theirs.fit(matrix(train[0], NUM_GENES), train[1])
    scores = theirs.decision_function(matrix(held[0], NUM_GENES))
    assert found.scores(held[0]) == pytest.approx(scores, abs=1e-5)
    assert found.converged and found.temperature != 1
    probabilities = found.predict_proba(held[0])
    assert probabilities == pytest.approx(softmax(scores / found.temperature, axis=1), abs=1e-5)
    assert np.array_equal(probabilities.argmax(axis=1), scores.argmax(axis=1))


def test_a_machine_that_was_stopped_says_so(cells):
    train, _ = parts(cells)
    assert fitted("linear_svm", train, max_iterations=1).numbers["converged"] == 0


def test_trees_end_at_the_round_that_validation_cells_prefer(cells):
    train, held = parts(cells)
    found = fitted("gradient_boosting", train, validation=held, rounds=60, patience=2, learning_rate=0.5)
    options = {"min_samples_leaf": 5, "max_leaf_nodes": 15, "learning_rate": 0.5, **gradient_boosting.DETAILS}
    options["random_state"] = int(rng().integers(2**31))
    dense = [matrix(part[0], NUM_GENES).toarray() for part in (train, held)]
    stopped = HistGradientBoostingClassifier(max_iter=60, early_stopping=True, n_iter_no_change=2, **options)
    weights = found.learnt.known(held[1])[2]
    stopped.fit(dense[0], train[1], X_val=dense[1], y_val=held[1], sample_weight_val=weights)
    assert found.rounds == (-stopped.validation_score_[1:]).argmin() + 1 < stopped.n_iter_ < 60
    assert found.numbers == {"iterations": found.rounds}
    theirs = HistGradientBoostingClassifier(max_iter=found.rounds, early_stopping=False, **options)
    theirs.fit(dense[0], train[1])
    ours, other = found.predict_proba(held[0]), theirs.predict_proba(dense[1])
    np.testing.assert_allclose(ours, other, rtol=1e-12)


def test_trees_look_at_the_most_variable_genes(cells):
    train, _ = parts(cells)
    found = fitted("gradient_boosting", train, variable_genes=7)
    varied = np.argsort(-matrix(train[0], NUM_GENES).toarray().var(axis=0), kind="stable")[:7]
    assert found.genes.tolist() == sorted(varied.tolist())


def test_scores_are_those_of_celltypists_scaling_and_genes_those_of_its_choice(cells):
    """StandardScaler, values above 10 cut to 10, the linear combination; genes by argpartition of |coefficients|."""
    train, held = parts(cells)
    found = fitted("celltypist", train, top_genes=9, validation=held)
    everything = StandardScaler().fit(matrix(train[0], NUM_GENES).toarray().astype(float))
    scaled = np.minimum(everything.transform(matrix(held[0], NUM_GENES).toarray().astype(float)), 10)[:, found.genes]
    assert found.scores(held[0]) == pytest.approx(scaled @ found.coefficients + found.intercepts, abs=1e-3)
    some = rng().normal(size=(4, NUM_GENES))
    theirs = np.unique(np.argpartition(np.abs(some), -9, axis=1)[:, -9:])
    assert np.array_equal(celltypist.strongest(some, 9), theirs) and len(found.genes) <= 36


def test_batches_of_the_second_fit_are_balanced_and_the_mix_it_has_learnt_is_said(cells, tmp_path):
    learnt = celltypist._balanced(np.repeat([0, 1, 3], [900, 90, 10]), 4, None)
    rows = np.concatenate(list(celltypist._drawn(learnt, celltypist.CellTypistOptions(), rng())))
    shares = np.bincount(learnt.codes[rows]) / len(rows)
    assert len(rows) == 10_000 and np.abs(shares - 1 / 3).max() < 0.02  # 4 standard errors
    assert learnt.types.mix.tolist() == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3])
    skewed = {"skew": {"kind": "exponential", "ratio": 10}, "posthoc": ["logit_adjust"]}
    final = run_trial(trial_config(tmp_path, "celltypist", **skewed), lambda *said: None, None)
    assert final["test_brier.logit_adjust"] == pytest.approx(final["test_brier"]), "nothing is left to divide out"


@pytest.mark.parametrize(
    ("model", "wrong"),
    [
        ("knn", {"neighbours": ()}),
        ("knn", {"neighbours": (0,)}),
        ("knn", {"components": -1}),
        ("linear_svm", {"strengths": (0.0,)}),
        ("gradient_boosting", {"learning_rate": 2.0}),
        ("celltypist", {"top_genes": 0}),
        ("mlp", {"size": "official"}),
        ("mlp", {"hidden": ()}),
        ("mlp", {"dropout": 1.0}),
    ],
)
def test_senseless_options_are_refused(model: str, wrong: dict):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        get(model).options(**wrong)


def test_a_perceptron_is_trained_by_the_loop_and_goes_on_where_it_was_stopped(tmp_path):
    class Killed(Exception):
        """The trial's process is gone."""

    def report(numbers: dict, checkpoint: object) -> None:
        if numbers.get("epoch") == 2 and not numbers.get("replayed"):
            raise Killed

    recipe = {"epochs": 4, "batch_size": 16, "learning_rate": 0.01}
    whole = run_trial(trial_config(tmp_path / "a", "mlp", recipe=recipe), lambda *said: None, None)
    config = trial_config(tmp_path / "b", "mlp", recipe=recipe)
    with pytest.raises(Killed):
        run_trial(config, report, None)
    gone_on = run_trial(config, lambda *said: None, newest(Path(config["directory"])))
    assert whole["test_macro_f1"] > 0.9
    same = [name for name in whole if name.startswith(("test_", "val_"))]
    assert {name: gone_on[name] for name in same} == {name: whole[name] for name in same}
