"""Where a network runs and in which numbers: device, precision, pinned memory, and what to do when memory runs out."""

import contextlib
import dataclasses
import platform
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from data_pipeline.shards.feed import Batch
from trainables.spec import Recipe

T = TypeVar("T")
FUSED = 20  # batches of one cell that go through the network together, at most
NO_MEMORY = ("out of memory", "can't allocate memory", "_STATUS_ALLOC_FAILED")  # CUDA's, a CPU's, cuBLAS' and cuDNN's


class NoGpuError(RuntimeError):
    """A trial that was given a share of a GPU finds none."""


def choose_device(wanted: str) -> torch.device:
    """Return the device for "auto", "cpu" or "cuda"; NoGpuError where "cuda" isn't to be had."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise NoGpuError(
            f"node {platform.node()}: this trial was given a share of a GPU, but torch {torch.__version__} sees none "
            "there; look for a build of torch without CUDA, a driver older than it wants (nvidia-smi), or a container "
            "started without GPUs"
        )
    return torch.device("cuda" if wanted == "auto" and torch.cuda.is_available() else wanted.replace("auto", "cpu"))


def precision_of(recipe: Recipe, device: torch.device) -> torch.dtype:
    """Return the numbers of a recipe; "auto": float32 on a CPU, on a GPU bfloat16 where it is native, else float16."""
    if recipe.precision != "auto":
        return getattr(torch, recipe.precision)
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext() if dtype is torch.float32 else torch.autocast(device.type, dtype)


def allow_tf32(device: torch.device, allowed: bool) -> None:
    """Let a GPU round the factors of float32 products to 10 bits, or forbid it."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if allowed else "highest")


def fusible(network: nn.Module, recipe: Recipe) -> int:
    """Return how many batches of one cell a GPU may take together, a divisor of those of a step."""
    if recipe.batch_size != 1 or not getattr(network, "cells_are_independent", False):
        return 1
    return max(number for number in range(1, FUSED + 1) if recipe.accumulate % number == 0)


def tags(recipe: Recipe, device: torch.device) -> dict[str, str]:
    """Return in which numbers and on what a network is computed: {"precision", "device": the GPU's name, or cpu}."""
    on_gpu, numbers = device.type == "cuda", str(precision_of(recipe, device)).removeprefix("torch.")
    rounded = " with TF32 products" if on_gpu and recipe.tf32 and numbers == "float32" else ""
    return {"precision": numbers + rounded, "device": torch.cuda.get_device_name(device) if on_gpu else device.type}


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory was wanting, of the device or the host, in whoever's words."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in NO_MEMORY)


class MicroBatch:
    """How many cells are on the device at once: halved when memory runs out, down to one."""

    def __init__(self, size: int) -> None:
        self.size = size

    def attempt(self, work: Callable[[], T], num_cells: int, clear: Callable[[], None], about: Callable[[], str]) -> T:
        """Return work(), done anew with half the cells as long as memory runs out; MemoryError if one cell is too much.

        work: looks at `size` for how many cells it may take at once, of `num_cells`. clear: lets go of what failed work
        has left. It is called outside of `except`, whose traceback holds the work's tensors. about(): which cells.
        """
        while True:
            try:
                return work()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                said = str(error)
            clear()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if self.size == 1:
                raise MemoryError(f"out of memory even with {about()}, one at a time: {said}")
            self.size = max(1, min(self.size, num_cells) // 2)

    def pieces(self, num_cells: int) -> list[slice]:
        """Return the parts in which so many cells go through the network."""
        return [slice(start, start + self.size) for start in range(0, num_cells, self.size)]


def pinned_batch(batch: Batch) -> Batch:
    return dataclasses.replace(batch, inputs=pinned(batch.inputs))


def pinned(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs with every tensor in pinned memory, where the host has some; those that are stay."""
    try:
        return {name: value.pin_memory() if isinstance(value, Tensor) else value for name, value in inputs.items()}
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return inputs


def move(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return the inputs on a GPU; from pinned memory, as only such copies don't make the host wait."""
    moved = {name: value for name, value in pinned(inputs).items() if isinstance(value, Tensor)}
    return inputs | {name: value.to(device, non_blocking=True) for name, value in moved.items()}
