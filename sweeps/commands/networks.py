"""`cellskew predict`, `promote`, `weights`: models used, registered, networks fetched."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data_pipeline.errors import RequestError
from sweeps.commands.asked import ask
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
    Map,
    Storage,
    Target,
    Uri,
    Where,
    advises_options,
    as_options,
    gathers,
    of_values,
    refuse_idle,
    said,
)

if TYPE_CHECKING:
    from sweeps.answers.networks.meant import Best, Meant

Totals = Annotated[
    str | None, typer.Option(help="Column of obs with counts per cell over all genes measured; `sum`: all are here.")
]
Least = Annotated[
    float,
    typer.Option(min=0, max=1, help="Cells whose highest probability is lower are unassigned; see posthoc: abstain."),
]
Runs = Annotated[list[str] | None, typer.Option(help="Id of a finished run in MLflow; again for an ensemble of them.")]
Checkpoints = Annotated[list[Path] | None, typer.Option(help="A run's folder `checkpoint`, beside or for --run.")]
Models = Annotated[list[str] | None, typer.Option(help="A promoted model, NAME or NAME/VERSION.")]
BestOf = Annotated[str | None, typer.Option("--best", help="A sweep: its best choice, trained on the first split.")]
Ensemble = Annotated[str | None, typer.Option(help="A sweep: its best choice, all trials of it together.")]
OfType = Annotated[str | None, typer.Option("--type", help="With --best, --ensemble: best for this type, by its F1.")]
By = Annotated[str | None, typer.Option("--metric", help="With --best, --ensemble: best by this metric, not macro_f1.")]
Posthoc = Annotated[
    str | None, typer.Option(help="Adjust probabilities: none, temperature, logit_adjust; default as it was chosen.")
]
Known = Annotated[str | None, typer.Option(help="Column of obs with types that are known: print a trial's metrics.")]
Embeddings = Annotated[
    Path | None, typer.Option(help="Vectors of the cells, X of an h5ad file: for a model that reads these.")
]
Level = Annotated[
    int | None, typer.Option(min=1, help="Name cells by their types at this level of the tree, 1 right below its root.")
]
TreeFile = Annotated[
    Path | None, typer.Option("--tree", help="With --level: a tree as for `tree:`; default that of the training.")
]
Obsm = Annotated[str | None, typer.Option(help="The same, a matrix in obsm; default that of the training.")]


@dataclass(frozen=True)
class _Named:
    """The models that options name. chosen: the best choice of a sweep; together: all trials of it."""

    runs: list[str]
    folders: list[Path]
    versions: list[str]
    adjustment: str | None
    best: "Callable[[Path, str | None], Best | None]"
    together: bool

    @contextmanager
    def opened(self, storage: Path, uri: str | None) -> "Iterator[list[Meant]]":
        """Give the models that are meant, those of the best choice among them; say which that is."""
        from sweeps import tables
        from sweeps.answers.networks import meant

        meant.check_adjustment(self.adjustment)
        chosen, runs, adjustment = self.best(storage, uri), list(self.runs), self.adjustment
        if chosen is not None:
            runs += chosen.runs if self.together else chosen.runs[:1]
            if adjustment is None and (self.runs or self.folders or self.versions):
                raise RequestError(
                    f"the best choice goes with posthoc {chosen.adjustment}, which need not suit the models beside it: "
                    "say what all are used with, --posthoc none, temperature or logit_adjust"
                )
            adjustment = chosen.adjustment if adjustment is None else adjustment
            tables.say(*chosen.said)
        with meant.models(runs, self.folders, self.versions, adjustment, storage, uri) as found:
            yield found


def _of_models(
    run: Runs = None,
    checkpoint: Checkpoints = None,
    model: Models = None,
    best: BestOf = None,
    ensemble: Ensemble = None,
    type: OfType = None,
    metric: By = None,
    where: Where = None,
    posthoc: Posthoc = None,
) -> _Named:
    """Return the models that these options name."""
    if best is not None and ensemble is not None:
        raise RequestError("--best takes one trial of the best choice, --ensemble all of them: give one of the two")
    together, sweep = ensemble is not None, best if ensemble is None else ensemble
    found = partial(_best, sweep, type, metric, where)
    return _Named(run or [], checkpoint or [], model or [], posthoc, found, together)


def _of_file(
    layer: Layer = None,
    values: Kind = "counts",
    base: Base = "e",
    target_sum: Target = 1e4,
    gene_names: GeneNames = None,
    duplicates: Duplicates = None,
    empty_cells: Empty = None,
    other_features: Features = None,
    totals: Totals = None,
) -> dict[str, Any]:
    """Return the options of a file, as a sweep's `datasets:` has them."""
    given = {"layer": layer, "gene_names": gene_names, "duplicates": duplicates, "empty_cells": empty_cells}
    return said(given | {"other_features": other_features, "totals": totals}) | of_values(values, base, target_sum)


