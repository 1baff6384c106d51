"""Draws that a cell's own counts decide: the same for the same cell, whatever file, block or order it comes in.

Every cell has a seed, a sum over its genes that doesn't depend on their order; every gene of it a number that follows
from the seed and the gene. 32 bits are enough: a draw chooses among some fifty bins.
Shapes: n cells, T expressed genes of all cells, G genes.
"""

import numpy as np

MIX1, MIX2 = np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)  # MurmurHash3's last step (Appleby, public domain)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads small numbers over 64 bits
PER_DRAW = 0x9E3779B9


def keys_of(ids: np.ndarray) -> np.ndarray:
    """Return a number per gene, uint64 [G], odd, that follows from its token."""
    spread = (ids.astype(np.uint64) + np.uint64(1)) * GOLDEN
    spread ^= spread >> np.uint64(29)
    return (spread * GOLDEN) | np.uint64(1)


def seeds_of(keys_T: np.ndarray, values_T: np.ndarray, offsets: np.ndarray, draw: int = 0) -> np.ndarray:
    """Return each cell's seed, uint32 [n], from its genes' keys and values (float32, as they are in bits)."""
    products_T = keys_T * values_T.view(np.uint32)
    sums = np.zeros(len(offsets) - 1, np.uint64)
    filled = np.diff(offsets) > 0
    if filled.any():
        sums[filled] = np.add.reduceat(products_T, offsets[:-1][filled])
    return mixed((sums >> np.uint64(32)).astype(np.uint32) ^ np.uint32(draw * PER_DRAW % 2**32))


def numbers_of(keys_T: np.ndarray, seeds: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return a number per gene of each cell, uint32 [T], evenly spread."""
    return mixed((keys_T >> np.uint64(32)).astype(np.uint32) ^ np.repeat(seeds, np.diff(offsets)))


def mixed(numbers: np.ndarray) -> np.ndarray:
    """Return numbers uint32, overwritten, in which every bit depends on every bit of the given ones."""
    numbers ^= numbers >> np.uint32(16)
    numbers *= MIX1
    numbers ^= numbers >> np.uint32(13)
    numbers *= MIX2
    numbers ^= numbers >> np.uint32(16)
    return numbers
