"""One training on several GPUs: workers that take the same steps, each on its own cells of every batch.

All of them hold the whole network and go through the same batches in the same order. Of each batch a worker takes every
n-th cell; the gradients of all cells are summed before a step, so that a step is what one worker would have taken,
whatever the batch's size. Random numbers inside the network (dropout) are drawn by each worker from a stream of its
own: as many cells have other masks, no more. torch.distributed carries the sums. A network whose cells depend on
their neighbours in a batch would be another one on fewer of them, and is refused.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from data_pipeline.errors import RequestError

LONGEST = timedelta(minutes=10)  # that workers wait for each other: the slowest round of reading cells


class TeamBroken(RuntimeError):
    """Another worker of this training is gone."""


@dataclass
class Team:
    """This worker's place among those that train one network: `rank` of `size`, from 0.

    seen: versions of the network's buffers when they were last the same for all.
    """

    rank: int = 0
    size: int = 1
    seen: list[int] | None = None

    @classmethod
    def here(cls) -> "Team":
        """Return the team that this process has `joined`; a worker alone, if it has not."""
        if not distributed.is_available() or not distributed.is_initialized():
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def leads(self) -> bool:
        """Whether this worker saves and reports."""
        return self.rank == 0

    @property
    def stream(self) -> tuple[str | int, ...]:
        """What a seed of this worker's own random numbers is derived with, beside what all have in common."""
        return () if self.leads else ("worker", self.rank)

    def part(self, number: int) -> slice:
        """Return which cells of batch `number` are this worker's: also of batches of one, each has its turn."""
        return slice((self.rank - number) % self.size, None, self.size)

    def check(self, network: nn.Module) -> None:
        """RequestError for a network whose cells depend on others of their batch."""
        mixes = any(isinstance(module, _BatchNorm) for module in network.modules())
        if self.size > 1 and (mixes or not getattr(network, "cells_are_independent", True)):
            raise RequestError(
                f"on {self.size} GPUs each sees a part of a batch, and this network's cells depend on the others of "
                "their batch (BatchNorm, or the defect scbert_batch_stabiliser): it would learn something else; ask "
                "for gpu: 1"
            )

    def share(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite the tensors by those of the worker that leads."""
        if self.size > 1:
            with _together():
                for tensor in tensors:
                    distributed.broadcast(tensor.detach(), 0)

    def add(self, tensor: Tensor) -> None:
        """Replace a tensor by the sum of all workers'."""
        if self.size > 1:
            with _together():
                distributed.all_reduce(tensor)

    def add_up(self, trained: Sequence[nn.Parameter], drawn: Sequence[Tensor], total: Tensor) -> Tensor:
        """Replace each gradient by the sum of all workers', none where nobody has one; returns the sum of `total`s.

        drawn: the network's buffers. Where a worker has drawn its own anew, all take the leader's.
        """
        has = [one.grad is not None for one in trained] + [[one._version for one in drawn] != self.seen]
        parts = [torch.zeros_like(one) if one.grad is None else one.grad for one in trained]
        notes = torch.tensor([*map(float, has)], device=total.device), total.reshape(1).float()
        flat = torch.cat([*(part.reshape(-1).float() for part in parts), *notes])
        self.add(flat)
        *summed, has, total = flat.split([*(one.numel() for one in trained), len(has), 1])
        *has, is_drawn = has.tolist()
        for parameter, gradient, number in zip(trained, summed, has, strict=True):
            parameter.grad = gradient.view_as(parameter).to(parameter.dtype) if number else None
        if is_drawn:
            self.share(drawn)
            self.seen = [one._version for one in drawn]
        return total[0]


@contextmanager
def joined(port: int, team: Team, on_gpu: bool) -> Iterator[None]:
    """Have this process be one of a team on this machine while it lasts; the one that leads listens at `port`."""
    store = distributed.TCPStore("127.0.0.1", port, team.size, team.leads, LONGEST, wait_for_workers=False)
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    with _together():
        distributed.init_process_group(backend, store=store, rank=team.rank, world_size=team.size, timeout=LONGEST)
    try:
        yield
    finally:
        distributed.destroy_process_group()


@contextmanager
def _together() -> Iterator[None]:
    """Say in one class of error that others are gone, whatever the backend calls it."""
    try:
        yield
    except RuntimeError as error:
        raise TeamBroken(f"another worker of this trial doesn't answer: {str(error).strip()[:300]}") from error
