"""What a loss is: a number to be lowered, and what a network has learnt where it is lowest. Shapes: C classes."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from data_pipeline.errors import RequestError
from trainables.class_weights import Counts, PerClass

if TYPE_CHECKING:  # torch takes a second to import, and a sweep file is read for the names alone
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Loss(ABC):
    """One loss for one training set. Whoever reads a network's outputs as probabilities goes through `logits`.

    A loss has to say what its network learns: with `prior` and `logits`, softmax(logits(outputs)) are the probabilities
    of the types if these came in the mix `prior`. The tests hold every loss of LOSSES to it.
    """

    class_counts: Counts
    passed: ClassVar[tuple[str, ...]] = ()  # by cellskew: a sweep file can't say it
    only_weights: ClassVar[bool] = False  # nothing but `weights`, so that a model without gradients can have it too

    def __post_init__(self) -> None:
        if not (self.counts_C > 0).any():
            raise RequestError(f"the loss needs training cells, and none of the {len(self.counts_C)} classes has any")

    @cached_property
    def counts_C(self) -> np.ndarray:
        return np.asarray(self.class_counts, dtype=np.float64)

    @property
    @abstractmethod
    def prior(self) -> np.ndarray:
        """The class mix, float64 [C], not normalised, 0 for a class without rows, that the outputs have learnt."""

    @property
    def weights(self) -> np.ndarray | None:
        """The weight of a cell by class, float64 [C]; None: all alike."""
        return None

    def logits(self, outputs: np.ndarray) -> np.ndarray:
        """Return what softmax makes probabilities of, float [n, C], from the outputs of the network."""
        return outputs

    @abstractmethod
    def of_cells(self, outputs_BC: "Tensor", labels_B: "Tensor", progress: float) -> "Tensor":
        """Return the loss of each cell, float32 [B], from float32 outputs."""

    def __call__(self, outputs_BC: "Tensor", labels_B: "Tensor", progress: float) -> "Tensor":
        return self.of_cells(outputs_BC.float(), labels_B, progress).mean()

    @cached_property
    def _weights_C(self) -> PerClass:
        return PerClass(self.weights)

    @property
    def _at_least_one_C(self) -> np.ndarray:
        return np.maximum(self.counts_C, 1.0)
