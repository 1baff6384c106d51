"""What a loss is: a number to be lowered, and what a network has learnt where it is lowest. Shapes: C classes."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, make_dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from data_pipeline.errors import RequestError
from data_pipeline.outside import types_of
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
    weighs_none: ClassVar[bool] = False  # not even these: what every model has

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

    @classmethod
    def verify(cls, params: Mapping[str, Any]) -> None:
        """RequestError if the parameters are none that the loss can have."""
        cls((1, 1), **params, **dict.fromkeys(cls.passed, np.eye(2, dtype=bool)))

    def until(self, progress: float) -> "Loss":
        """Return the loss whose `prior` is what a network has learnt that was trained to this progress, no further."""
        return self

    @staticmethod
    def idle(params: Mapping[str, Any]) -> dict[str, str]:
        """Return the parameters that change nothing beside the others, each with why; `params` has all of them."""
        return {}

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


def made_of(found: Any) -> type[Loss]:
    """Return the loss that something from outside is: a `Loss`, or one whose `of_cells` is a function.

    function(outputs_BC, labels_B, counts_C, *, ...) gives the loss of each cell, float32 [B]; counts_C: the rows per
    class, float64, numpy. What the network learns is then taken to be the mix of these rows, as by `cross_entropy`; a
    function `prior` among its attributes, counts_C -> float64 [C], says what it is otherwise.
    """
    if isinstance(found, type) and issubclass(found, Loss):
        return found
    return _of_function(found)


def _of_function(function: Callable[..., "Tensor"]) -> type[Loss]:
    hints = types_of(function)
    own = [
        (name, hints.get(name, Any), field(kw_only=True, default=MISSING if one.default is one.empty else one.default))
        for name, one in inspect.signature(function).parameters.items()
        if one.kind is one.KEYWORD_ONLY
    ]
    names = [name for name, *_ in own]
    if taken := [name for name in names if callable(getattr(Loss, name, None))]:
        raise RequestError(
            f"loss {function.__name__}: a parameter can't be called {', '.join(taken)}; name it otherwise"
        )

    def of_cells(self: Loss, outputs_BC: "Tensor", labels_B: "Tensor", progress: float) -> "Tensor":
        found = function(outputs_BC, labels_B, self.counts_C, **{name: getattr(self, name) for name in names})
        if found.shape != labels_B.shape:
            raise RequestError(
                f"loss {function.__name__}: gives numbers of shape {list(found.shape)} for {len(labels_B)} cells; it "
                "must return one per cell"
            )
        return found

    def prior(self: Loss) -> np.ndarray:
        return getattr(function, "prior", lambda counts_C: counts_C)(self.counts_C)

    body = {"of_cells": of_cells, "prior": property(prior), "__doc__": function.__doc__}
    return make_dataclass(function.__name__, own, bases=(Loss,), namespace=body, frozen=True, eq=False)
