"""Dropout that is cheap on a CPU: 16 random bits per element, drawn anew in the backward pass instead of being kept.

torch's own draws a 64-bit number per element on most CPUs, which is 8 to 10 times slower and often costs more than the
matrix products beside it. Rates are rounded to 1/65,536, and kept elements scaled by the rounded rate, so that means
are exact. On other devices torch's own is used. Every mask follows from torch's default generator.
"""

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

LEVELS = 1 << 16
BLOCK = 1 << 18  # elements worked on at once, so that masks stay in the cache


class Coin:
    """Masks of one dropout, always the same from the same seed: 1 with probability `kept`, else 0."""

    def __init__(self, rate: float, seed: int) -> None:
        dropped = round(rate * LEVELS)
        self.kept = 1 - dropped / LEVELS
        self._threshold = dropped - LEVELS // 2
        self._numbers = np.random.Generator(np.random.PCG64DXSM(seed))

    def toss(self, out: Tensor) -> Tensor:
        """Fill `out` (any float type) with the next 0s and 1s and return it."""
        words = self._numbers.integers(0, 2**64, -(-out.numel() // 4), dtype=np.uint64)
        bits = torch.from_numpy(words.view(np.int16))[: out.numel()].view(out.shape)
        return torch.ge(bits, self._threshold, out=out)


def draw_seed() -> int:
    """Return a seed from torch's default generator."""
    return int(torch.randint(2**62, ()))


def add_dropped(x: Tensor, y: Tensor, rate: float) -> Tensor:
    """Return x + dropout(y), any shape; rate 0 is plain addition."""
    if rate == 0:
        return x + y
    if x.device.type != "cpu":
        return x + functional.dropout(y, rate)
    return _AddDropped.apply(x, y, rate)


def relu_dropped(x: Tensor, rate: float) -> Tensor:
    """Return dropout(relu(x)); keeps the result alone for the backward pass."""
    if rate == 0:
        return functional.relu(x)
    if x.device.type != "cpu":
        return functional.dropout(functional.relu(x), rate)
    return _ReluDropped.apply(x, rate)


class _AddDropped(Function):
    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor, rate: float) -> Tensor:
        ctx.rate, ctx.seed, ctx.dtypes = rate, draw_seed(), (x.dtype, y.dtype)
        coin, out = Coin(rate, ctx.seed), torch.empty(x.shape, dtype=torch.promote_types(x.dtype, y.dtype))
        for x_part, y_part, part in _blocks(x, y, out):
            mask = coin.toss(torch.empty_like(part))
            torch.addcmul(x_part, y_part, mask, value=1 / coin.kept, out=part)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        coin, grad_y = Coin(ctx.rate, ctx.seed), torch.empty(grad.shape, dtype=grad.dtype)
        for grad_part, part in _blocks(grad, grad_y):
            torch.mul(coin.toss(part), grad_part, out=part).mul_(1 / coin.kept)
        return grad.to(ctx.dtypes[0]), grad_y.to(ctx.dtypes[1]), None


class _ReluDropped(Function):
    @staticmethod
    def forward(ctx, x: Tensor, rate: float) -> Tensor:
        coin, out = Coin(rate, draw_seed()), torch.empty(x.shape, dtype=x.dtype)
        for x_part, part in _blocks(x, out):
            coin.toss(part).mul_(1 / coin.kept).mul_(x_part).clamp_(min=0)
        ctx.save_for_backward(out)
        ctx.kept = coin.kept
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (out,) = ctx.saved_tensors
        return torch.gt(out, 0, out=torch.empty_like(grad)).mul_(grad).mul_(1 / ctx.kept), None


def _blocks(*tensors: Tensor):
    """Yield the same stretch of each tensor, flattened, BLOCK elements at a time."""
    return zip(*(tensor.reshape(-1).split(BLOCK) for tensor in tensors), strict=True)
