"""`cellskew init`, `check`, `datasets`: what there is to train on."""

from inspect import signature
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from data_pipeline.atomic import deliver
from data_pipeline.errors import RequestError
from sweeps.commands.options import (
    STORAGE,
    AsJson,
    Base,
    Donor,
    Duplicates,
    Empty,
    Features,
    GeneNames,
    Kind,
    Label,
    Layer,
    Map,
    Storage,
    Target,
    TestPath,
    Totals,
    Twins,
    advises_options,
    as_both,
    of_values,
    said,
)


@advises_options
def init(
    data: Annotated[str, typer.Argument(help="An h5ad file, or a dataset of the catalog.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The sweep file to write; - prints it.")] = Path(
        "sweep.yaml"
    ),
    label: Label = None,
    donor: Donor = None,
    layer: Layer = None,
    values: Kind = "counts",
    base: Base = "e",
    target_sum: Target = 1e4,
    gene_names: GeneNames = None,
    duplicates: Duplicates = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
    storage: Storage = STORAGE,
) -> None:
    """Draft a sweep file for a data file: columns, skews and baselines that suit it, each with its reason.

    Example: `cellskew init cells.h5ad -o sweep.yaml`
    """
    from sweeps.answers.data import drafting

    if str(out) != "-" and out.exists() and not force:
        raise RequestError(f"{out} is there already; choose another name with -o, or overwrite it with --force")
    given = {"label": label, "donor": donor, "layer": layer, "gene_names": gene_names, "duplicates": duplicates}
    options = said(given) | of_values(values, base, target_sum)
    text = drafting.draft(data, options, storage)
    if str(out) == "-":
        print(text, end="")
        return
    deliver(out, text.encode())
    print(f"{out}: look at it, then: cellskew plan {quote(str(out))}")


@advises_options
def check(
    data: Annotated[str, typer.Argument(help="An h5ad file, or a dataset of the catalog.", show_default=False)],
    label: Label = None,
    layer: Layer = None,
    values: Kind = "counts",
    base: Base = "e",
    target_sum: Target = 1e4,
    gene_names: GeneNames = None,
    donor: Donor = None,
    duplicates: Duplicates = None,
    empty_cells: Empty = None,
    unlabelled: Annotated[str | None, typer.Option(help="Cells without a label: drop.")] = None,
    labels: Map = None,
    twins: Twins = None,
    totals: Totals = None,
    test_path: TestPath = None,
    other_features: Features = None,
    model: Annotated[list[str] | None, typer.Option(help="Gene coverage for this model; default all.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Folder of that model's official weights.")] = None,
    as_json: AsJson = False,
    storage: Storage = STORAGE,
) -> None:
    """Look at a data file: what is in it, what is wrong with it and how to mend it, gene coverage per model.
    Exit code 2 if it, or the folder of weights, can't be used as it is.

    Example: `cellskew check cells.h5ad --label celltype --model geneformer --weights Geneformer-V1-10M`
    """
    from sweeps.answers.data import checking

    given = {"label": label, "layer": layer, "gene_names": gene_names, "donor": donor, "duplicates": duplicates}
    given |= {"empty_cells": empty_cells, "unlabelled": unlabelled, "twins": twins, "other_features": other_features}
    given |= {"labels": labels and {"map": str(labels)}, "totals": totals, "test_path": test_path}
    found = checking.check(data, said(given) | of_values(values, base, target_sum), model, weights, storage)
    raise typer.Exit(0 if checking.show(found, as_json, _for_check) else 2)


def _for_check(doubt: str) -> str:
    return as_both(doubt, set(signature(check).parameters))


def datasets(as_json: AsJson = False, storage: Storage = STORAGE) -> None:
    """The catalog of datasets, and which of them are on this machine.

    Example: `cellskew datasets --json`
    """
    from data_pipeline.reading.known import catalog
    from sweeps.answers.data import listing

    listing.show([(entry, entry.present(storage)) for entry in catalog.entries().values()], as_json)
