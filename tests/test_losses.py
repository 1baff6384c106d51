"""Losses against formulas worked out here by hand, and against libraries where they have them."""

import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from data_pipeline.errors import RequestError
from trainables.losses import CLASS_WEIGHTS, LOSSES, learnt_prior

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
    assert CLASS_WEIGHTS["weighted"](COUNTS) == pytest.approx(theirs)
    torch_sum = F.cross_entropy(LOGITS, LABELS, weight=torch.tensor(theirs, dtype=torch.float32), reduction="sum")
    assert value("weighted") == pytest.approx(torch_sum.item() / 4, rel=1e-6)


def test_class_balanced_uses_the_effective_number():
    beta = 0.9
    raw = [(1 - beta) / (1 - beta**n) for n in (90, 9, 1)]
    weights = [3 * w / sum(raw) for w in raw]
    assert value("class_balanced", beta=beta) == pytest.approx(
        by_hand(lambda z, y: -weights[y] * log_p(z, y)), rel=1e-6
    )
    assert CLASS_WEIGHTS["class_balanced"](COUNTS, beta=0.0) == pytest.approx([1, 1, 1])
    nearly_one = CLASS_WEIGHTS["class_balanced"](COUNTS, beta=1 - 1e-9)
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


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"cross_entropy", "focal"}))
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


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("cross_entropy", {}),
        ("weighted", {}),
        ("class_balanced", {"beta": 0.99}),
        ("logit_adjusted", {}),
        ("logit_adjusted", {"tau": 0.5}),
        ("balanced_softmax", {}),
    ],
)
def test_the_learnt_prior_is_that_of_the_logits_that_make_the_loss_smallest(kind, params):
    cells = torch.tensor([[60, 6, 2], [20, 12, 1], [20, 2, 7]])  # cells by what is seen of them (rows) and type
    counts = cells.sum(dim=0).numpy()
    seen = torch.repeat_interleave(torch.arange(9), cells.flatten())
    logits, loss = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True), LOSSES[kind](counts, **params)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(logits[seen // 3], seen % 3, 0.0)
        value.backward()
        return value

    optimizer.step(closure)
    likely = cells.numpy() / counts * learnt_prior(kind, counts, **params)
    expected = likely / likely.sum(axis=1, keepdims=True)
    assert torch.softmax(logits.detach(), 1).numpy() == pytest.approx(expected, abs=2e-3)  # the losses are float32


@pytest.mark.parametrize("name", LOSSES)
def test_a_class_without_training_cells_is_no_part_of_any_learnt_prior(name: str):
    prior = learnt_prior(name, np.array([90, 0, 10]))
    assert prior[1] == 0
    assert prior[0] >= prior[2] > 0
