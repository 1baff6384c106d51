"""A loss over a tree of cell types. Shapes: B cells, C classes."""

from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from trainables.class_weights import PerClass
from trainables.losses.loss import Loss

if TYPE_CHECKING:
    from torch import Tensor

Below = np.ndarray | list[list[bool]]  # [C, C]: [i, j] where class j is class i or lies below it


@dataclass(frozen=True, eq=False)
class Hierarchical(Loss):
    """-log of the probability that a cell is of its type or of one below it in the tree (`tree:` of the dataset).

    So a cell called T cell doesn't speak against CD8 T cell. Where no type of a dataset lies above another it is
    cross_entropy, and `run` refuses it. The probabilities of a type with others below it pass to these, in proportion
    to theirs: the network names the finest types, which `hierarchical_f1` counts as right where the type is broader.
    Source: Cultrera di Montesano et al. 2026, Nature Computational Science, s43588-025-00945-z; without their 1e-6 in
    the logarithm.
    """

    _: KW_ONLY
    below: Below | None = None
    passed: ClassVar[tuple[str, ...]] = ("below",)

    @cached_property
    def _below_CC(self) -> np.ndarray:
        size = len(self.counts_C)
        return np.eye(size, dtype=bool) if self.below is None else np.asarray(self.below, dtype=bool)

    @cached_property
    def _hidden_CC(self) -> PerClass:
        """By class: 0 for the outputs of itself and of those below it, -inf, which hides them, for others."""
        return PerClass(np.where(self._below_CC, 0.0, -np.inf))

    @property
    def prior(self) -> np.ndarray:
        """The mix after every type's cells have passed to those below it, finest first, as these have cells."""
        mix = self.counts_C.copy()
        for kind in np.argsort(self._below_CC.sum(axis=1), kind="stable"):
            under = self._below_CC[kind].copy()
            under[kind] = False
            if mix[under].sum() > 0:
                mix[under] *= 1 + mix[kind] / mix[under].sum()
                mix[kind] = 0.0
        return mix

    def of_cells(self, outputs_BC: "Tensor", labels_B: "Tensor", progress: float) -> "Tensor":
        hidden_BC = self._hidden_CC.on(outputs_BC.device)[labels_B]
        return outputs_BC.logsumexp(1) - (outputs_BC + hidden_BC).logsumexp(1)
