"""Losses against formulas worked out here by hand, and against libraries where they have them."""

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from data_pipeline.errors import RequestError
from trainables.class_weights import beta_of
from trainables.losses import LOSSES, Loss, loss_of
from trainables.posthoc import POSTHOC

COUNTS = np.array([90, 9, 1])
LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, -2.0, 3.0]])
LABELS = torch.tensor([0, 1, 2, 0])


def by_hand(cell_loss) -> float:
    """Return the mean over the four cells of cell_loss(logits as floats, label)."""
    rows = zip(LOGITS.tolist(), LABELS.tolist(), strict=True)
    return sum(cell_loss(logits, label) for logits, label in rows) / len(LABELS)


def log_p(logits: list[float], label: int) -> float:
    return logits[label] - math.log(sum(math.exp(z) for z in logits))


def value(name: str, progress: float = 0.0, **params: float) -> float:
    return LOSSES[name](COUNTS, **params)(LOGITS, LABELS, progress).item()


def test_cross_entropy_is_the_mean_log_loss():
    assert value("cross_entropy") == pytest.approx(by_hand(lambda z, y: -log_p(z, y)), rel=1e-6)


def test_weighted_uses_n_over_k_times_n_c():
    weights = [100 / (3 * 90), 100 / (3 * 9), 100 / (3 * 1)]
    assert value("weighted") == pytest.approx(by_hand(lambda z, y: -weights[y] * log_p(z, y)), rel=1e-6)
    labels = np.repeat([0, 1, 2], COUNTS)
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert LOSSES["weighted"](COUNTS).weights == pytest.approx(theirs)
    torch_sum = F.cross_entropy(LOGITS, LABELS, weight=torch.tensor(theirs, dtype=torch.float32), reduction="sum")
    assert value("weighted") == pytest.approx(torch_sum.item() / 4, rel=1e-6)


def test_class_balanced_uses_the_effective_number():
    beta = 0.9
    raw = [(1 - beta) / (1 - beta**n) for n in (90, 9, 1)]
    weights = [3 * w / sum(raw) for w in raw]
    assert value("class_balanced", beta=beta) == pytest.approx(
        by_hand(lambda z, y: -weights[y] * log_p(z, y)), rel=1e-6
    )
    assert LOSSES["class_balanced"](COUNTS, beta=0.0).weights == pytest.approx([1, 1, 1])
    nearly_one = LOSSES["class_balanced"](COUNTS, beta=1 - 1e-9).weights
    assert nearly_one / nearly_one[0] == pytest.approx(90 / COUNTS, rel=1e-5)  # tends to inverse frequency


def test_focal_weighs_by_what_is_still_missing():
    expected = by_hand(lambda z, y: -((1 - math.exp(log_p(z, y))) ** 2.5) * log_p(z, y))
    assert value("focal", gamma=2.5) == pytest.approx(expected, rel=1e-5)
    assert value("focal", gamma=0.0) == pytest.approx(value("cross_entropy"), rel=1e-6)


def ldam_by_hand(scale: float, margins: list[float], weights: list[float]) -> float:
    def cell(z: list[float], y: int) -> float:
        shifted = [scale * (logit - (margins[c] if c == y else 0)) for c, logit in enumerate(z)]
        return -weights[y] * log_p(shifted, y)

    return by_hand(cell)


def test_ldam_subtracts_a_margin_and_weighs_classes_late():
    roots = [n**-0.25 for n in (90, 9, 1)]
    margins = [0.7 * r / max(roots) for r in roots]
    raw = [0.1 / (1 - 0.9**n) for n in (90, 9, 1)]
    weights = [3 * w / sum(raw) for w in raw]
    params = {"max_margin": 0.7, "scale": 4.0, "beta": 0.9}
    assert value("ldam", 0.79, **params) == pytest.approx(ldam_by_hand(4.0, margins, [1, 1, 1]), rel=1e-5)
    assert value("ldam", 0.80, **params) == pytest.approx(ldam_by_hand(4.0, margins, weights), rel=1e-5)
    assert max(margins) == margins[2] == 0.7  # the rarest class gets the largest margin


def test_logit_adjusted_adds_tau_log_prior():
    shift = [1.5 * math.log(n / 100) for n in (90, 9, 1)]
    expected = by_hand(lambda z, y: -log_p([a + b for a, b in zip(z, shift, strict=True)], y))
    assert value("logit_adjusted", tau=1.5) == pytest.approx(expected, rel=1e-6)
    assert value("logit_adjusted", tau=0.0) == pytest.approx(value("cross_entropy"), rel=1e-6)


