"""Adjustments after training: each undoes, on made-up logits, exactly the distortion it is for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from trainables.posthoc import POSTHOC, fit_temperature, likelihood_of_no_shift, shift

TRAIN_PRIOR = np.array([0.7, 0.2, 0.1])
TEST_PRIOR = np.array([0.1, 0.3, 0.6])


def adjusted_by(name: str, *given: np.ndarray) -> np.ndarray:
    return POSTHOC[name](*given).probabilities


def cells(prior: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (log density of each cell under each class [n, 3], labels) for three overlapping Gaussian types."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n, p=prior)
    centres = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    points = centres[labels] + rng.standard_normal((n, 2))
    return -0.5 * ((points[:, None] - centres) ** 2).sum(axis=2), labels


def posterior(prior: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the exact logits of a perfect model trained under TRAIN_PRIOR, for cells that come with `prior`."""
    densities, labels = cells(prior, n, seed)
    return densities + np.log(TRAIN_PRIOR), labels


def test_none_is_the_softmax():
    logits, labels = posterior(TRAIN_PRIOR, 50, 0)
    assert adjusted_by("none", logits, labels, TRAIN_PRIOR, logits) == pytest.approx(softmax(logits, axis=1))


@pytest.mark.parametrize("factor", [0.2, 1.0, 7.0])
def test_temperature_finds_the_factor_that_made_logits_overconfident(factor: float):
    logits, labels = posterior(TRAIN_PRIOR, 20_000, 1)
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.05)  # sampling error about 1 %


def test_temperature_calibrates_and_changes_no_prediction():
    logits, labels = posterior(TRAIN_PRIOR, 4000, 2)
    hot = 5 * logits
    adjusted = adjusted_by("temperature", hot, labels, TRAIN_PRIOR, hot)
    assert np.array_equal(adjusted.argmax(axis=1), hot.argmax(axis=1))
    loss = [-np.log(p[np.arange(4000), labels]).mean() for p in (adjusted, softmax(hot, axis=1))]
    assert loss[0] < 0.7 * loss[1]


def test_temperature_without_validation_cells_is_one():
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, int)) == 1.0


def test_temperature_stays_finite_when_validation_is_perfectly_told_apart():
    logits = 3 * np.eye(3)
    adjusted = adjusted_by("temperature", logits, np.arange(3), TRAIN_PRIOR, logits)
    assert np.isfinite(adjusted).all()


def test_logit_adjust_by_hand():
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.35, 0.4, 0.25]]))
    adjusted = adjusted_by("logit_adjust", logits, np.zeros(2, int), TRAIN_PRIOR, logits)
    assert adjusted[0] == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert adjusted[1] == pytest.approx(np.array([0.5, 2.0, 2.5]) / 5)


def test_logit_adjust_takes_counts_as_well_as_shares():
    logits, labels = posterior(TRAIN_PRIOR, 10, 0)
    plain, counts = (adjusted_by("logit_adjust", logits, labels, p, logits) for p in (TRAIN_PRIOR, 40 * TRAIN_PRIOR))
    assert plain == pytest.approx(counts)


def test_prior_shift_recovers_the_mix_of_the_test_cells():
    logits, labels = posterior(TEST_PRIOR, 20_000, 3)
    _, mix = shift(softmax(logits, axis=1), TRAIN_PRIOR)
    assert mix == pytest.approx(TEST_PRIOR, abs=0.02)  # standard error of a share about 0.005
    adjusted = adjusted_by("prior_shift", *posterior(TEST_PRIOR, 3000, 9), TRAIN_PRIOR, logits)
    exact = softmax(log_softmax(logits, axis=1) - np.log(TRAIN_PRIOR) + np.log(TEST_PRIOR), axis=1)
    assert np.abs(adjusted - exact).mean() < 0.02
    accuracy = [(p.argmax(axis=1) == labels).mean() for p in (adjusted, softmax(logits, axis=1))]
    assert accuracy[0] > accuracy[1] + 0.1


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_prior_shift_calibrates_first_on_validation_cells_of_whatever_mix(factor: float):
    validation, val_labels = posterior(TEST_PRIOR, 20_000, 5)
    logits, labels = posterior(TEST_PRIOR, 20_000, 6)
    adjusted = adjusted_by("prior_shift", factor * validation, val_labels, TRAIN_PRIOR, factor * logits)
    exact = softmax(log_softmax(logits, axis=1) - np.log(TRAIN_PRIOR) + np.log(TEST_PRIOR), axis=1)
    assert np.abs(adjusted - exact).mean() < 0.02  # without calibration 0.24 for 0.3 and 0.22 for 4


