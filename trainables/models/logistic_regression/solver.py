"""Multinomial logistic regression on sparse cells, warm-started from one regularisation strength to the next.

Minimises sum_i w_i log-loss_i + penalty / C over coefficients W [G, K] and intercepts [K] (not penalised), with
penalty ||W||^2 / 2 (L-BFGS) or ||W||_1 (OWL-QN over few genes at a time), as scikit-learn defines it. Genes are
centred inside the products, which keeps the cells sparse and takes a third of the steps. Shapes: n cells, G genes, K
classes.

A fit has converged when the gradient of each class is small beside the error still made on that class's own cells. An
absolute limit per cell would call a type with 10 of 50,000 cells learnt before the first step. Each C is solved roughly
first: whoever asks for the path may leave it there, and L1 need not settle genes to the end before it lets others in.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import sparse
from scipy.special import log_softmax

from trainables.models.logistic_regression.products import Products

TOLERANCE = 0.01  # largest gradient of a class, as a share of its error, at which a fit counts as converged
ROUGHLY = 5.0  # times as large may gradients be in a rough solution
LEARNT = 1e-5  # an error below this share of a class's cells counts as this much: that class is learnt
ROUNDING = 1e-7  # relative; float32 products can't tell values closer than this apart
ROWS = 4_096  # cells whose genes are summed at once
MEMORY = {"l1": 10, "l2": 30}  # steps that L-BFGS remembers: more save L2 a third of its steps, and L1 none
FEWEST_ADDED = 100  # genes at a time, where the penalty is L1
HALVINGS = 30  # of a step that leads upwards


@dataclass(frozen=True)
class Solution:
    """Where the optimiser stopped: coefficients float64 [G, K], intercepts [K]."""

    coefficients: np.ndarray
    intercepts: np.ndarray
    strength: float
    converged: bool
    iterations: int


@dataclass(frozen=True)
class Point:
    """theta, the value there, its gradient, both [G + 1, K], and the limits [K] under which a gradient is small."""

    theta: np.ndarray
    value: float
    gradient: np.ndarray
    limits: np.ndarray


@dataclass(frozen=True)
class Problem:
    """cells float32 CSR [n, G], targets int64 [n] in 0..K-1, weights float64 [n] with mean 1, penalty "l1" or "l2".

    theta, below, is [G + 1, K]: the coefficients, then the intercepts of the centred genes.
    """

    cells: sparse.csr_matrix
    targets: np.ndarray
    weights: np.ndarray
    num_classes: int
    penalty: str

    def path(
        self, strengths: Iterable[float], max_iterations: int, is_over: Callable[[Solution], bool] | None = None
    ) -> Iterator[Solution]:
        """Yield the solution for each C, from the strongest regularisation to the weakest.

        is_over: told a rough solution, may end the path before it is solved to the end.
        """
        theta = np.zeros((self.cells.shape[1] + 1, self.num_classes))
        theta[-1] = np.log(np.maximum(self.shares, 1e-12))
        for strength in sorted(strengths):
            decay = 1 / (strength * len(self.targets))
            theta, converged, before = self._solve(theta, decay, max_iterations, ROUGHLY)
            if is_over is not None and is_over(self._solution(theta, strength, converged, before)):
                return
            theta, converged, more = self._solve(theta, decay, max_iterations - before, 1.0)
            yield self._solution(theta, strength, converged, before + more)

    def _solution(self, theta: np.ndarray, strength: float, converged: bool, iterations: int) -> Solution:
        return Solution(theta[:-1].copy(), theta[-1] - self.means @ theta[:-1], strength, converged, iterations)

    def _solve(self, theta: np.ndarray, decay: float, most: int, slack: float) -> tuple[np.ndarray, bool, int]:
        """Return (theta, whether gradients are within `slack` times their limits, steps taken, at most `most`)."""
        return (self._solve_l1 if self.penalty == "l1" else self._descend)(theta, decay, most, slack)

    @cached_property
    def _products(self) -> Products:
        return Products(self.cells)

    @cached_property
    def shares(self) -> np.ndarray:
        """Each class's share of the weights, float64 [K]."""
        return np.bincount(self.targets, self.weights, minlength=self.num_classes) / self.weights.sum()

    @cached_property
    def means(self) -> np.ndarray:
        """Mean of each gene, float64 [G]."""
        sums = np.zeros(self.cells.shape[1])
        for start in range(0, self.cells.shape[0], ROWS):  # scipy's mean would copy every number to twice its size
            block = self.cells[start : start + ROWS]
            sums += np.bincount(block.indices, block.data, minlength=len(sums))
        return sums / self.cells.shape[0]

    def loss(self, theta: np.ndarray) -> Point:
        """Return the mean weighted log-loss at theta, its gradient, and what of each class is still wrong."""
        scores = self._products.times(theta[:-1].astype(np.float32)) + (theta[-1] - self.means @ theta[:-1])
        logs, rows = log_softmax(scores, axis=1), np.arange(len(self.targets))
        value = -(self.weights * logs[rows, self.targets]).sum() / len(rows)
        residuals = np.exp(logs, out=logs)
        residuals[rows, self.targets] -= 1.0
        residuals *= (self.weights / len(rows))[:, None]
        errors = -np.bincount(self.targets, residuals[rows, self.targets], minlength=self.num_classes)
        sums = residuals.sum(axis=0)
        inner = self._products.transposed_times(residuals.astype(np.float32)) - np.outer(self.means, sums)
        gradient = np.vstack([inner, sums])
        return Point(theta, value, gradient, TOLERANCE * np.maximum(errors, LEARNT * self.shares))

    def _penalised(self, theta: np.ndarray, decay: float) -> Point:
        """Return the loss with its penalty, and the gradient with what of the penalty is smooth (none, if L1)."""
        found, inner = self.loss(theta), theta[:-1]
        if self.penalty == "l1":
            return replace(found, value=found.value + decay * np.abs(inner).sum())
        found.gradient[:-1] += decay * inner
        return replace(found, value=found.value + decay / 2 * np.vdot(inner, inner))

    def _solve_l1(self, start: np.ndarray, decay: float, most: int, slack: float) -> tuple[np.ndarray, bool, int]:
        """Solve over few genes, add those whose gradient outweighs the penalty most, until there are none."""
        theta, iterations, converged = start.copy(), 0, False
        while iterations < most:
            used = theta[:-1].any(axis=1)
            drawn = self._drawn(self.loss(theta), used, decay, slack)
            if iterations and not len(drawn):
                return theta, converged, iterations
            active = np.union1d(np.flatnonzero(used), drawn)
            part = replace(self, cells=sparse.csr_matrix(self.cells[:, active]))
            rows = np.append(active, len(theta) - 1)
            theta[rows], converged, steps = part._descend(theta[rows], decay, most - iterations, slack)
            iterations += max(steps, 1)
        return theta, False, iterations

    def _drawn(self, at: Point, used: np.ndarray, decay: float, slack: float) -> np.ndarray:
        """Return the unused genes that some class wants most, in units of that class's limit; at most as many again."""
        pull = ((np.abs(at.gradient[:-1]) - decay) / at.limits).max(axis=1)
        pull[used] = 0.0
        drawn = np.argsort(-pull, kind="stable")[: max(FEWEST_ADDED, np.count_nonzero(used))]
        return drawn[pull[drawn] > slack]

    def _descend(self, theta: np.ndarray, decay: float, most: int, slack: float) -> tuple[np.ndarray, bool, int]:
        """L-BFGS; with L1 OWL-QN, which stays in one orthant during a step: the penalty is smooth there, zeros exact.

        Source: Andrew, Gao 2007, Scalable training of L1-regularized log-linear models.
        """
        lasso = np.zeros((len(theta), 1))
        lasso[:-1] = decay if self.penalty == "l1" else 0.0
        at, moves = self._penalised(theta, decay), deque(maxlen=MEMORY[self.penalty])
        for iteration in range(most):
            slope = _steepest(at, lasso)
            if (np.abs(slope) <= slack * at.limits).all():
                return at.theta, True, iteration
            direction = _two_loop(slope, moves)
            direction[(direction * slope >= 0) & (lasso > 0)] = 0.0
            size = 1.0 if moves else min(1.0, 1 / np.linalg.norm(slope))
            new = self._step(at, slope, direction * size, lasso, decay)
            if new is None:
                return at.theta, False, iteration
            moves.append((new.theta - at.theta, new.gradient - at.gradient))
            at = new
        return at.theta, False, most

    def _step(self, at: Point, slope: np.ndarray, move: np.ndarray, lasso: np.ndarray, decay: float) -> Point | None:
        """Return the first point on the way to `move`, halved each time, that is lower enough; None if there is none.

        Where rounding hides the difference, the slope at the new point tells (Hager, Zhang 2005, approximate Wolfe).
        """
        orthant = np.where(at.theta != 0, np.sign(at.theta), -np.sign(slope))
        for _ in range(HALVINGS):
            theta = at.theta + move
            theta[(np.sign(theta) != orthant) & (lasso > 0)] = 0.0
            new = self._penalised(theta, decay)
            fall = np.vdot(slope, theta - at.theta)
            if new.value <= at.value + 1e-4 * fall:
                return new
            ahead = np.vdot(new.gradient + lasso * orthant, theta - at.theta)
            if new.value <= at.value * (1 + ROUNDING) and ahead <= -0.9998 * fall:
                return new
            move = move / 2
        return None


def _steepest(at: Point, lasso: np.ndarray) -> np.ndarray:
    """Return the pseudo-gradient: of the subgradients at zero coefficients, the one nearest to zero."""
    at_zero = np.sign(at.gradient) * np.maximum(np.abs(at.gradient) - lasso, 0.0)
    return np.where(at.theta != 0, at.gradient + lasso * np.sign(at.theta), at_zero)


def _two_loop(slope: np.ndarray, moves: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return minus the inverse Hessian, as the remembered (step, change of gradient) tell it, times `slope`."""
    known = [(step, change, np.vdot(step, change)) for step, change in moves]
    known = [(step, change, product) for step, change, product in known if product > 1e-12 * np.vdot(change, change)]
    direction, shares = -slope, []
    for step, change, product in reversed(known):
        shares.append(np.vdot(step, direction) / product)
        direction -= shares[-1] * change
    if known:
        _, change, product = known[-1]
        direction *= product / np.vdot(change, change)
    for (step, change, product), share in zip(known, reversed(shares), strict=True):
        direction += (share - np.vdot(change, direction) / product) * step
    return direction
