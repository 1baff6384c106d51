"""Counts made comparable between cells: log-normalised values and their principal components."""

import numpy as np
from scipy import sparse

TARGET = 1e4  # counts per cell after scaling
MOST_VARIABLE = 2000  # genes that principal components are computed from


def row_sums(counts: sparse.csr_matrix) -> np.ndarray:
    """Return the sum of each row, float64 [n], added up in float64: scipy's own sum rounds as the matrix does."""
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    return np.bincount(rows, counts.data, counts.shape[0])


def log_normalised(counts: sparse.csr_matrix, totals: np.ndarray | None = None) -> sparse.csr_matrix:
    """Return log1p(counts per 10,000) as float64 CSR [n, G], without stored zeros; a cell without counts stays zero.

    totals: counts per cell over all measured genes, float [n]; None: the row sums.
    """
    logs = sparse.csr_matrix(counts, dtype=np.float64, copy=True)
    logs.sum_duplicates()
    logs.eliminate_zeros()
    sums = row_sums(logs) if totals is None else np.asarray(totals, dtype=np.float64)
    factors = np.divide(TARGET, sums, out=np.zeros(len(sums)), where=sums > 0)
    logs.data = np.log1p(logs.data * np.repeat(factors, np.diff(logs.indptr)))
    return logs


def principal_components(counts: sparse.csr_matrix, components: int, rng: np.random.Generator) -> np.ndarray:
    """Return float64 [n, <= components] of the log-normalised counts, over the MOST_VARIABLE genes in that measure."""
    logs = log_normalised(counts)
    means = np.asarray(logs.mean(axis=0)).ravel()
    variances = np.asarray(logs.multiply(logs).mean(axis=0)).ravel() - means**2
    return components_of(logs[:, np.sort(np.argsort(-variances, kind="stable")[:MOST_VARIABLE])], components, rng)


def components_of(features: sparse.csr_matrix, components: int, rng: np.random.Generator) -> np.ndarray:
    """Return the principal components, float64 [n, <= components], of numbers as they are."""
    from sklearn.decomposition import PCA

    number = min(components, min(features.shape) - 1)
    if number < 1:
        return features.toarray()
    solver = PCA(number, svd_solver="arpack", random_state=int(rng.integers(2**31)))
    return solver.fit_transform(sparse.csr_matrix(features))
