"""Multinomial logistic regression on sparse cells, warm-started from one regularisation strength to the next.

Minimises sum_i w_i log-loss_i + penalty / C over coefficients W [G, K] and intercepts [K] (not penalised), with
penalty ||W||^2 / 2 (L-BFGS) or ||W||_1 (OWL-QN over few genes at a time), as scikit-learn defines it. Genes are
centred inside the products, which keeps the cells sparse and takes a third of the steps. Shapes: n cells, G genes, K
classes.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import log_softmax

TOLERANCE = 3e-4  # largest gradient, per cell, at which a fit counts as converged; 1e-4 took twice the time for nothing
MEMORY = 10  # steps that L-BFGS remembers
FEWEST_ADDED = 100  # genes at a time, where the penalty is L1


@dataclass(frozen=True)
class Solution:
    """Where the optimiser stopped: coefficients float64 [G, K], intercepts [K]."""

    coefficients: np.ndarray
    intercepts: np.ndarray
    strength: float
    converged: bool
    iterations: int


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

    def path(self, strengths: Iterable[float], max_iterations: int) -> Iterator[Solution]:
        """Yield the solution for each C, from the strongest regularisation to the weakest."""
        shares = np.bincount(self.targets, self.weights, minlength=self.num_classes) / self.weights.sum()
        theta = np.zeros((self.cells.shape[1] + 1, self.num_classes))
        theta[-1] = np.log(np.maximum(shares, 1e-12))
        for strength in sorted(strengths):
            solve = self._solve_l1 if self.penalty == "l1" else self._solve_l2
            theta, converged, iterations = solve(theta, 1 / (strength * len(self.targets)), max_iterations)
            yield Solution(theta[:-1], theta[-1] - self.means @ theta[:-1], strength, converged, iterations)

    @cached_property
    def means(self) -> np.ndarray:
        """Mean of each gene, float64 [G]."""
        return np.asarray(self.cells.mean(axis=0, dtype=np.float64)).ravel()

    def loss(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the mean weighted log-loss and its gradient [G + 1, K] at theta."""
        scores = self.cells @ theta[:-1].astype(np.float32) + (theta[-1] - self.means @ theta[:-1])
        logs, rows = log_softmax(scores, axis=1), np.arange(len(self.targets))
        value = -(self.weights * logs[rows, self.targets]).sum() / len(rows)
        residuals = np.exp(logs, out=logs)
        residuals[rows, self.targets] -= 1.0
        residuals *= (self.weights / len(rows))[:, None]
        sums = residuals.sum(axis=0)
        return value, np.vstack([self.cells.T @ residuals.astype(np.float32) - np.outer(self.means, sums), sums])

    def _solve_l2(self, start: np.ndarray, decay: float, max_iterations: int) -> tuple[np.ndarray, bool, int]:
        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            theta = flat.reshape(start.shape)
            value, gradient = self.loss(theta)
            gradient[:-1] += decay * theta[:-1]
            return value + decay / 2 * np.vdot(theta[:-1], theta[:-1]), gradient.ravel()

        options = {"maxiter": max_iterations, "gtol": TOLERANCE, "ftol": 1e-12, "maxcor": MEMORY}
        found = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options=options)
        return found.x.reshape(start.shape), bool(found.success), int(found.nit)

    def _solve_l1(self, start: np.ndarray, decay: float, max_iterations: int) -> tuple[np.ndarray, bool, int]:
        """Solve over few genes, add those whose gradient outweighs the penalty most, until there are none."""
        theta, iterations, converged = start.copy(), 0, False
        while iterations < max_iterations:
            used = theta[:-1].any(axis=1)
            pull = np.where(used, 0.0, np.abs(self.loss(theta)[1][:-1]).max(axis=1) - decay)
            drawn = np.argsort(-pull, kind="stable")[: max(FEWEST_ADDED, np.count_nonzero(used))]
            drawn = drawn[pull[drawn] > TOLERANCE]
            if converged and not len(drawn):
                return theta, True, iterations
            active = np.union1d(np.flatnonzero(used), drawn)
            part = replace(self, cells=sparse.csr_matrix(self.cells[:, active]))
            rows = np.append(active, len(theta) - 1)
            theta[rows], converged, steps = part._descend(theta[rows], decay, max_iterations - iterations)
            iterations += max(steps, 1)
        return theta, False, iterations

    def _descend(self, theta: np.ndarray, decay: float, max_iterations: int) -> tuple[np.ndarray, bool, int]:
        """OWL-QN: L-BFGS that stays in one orthant during a step, so that the L1 penalty is smooth and zeros exact.

        Source: Andrew, Gao 2007, Scalable training of L1-regularized log-linear models.
        """
        penalties = np.vstack([np.full((len(theta) - 1, self.num_classes), decay), np.zeros(self.num_classes)])
        value, gradient = self._penalised(theta, penalties)
        moves: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=MEMORY)
        for iteration in range(max_iterations):
            slope = _steepest(theta, gradient, penalties)
            if np.abs(slope).max() <= TOLERANCE:
                return theta, True, iteration
            direction = _two_loop(slope, moves)
            direction[direction * slope >= 0] = 0.0
            orthant = np.where(theta != 0, np.sign(theta), -np.sign(slope))
            size = 1.0 if moves else min(1.0, 1 / np.linalg.norm(slope))
            while True:
                new = theta + size * direction
                new[np.sign(new) != orthant] = 0.0
                new_value, new_gradient = self._penalised(new, penalties)
                if new_value <= value + 1e-4 * np.vdot(slope, new - theta):
                    break
                size /= 2
                if size < 1e-10:  # float32 products can't tell the values apart any more
                    return theta, False, iteration
            moves.append((new - theta, new_gradient - gradient))
            theta, value, gradient = new, new_value, new_gradient
        return theta, False, max_iterations

    def _penalised(self, theta: np.ndarray, penalties: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the loss with its L1 penalty, and the gradient without."""
        value, gradient = self.loss(theta)
        return value + np.abs(penalties * theta).sum(), gradient


def _steepest(theta: np.ndarray, gradient: np.ndarray, penalties: np.ndarray) -> np.ndarray:
    """Return the pseudo-gradient: of the subgradients at zero coefficients, the one nearest to zero."""
    at_zero = np.sign(gradient) * np.maximum(np.abs(gradient) - penalties, 0.0)
    return np.where(theta != 0, gradient + penalties * np.sign(theta), at_zero)


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
