"""Low-rank adapters: of a frozen layer the weights W are read as W + alpha / rank * up @ down, and these two trained.

Where a layer's weights are read, the sum is: by packed attention, which multiplies three layers at once, and by a norm
folded into a layer. `up` starts at 0, so that a network starts as what it is without adapters, bit for bit.
Hu et al. 2021, arXiv 2106.09685, section 4.1.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from data_pipeline.errors import RequestError


class Adapter(nn.Module):
    """W [N, M] -> W + alpha / rank * up [N, rank] @ down [rank, M], in W's own numbers.

    dropout: of the M inputs to `down`, drawn once per step for all tokens; the paper's is drawn per token.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, weight.shape[1]))
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank))
        self.scale, self.dropout = alpha / rank, dropout
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            kept_M = functional.dropout(torch.ones_like(self.down[0]), self.dropout, self.training)
            return torch.addmm(weight, self.up, self.down * kept_M, alpha=self.scale)


def adapt(network: nn.Module, within: str, targets: list[str], rank: int, alpha: float, dropout: float) -> None:
    """Give the layers called one of `targets`, of the part of a network named `within`, an adapter each.

    RequestError for a rank that a layer's weights don't have.
    """
    for name, layer in list(network.named_modules()):
        if name.startswith(within) and name.rsplit(".", 1)[-1] in targets and isinstance(layer, nn.Linear):
            if rank > min(layer.weight.shape):
                size = " x ".join(map(str, layer.weight.shape))
                raise RequestError(f"train: lora: rank {rank} is more than the {size} weights of {name} can have")
            parametrize.register_parametrization(layer, "weight", Adapter(layer.weight, rank, alpha, dropout))


def merge(network: nn.Module) -> None:
    """Put every adapter into the weights beside it, and the network in eval mode: it computes what it computed."""
    network.eval()
    for layer in list(network.modules()):
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
