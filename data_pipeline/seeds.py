"""One generator per stage: every random choice comes from (seed, stage names), never from a global state."""

import hashlib

import numpy as np


def derive(seed: int, *stage: str | int) -> int:
    """Return a 63-bit seed for the named stage, independent of every other stage of the same `seed`."""
    digest = hashlib.sha256("\x1f".join(map(str, (seed, *stage))).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, *stage: str | int) -> np.random.Generator:
    """Return a numpy Generator for the named stage."""
    return np.random.default_rng(derive(seed, *stage))
