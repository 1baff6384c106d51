"""Training losses that know how unequal the classes are.

LOSSES[name](class_counts [C] of the rows trained on, **parameters) -> loss(logits_BC, labels_B, progress) -> scalar,
where progress is finished epochs / epochs. All are the mean over the cells of a batch, in float32 whatever the logits
are, so that accumulated batches weigh every cell alike. A class without training cells has weight 0 where classes are
weighted, and counts as one cell where the logarithm or a power of its count is needed; it never gives NaN.
Shapes: B cells, C classes.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipeline.errors import RequestError

if TYPE_CHECKING:  # torch takes a second to import, and a sweep file is read for the names alone
    import torch
    from torch import Tensor

Counts = Sequence[int] | np.ndarray
Loss = Callable[[Any, Any, float], Any]  # (logits_BC, labels_B, progress) -> scalar tensor


def cross_entropy(class_counts: Counts) -> Loss:
    """Plain cross-entropy: every cell counts alike."""
    return lambda logits_BC, labels_B, progress: _cell_losses(logits_BC, labels_B).mean()


def weighted(class_counts: Counts) -> Loss:
    """Cross-entropy weighted by inverse class frequency, see `inverse_frequency`."""
    weights_C = _PerClass(inverse_frequency(class_counts))
    return lambda logits_BC, labels_B, progress: _weighted_mean(_cell_losses(logits_BC, labels_B), labels_B, weights_C)


def class_balanced(class_counts: Counts, *, beta: float = 0.9999) -> Loss:
    """Cross-entropy weighted by the inverse effective number of cells, see `effective_number`."""
    weights_C = _PerClass(effective_number(class_counts, beta=beta))
    return lambda logits_BC, labels_B, progress: _weighted_mean(_cell_losses(logits_BC, labels_B), labels_B, weights_C)


def focal(class_counts: Counts, *, gamma: float = 2.0) -> Loss:
    """-(1 - p)^gamma log p with p the probability of the true class: well-learnt cells count less.

    Source: Lin et al. 2017, arXiv 1708.02002, equation 4. gamma = 0 is cross-entropy.
    """
    _require("focal: gamma", gamma, gamma >= 0, "0 or more; 2 is usual")

    def loss(logits_BC: "Tensor", labels_B: "Tensor", progress: float) -> "Tensor":
        losses_B = _cell_losses(logits_BC, labels_B)
        missing_B = -(-losses_B).expm1()  # 1 - p without cancellation
        return (missing_B.clamp_min(1e-12) ** gamma * losses_B).mean()

    return loss


def ldam(
    class_counts: Counts,
    *,
    max_margin: float = 0.5,
    scale: float = 1.0,
    reweight_from: float = 0.8,
    beta: float = 0.9999,
) -> Loss:
    """Cross-entropy of scale x (logit - margin of the true class); margins are n_c^(-1/4), the largest = `max_margin`.

    From progress `reweight_from` on, classes are weighted as in `class_balanced` (deferred re-weighting).
    Source: Cao et al. 2019, arXiv 1906.07413, equations 12 and 13. The published scale of 30 belongs to logits that
    are cosines; ours are not bounded, and with 30 they came out a thirtieth as large: calibration error 0.32 against
    0.10 and macro F1 0.57 against 0.62 with scale 1 (8 made-up classes of 600 to 6 cells, a small MLP, 3 seeds).
    """
    _require("ldam: max_margin", max_margin, max_margin > 0, "more than 0; 0.5 is usual")
    _require("ldam: scale", scale, scale > 0, "more than 0; 1 for plain logits, 30 for cosines")
    roots_C = _at_least_one(class_counts) ** -0.25
    margins_C = _PerClass(roots_C * max_margin / roots_C.max())
    weights_C = _PerClass(effective_number(class_counts, beta=beta))

    def loss(logits_BC: "Tensor", labels_B: "Tensor", progress: float) -> "Tensor":
        from torch.nn.functional import one_hot

        true_BC = one_hot(labels_B, len(roots_C)).float()
        losses_B = _cell_losses(scale * (logits_BC.float() - true_BC * margins_C.on(logits_BC.device)), labels_B)
        return losses_B.mean() if progress < reweight_from else _weighted_mean(losses_B, labels_B, weights_C)

    return loss


def logit_adjusted(class_counts: Counts, *, tau: float = 1.0) -> Loss:
    """Cross-entropy of logit + tau log(training share): the network itself learns to do without the prior.

    Source: Menon et al. 2021, arXiv 2007.07314, equation 10.
    """
    _require("logit_adjusted: tau", tau, tau >= 0, "0 or more; 1 is usual")
    counts_C = _at_least_one(class_counts)
    offsets_C = _PerClass(tau * np.log(counts_C / counts_C.sum()))
    return lambda logits_BC, labels_B, progress: _cell_losses(
        logits_BC.float() + offsets_C.on(logits_BC.device), labels_B
    ).mean()


def balanced_softmax(class_counts: Counts) -> Loss:
    """-log of n_y exp(logit_y) / sum_c n_c exp(logit_c), the same as `logit_adjusted` with tau = 1.

    Source: Ren et al. 2020, arXiv 2007.10740, equation 3.
    """
    logs_C = _PerClass(np.log(_at_least_one(class_counts)))
    return lambda logits_BC, labels_B, progress: _cell_losses(
        logits_BC.float() + logs_C.on(logits_BC.device), labels_B
    ).mean()


def inverse_frequency(class_counts: Counts) -> np.ndarray:
    """Return weights float64 [C]: n / (K n_c), K classes present; 0 for an absent one. Mean 1 over the training cells.

    With every class present these are scikit-learn's "balanced" weights.
    """
    counts_C = _counts(class_counts)
    present = counts_C > 0
    return np.where(present, counts_C.sum() / (present.sum() * np.maximum(counts_C, 1)), 0.0)


def effective_number(class_counts: Counts, *, beta: float = 0.9999) -> np.ndarray:
    """Return weights float64 [C] in proportion to (1 - beta) / (1 - beta^n_c), with sum K over the K classes present.

    beta = 0: no weighting; beta -> 1: inverse frequency. Source: Cui et al. 2019, arXiv 1901.05555, section 4.
    """
    _require("class_balanced: beta", beta, 0 <= beta < 1, "at least 0 and below 1; 0.9999 is usual")
    counts_C = _counts(class_counts)
    present = counts_C > 0
    weights_C = np.where(present, (1 - beta) / (1 - beta ** np.maximum(counts_C, 1)), 0.0)
    return weights_C * present.sum() / weights_C.sum()


LOSSES: dict[str, Callable[..., Loss]] = {
    "cross_entropy": cross_entropy,
    "weighted": weighted,
    "class_balanced": class_balanced,
    "focal": focal,
    "ldam": ldam,
    "logit_adjusted": logit_adjusted,
    "balanced_softmax": balanced_softmax,
}

# The losses that are nothing but a weight per class, and so can also be had by a model without gradients.
CLASS_WEIGHTS: dict[str, Callable[..., np.ndarray]] = {
    "weighted": inverse_frequency,
    "class_balanced": effective_number,
}


def learnt_prior(kind: str, class_counts: Counts, **params: float) -> np.ndarray:
    """Return the class mix, float64 [C], under which the logits of a network trained with a loss are probabilities.

    Weights multiply the mix of the rows trained on; what an adjusted loss adds to the logits is missing from them.
    focal and ldam have no such mix in closed form: that of the rows stands for it, as ldam weighs them in the end.
    class_counts: those that the loss was made with. 0 for a class without rows.
    """
    counts_C = _counts(class_counts)
    if kind in CLASS_WEIGHTS:
        return counts_C * CLASS_WEIGHTS[kind](counts_C, **params)
    if kind == "ldam" and params.get("reweight_from", 0.8) < 1:
        return counts_C * effective_number(counts_C, beta=params.get("beta", 0.9999))
    if kind in ("logit_adjusted", "balanced_softmax"):
        return np.where(counts_C > 0, np.maximum(counts_C, 1.0) ** (1 - params.get("tau", 1.0)), 0.0)
    return counts_C


def _counts(class_counts: Counts) -> np.ndarray:
    """Return the counts as float64 [C]; RequestError where no class has a cell."""
    counts_C = np.asarray(class_counts, dtype=np.float64)
    if not (counts_C > 0).any():
        raise RequestError(f"the loss needs training cells, and none of the {len(counts_C)} classes has any")
    return counts_C


def _at_least_one(class_counts: Counts) -> np.ndarray:
    return np.maximum(_counts(class_counts), 1.0)


class _PerClass:
    """A number per class, float32 [C], copied to a device once: a copy per step makes the host wait for a GPU."""

    def __init__(self, values_C: np.ndarray) -> None:
        import torch

        self._host_C = torch.from_numpy(values_C.astype(np.float32))
        self._on: dict[torch.device, Tensor] = {}

    def on(self, device: "torch.device") -> "Tensor":
        if device not in self._on:
            self._on[device] = self._host_C.to(device)
        return self._on[device]


def _cell_losses(logits_BC: "Tensor", labels_B: "Tensor") -> "Tensor":
    from torch.nn.functional import cross_entropy as per_cell

    return per_cell(logits_BC.float(), labels_B, reduction="none")


def _weighted_mean(losses_B: "Tensor", labels_B: "Tensor", weights_C: _PerClass) -> "Tensor":
    """Mean of weight x loss; not divided by the batch's weights, which would undo them in a batch of one class."""
    return (losses_B * weights_C.on(losses_B.device)[labels_B]).mean()


def _require(what: str, value: float, is_met: bool, limit: str) -> None:
    if not is_met:
        raise RequestError(f"{what} is {value}, it must be {limit}")
