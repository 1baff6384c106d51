"""Stops a training whose loss or gradient is no number, before the weights are touched."""

import numpy as np
import torch
from torch import Tensor

LEAST_SCALE = 2.0**-10  # of a float16 loss: it starts at 2 ** 16 and is halved where a gradient isn't finite
CHECK_EVERY = 64  # steps between looks at the device's not-a-number flag on CUDA, where each look waits for the GPU


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient is NaN or infinite; raised before the weights are touched."""


class Watch:
    """Looks at losses and gradients. On CUDA a flag stays on the device and is looked at now and then."""

    def __init__(self, device: torch.device, on_gpu: bool) -> None:
        self.on_gpu = on_gpu
        self.flag = torch.zeros((), device=device)

    def look(self, value: Tensor, number: int, step: int, rows: np.ndarray) -> None:
        """Stop, or raise the flag, if `value` isn't finite; number: of the round, from 0; rows: cells of the step."""
        if self.on_gpu:
            self.flag = torch.maximum(self.flag, (~torch.isfinite(value.detach())).float())
        elif not torch.isfinite(value.detach()):
            named = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
            raise NonFiniteLoss(
                f"the loss or its gradient is {float(value.detach())} in round {number + 1}, step {step}, "
                f"cells in rows {named}; lower learning_rate, or look at these cells"
            )

    def stop_if_flagged(self, number: int, step: int, scaler: torch.amp.GradScaler) -> None:
        """Stop before `step` if the flag is up, or float16's scale too small: no gradient has been finite for long."""
        if self.on_gpu and float(self.flag):
            raise NonFiniteLoss(
                f"the loss or its gradient became NaN or infinite in round {number + 1}, "
                f"within the {CHECK_EVERY} steps before step {step}; lower learning_rate"
            )
        if scaler.is_enabled() and scaler.get_scale() < LEAST_SCALE:
            raise NonFiniteLoss(
                f"in float16 no step up to round {number + 1}, step {step - 1} has had a finite gradient for long; "
                "lower learning_rate, or say precision: float32"
            )
