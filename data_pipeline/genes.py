"""Genes: symbols and Ensembl ids against a vocabulary, and the choice of highly variable ones on training cells."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from data_pipeline.errors import RequestError
from data_pipeline.normalise import row_sums

THETA = 100.0  # overdispersion of the negative binomial, as scanpy has it
DEPTHS = 2048  # different totals per cell told apart; more are taken in groups
CHUNK = 64  # totals worked on at once
ENSEMBL = re.compile(r"^ENS[A-Z]*G\d{11}(\.\d+)?$")


def strip_version(name: str) -> str:
    """Return an Ensembl id without its version ("ENSG00000141510.16" -> "ENSG00000141510"); other names unchanged."""
    return name.split(".")[0] if ENSEMBL.match(name) else name


def looks_ensembl(genes: Sequence[str]) -> bool:
    """Return whether most names are Ensembl gene ids (with or without version)."""
    sample = list(genes[:1000])
    return bool(sample) and sum(bool(ENSEMBL.match(name)) for name in sample) > len(sample) / 2


def coverage(genes: Sequence[str], places: np.ndarray, least: float, vocabulary: str) -> dict[str, Any]:
    """Return how much of a gene list a vocabulary knows; places: int64 [G], each one's gene there, -1: none.

    genes: how many; known: how many; share (0..1); unknown: the first ten; added_up: how many stand for the gene of
    another and are added to it; together: the first five such groups. RequestError where none, or less than the share
    `least`, is known: other species or other names give a model next to nothing to read, and no error.
    """
    known = places >= 0
    number = int(known.sum())
    share = number / len(genes) if len(genes) else 0.0
    if share < least or not number:
        shown = ", ".join(genes[:3])
        raise RequestError(
            f"only {number} of {len(genes)} genes ({share:.0%}; {shown}, ...) are in {vocabulary}, {least:.0%} are "
            "needed; name the column that has them (gene_names:), or lower min_coverage"
        )
    unknown = [gene for gene, is_known in zip(genes, known, strict=True) if not is_known]
    found = {"genes": len(genes), "known": number, "share": share, "unknown": unknown[:10]}
    groups = _together(genes, places)
    return found | {"added_up": sum(map(len, groups)) - len(groups), "together": groups[:5]}


def _together(genes: Sequence[str], places: np.ndarray) -> list[list[str]]:
    """Return the names that stand for one gene, for each gene that has several."""
    repeated = np.flatnonzero(np.bincount(places[places >= 0]) > 1)
    groups: dict[int, list[str]] = {place: [] for place in repeated.tolist()}
    for column in np.flatnonzero(np.isin(places, repeated)):
        groups[int(places[column])].append(genes[column])
    return list(groups.values())


def numbered(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (each column's gene as a number from 0 on by first appearance, -1: none; the place of each such gene)."""
    there, first, which = np.unique(places[places >= 0], return_index=True, return_inverse=True)
    order = np.argsort(first)
    numbers = np.full(len(places), -1, np.int64)
    numbers[places >= 0] = np.argsort(order)[which]
    return numbers, there[order]


def chooser(wanted: Sequence[str], genes: Sequence[str]) -> sparse.csr_matrix:
    """Return the matrix [len(genes), len(wanted)] that brings counts to the genes wanted; those not there stay 0.

    Ensembl ids are the same whatever their version: where the very name isn't there, columns of one id are added up.
    """
    exact: dict[str, list[int]] = {}
    alike: dict[str, list[int]] = {}
    for column, gene in enumerate(genes):
        exact.setdefault(gene, []).append(column)
        alike.setdefault(strip_version(gene), []).append(column)
    found = [exact.get(gene) or alike.get(strip_version(gene), []) for gene in wanted]
    places = np.repeat(np.arange(len(wanted)), [len(columns) for columns in found])
    columns = np.array([column for columns in found for column in columns], dtype=np.int64)
    return sparse.csr_matrix((np.ones(len(columns), np.float32), (columns, places)), shape=(len(genes), len(wanted)))


Blocks = Callable[[], Iterable[sparse.csr_matrix]]


