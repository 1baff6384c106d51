"""How much a cell counts, by how many its class has: weights per class, float64 [C], 0 for a class without cells."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # torch takes a second to import, and a sweep file is read for the names alone
    import torch
    from torch import Tensor

Counts = Sequence[int] | np.ndarray


def inverse_frequency(class_counts: Counts) -> np.ndarray:
    """Return weights float64 [C]: n / (K n_c), K classes present; 0 for an absent one. Mean 1 over the training cells.

    With every class present these are scikit-learn's "balanced" weights.
    """
    counts_C = np.asarray(class_counts, dtype=np.float64)
    present = counts_C > 0
    return np.where(present, counts_C.sum() / (present.sum() * np.maximum(counts_C, 1)), 0.0)


def effective_number(class_counts: Counts, *, beta: float) -> np.ndarray:
    """Return weights float64 [C] in proportion to (1 - beta) / (1 - beta^n_c), with sum K over the K classes present.

    beta = 0: no weighting; beta -> 1: inverse frequency. Source: Cui et al. 2019, arXiv 1901.05555, section 4.
    """
    counts_C = np.asarray(class_counts, dtype=np.float64)
    present = counts_C > 0
    weights_C = np.where(present, (1 - beta) / (1 - beta ** np.maximum(counts_C, 1)), 0.0)
    return weights_C * present.sum() / weights_C.sum()


def beta_of(class_counts: Counts) -> float:
    """Return (N - 1) / N, N the geometric mean of the largest and the smallest class that has cells (Cui 2019, N)."""
    present = np.asarray(class_counts, dtype=np.float64)
    present = present[present > 0]
    return 1 - 1 / max(1.0, float(np.sqrt(present.max() * present.min())))


class PerClass:
    """Numbers per class, float32 [C, ...], copied to a device once: a copy per step makes the host wait for a GPU."""

    def __init__(self, values_C: np.ndarray) -> None:
        import torch

        self._host_C = torch.from_numpy(values_C.astype(np.float32))
        self._on: dict[torch.device, Tensor] = {}

    def on(self, device: "torch.device") -> "Tensor":
        if device not in self._on:
            self._on[device] = self._host_C.to(device)
        return self._on[device]