@advises_options
@gathers(models=_of_models, file=_of_file)
def predict(
    data: Annotated[str, typer.Argument(help="An h5ad file with the cells to annotate.", show_default=False)],
    models: _Named,
    file: dict[str, Any],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A table to write: .parquet or .csv.")] = None,
    h5ad: Annotated[Path | None, typer.Option(help="A copy of the file to write, with columns of obs.")] = None,
    evaluate: Known = None,
    labels: Map = None,
    least: Least = 0.0,
    level: Level = None,
    tree: TreeFile = None,
    min_genes: Annotated[float, typer.Option(min=0, max=1, help="Share of the model's genes the file needs.")] = 0.5,
    embeddings: Embeddings = None,
    obsm: Obsm = None,
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
) -> None:
    """Annotate new cells with a trained model, or with several.

    Example: `cellskew predict new.h5ad --best quickstart --type CD34+ --h5ad annotated.h5ad`
    """
    from sweeps.answers.networks import predicting
    from sweeps.drive.progress import Progress, console

    if not (out or h5ad or evaluate):
        raise RequestError("say what is wanted: a table (-o TABLE.parquet), --h5ad COPY.h5ad, or --evaluate LABEL")
    renames = _renames(labels, evaluate)
    wish = predicting.Wish(file, out, h5ad, min_genes, least, evaluate, renames, embeddings, obsm, level, tree)
    with models.opened(storage, tracking_uri) as meant:
        with Progress(console()) as screen:
            found = predicting.predict(meant, data, wish, partial(screen.count, "annotating"))
        predicting.show(found, lambda doubt: as_options(doubt, set(signature(predict).parameters)))


def _renames(labels: Path | None, evaluate: str | None) -> Any:
    """Return what known types are called instead."""
    from data_pipeline.reading.labels import read_renames

    if evaluate is None:
        refuse_idle("--map brings known types to the model's names: say where they are, --evaluate LABEL", "labels")
    return () if labels is None else read_renames(labels)


def _best(
    sweep: str | None, kind: str | None, metric: str | None, where: str | None, storage: Path, uri: str | None
) -> "Best | None":
    """Return the best choice of the sweep that is named; None where none is."""
    from sweeps.answers.networks import meant

    if sweep is None:
        if kind or metric or where:
            raise RequestError("--type, --metric and --where say which choice is best: name its sweep with --best NAME")
        return None
    if sweep.endswith(".zip"):
        raise RequestError(f"{sweep}: a bundle has no trained models; name the sweep itself, where it was run")
    asked = ask(sweep, storage, uri, where, False)
    usual = "macro_f1" if kind is None else "f1"
    return meant.best(asked.runs, asked.designs, usual if metric is None else metric, kind)


def promote(
    name: Annotated[str, typer.Option(help="What the model is called in MLflow's registry.", show_default=False)],
    run_id: Annotated[str | None, typer.Argument(help="Id of a finished trial's run in MLflow.")] = None,
    best: BestOf = None,
    type: Annotated[str | None, typer.Option("--type", help="With --best: best for this type, by its F1.")] = None,
    metric: Annotated[str | None, typer.Option(help="With --best: best by this metric, not macro_f1.")] = None,
    where: Where = None,
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
) -> None:
    """Register a trained model in MLflow: what a finished run has learnt. Again: the same version.

    Example: `cellskew promote 0123456789abcdef0123456789abcdef --name pbmc-annotator`
    """
    from sweeps import tables
    from sweeps.answers.networks import promote

    if (run_id is None) == (best is None):
        raise RequestError("say which model: either the id of a run, or --best SWEEP")
    chosen = _best(best, type, metric, where, storage, tracking_uri)
    if chosen is not None:
        tables.say(*chosen.said)
        return promote.show(promote.promote(chosen.runs[0], name, storage, tracking_uri, chosen.adjustment))
    return promote.show(promote.promote(run_id, name, storage, tracking_uri))


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
        refuse_idle("--check looks at a folder: leave out the checkpoint's name and --to", "name", "to")
        from trainables.official.folder import check as looked_at

        raise typer.Exit(0 if shown.show_checked(looked_at(check), as_json) else 2)
    if name is None:
        refuse_idle("--to says where a checkpoint goes: name it, as in cellskew weights Geneformer-V1-10M", "to")
        shown.show_all(as_json)
        return
    refuse_idle("--json is for the list and for --check; a checkpoint is fetched without it", "as_json")
    from trainables.official import checkpoints, hub

    wanted = checkpoints.named(name)
    folder = Path("weights") / wanted.name if to is None else to
    hub.fetch(wanted, folder)
    shown.show_fetched(wanted, folder)
