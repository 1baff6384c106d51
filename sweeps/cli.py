"""The command `cellskew`. Heavy imports happen inside the commands, so that --help answers at once."""

import sys
from contextlib import nullcontext
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data_pipeline.errors import RequestError

if TYPE_CHECKING:
    from sweeps.drive.outcome import Outcome
    from sweeps.file.config import SweepSpec

METRICS = "test_macro_f1,test_balanced_accuracy,test_recall_tail"
STORAGE = Path("cellskew-runs")
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Which single-cell foundation model, and which remedy, still finds the rare cell types?",
    epilog="Exit codes: 0 all good, 1 a trial failed or is left over, 2 the request is wrong.",
)
Storage = Annotated[Path, typer.Option(help="Folder for shards, checkpoints and results; every node must see it.")]
Uri = Annotated[str | None, typer.Option(help="MLflow server; default: the store kept in --storage.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Sweep = Annotated[Path, typer.Argument(help="A sweep file (YAML).", show_default=False)]
Name = Annotated[str, typer.Argument(help="Name of a sweep that was run before.", show_default=False)]
Address = Annotated[str | None, typer.Option(help="Join a running Ray cluster: auto, HOST:6379 or ray://HOST:10001.")]
Concurrent = Annotated[int | None, typer.Option(min=1, help="Most trials at once.")]
Retry = Annotated[bool, typer.Option("--retry-failed", help="Run failed trials again, from their last checkpoint.")]
Scratch = Annotated[bool, typer.Option("--from-scratch", help="Start unfinished trials over, without checkpoints.")]
Layer = Annotated[str | None, typer.Option(help='Where the counts are: a layer, or "raw"; default X.')]
Kind = Annotated[str, typer.Option(help="counts, or log1p with --base and --target-sum.")]
Base = Annotated[str, typer.Option(help="Base of the logarithm: e, 2, 10, ...")]
Target = Annotated[float, typer.Option(help="What a cell's scaled counts add up to.")]
GeneNames = Annotated[str | None, typer.Option(help="Column of var that holds the gene names.")]
Duplicates = Annotated[str | None, typer.Option(help="Cells or genes of one name: sum, first or rename.")]
Empty = Annotated[str | None, typer.Option(help="Cells without a single count: drop.")]
Where = Annotated[str | None, typer.Option(help='Only some runs: model == "scgpt" and skew != "natural"')]


class Format(StrEnum):
    """How `results` prints."""

    table = "table"
    csv = "csv"
    json = "json"


@app.command()
def run(
    sweep: Sweep,
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
    address: Address = None,
    max_concurrent: Concurrent = None,
    retry_failed: Retry = False,
    from_scratch: Scratch = False,
) -> None:
    """Run a sweep, or go on with it: what is finished stays, what is missing is trained.

    Example: `cellskew run sweeps/configs/quickstart.yaml`
    """
    from sweeps.file import config

    spec = config.load(sweep)
    _converge(spec, storage, tracking_uri, address, max_concurrent, retry_failed, from_scratch)


@app.command()
def resume(
    name: Name,
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
    address: Address = None,
    max_concurrent: Concurrent = None,
    retry_failed: Retry = False,
    from_scratch: Scratch = False,
) -> None:
    """Go on with a sweep by its name, as its file was when it last ran.

    Example: `cellskew resume quickstart --retry-failed`
    """
    from sweeps.answers.results import tracking_uri as remembered
    from sweeps.file import config
    from sweeps.tracking.uris import default_uri

    path = _stored(storage, name)
    uri = remembered(storage, tracking_uri, name)
    uri = None if uri == default_uri(storage) else uri  # the folder's own store goes where the folder goes
    _converge(config.load(path), storage, uri, address, max_concurrent, retry_failed, from_scratch)


def _stored(storage: Path, name: str) -> Path:
    from sweeps.file.plugins import unknown

    path = storage / "sweeps" / f"{name}.yaml"
    if "/" in name or not path.exists():
        known = sorted(found.stem for found in (storage / "sweeps").glob("*.yaml"))
        raise RequestError(f"{unknown('sweep', name, known)} in {storage}; choose another folder with --storage")
    return path


def _converge(
    spec: "SweepSpec",
    storage: Path,
    uri: str | None,
    address: str | None,
    most: int | None,
    retry: bool,
    scratch: bool,
) -> None:
    _check_storage(storage)
    from sweeps.drive.converge import Request, converge
    from sweeps.drive.progress import Progress, console

    request = Request(
        storage=storage.absolute(),
        tracking_uri=uri,
        address=address,
        max_concurrent=most,
        retry_failed=retry,
        from_scratch=scratch,
    )
    screen = Progress(console())
    try:
        outcome = converge(spec, request, screen)
    except KeyboardInterrupt:  # before the training, which heeds Ctrl-C itself; typer would end without a word
        print("cellskew: interrupted; run the same command again to go on", file=sys.stderr)
        raise typer.Exit(130) from None
    _conclude(spec.name, storage, uri, outcome, screen)
    if not outcome.is_complete:
        raise typer.Exit(1)


def _check_storage(storage: Path) -> None:
    if "://" in str(storage) or ":/" in str(storage):
        raise RequestError(f"--storage {storage}: give a folder that every node sees (a shared file system), not a URI")
    if storage.exists() and not storage.is_dir():
        raise RequestError(f"--storage {storage} is a file; give a folder")


def _conclude(name: str, storage: Path, uri: str | None, outcome: "Outcome", screen: Any) -> None:
    from sweeps.answers import results
    from sweeps.drive.outcome import tell

    store = results.tracking_uri(storage, uri, name)
    if not outcome.undelivered:
        results.show_final(results.fetch(store, name))
    tell(name, storage, uri, store, outcome, screen.say)


@app.command("results")
def results_command(
    name: Name,
    by: Annotated[str, typer.Option(help="Columns to group by.")] = "dataset,skew,model,strategy,loss",
    metric: Annotated[
        str, typer.Option(help="Metrics to show.")
    ] = "test_macro_f1,test_balanced_accuracy,test_recall_tail",
    where: Where = None,
    format: Annotated[Format, typer.Option(help="How to print.")] = Format.table,
    as_json: AsJson = False,
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
) -> None:
    """Mean, spread and 95 % confidence interval over seeds, from MLflow.

    Example: `cellskew results quickstart --by model,strategy --metric test_recall_tail --format csv`
    """
    from sweeps.answers import results

    runs = _runs(name, storage, tracking_uri, where)
    table = results.summarise(runs, _words(by), _words(metric))
    results.show(table, _words(by), _words(metric), "json" if as_json else format.value, results.warning(runs))


def _runs(name: str, storage: Path, uri: str | None, where: str | None) -> Any:
    """Return the runs of a sweep that an expression keeps, see results.fetch."""
    from sweeps.answers import results, selection

    runs = results.fetch(results.tracking_uri(storage, uri, name), name)
    return runs if where is None else selection.where(runs, where)


@app.command()
def compare(
    name: Name,
    between: Annotated[str, typer.Option(help="What to compare: strategy, loss, model, skew, posthoc, defects, ...")],
    within: Annotated[str, typer.Option(help="Columns that get a comparison each; all else is pooled.")] = "",
    against: Annotated[
        str | None, typer.Option(help="Compare with this one; default none, natural, cross_entropy, ...")
    ] = None,
    metric: Annotated[str, typer.Option(help="Metric to compare.")] = "test_macro_f1",
    tie: Annotated[float, typer.Option(min=0, help="Pairs that differ by no more count as ties.")] = 0.005,
    where: Where = None,
    format: Annotated[Format, typer.Option(help="How to print.")] = Format.table,
    as_json: AsJson = False,
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
) -> None:
    """Paired differences on the same cells: interval, effect size, wins and losses, corrected p values.

    Example: `cellskew compare quickstart --between strategy --within model`
    """
    from sweeps.answers import comparison, results

    runs = _runs(name, storage, tracking_uri, where)
    columns = _words(within)
    table = comparison.compare(runs, between, columns, metric, against, tie)
    form = "json" if as_json else format.value
    comparison.show(table, between, columns, metric, form, results.warning(runs))


@app.command()
def report(
    name: Name,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("report.html"),
    metric: Annotated[str, typer.Option(help="Metric of plots and comparisons.")] = "test_macro_f1",
    where: Where = None,
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
) -> None:
    """Write one HTML page with a sweep's tables, plots, tests and costs, to be sent to a colleague.

    Example: `cellskew report quickstart -o quickstart.html`
    """
    from data_pipeline.atomic import publish
    from sweeps.answers import report

    runs = _runs(name, storage, tracking_uri, where)
    publish(out, report.report(runs, name, metric, storage / "trials").encode())
    print(f"{out}: open it with a browser")


@app.command()
def promote(
    run_id: Annotated[str, typer.Argument(help="Id of a finished trial's run in MLflow.", show_default=False)],
    name: Annotated[str, typer.Option(help="What the model is called in MLflow's registry.", show_default=False)],
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
) -> None:
    """Register a trained model in MLflow: the best checkpoint of a finished run. Again: the same version.

    Example: `cellskew promote 0123456789abcdef0123456789abcdef --name pbmc-annotator`
    """
    from sweeps.answers import promote

    promote.show(promote.promote(run_id, name, storage, tracking_uri))


@app.command()
def predict(
    data: Annotated[str, typer.Argument(help="An h5ad file with the cells to annotate.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="What to write: .parquet or .csv.", show_default=False)],
    run: Annotated[str | None, typer.Option(help="Id of a finished trial's run in MLflow.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="A run's folder `checkpoint`, in place of --run.")] = None,
    layer: Layer = None,
    values: Kind = "counts",
    base: Base = "e",
    target_sum: Target = 1e4,
    gene_names: GeneNames = None,
    duplicates: Duplicates = None,
    empty_cells: Empty = None,
    min_genes: Annotated[float, typer.Option(min=0, max=1, help="Share of the model's genes the file needs.")] = 0.5,
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
) -> None:
    """Annotate new cells with a trained network.

    Example: `cellskew predict new.h5ad --run 0123456789abcdef0123456789abcdef -o annotated.parquet`
    """
    from sweeps.answers import predicting
    from sweeps.drive.progress import Progress, console

    if (run is None) == (checkpoint is None):
        raise RequestError("say which network: either --run RUN_ID or --checkpoint FOLDER")
    given = {"layer": layer, "gene_names": gene_names, "duplicates": duplicates, "empty_cells": empty_cells}
    options = {key: value for key, value in given.items() if value is not None} | _values(values, base, target_sum)
    place = nullcontext(checkpoint) if run is None else predicting.checkpoint_of(run, storage, tracking_uri)
    screen = Progress(console())
    with place as folder:
        annotating = partial(screen.count, "annotating")
        predicting.show(predicting.predict(folder, data, options, out, min_genes, annotating))


@app.command()
def status(name: Name, as_json: AsJson = False, storage: Storage = STORAGE, tracking_uri: Uri = None) -> None:
    """How far a sweep is: scheduled, running, finished, failed, the last errors, the time left.

    Example: `cellskew status quickstart`
    """
    from sweeps.answers import results, state

    runs = results.fetch(results.tracking_uri(storage, tracking_uri, name), name)
    state.show(state.summary(name, storage, runs), as_json)


@app.command()
def plan(sweep: Sweep, as_json: AsJson = False, storage: Storage = STORAGE) -> None:
    """What a sweep would do: trials, class counts per skew and strategy, disk, time. Touches nothing.

    Example: `cellskew plan sweeps/configs/quickstart.yaml`
    """
    from sweeps.drive import planning
    from sweeps.file import config

    planning.show(planning.plan(config.load(sweep, check_files=False), storage), as_json)


@app.command()
def datasets(as_json: AsJson = False, storage: Storage = STORAGE) -> None:
    """The catalog of datasets, and which of them are on this machine.

    Example: `cellskew datasets --json`
    """
    from data_pipeline.reading import catalog
    from sweeps.answers import listing

    listing.show([(entry, entry.present(storage)) for entry in catalog.entries().values()], as_json)


@app.command()
def check(
    data: Annotated[str, typer.Argument(help="An h5ad file, or a dataset of the catalog.", show_default=False)],
    label: Annotated[str | None, typer.Option(help="Column of obs that holds the cell types.")] = None,
    layer: Layer = None,
    values: Kind = "counts",
    base: Base = "e",
    target_sum: Target = 1e4,
    gene_names: GeneNames = None,
    donor: Annotated[str | None, typer.Option(help="Column of obs that holds the donor.")] = None,
    duplicates: Duplicates = None,
    empty_cells: Empty = None,
    unlabelled: Annotated[str | None, typer.Option(help="Cells without a label: drop.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Gene coverage for this model; default all.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Folder of that model's official weights.")] = None,
    as_json: AsJson = False,
    storage: Storage = STORAGE,
) -> None:
    """Look at a data file: what is in it, what is wrong with it and how to mend it, gene coverage per model.

    Example: `cellskew check cells.h5ad --label celltype --model geneformer --weights Geneformer-V1-10M`
    Exit code 2 if the file or the folder of weights can't be used as it is.
    """
    from sweeps.answers import checking

    given = {"label": label, "layer": layer, "gene_names": gene_names, "donor": donor}
    given |= {"duplicates": duplicates, "empty_cells": empty_cells, "unlabelled": unlabelled}
    entry = {key: value for key, value in given.items() if value is not None}
    entry |= _values(values, base, target_sum)
    found = checking.check(data, entry, model, weights, storage)
    checking.show(found, as_json)
    if "weights" in found and not found["weights"]["complete"]:
        raise typer.Exit(2)


def _values(kind: str, base: str, target_sum: float) -> dict[str, Any]:
    """Return the options of a file whose numbers are not counts."""
    if kind == "counts":
        return {}
    try:
        number = base if base == "e" else float(base)
    except ValueError:
        raise RequestError(f"--base {base!r} is neither e nor a number above 1") from None
    return {"values": {"kind": kind, "base": number, "target_sum": target_sum}}


def _words(listed: str) -> list[str]:
    return [word.strip() for word in listed.split(",") if word.strip()]


def main() -> None:
    """Run the command line; a wrong request ends in its problems, one a line, and exit code 2."""
    try:
        app()
    except RequestError as error:
        for problem in error.problems:
            print(f"cellskew: {problem}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
