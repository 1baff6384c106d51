"""`cellskew check`: what a data file holds, what is doubtful about it, and how well each model knows its genes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from data_pipeline.errors import RequestError
from data_pipeline.reading.check import summarise
from data_pipeline.reading.h5ad import open_cells
from data_pipeline.reading.known import catalog
from sweeps import tables
from sweeps.file.plugins import unknown
from trainables import spec as registry
from trainables import vocabulary


def check(
    data: str, options: dict[str, Any], models: list[str] | None, weights: Path | None, storage: Path
) -> dict[str, Any]:
    """Return check.summarise's facts, `coverage`: model -> genes known, and, of a weights folder, weights.describe.

    RequestError if the file is refused.
    """
    problems = [unknown("model", name, registry.names()) for name in models or [] if name not in registry.names()]
    if weights is not None and (models is None or len(models) != 1):
        problems.append("--weights belong to one model; name it with --model")
    elif weights is not None and not problems and not _looks_at_genes(models[0]):
        problems.append(f"--weights: {models[0]} has none; it is fitted to your cells")
    if weights is not None and not weights.is_dir():
        problems.append(f"--weights {weights}: there is no such folder")
    if problems:
        raise RequestError(*problems)
    is_listed = data in catalog.entries() and not Path(data).exists()
    entry = {("name" if is_listed else "path"): data, **options}
    cells = open_cells(catalog.resolve(entry, storage))
    found = summarise(cells)
    chosen = models if models is not None else [name for name in registry.names() if _looks_at_genes(name)]
    found["coverage"] = {name: vocabulary.coverage(name, cells.genes, weights) for name in chosen}
    if weights is not None:
        from trainables.weights import describe

        found["weights"] = describe(chosen[0], weights, cells.genes)
    return found


def _looks_at_genes(name: str) -> bool:
    return bool(registry.get(name).files)


def show(found: dict[str, Any], as_json: bool, advice: Callable[[str], str] = str) -> bool:
    """Print what check found; return whether the file, and the weights if there are any, can be used.

    advice: a doubt as whoever reads it is to be told of the way out.
    """
    usable = found.get("weights", {"complete": True})["complete"]
    if as_json:
        tables.print_json(found)
        return usable
    _numbers(found)
    _renamed(found["renamed"])
    _donors(found["donor_cells"])
    _genes(found["coverage"])
    usual = {name: genes for name, genes in found["coverage"].items() if "problem" not in genes}
    known = [doubt for name, genes in usual.items() for doubt in vocabulary.doubts(name, genes)]
    for doubt in [*known, *found["warnings"]]:
        tables.console().print(f"note: {advice(doubt)}")
    if "weights" in found:
        _weights(found["weights"])
    print("the file can be used" if usable else "")
    return usable


def _numbers(found: dict[str, Any]) -> None:
    tables.headed(found["name"], f": {found['cells']:,} cells x {found['genes']:,} genes ({found['gene_names']})")
    print(
        f"values: {found['values']}, {found['density']:.1%} not zero, {found['genes_per_cell']:,.0f} genes per cell; "
        f"{_totals(found)}"
    )
    if found["fixed_test"] is not None:
        print(f"test files: {found['fixed_test']:,} of the cells, never trained on")
    print(f"largest type / smallest: {found['imbalance']:.1f}")
    tables.draw(pd.DataFrame({"type": found["classes"].keys(), "cells": found["classes"].values()}))


def _totals(found: dict[str, Any]) -> str:
    """Return how many counts cells have, which logarithms of scaled counts don't tell."""
    totals = found["totals"]
    if not found["true_counts"] and totals["minimum"] == totals["maximum"]:
        return f"each cell scaled to {totals['median']:,.0f} counts, its own number is lost"
    return f"counts per cell {totals['minimum']:,.0f} to {totals['maximum']:,.0f}, median {totals['median']:,.0f}"


def _donors(cells: dict[str, int] | None) -> None:
    if cells is not None:
        print(f"donors: {len(cells):,}, with {min(cells.values()):,} to {max(cells.values()):,} cells each")


def _genes(coverage: dict[str, dict[str, Any]]) -> None:
    """Print how many of the genes each model knows; why it can't be told is said with its weights."""
    out = tables.console()
    for name, genes in coverage.items():
        if genes["weights"] is None:
            out.print(
                f"{name}: from scratch, knows all genes (give --model {name} --weights DIR for pretrained weights)"
            )
        elif "problem" not in genes:
            out.print(f"{name}: knows {genes['known']:,} of {genes['genes']:,} genes ({genes['share']:.1%})")


def _renamed(found: list[list[Any]]) -> None:
    """Print what became of labels by the table of `--map`."""
    if not found:
        return
    rows = [(label, name if name else "(left out)", cells) for label, name, cells in found]
    print()
    tables.draw(pd.DataFrame(rows, columns=["label", "becomes", "cells"]))


def _weights(found: dict[str, Any]) -> None:
    """Print what a weights folder lacks and what else is wrong with it, or what of it would be newly initialised."""
    from trainables.weights import missing_file

    out = tables.console()
    for name, where in found["missing"].items():
        out.print(missing_file(found["weights"], name, where))
    for problem in found["problems"]:
        out.print(problem)
    if found["complete"]:
        fresh = found["fresh"]
        rows = [name for name in fresh if name.endswith("]")]  # of a table: tokens that the vocabulary lacks
        modules = ", ".join([*dict.fromkeys(name.rpartition(".")[0] for name in fresh if name not in rows), *rows])
        out.print(
            f"{found['weights']}: complete; newly initialised: {modules} ({len(fresh)} parameters, learnt from your "
            "cells)",
        )
    else:
        out.print(f"{found['weights']}: can't be used as it is", style="bold red")