def test_prior_shift_without_validation_cells_says_that_nothing_can_be_told():
    logits, labels = posterior(TEST_PRIOR, 500, 7)
    found = POSTHOC["prior_shift"](logits[:0], labels[:0], TRAIN_PRIOR, logits)
    assert np.array_equal(found.probabilities, adjusted_by("none", logits, labels, TRAIN_PRIOR, logits))
    assert "0 validation" in found.unchanged


def test_prior_shift_changes_nothing_where_nothing_has_shifted():
    logits, labels = posterior(TRAIN_PRIOR, 20_000, 4)
    found = POSTHOC["prior_shift"](*posterior(TRAIN_PRIOR, 2000, 8), TRAIN_PRIOR, logits)
    assert np.array_equal(found.probabilities, softmax(logits, axis=1))
    assert "20,000 test and 2,000 validation cells don't tell a shift" in found.unchanged


# the case that it was wrong in: many types, few cells of most of them, a mix that is the same as in training

NATURAL = np.array([872, 236, 214, 130, 120, 110, 92, 70, 51, 14, 13, 8, 5, 2])


def trained(train: np.ndarray, test: np.ndarray, seed: int, remedy: str = "none") -> tuple[np.ndarray, ...]:
    """Return (validation logits, labels, test logits, labels) of a regression trained on `train` cells per type.

    remedy: weights that make types count alike, or as many cells of each, between two of its own.
    """
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 0.65, (len(train), 20))

    def drawn(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat(np.arange(len(counts)), counts)
        return centres[labels] + rng.standard_normal((len(labels), 20)), labels

    def made(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own = [np.flatnonzero(labels == label) for label in range(len(train))]
        one, other = (np.concatenate([rng.choice(rows, train.max()) for rows in own]) for _ in range(2))
        return x[one] + rng.random((len(one), 1)) * (x[other] - x[one]), labels[one]

    cells = made(*drawn(train)) if remedy == "made cells" else drawn(train)
    weights = "balanced" if remedy == "weights" else None
    model = LogisticRegression(C=100, max_iter=300, class_weight=weights).fit(*cells)
    held = [drawn(counts) for counts in (np.maximum(NATURAL // 10, 1), test)]
    return tuple(part for x, labels in held for part in (model.predict_log_proba(x), labels))


def macro_f1(labels: np.ndarray, probabilities: np.ndarray) -> float:
    return f1_score(labels, probabilities.argmax(1), average="macro")


def test_prior_shift_keeps_rare_types_where_the_mix_has_not_shifted():
    """EM alone lowers macro F1 from 0.46 to 0.31 here: its likeliest mix has none of the rare types."""
    train, lost = np.maximum(NATURAL // 5, 1), []
    for seed in range(8):
        val_logits, val_labels, logits, labels = trained(train, np.maximum(NATURAL // 4, 1), seed)
        found = POSTHOC["prior_shift"](val_logits, val_labels, train, logits)
        assert found.unchanged is not None
        heat = fit_temperature(val_logits, val_labels)
        by_em = shift(softmax(logits / heat, axis=1), train / train.sum(), pseudo=0.0)[0]
        plain = softmax(logits, axis=1)
        assert macro_f1(labels, found.probabilities) == macro_f1(labels, plain)
        lost.append(macro_f1(labels, plain) - macro_f1(labels, by_em))
    assert np.mean(lost) > 0.08, "the premise: what was done before loses"


def test_prior_shift_helps_in_a_large_set_that_has_shifted():
    train = np.maximum(NATURAL // 2, 2)
    for seed in range(3):
        val_logits, val_labels, logits, labels = trained(train, NATURAL[::-1] * 4, seed)
        found, plain = POSTHOC["prior_shift"](val_logits, val_labels, train, logits), softmax(logits, axis=1)
        assert found.unchanged is None
        accuracy = [(p.argmax(1) == labels).mean() for p in (plain, found.probabilities)]
        assert accuracy[1] > accuracy[0] + 0.05
        assert macro_f1(labels, found.probabilities) > macro_f1(labels, plain)


@pytest.mark.parametrize("remedy", ["weights", "made cells"])
def test_prior_shift_after_a_remedy_costs_nothing_without_a_shift_and_gains_with_one(remedy: str):
    """Macro F1 fell by 0.2 without a shift and by 0.1 with one: weights learn no mix that EM could start from."""
    train, gained = np.maximum(NATURAL // 2, 2), {"none": [], "reversed": []}
    for seed in range(3):
        for shift_of, test in (("none", np.maximum(NATURAL // 4, 1)), ("reversed", NATURAL[::-1])):
            val_logits, val_labels, logits, labels = trained(train, test, seed, remedy)
            found = POSTHOC["prior_shift"](val_logits, val_labels, np.ones(len(train)), logits)
            gained[shift_of].append(macro_f1(labels, found.probabilities) - macro_f1(labels, softmax(logits, axis=1)))
            if shift_of == "none":
                assert "done to the validation cells, whose types are known, it doesn't raise" in found.unchanged
    assert max(np.abs(gained["none"])) == 0
    assert np.mean(gained["reversed"]) > 0 and min(gained["reversed"]) > -0.01


def test_a_shift_is_told_as_often_as_it_should_be_by_chance():
    """At most 5 % of sets without a shift: the mistakes that few validation cells leave open are allowed for."""
    found, rng = [], np.random.default_rng(0)
    mistakes = 0.8 * np.eye(6) + 0.2 / 6
    prior = np.array([0.6, 0.2, 0.1, 0.06, 0.03, 0.01])

    def drawn(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat(np.arange(6), counts)
        return np.array([rng.choice(6, p=mistakes[label]) for label in labels]), labels

    for _ in range(150):
        predicted, labels = drawn(np.maximum(np.round(prior * 60).astype(int), 1))
        found.append(likelihood_of_no_shift(predicted, labels, prior, drawn(rng.multinomial(200, prior))[0]))
    assert np.mean(np.array(found) < 0.05) < 0.09  # 0.05 and two standard errors


@pytest.mark.parametrize("name", ["logit_adjust", "prior_shift"])
def test_a_class_without_training_cells_gets_nothing(name: str):
    logits = np.zeros((500, 3)) + [0, 0, 1e-3]  # all are taken for the type that training didn't have
    adjusted = adjusted_by(name, -logits, np.zeros(500, int), np.array([9.0, 1.0, 0.0]), logits)
    assert (adjusted[:, 2] == 0).all()
    assert adjusted.sum(axis=1) == pytest.approx(np.ones(500))


@settings(deadline=None)
@given(st.sampled_from(sorted(POSTHOC)), st.integers(2, 7), st.integers(0, 30), st.integers(0, 10**6))
def test_probabilities_are_probabilities(name: str, num_classes: int, n: int, seed: int):
    rng = np.random.default_rng(seed)
    validation, test = rng.normal(0, 20, (12, num_classes)), rng.normal(0, 20, (n, num_classes)).astype(np.float32)
    prior = rng.integers(1, 100, num_classes)
    adjusted = adjusted_by(name, validation, rng.integers(0, num_classes, 12), prior, test)
    assert adjusted.shape == (n, num_classes)
    assert adjusted.dtype == np.float64
    assert adjusted.min(initial=0) >= 0
    assert adjusted.sum(axis=1) == pytest.approx(np.ones(n))
