"""Strategies that make cells, from the counts of training cells alone; the made cells join the training rows.

Every one: (counts CSR [n, G], labels int64 [n], rng, *, cells, ...) -> Made. Classes of fewer than `cells` cells are
raised to `cells`, the others get none, so originals + new = max(n_c, cells). Attributes that a caller must heed:
`of_small_classes = True`: the cells of classes that lack none are not looked at and need not be passed;
`on_gpu = True`: much faster on a GPU; `lacking`: says what isn't installed here, None where all is.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from data_pipeline.errors import RequestError
from data_pipeline.normalise import log_normalised
from data_pipeline.rows.apportion import classes_in
from data_pipeline.scvi_tools import as_cells, lacking, open_scvi, training


class Made(NamedTuple):
    """New cells: counts CSR float32 [m, G]; labels int64 [m]; sources int64 [m], the row of the cell whose library
    size each has, and with it that cell's counts over genes which the file leaves out."""

    counts: sparse.csr_matrix
    labels: np.ndarray
    sources: np.ndarray


def smote(
    counts: sparse.csr_matrix,
    labels: np.ndarray,
    rng: np.random.Generator,
    *,
    cells: int = 500,
    neighbours: int = 5,
) -> Made:
    """New cells between a cell and one of its nearest neighbours of the same class, interpolated in log space (SMOTE).

    Each is brought back to whole counts at a library size drawn from its class. A class of k + 1 <= `neighbours` cells
    uses its k; a class of one cell has nothing to interpolate between, and gets copies of that cell.
    """
    _check(cells, neighbours=neighbours)
    return _by_class(counts, labels, cells, lambda real, lack: _interpolated(real, lack, neighbours, rng))


def mixup(
    counts: sparse.csr_matrix,
    labels: np.ndarray,
    rng: np.random.Generator,
    *,
    cells: int = 500,
    alpha: float = 1.0,
) -> Made:
    """New cells between any two cells of the same class: share x one + (1 - share) x other in log space (mixup).

    The share is drawn from Beta(alpha, alpha): at 1 any place between the two is as likely, towards 0 new cells lie
    ever nearer to real ones. They have the mean of their class and (alpha + 1) / (2 alpha + 1) of its variance. Each is
    brought back to whole counts as in `smote`, which goes to near neighbours alone. Source: Zhang et al. 2018, arXiv
    1710.09412, equation 1, within a class, so that labels need no mixing.
    """
    _check(cells, alpha=alpha)
    return _by_class(counts, labels, cells, lambda real, lack: _mixed_up(real, lack, alpha, rng))


def scvi(
    counts: sparse.csr_matrix,
    labels: np.ndarray,
    rng: np.random.Generator,
    *,
    cells: int = 500,
    epochs: int | None = None,
    unscaled: bool = False,
    classes: Sequence[str] | None = None,
) -> Made:
    """New cells drawn from the posterior predictive distribution of scVI, a generative model of the training counts.

    The class is a covariate of the decoder, so the latent space holds what varies within classes, and a new cell is
    decoded as its class. Each starts from a random training cell of its class and has about its library size.
    (Zheng data, 3,400 training cells: a classifier of real cells took 70-88 % of the new cells of four rare types for
    their own; of those made by an scVI that didn't know the class, 1-63 %.)
    epochs: None leaves it to scvi-tools (400, fewer from 20,000 cells on). On the GPU if there is one.
    unscaled: the published recipe instead (protocol: paper): trained on the classes to be filled alone, without
    telling them apart, and the normalised expression, which sums to 1 per cell, taken as counts.
    """
    _check(cells)
    lacking = _lacking(labels, cells)
    if not lacking:
        return _together([], counts.shape[1])
    taught = np.isin(labels, [code for code, _ in lacking]) if unscaled else np.ones(len(labels), bool)
    model = _scvi_model(counts[taught], None if unscaled else labels[taught], epochs, int(rng.integers(2**31)))
    places = labels[taught]
    parts = []
    for code, lack in lacking:
        sources = rng.choice(np.flatnonzero(places == code), lack)
        made = _decoded(model, sources, unscaled)
        parts.append(Made(made, np.full(lack, code, np.int64), np.flatnonzero(taught)[sources]))
    return _together(parts, counts.shape[1])


scvi.passed = ("unscaled",)  # by cellskew, where the defect is declared: a sweep file can't ask for it by itself
scvi.on_gpu = True
scvi.lacking = partial(lacking, "strategy scvi")
smote.of_small_classes = mixup.of_small_classes = True

SYNTHESIZERS: dict[str, Callable[..., Made]] = {"smote": smote, "mixup": mixup, "scvi": scvi}


def _verify(params: Mapping[str, Any]) -> None:
    _check(**{name: params[name] for name in ("cells", "neighbours", "alpha") if name in params})


def _check(cells: int, neighbours: int = 1, alpha: float = 1.0) -> None:
    problems = [f"cells {cells} is below 1; it is the size that smaller classes are raised to"] if cells < 1 else []
    problems += [f"neighbours {neighbours} is below 1; 5 is usual"] if neighbours < 1 else []
    problems += [f"alpha {alpha:g} must be more than 0; 1 takes any place between two cells"] if not alpha > 0 else []
    if problems:
        raise RequestError(*problems)