def test_balanced_softmax_is_its_own_formula_and_logit_adjusted_with_tau_one():
    def cell(z: list[float], y: int) -> float:
        mass = [n * math.exp(logit) for n, logit in zip((90, 9, 1), z, strict=True)]
        return -math.log(mass[y] / sum(mass))

    assert value("balanced_softmax") == pytest.approx(by_hand(cell), rel=1e-6)
    assert value("balanced_softmax") == pytest.approx(value("logit_adjusted"), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_balanced_classes_make_every_weighting_plain(name: str):
    loss = LOSSES[name]([50, 50, 50], **({"gamma": 0.0} if name == "focal" else {}))
    if name == "ldam":
        margin = F.one_hot(LABELS, 3) * 0.5
        plain = F.cross_entropy(LOGITS - margin, LABELS)
    else:
        plain = F.cross_entropy(LOGITS, LABELS)
    assert loss(LOGITS, LABELS, 1.0).item() == pytest.approx(plain.item(), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_extremes_and_absent_classes_stay_finite(name: str, dtype: torch.dtype):
    logits = torch.tensor([[40.0, -40.0, 0.0], [-40.0, 40.0, 0.0]], dtype=dtype, requires_grad=True)
    loss = LOSSES[name](np.array([500_000, 1, 0]))(logits, torch.tensor([0, 0]), 0.9)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_cell_of_a_class_without_training_cells_gives_no_nan(name: str):
    loss = LOSSES[name](np.array([10, 3, 0]))
    assert torch.isfinite(loss(LOGITS, torch.tensor([2, 2, 2, 2]), 1.0))


@pytest.mark.parametrize("name", LOSSES)
def test_accumulated_halves_are_the_whole_batch(name: str):
    loss = LOSSES[name](COUNTS)
    halves = (loss(LOGITS[:2], LABELS[:2], 1.0) + loss(LOGITS[2:], LABELS[2:], 1.0)) / 2
    assert halves.item() == pytest.approx(loss(LOGITS, LABELS, 1.0).item(), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_counts_may_be_a_tensor(name: str):
    assert LOSSES[name](torch.tensor(COUNTS))(LOGITS, LABELS, 0.0).item() == value(name)


@pytest.mark.parametrize("name", LOSSES)
def test_no_training_cells_at_all_is_refused(name: str):
    with pytest.raises(RequestError, match="none of the 3 classes has any"):
        LOSSES[name]([0, 0, 0])


@pytest.mark.parametrize(
    ("name", "params", "words"),
    [
        ("focal", {"gamma": -1.0}, "focal: gamma is -1.0, it must be 0 or more"),
        ("class_balanced", {"beta": 1.0}, "beta is 1.0, it must be at least 0 and below 1"),
        ("ldam", {"max_margin": 0.0}, "max_margin is 0.0, it must be more than 0"),
        ("ldam", {"scale": -2.0}, "scale is -2.0"),
        ("logit_adjusted", {"tau": -0.5}, "tau is -0.5"),
    ],
)
def test_senseless_parameters_are_refused(name: str, params: dict, words: str):
    with pytest.raises(RequestError, match=words):
        LOSSES[name](COUNTS, **params)


# What a loss says of itself: its prior, and how its outputs are read. Without it, post-hoc numbers would be wrong.

DECLARED = [{"kind": name} for name in LOSSES]
DECLARED += [{"kind": "class_balanced", "beta": 0.99}, {"kind": "logit_adjusted", "tau": 0.5}]
DECLARED += [{"kind": "focal", "gamma": gamma} for gamma in (0.0, 0.5, 5.0)]
APART = {"ldam": 0.2}  # its margins have no link to probabilities in closed form; all others are exact


def error_of(loss: Loss, cells: torch.Tensor, progress: float = 1.0) -> float:
    """Return how far softmax(logits) is from the posterior under `prior` where the loss is smallest at `progress`.

    cells: by what is seen of them (rows) and type, so that the posterior is known exactly.
    """
    seen = torch.repeat_interleave(torch.arange(cells.numel()), cells.flatten())
    outputs = torch.zeros(cells.shape, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([outputs], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(outputs[seen // cells.shape[1]], seen % cells.shape[1], progress)
        value.backward()
        return value

    optimizer.step(closure)
    likely = cells.numpy() / cells.sum(0).numpy() * loss.prior
    expected = likely / likely.sum(axis=1, keepdims=True)
    return np.abs(softmax(loss.logits(outputs.detach().numpy()), axis=1) - expected).max()


CELLS = torch.tensor([[60, 6, 2], [20, 12, 1], [20, 2, 7]])


@pytest.mark.parametrize("progress", [0.0, 1.0])
@pytest.mark.parametrize("described", DECLARED, ids=str)
def test_the_declared_prior_and_link_are_those_of_the_smallest_loss(described, progress):
    loss = loss_of(described, CELLS.sum(0).numpy()).until(progress)
    assert error_of(loss, CELLS, progress) < APART.get(described["kind"], 2e-3)  # the losses are float32


def test_a_loss_that_declares_no_prior_or_a_wrong_one_is_refused():
    class Undeclared(Loss):
        def of_cells(self, outputs_BC, labels_B, progress):
            return F.cross_entropy(outputs_BC, labels_B, reduction="none")

    with pytest.raises(TypeError, match="abstract.*prior"):
        Undeclared([3, 2, 1])

    class Wrong(LOSSES["cross_entropy"]):  # weighs, and inherits a prior that doesn't
        def of_cells(self, outputs_BC, labels_B, progress):
            return super().of_cells(outputs_BC, labels_B, progress) * torch.tensor([1.0, 5.0, 25.0])[labels_B]

    assert error_of(Wrong(CELLS.sum(0).numpy()), CELLS) > max(APART.values())


@pytest.mark.parametrize("described", DECLARED, ids=str)
def test_reading_the_outputs_changes_no_order_and_stays_finite(described):
    outputs = np.array([[2.0, 0.0, -1.0], [90.0, -80.0, 3.0], [1e-9, 0.0, 0.0], [500.0, -500.0, 0.0]], np.float32)
    logits = loss_of(described, COUNTS).logits(outputs)
    assert np.isfinite(logits).all() and np.array_equal(logits.argsort(1)[:3], outputs.argsort(1)[:3])


@pytest.mark.parametrize("name", LOSSES)
def test_a_class_without_training_cells_is_no_part_of_any_prior(name: str):
    prior = LOSSES[name](np.array([90, 0, 10])).prior
    assert prior[1] == 0
    assert prior[0] >= prior[2] > 0


def test_ldam_is_read_on_the_scale_that_it_was_trained_on():
    outputs = np.array([[0.1, 0.0, -0.1]])
    assert LOSSES["ldam"](COUNTS, scale=30.0).logits(outputs) == pytest.approx(30 * outputs)


def test_focal_and_the_prior_divided_out_come_near_the_least_balanced_error():
    """Three Gaussian types of shares .9, .09, .01: the least balanced error is known, and focal's link reaches it.

    With the softmax itself as a probability, which is what it isn't, dividing the prior out overshoots.
    """
    rng, shares = np.random.default_rng(0), np.array([0.9, 0.09, 0.01])
    centres = np.array([[0.0, 0.0], [1.8, 0.0], [0.0, 1.8]])

    def drawn(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat(np.arange(3), counts)
        return centres[labels] + rng.standard_normal((len(labels), 2)), labels

    points, labels = drawn((200_000 * shares).astype(int))
    loss = LOSSES["focal"](np.bincount(labels))
    outputs_of = fitted(loss, points, labels)
    test, truth = drawn(np.array([20_000] * 3))

    def balanced_error(logits: np.ndarray) -> float:
        wrong = POSTHOC["logit_adjust"](logits[:0], truth[:0], loss.prior, logits).probabilities.argmax(1) != truth
        return float(np.mean([wrong[truth == kind].mean() for kind in range(3)]))

    best = (((test[:, None] - centres) ** 2).sum(2).argmin(1) != truth).mean()  # Bayes: the nearest centre
    found, taken_as_is = balanced_error(loss.logits(outputs_of(test))), balanced_error(outputs_of(test))
    assert best == pytest.approx(0.257, abs=0.01)
    assert found < best + 0.006 and taken_as_is > best + 0.1


def fitted(loss: Loss, points: np.ndarray, labels: np.ndarray):
    """Return points -> outputs of a quadratic model that makes the loss smallest, rich enough for its exact minimum."""

    def features(x: np.ndarray) -> torch.Tensor:
        powers = [x[:, :1] ** i * x[:, 1:] ** j for i in range(5) for j in range(5 - i)]
        return torch.from_numpy(
            np.concatenate(powers, axis=1) / 10 ** np.array([i + j > 1 for i in range(5) for j in range(5 - i)])
        )

    inputs, kinds = features(points), torch.from_numpy(labels)
    weights = torch.zeros(inputs.shape[1], 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(inputs @ weights, kinds, 0.0)
        value.backward()
        return value

    optimizer.step(closure)
    return lambda x: (features(x) @ weights).detach().numpy()


def test_class_balanced_lies_between_no_weights_and_inverse_frequency():
    """beta = 0.9999 was `weighted` to 1.5 % at 300 and 3 cells: a second row of the same remedy."""
    counts = np.array([300, 100, 30, 3])
    ratio = {name: LOSSES[name](counts).weights for name in ("weighted", "class_balanced")}
    ratio = {name: weights[3] / weights[0] for name, weights in ratio.items()}
    assert ratio["weighted"] == pytest.approx(100)
    assert 8 < ratio["class_balanced"] < 13
    assert beta_of(counts) == pytest.approx(1 - 1 / 30)
    assert LOSSES["class_balanced"]([7, 7, 0]).weights == pytest.approx([1, 1, 0])
    assert LOSSES["class_balanced"]([1, 1]).weights == pytest.approx([1, 1])
