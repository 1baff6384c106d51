"""`cellskew predict`, `promote`, `weights`: networks used, registered, fetched."""

from functools import partial
from inspect import signature
from pathlib import Path
from typing import Annotated

import typer

from sweeps.commands.options import (
    STORAGE,
    AsJson,
    Base,
    Duplicates,
    Empty,
    Features,
    GeneNames,
    Kind,
    Layer,
    Storage,
    Target,
    Uri,
    advises_options,
    as_options,
    of_values,
    said,
)

Totals = Annotated[
    str | None, typer.Option(help="Column of obs with counts per cell over all genes measured; `sum`: all are here.")
]
Least = Annotated[
    float,
    typer.Option(min=0, max=1, help="Cells whose highest probability is lower are unassigned; see posthoc: abstain."),
]
Runs = Annotated[list[str] | None, typer.Option(help="Id of a finished run in MLflow; again for an ensemble of them.")]
Checkpoints = Annotated[list[Path] | None, typer.Option(help="A run's folder `checkpoint`, beside or for --run.")]


@advises_options
def predict(
    data: Annotated[str, typer.Argument(help="An h5ad file with the cells to annotate.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="What to write: .parquet or .csv.", show_default=False)],
    run: Runs = None,
    checkpoint: Checkpoints = None,
    layer: Layer = None,
    values: Kind = "counts",
    base: Base = "e",
    target_sum: Target = 1e4,
    gene_names: GeneNames = None,
    duplicates: Duplicates = None,
    empty_cells: Empty = None,
    other_features: Features = None,
    totals: Totals = None,
    least: Least = 0.0,
    min_genes: Annotated[float, typer.Option(min=0, max=1, help="Share of the model's genes the file needs.")] = 0.5,
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
) -> None:
    """Annotate new cells with a trained network, or with several.

    Example: `cellskew predict new.h5ad --run 0123456789abcdef0123456789abcdef -o annotated.parquet`
    """
    from sweeps.answers.networks import predicting
    from sweeps.drive.progress import Progress, console

    given = {"layer": layer, "gene_names": gene_names, "duplicates": duplicates, "empty_cells": empty_cells}
    given |= {"other_features": other_features, "totals": totals}
    options = said(given) | of_values(values, base, target_sum)
    counted = partial(Progress(console()).count, "annotating")
    with predicting.checkpoints(run or [], checkpoint or [], storage, tracking_uri) as folders:
        found = predicting.predict(folders, data, options, out, min_genes, counted, least)
        predicting.show(found, lambda doubt: as_options(doubt, set(signature(predict).parameters)))


def promote(
    run_id: Annotated[str, typer.Argument(help="Id of a finished trial's run in MLflow.", show_default=False)],
    name: Annotated[str, typer.Option(help="What the model is called in MLflow's registry.", show_default=False)],
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
) -> None:
    """Register a trained model in MLflow: the best checkpoint of a finished run. Again: the same version.

    Example: `cellskew promote 0123456789abcdef0123456789abcdef --name pbmc-annotator`
    """
    from sweeps.answers.networks import promote

    promote.show(promote.promote(run_id, name, storage, tracking_uri))


def weights(
    name: Annotated[str | None, typer.Argument(help="An official checkpoint to fetch.", show_default=False)] = None,
    to: Annotated[Path | None, typer.Option(help="The folder it goes to; default weights/NAME.")] = None,
    check: Annotated[Path | None, typer.Option(help="Look at a folder of weights instead.")] = None,
    as_json: AsJson = False,
) -> None:
    """Official checkpoints: which there are; fetch one (HF_ENDPOINT names another hub); look at a folder of them.
    Exit code 2 if a folder that is looked at can't be used as it is.

    Example: `cellskew weights Geneformer-V1-10M`
    """
    from sweeps.answers.networks import shelf as shown

    if check is not None:
        from trainables.official.folder import check as looked_at

        raise typer.Exit(0 if shown.show_checked(looked_at(check), as_json) else 2)
    if name is None:
        shown.show_all(as_json)
        return
    from trainables.official import checkpoints, hub

    wanted = checkpoints.named(name)
    folder = Path("weights") / wanted.name if to is None else to
    hub.fetch(wanted, folder)
    shown.show_fetched(wanted, folder)
