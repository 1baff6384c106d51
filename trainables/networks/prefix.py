"""What frozen blocks make of a cell, kept between epochs: it never changes while weights and projections are fixed."""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor


class PrefixCache:
    """Tensors [L, E] by a cell's tokens, in the host's memory, up to `gigabytes`; cells beyond that are computed anew.

    Emptied when `version` changes, the sign that something before the first trained block did. With a GPU they lie in
    pinned memory and travel beside the work; each look-up makes the host wait once, for the tokens.
    """

    def __init__(self, gigabytes: float) -> None:
        self.room = self.capacity = int(gigabytes * 1e9)
        self.version: tuple[int, ...] | None = None
        self.kept: dict[bytes, Tensor] = {}
        self.hits = self.misses = 0

    def __call__(self, tokens_BL: Tensor, version: tuple[int, ...], compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Return compute(tokens), [B, L, E]; it is called for the cells that aren't kept, all at once."""
        if version != self.version:
            self.version, self.kept, self.room = version, {}, self.capacity
        keys = [hashlib.blake2b(cell.tobytes()).digest() for cell in tokens_BL.cpu().numpy()]
        new = [cell for cell, key in enumerate(keys) if key not in self.kept]
        self.hits, self.misses = self.hits + len(keys) - len(new), self.misses + len(new)
        if len(new) == len(keys):
            prefix_BLE = compute(tokens_BL)
            self._keep(keys, prefix_BLE)
            return prefix_BLE
        made = dict(zip(new, compute(tokens_BL[new]) if new else (), strict=True))
        self._keep([keys[cell] for cell in new], list(made.values()))
        cells = (made[cell] if cell in made else self.kept[key] for cell, key in enumerate(keys))
        return torch.stack([cell.to(tokens_BL.device, non_blocking=True) for cell in cells])

    def _keep(self, keys: list[bytes], cells: Tensor | list[Tensor]) -> None:
        for key, cell in zip(keys, cells, strict=True):
            size = _size_on_host(cell)
            if key not in self.kept and size <= self.room:
                self.kept[key] = _on_host(cell.detach())
                self.room -= size


def _size_on_host(cell: Tensor) -> int:
    """Return the bytes that a copy takes; torch hands out pinned memory in powers of two."""
    size = cell.numel() * cell.element_size()
    return size if cell.device.type == "cpu" else 1 << (size - 1).bit_length()


def _on_host(cell: Tensor) -> Tensor:
    """Return a copy of its own in the host's memory, pinned where it comes from a GPU and there is room for that."""
    if cell.device.type == "cpu":
        return cell.clone()
    try:
        kept = torch.empty(cell.shape, dtype=cell.dtype, pin_memory=True)
    except RuntimeError:  # no pinned memory left
        kept = torch.empty(cell.shape, dtype=cell.dtype)
    return kept.copy_(cell)
