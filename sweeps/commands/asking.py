"""`cellskew results`, `compare`, `report`: what came out of a sweep."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sweeps.commands.options import METRICS, STORAGE, AsJson, Format, Name, Storage, Uri, Where, words


def results(
    name: Name,
    by: Annotated[str, typer.Option(help="Columns to group by.")] = "dataset,skew,model,strategy,loss",
    metric: Annotated[str, typer.Option(help="Metrics to show.")] = METRICS,
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
    table = results.summarise(runs, words(by), words(metric))
    results.show(table, words(by), words(metric), "json" if as_json else format.value, results.warning(runs))


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
    columns = words(within)
    table = comparison.compare(runs, between, columns, metric, against, tie)
    form = "json" if as_json else format.value
    comparison.show(table, between, columns, metric, form, results.warning(runs))


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


def _runs(name: str, storage: Path, uri: str | None, where: str | None) -> Any:
    """Return the runs of a sweep that an expression keeps, see results.fetch."""
    from sweeps.answers import results, selection
    from sweeps.tracking.uris import of_sweep

    runs = results.fetch(of_sweep(storage, uri, name), name)
    return runs if where is None else selection.where(runs, where)
