"""The last layers in their weights' own numbers, whatever the rest of a network is computed in.

In bfloat16 logits have 8 significant bits: about one cell in a hundred has two best ones that are equal, and which type
it is given is decided by the alphabet.
"""

import torch
from torch import Tensor, nn


def exactly(module: nn.Module, x: Tensor) -> Tensor:
    """Return module(x) outside of autocast, in the numbers of the module's weights (float32, as they are stored)."""
    with torch.autocast(x.device.type, enabled=False):
        return module(x.to(next(module.parameters()).dtype))