def select_hvg(blocks: Blocks, num_genes: int, n: int, *, true_counts: bool = True) -> np.ndarray:
    """Return the columns of the n most variable genes, int64 [n], sorted; ties go to the lower column.

    blocks: a function that returns the counts of the training cells, block by block; it is called twice, and no more
    than a block is held. Variable: large variance of analytic Pearson residuals (Lause et al. 2021, Genome Biology 22,
    258; scanpy's flavour "pearson_residuals"), which keeps markers of rare types better than binned dispersions do.
    Without true_counts (counts per 10,000 undone from logarithms) each cell is first brought back near its counts.
    """
    if n >= num_genes:
        return np.arange(num_genes, dtype=np.int64)
    scores = residual_variances(blocks if true_counts else lambda: map(per_smallest, blocks()), num_genes)
    return np.sort(np.argsort(-np.round(scores, 9), kind="stable")[:n]).astype(np.int64)


def per_smallest(block: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return the block with each cell's values divided by its smallest one, which stands for a single count."""
    lengths = np.diff(block.indptr)
    least = np.ones(block.shape[0])
    least[lengths > 0] = np.minimum.reduceat(block.data, block.indptr[:-1][lengths > 0]) if block.nnz else 1
    data = (block.data / np.repeat(least, lengths)).astype(np.float32)
    return sparse.csr_matrix((data, block.indices, block.indptr), shape=block.shape)


def residual_variances(blocks: Blocks, num_genes: int) -> np.ndarray:
    """Return the variance over cells of each gene's Pearson residuals, float64 [G]; -1 for genes without a count.

    z = (x - mu) / sqrt(mu + mu^2 / theta), mu = total of the cell x share of the gene, cut to +-sqrt(cells). The zeros,
    most of the matrix, depend on the total alone: they are summed over totals, then corrected where counts are.
    """
    share_G, totals = _shares(blocks, num_genes)
    if not len(totals) or not share_G.any():
        return np.full(num_genes, -1.0)
    limit = np.sqrt(len(totals))
    first_G, second_G = _zeros_everywhere(share_G, totals, limit)
    start = 0
    for block in blocks():
        mean = np.repeat(totals[start : start + block.shape[0]], np.diff(block.indptr)) * share_G[block.indices]
        here, zero = _residuals(block.data, mean, limit), _residuals(0.0, mean, limit)
        first_G += np.bincount(block.indices, here - zero, num_genes)
        second_G += np.bincount(block.indices, here**2 - zero**2, num_genes)
        start += block.shape[0]
    variances = second_G / len(totals) - (first_G / len(totals)) ** 2
    return np.where(share_G > 0, variances, -1.0)


def _shares(blocks: Blocks, num_genes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (each gene's share of all counts, float64 [G]; counts per cell, float64 [n])."""
    sums, totals = np.zeros(num_genes), [np.zeros(0)]
    for block in blocks():
        sums += np.bincount(block.indices, block.data, num_genes)
        totals.append(row_sums(block))
    return sums / max(sums.sum(), 1.0), np.concatenate(totals)


def _zeros_everywhere(share_G: np.ndarray, totals: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums over all cells of z and of z^2, were all counts zero; float64 [G] each."""
    depths, cells = np.unique(totals, return_counts=True)
    if len(depths) > DEPTHS:
        group = np.arange(len(depths)) * DEPTHS // len(depths)
        grouped = np.bincount(group, cells)
        depths, cells = np.bincount(group, depths * cells) / grouped, grouped
    first_G, second_G = np.zeros(len(share_G)), np.zeros(len(share_G))
    for start in range(0, len(depths), CHUNK):
        z_DG = _residuals(0.0, depths[start : start + CHUNK, None] * share_G, limit)
        first_G += cells[start : start + CHUNK] @ z_DG
        second_G += cells[start : start + CHUNK] @ z_DG**2
    return first_G, second_G


def _residuals(counts: np.ndarray | float, mean: np.ndarray, limit: float) -> np.ndarray:
    spread = np.sqrt(mean + mean**2 / THETA)
    z = np.divide(counts - mean, spread, out=np.zeros_like(mean), where=spread > 0)
    return np.clip(z, -limit, limit)
