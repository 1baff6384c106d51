"""How a network is trained: what a sweep file may say of it, and what of that would change nothing."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

CYCLE_ROUNDS = 15  # first cycle of cosine_restarts; each next one has twice the cosine part (scBERT)
GAMMA_FROM = {"step": 2, "cosine_restarts": CYCLE_ROUNDS + 1}  # the first round whose rate depends on gamma


class Recipe(BaseModel):
    """How a network is trained. Steps are optimiser steps; one step sees `batch_size * accumulate` cells.

    The budget of steps is that of `epochs` passes over the split's training cells, before skew and strategy, or
    `steps`; it is spent in `epochs` rounds. With the budget of epochs a round is a pass over the rows, however many
    skew and strategy have made of them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    budget: Literal["steps", "epochs"] = "steps"
    epochs: int = Field(10, ge=1, description="rounds, after each of which the validation cells are evaluated")
    steps: int | None = Field(None, ge=1, description="optimiser steps in all; default: those of `epochs` passes")
    batch_size: int = Field(32, ge=1)
    accumulate: int = Field(1, ge=1, description="batches whose gradients are summed before a step")
    carry_accumulation: bool = Field(
        False, description="with a budget of epochs: carry the last partial accumulation into the next"
    )
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: float = Field(1e-4, gt=0)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["constant", "step", "linear", "cosine_restarts"] = "constant"
    gamma: float = Field(
        0.9, gt=0, le=1, description="step: factor per round; cosine_restarts: of the maximum per cycle"
    )
    warmup: float = Field(0, ge=0, description="linear: steps, or a share of all steps if < 1; cosine_restarts: rounds")
    warmup_share: float = Field(1.0, gt=0, le=1, description="linear: the warm-up is at most this share of all steps")
    clip: float | None = Field(1.0, gt=0, description="largest gradient norm")
    length_aware: bool = Field(False, description="batches of cells of like length")
    patience: int | None = Field(None, ge=1, description="stop after so many rounds without a better selection metric")
    select: Literal["val_macro_f1", "val_loss", "val_accuracy"] = "val_macro_f1"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    tf32: bool = Field(False, description="on a GPU float32 products of factors rounded to 10 bits, as published runs")
    threads: int = Field(1, ge=1, description="of a CPU, for one trial: sums over other parts round otherwise")
    crt_epochs: int = Field(0, ge=0, description="rounds in which only the head is retrained on class-balanced rows")

    @field_validator("steps")
    @classmethod
    def _steps_are_the_budget(cls, steps: int | None, given: ValidationInfo) -> int | None:
        if steps is not None and given.data.get("budget") == "epochs":
            raise ValueError("contradicts `budget: epochs`; leave one of them out")
        return steps

    @field_validator("carry_accumulation")
    @classmethod
    def _epochs_can_owe_steps(cls, carried: bool, given: ValidationInfo) -> bool:
        if carried and given.data.get("budget") == "steps":
            raise ValueError("has no meaning with `budget: steps`, which leaves no partial accumulation")
        return carried

    def idle(self) -> dict[str, str]:
        """Return the settings that change nothing beside what the others say, each with why."""
        said = {"gamma": self._no_gamma(), "warmup": self._no_warmup(), "warmup_share": self._no_share()}
        longest = max(self.rounds, self.crt_epochs)
        if self.patience is not None and self.patience + 1 >= longest:
            said["patience"] = f"in {_rounds(longest)} it can end nothing before the last, no more than null"
        if longest == 1:
            said["select"] = "of one round there is nothing to select"
        if self.carry_accumulation and self.accumulate == 1:
            said["carry_accumulation"] = "with `accumulate: 1` every batch is a step, and nothing is left to carry"
        return {name: why for name, why in said.items() if why}

    def _no_gamma(self) -> str:
        first = GAMMA_FROM.get(self.schedule)
        if first is None:
            return f"`schedule: {self.schedule}` doesn't go by it"
        return f"it counts from round {first} on, of {_rounds(self.rounds)}" if self.rounds < first else ""

    def _no_warmup(self) -> str:
        if self.schedule == "cosine_restarts" and self.warmup % 1:
            return f"{self.warmup:g} is no whole number, and `schedule: cosine_restarts` warms up for whole rounds"
        if self.schedule == "linear" and self.warmup_share < self.warmup < 1:
            return f"`warmup_share` cuts it to {self.warmup_share:g} of all steps unless that is raised too"
        return "" if self.schedule in ("linear", "cosine_restarts") else f"`schedule: {self.schedule}` has no warm-up"

    def _no_share(self) -> str:
        if self.schedule != "linear":
            return f"`schedule: {self.schedule}` doesn't go by it"
        within = self.warmup < 1 and self.warmup <= self.warmup_share
        return f"a warm-up of {self.warmup:g} of all steps is within it" if within else ""

    @property
    def rounds(self) -> int:
        """Rounds of the training proper: none has less than a step."""
        return self.epochs if self.steps is None else min(self.epochs, self.steps)

    @property
    def cells_per_step(self) -> int:
        return self.batch_size * self.accumulate


def _rounds(number: int) -> str:
    return f"{number} round{'s' * (number != 1)}"