def _lacking(labels: np.ndarray, cells: int) -> list[tuple[int, int]]:
    """Return (class, how many cells it lacks of `cells`) for every class present that lacks some."""
    if not len(labels):
        return []
    there = classes_in(labels)
    return [(int(c), int(cells - n)) for c, n in zip(there.codes, there.available, strict=True) if n < cells]


def _by_class(
    counts: sparse.csr_matrix, labels: np.ndarray, cells: int, make: Callable[[sparse.csr_matrix, int], tuple]
) -> Made:
    """Return what `make(cells of a class, how many)` makes for every class that lacks some."""
    parts = []
    for code, lack in _lacking(labels, cells):
        own = np.flatnonzero(labels == code)
        new, sources = make(counts[own], lack)
        parts.append(Made(new, np.full(lack, code, np.int64), own[sources]))
    return _together(parts, counts.shape[1])


def _together(parts: list[Made], num_genes: int) -> Made:
    if not parts:
        return Made(sparse.csr_matrix((0, num_genes), dtype=np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64))
    counts = sparse.vstack([part.counts for part in parts], format="csr", dtype=np.float32)
    return Made(counts, *(np.concatenate([part[field] for part in parts]) for field in (1, 2)))


def _interpolated(
    real: sparse.csr_matrix, number: int, neighbours: int, rng: np.random.Generator
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Return (`number` new cells of a class as whole counts [number, G], the cells of `real` that lent their size)."""
    from imblearn.over_sampling import SMOTE

    real, num_real = sparse.csr_matrix(real, dtype=np.float64), real.shape[0]
    sources = rng.choice(num_real, number)
    libraries = np.asarray(real.sum(axis=1)).ravel()[sources]
    if num_real == 1:
        return real[sources], sources
    sampler = SMOTE(
        sampling_strategy={0: num_real + number},
        k_neighbors=min(neighbours, num_real - 1),
        random_state=int(rng.integers(2**31)),
    )
    stranger = sparse.csr_matrix((1, real.shape[1]))  # SMOTE refuses a single class
    cells = sparse.vstack([log_normalised(real), stranger], format="csr")
    logs, _ = sampler.fit_resample(cells, np.append(np.zeros(num_real, np.int64), 1))
    return _whole_counts(sparse.csr_matrix(logs[num_real + 1 :]).expm1(), libraries, rng), sources


def _mixed_up(
    real: sparse.csr_matrix, number: int, alpha: float, rng: np.random.Generator
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Return (`number` new cells of a class as whole counts [number, G], the cells of `real` that lent their size)."""
    real, num_real = sparse.csr_matrix(real, dtype=np.float64), real.shape[0]
    sources = rng.choice(num_real, number)
    if num_real == 1:
        return real[sources], sources
    libraries = np.asarray(real.sum(axis=1)).ravel()[sources]
    logs = _between(log_normalised(real), sources, alpha, rng)
    return _whole_counts(logs.expm1(), libraries, rng), sources


def _between(logs: sparse.csr_matrix, sources: np.ndarray, alpha: float, rng: np.random.Generator) -> sparse.csr_matrix:
    """Return a point between each of the cells `sources` [m] and another of `logs`, CSR [m, G]."""
    others = (sources + rng.integers(1, logs.shape[0], len(sources))) % logs.shape[0]
    shares = rng.beta(alpha, alpha, len(sources))
    return sparse.csr_matrix(sparse.diags(shares) @ logs[sources] + sparse.diags(1 - shares) @ logs[others])


def _whole_counts(profiles: sparse.csr_matrix, libraries: np.ndarray, rng: np.random.Generator) -> sparse.csr_matrix:
    """Return whole counts: each profile scaled to its library size, a fraction is the chance of one more."""
    sums = np.asarray(profiles.sum(axis=1)).ravel()
    factors = np.divide(libraries, sums, out=np.zeros_like(sums), where=sums > 0)
    scaled = profiles.data * np.repeat(factors, np.diff(profiles.indptr))
    profiles.data = np.floor(scaled + rng.random(len(scaled)))
    profiles.eliminate_zeros()
    return profiles


def _scvi_model(counts: sparse.csr_matrix, labels: np.ndarray | None, epochs: int | None, seed: int) -> object:
    """Return an scVI model trained on `counts`: with `labels` it knows each cell's class and draws negative binomials.

    Without, it is scvi-tools' default, zero-inflated, as published; UMI counts don't need the extra zeros (Svensson
    2020, Nature Biotechnology 38, 147), which take counts away from a new cell.
    """
    scvi_tools = open_scvi("strategy scvi", seed)
    kinds = {} if labels is None else {"celltype": pd.Categorical(labels.astype(str))}
    cells = as_cells(counts, kinds)
    scvi_tools.model.SCVI.setup_anndata(cells, batch_key=None if labels is None else "celltype")
    model = scvi_tools.model.SCVI(cells, gene_likelihood="zinb" if labels is None else "nb")
    with training():
        model.train(max_epochs=epochs, accelerator="auto", devices=1, enable_progress_bar=False, logger=False)
    return model


def _decoded(model: object, sources: np.ndarray, unscaled: bool) -> sparse.csr_matrix:
    """Return one new cell for each training cell in `sources`."""
    if unscaled:
        return sparse.csr_matrix(model.get_normalized_expression(indices=sources, return_numpy=True))
    drawn = model.posterior_predictive_sample(indices=sources, n_samples=1)
    return sparse.csr_matrix(drawn.to_scipy_sparse())


smote.verify = mixup.verify = scvi.verify = _verify
