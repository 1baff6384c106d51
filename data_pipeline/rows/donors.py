"""Which donors are for training, which for validation, which for testing: whole donors, classes covered, sizes met."""

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components

TRIES = 300  # random allotments compared
WORK = 30_000  # donors allotted in all tries together: about a second
CLOSE = 0.1  # allotments this near the best score count as equally good, so that seeds differ
NO_DONOR, NO_TRAINING, NO_TEST, NO_VALIDATION = 1000.0, 100.0, 2.0, 1.0  # what a lacking part or class costs

Coded = tuple[np.ndarray, np.ndarray]  # names of donors, sorted; each cell's as a number among them


def coded(donors: np.ndarray | pd.Categorical) -> Coded:
    """Return (the donors that occur, sorted by name; each cell's number among them, int64 [n])."""
    if not isinstance(donors, pd.Categorical):
        return np.unique(np.asarray(donors), return_inverse=True)
    there, who = np.unique(donors.codes, return_inverse=True)
    names = np.asarray(donors.categories.astype(str), dtype=object)[there]
    order = np.argsort(names, kind="stable")
    return names[order], np.argsort(order)[who]


def united(who: np.ndarray, twins: np.ndarray) -> np.ndarray:
    """Return a number for each donor, int [D], that donors with twins among each other's cells share.

    who: each cell's donor; twins: each cell's number, shared by cells with the same counts; both from 0 on.
    """
    num_donors, num_cells = int(who.max(initial=-1)) + 1, int(twins.max(initial=-1)) + 1
    links = sparse.csr_matrix((np.ones(len(who), bool), (who, twins)), shape=(num_donors, num_cells))
    return connected_components(links @ links.T, directed=False)[1]


def split_donors(
    labels: np.ndarray, who: np.ndarray, rng: np.random.Generator, test: float, validation: float
) -> list[np.ndarray]:
    """Return rows of [train, validation, test], every donor's cells in one of them.

    who: each cell's donor as a number from 0 on. Needs as many donors as parts asked for. Of many random allotments the
    first is taken that is as good as the best: every class in training, then in test and validation where its donors
    allow, and the cells in the fractions asked.
    """
    table_DC = np.zeros((int(who.max()) + 1, int(labels.max()) + 1))
    np.add.at(table_DC, (who, labels), 1)
    shares = np.array([1 - test - validation, validation, test])
    tries = [_allot(table_DC, shares, rng) for _ in range(max(20, min(TRIES, WORK // len(table_DC))))]
    costs = np.array([_cost(table_DC, part_D, shares) for part_D in tries])
    part_D = tries[int(np.argmax(costs <= costs.min() + CLOSE))]
    return [np.flatnonzero(part_D[who] == part) for part in range(3)]


def _allot(table_DC: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the part (0 train, 1 validation, 2 test) of each donor, int [D]: each to the part that lacks most.

    Donors that alone have some class come first and go to training, as long as the other parts still get a donor.
    """
    sizes = table_DC.sum(axis=1)
    alone_D = (table_DC[:, (table_DC > 0).sum(axis=0) == 1] > 0).any(axis=1)
    order = rng.permutation(len(sizes))
    lacking_P = shares * sizes.sum()
    part_D = np.full(len(sizes), -1)
    for place, donor in enumerate(np.concatenate([order[alone_D[order]], order[~alone_D[order]]])):
        empty = [part for part in range(3) if shares[part] > 0 and not (part_D == part).any()]
        allowed = [0] if alone_D[donor] else np.flatnonzero(shares > 0)
        if len(sizes) - place <= len(empty):
            allowed = empty
        part_D[donor] = max(allowed, key=lambda part: lacking_P[part])
        lacking_P[part_D[donor]] -= sizes[donor]
    return part_D


def _cost(table_DC: np.ndarray, part_D: np.ndarray, shares: np.ndarray) -> float:
    """Return how far an allotment is from what is wanted; 0 is perfect, see the constants for the weights."""
    cells_PC = np.stack([table_DC[part_D == part].sum(axis=0) for part in range(3)])
    there = table_DC.sum(axis=0) > 0
    absent_P = (cells_PC[:, there] == 0).sum(axis=1)
    weights = np.array([NO_TRAINING, NO_VALIDATION, NO_TEST]) * (shares > 0)
    empty = sum(NO_DONOR for part in range(3) if shares[part] > 0 and not (part_D == part).any())
    off = np.abs(cells_PC.sum(axis=1) / table_DC.sum() - shares).sum()
    return float(empty + weights @ absent_P + off)
