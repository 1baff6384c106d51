"""Losses that know how unequal the classes are, not how they are related. Shapes: n or B cells, C classes."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import log_softmax, logsumexp

from data_pipeline.errors import RequestError
from trainables.class_weights import PerClass, beta_of, effective_number, inverse_frequency
from trainables.losses.loss import Loss

if TYPE_CHECKING:
    from torch import Tensor


class CrossEntropy(Loss):
    """Plain cross-entropy: every cell counts alike."""

    only_weights = weighs_none = True

    @property
    def prior(self) -> np.ndarray:
        return self.counts_C

    def of_cells(self, outputs_BC: "Tensor", labels_B: "Tensor", progress: float) -> "Tensor":
        return _cross_entropies(outputs_BC, labels_B)


class _ByWeight(Loss):
    """Cross-entropy in which a cell counts as much as its class's weight.

    Not divided by the weights of the batch, which would undo them in a batch of one class.
    """

    only_weights = True

    @property
    def prior(self) -> np.ndarray:
        return self.counts_C * self.weights

    def of_cells(self, outputs_BC: "Tensor", labels_B: "Tensor", progress: float) -> "Tensor":
        return _cross_entropies(outputs_BC, labels_B) * self._weights_C.on(outputs_BC.device)[labels_B]


class Weighted(_ByWeight):
    """Cross-entropy weighted by inverse class frequency, see `inverse_frequency`."""

    @property
    def weights(self) -> np.ndarray:
        return inverse_frequency(self.counts_C)


@dataclass(frozen=True, eq=False)
class ClassBalanced(_ByWeight):
    """Cross-entropy weighted by the inverse effective number of cells, see `effective_number`.

    beta None: (N - 1) / N with N the geometric mean of the largest and the smallest class, so that types saturate half
    way between them: 300 and 3 cells weigh 1 to 10, where `weighted` has 1 to 100 and no weighting 1 to 1. Of a fixed
    beta, as in Cui 2019, where 0.9 to 0.9999 are tried, the numbers of cells decide what it means: 0.9999 (N = 10,000)
    is `weighted` to 2 % at 300 and 3 cells.
    """

    _: KW_ONLY
    beta: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_beta("class_balanced", 0.0 if self.beta is None else self.beta)

    @property
    def weights(self) -> np.ndarray:
        return effective_number(self.counts_C, beta=beta_of(self.counts_C) if self.beta is None else self.beta)


@dataclass(frozen=True, eq=False)
class Focal(Loss):
    """-(1 - p)^gamma log p with p the softmax of the true class: well-learnt cells count less.

    That softmax is no probability: it is drawn to the middle. Probabilities q follow from it in closed form, in
    proportion to p / phi(p), phi(p) = (1 - p)^gamma - gamma (1 - p)^(gamma - 1) p log p.
    Source: Lin et al. 2017, arXiv 1708.02002, equation 4; for the link Charoenphakdee et al. 2021, arXiv 2011.09172.
    gamma = 0 is cross-entropy.
    """

    _: KW_ONLY
    gamma: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require("focal: gamma", self.gamma, self.gamma >= 0, "0 or more; 2 is usual")

    @property
    def prior(self) -> np.ndarray:
        return self.counts_C

    def logits(self, outputs: np.ndarray) -> np.ndarray:
        """Return log(p / phi(p)), float64 [n, C]."""
        logs = log_softmax(np.asarray(outputs, dtype=np.float64), axis=1)
        rest = _log_of_the_rest(logs)
        inner = np.logaddexp(rest, logs + np.log(np.maximum(-self.gamma * logs, 1e-300)))  # (1 - p) - gamma p log p
        return logs - (self.gamma - 1) * rest - inner

    def of_cells(self, outputs_BC: "Tensor", labels_B: "Tensor", progress: float) -> "Tensor":
        losses_B = _cross_entropies(outputs_BC, labels_B)
        missing_B = -(-losses_B).expm1()  # 1 - p without cancellation
        return missing_B.clamp_min(1e-12) ** self.gamma * losses_B


@dataclass(frozen=True, eq=False)
class Ldam(Loss):
    """Cross-entropy of scale x (output - margin of the true class); margins are n_c^(-1/4), the largest = `max_margin`.

    From progress `reweight_from` on, classes are weighted by `effective_number` (deferred re-weighting): by default the
    last fifth of the rounds, so of four none. What is adjusted afterwards goes by the best round. The margins have no
    link to probabilities in closed form: softmax(scale x output) stands for them. Source: Cao et al. 2019, arXiv
    1906.07413, equations 12 and 13. The published scale of 30 belongs to outputs that are cosines; ours aren't bounded.
    """

    _: KW_ONLY
    max_margin: float = 0.5
    scale: float = 1.0
    reweight_from: float = 0.8
    beta: float = 0.9999

    def __post_init__(self) -> None:
        super().__post_init__()
        _require("ldam: max_margin", self.max_margin, self.max_margin > 0, "more than 0; 0.5 is usual")
        _require("ldam: scale", self.scale, self.scale > 0, "more than 0; 1 for plain outputs, 30 for cosines")
        _check_beta("ldam", self.beta)

    def until(self, progress: float) -> "Ldam":
        return self if progress >= self.reweight_from else replace(self, reweight_from=1.0)

    @staticmethod
    def idle(params: Mapping[str, Any]) -> dict[str, str]:
        late = "types are never weighted where `reweight_from` is 1 or more"
        return {"beta": late} if params["reweight_from"] >= 1 else {}

    @property
    def prior(self) -> np.ndarray:
        return self.counts_C * (self.weights if self.reweight_from < 1 else 1.0)

    @property
    def weights(self) -> np.ndarray:
        return effective_number(self.counts_C, beta=self.beta)

    def logits(self, outputs: np.ndarray) -> np.ndarray:
        return self.scale * outputs

    @cached_property
    def _margins_C(self) -> PerClass:
        roots_C = self._at_least_one_C**-0.25
        return PerClass(roots_C * self.max_margin / roots_C.max())

    def of_cells(self, outputs_BC: "Tensor", labels_B: "Tensor", progress: float) -> "Tensor":
        from torch.nn.functional import one_hot

        device = outputs_BC.device
        margins_BC = one_hot(labels_B, outputs_BC.shape[1]).float() * self._margins_C.on(device)
        losses_B = _cross_entropies(self.scale * (outputs_BC - margins_BC), labels_B)
        return losses_B if progress < self.reweight_from else losses_B * self._weights_C.on(device)[labels_B]


@dataclass(frozen=True, eq=False)
class LogitAdjusted(Loss):
    """Cross-entropy of output + tau log(training share): the network itself learns to do without the prior.

    Source: Menon et al. 2021, arXiv 2007.07314, equation 10.
    """

    _: KW_ONLY
    tau: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require("logit_adjusted: tau", self.tau, self.tau >= 0, "0 or more; 1 is usual")

    @property
    def prior(self) -> np.ndarray:
        return np.where(self.counts_C > 0, self._at_least_one_C ** (1 - self.tau), 0.0)

    @cached_property
    def _offsets_C(self) -> PerClass:
        return PerClass(self.tau * np.log(self._at_least_one_C / self._at_least_one_C.sum()))

    def of_cells(self, outputs_BC: "Tensor", labels_B: "Tensor", progress: float) -> "Tensor":
        return _cross_entropies(outputs_BC + self._offsets_C.on(outputs_BC.device), labels_B)


class BalancedSoftmax(Loss):
    """-log of n_y exp(output_y) / sum_c n_c exp(output_c), the same as `logit_adjusted` with tau = 1.

    Source: Ren et al. 2020, arXiv 2007.10740, equation 3.
    """

    @property
    def prior(self) -> np.ndarray:
        return (self.counts_C > 0).astype(np.float64)

    @cached_property
    def _logs_C(self) -> PerClass:
        return PerClass(np.log(self._at_least_one_C))

    def of_cells(self, outputs_BC: "Tensor", labels_B: "Tensor", progress: float) -> "Tensor":
        return _cross_entropies(outputs_BC + self._logs_C.on(outputs_BC.device), labels_B)


def _log_of_the_rest(logs: np.ndarray) -> np.ndarray:
    """Return log(1 - p) of log probabilities [n, C], of the likeliest class from the others: 1 - p would cancel."""
    rows, top = np.arange(len(logs)), logs.argmax(axis=1)
    others = logs.copy()
    others[rows, top] = -np.inf
    rest = np.log1p(-np.exp(np.where(np.arange(logs.shape[1]) == top[:, None], -1.0, logs)))
    rest[rows, top] = np.maximum(logsumexp(others, axis=1), np.log(1e-300)) if logs.shape[1] > 1 else np.log(1e-300)
    return rest


def _cross_entropies(outputs_BC: "Tensor", labels_B: "Tensor") -> "Tensor":
    from torch.nn.functional import cross_entropy

    return cross_entropy(outputs_BC, labels_B, reduction="none")


def _check_beta(loss: str, beta: float) -> None:
    _require(f"{loss}: beta", beta, 0 <= beta < 1, "at least 0 and below 1; 0.9999 is usual")


def _require(what: str, value: float, is_met: bool, limit: str) -> None:
    if not is_met:
        raise RequestError(f"{what} is {value}, it must be {limit}")
