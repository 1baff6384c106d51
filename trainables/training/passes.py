"""Rows for a budget of steps: pass after pass over a strategy's rows, each in an order of its own."""

from collections.abc import Callable

import numpy as np


class Passes:
    """Rows without end. `order(number)` gives the rows of a pass, int64 [n], in the order in which they are taken.

    Where one pass ends the next goes on within the same batch, so every step sees as many cells whatever the number of
    rows. `place`: (number of the pass, rows of it that are taken), from which it goes on as if it had never stopped.
    """

    def __init__(self, order: Callable[[int], np.ndarray], place: tuple[int, int] = (0, 0)) -> None:
        self._order, (self._number, self._taken) = order, place
        self._rows = order(self._number)

    @property
    def place(self) -> tuple[int, int]:
        return self._number, self._taken

    def take(self, num_rows: int) -> np.ndarray:
        """Return the next rows, int64 [num_rows]."""
        parts = []
        while num_rows > 0:
            if self._taken >= len(self._rows):
                self._next_pass()
            part = self._rows[self._taken : self._taken + num_rows]
            self._taken, num_rows = self._taken + len(part), num_rows - len(part)
            parts.append(part)
        return np.concatenate(parts)

    def _next_pass(self) -> None:
        self._number, self._taken = self._number + 1, 0
        self._rows = self._order(self._number)
        if not len(self._rows):
            raise ValueError(f"pass {self._number + 1} over the training cells has no rows")
