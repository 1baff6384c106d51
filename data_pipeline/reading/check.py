"""What an opened dataset holds, in numbers and doubts: for `cellskew check` and for people."""

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from data_pipeline.genes import looks_ensembl
from data_pipeline.reading.cells import Cells

QUANTILES = {"minimum": 0.0, "lower_quartile": 0.25, "median": 0.5, "upper_quartile": 0.75, "maximum": 1.0}
EXAMPLES = 10  # types named in a sentence
FEW_CELLS = 3  # a class with fewer can't be in training, validation and test


def summarise(cells: Cells) -> dict[str, Any]:
    """Return cells, genes, classes (largest first, with counts), values, density, totals per cell, warnings; JSON-able.

    density: share of the matrix that isn't zero, before cells of one name are added up; imbalance: largest class /
    smallest; largest: the largest number in the file; genes_never_seen: genes without a count in any cell of the files;
    donors, fixed_test: None, or how many; donor_cells: cells of each donor; renamed: label, new name and cells of each
    label that the table of labels renames.
    """
    counts = np.bincount(cells.labels, minlength=len(cells.classes))
    order = np.argsort(-counts, kind="stable")
    detected = np.array(cells.facts["cells_per_gene"])
    rows = cells.num_cells + cells.facts["merged"]
    donors = None if cells.donors is None else dict(Counter(cells.donors.tolist()))
    return {
        "name": cells.name,
        "files": list(cells.source.all_paths),
        "digest": cells.digest,
        **{name: cells.facts[name] for name in ("largest", "left_out", "merged", "renamed", "twins")},
        "cells": cells.num_cells,
        "genes": cells.num_genes,
        "gene_names": "Ensembl ids" if looks_ensembl(cells.genes) else "symbols",
        "genes_never_seen": int(np.count_nonzero(detected == 0)),
        "values": str(cells.source.values),
        "true_counts": cells.true_counts,
        "density": cells.facts["nonzero"] / (rows * cells.num_genes),
        "genes_per_cell": cells.facts["nonzero"] / rows,
        "totals": {name: float(np.quantile(cells.totals, at)) for name, at in QUANTILES.items()},
        "classes": {cells.classes[i]: int(counts[i]) for i in order},
        "imbalance": float(counts.max() / counts.min()),
        "donors": None if donors is None else len(donors),
        "donor_cells": donors,
        "fixed_test": None if cells.fixed_test is None else int(cells.fixed_test.sum()),
        "warnings": doubts(cells),
    }


def doubts(cells: Cells) -> list[str]:
    """Return what is no reason to refuse a dataset, but should be known before a sweep."""
    counts = np.bincount(cells.labels, minlength=len(cells.classes))
    found = list(cells.facts["warnings"])
    few = [f"{cells.classes[i]} ({counts[i]})" for i in np.flatnonzero(counts < FEW_CELLS)]
    if few:
        shown = ", ".join(few[:EXAMPLES]) + (f" and {len(few) - EXAMPLES:,} more" if len(few) > EXAMPLES else "")
        found.append(f"too few cells for training, validation and test: {shown}")
    if cells.facts["left_out"]:
        found.append(f"{cells.facts['left_out']:,} cells are left out, as the options say")
    if cells.facts["merged"]:
        found.append(f"{cells.facts['merged']:,} cells are added to others of the same name, as the options say")
    never = int(np.count_nonzero(np.array(cells.facts["cells_per_gene"]) == 0))
    if never > cells.num_genes // 2:
        found.append(f"{never:,} of {cells.num_genes:,} genes have no count in any cell")
    if cells.fixed_test is not None:
        found += _only_in_test(cells)
    if cells.donors is not None:
        found += _of_one_donor(cells)
    return found


def _of_one_donor(cells: Cells) -> list[str]:
    """Return that some types are of one donor only: no split by donors trains on them and tests them."""
    donors = pd.Series(pd.factorize(cells.donors)[0]).groupby(cells.labels).nunique()
    alone = [cells.classes[kind] for kind in donors.index[donors == 1]]
    if not alone:
        return []
    return [
        f"all cells of a type are of one donor, so a split by donors can't train and test on it: {', '.join(alone)}"
    ]


def _only_in_test(cells: Cells) -> list[str]:
    inside = set(cells.labels[~cells.fixed_test])
    only = [cells.classes[kind] for kind in sorted(set(cells.labels[cells.fixed_test]) - inside)]
    return [f"only in the test files, so never trained on: {', '.join(only)}"] if only else []
