"""`cellskew results`, `compare`, `report`: what came out of a sweep."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data_pipeline.errors import RequestError
from sweeps.commands.asked import Asked, ask, file_of, sweeps_of, title_of
from sweeps.commands.options import (
    STORAGE,
    Against,
    Between,
    By,
    Every,
    Name,
    Page,
    Printed,
    Settings,
    Storage,
    Types,
    Uri,
    Where,
    gathers,
    printed_as,
    refuse_idle,
    words,
)

if TYPE_CHECKING:
    from sweeps.tracking.about import Place


@gathers(name=sweeps_of, printed=printed_as)
def results(
    name: list[str],
    printed: Printed,
    by: By = None,
    metric: Annotated[
        str | None, typer.Option(help="Metrics to show, or list; default macro_f1, balanced_accuracy, recall_tail.")
    ] = None,
    type: Types = None,
    where: Where = None,
    all: Every = False,
    all_settings: Settings = False,
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
) -> None:
    """Choices with mean, spread and 95 % interval over splits: the best first, ties marked, baselines below.

    Example: `cellskew results quickstart --type CD34+ --metric recall`
    """
    from sweeps import tables
    from sweeps.answers.celltypes import NUMBERS
    from sweeps.answers.deciding import table
    from sweeps.answers.runs import results

    asked = ask(name, storage, tracking_uri, where, all, type, all_settings)
    if metric == "list":
        _print_names(results.metric_names(asked.runs))
        return
    usual = list(NUMBERS) if type else [one for one in results.SHOWN if one in asked.runs.columns]
    listed = usual if metric is None else words(metric)
    metrics = [results.full_name(one, asked.runs, kind) for kind in type or [None] for one in listed]
    runs = asked.by_choice if by is None or "posthoc" in words(by) else asked.runs
    with tables.into(printed.out):
        table.show(runs, by and words(by), metrics, asked.designs, printed.form, asked.caution)
        _chance(asked, printed.form)


def _print_names(names: list[str]) -> None:
    refuse_idle("--metric list prints names alone: leave the other options out", "by", "format", "as_json", "out")
    print("\n".join(names))


def _chance(asked: Asked, form: str) -> None:
    """Print below a table what models reach by chance, where the sweep has controls."""
    from sweeps import tables
    from sweeps.answers.runs import controls

    if form == "table":
        tables.say(*controls.sentences(asked.runs))


@gathers(name=sweeps_of, printed=printed_as)
def compare(
    name: list[str],
    printed: Printed,
    between: Between = None,
    within: Annotated[
        str, typer.Option(help="Columns that get a comparison each, beside the skew; all else is pooled.")
    ] = "",
    against: Against = None,
    metric: Annotated[str | None, typer.Option(help="Metric to compare; default macro_f1, or f1 of --type.")] = None,
    type: Types = None,
    tie: Annotated[float, typer.Option(min=0, help="Pairs that differ by no more count as ties.")] = 0.005,
    questions: Annotated[bool, typer.Option("--questions", help="What the sweep's file asks, as one family.")] = False,
    where: Where = None,
    all: Every = False,
    all_settings: Settings = False,
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
) -> None:
    """Paired differences on the same cells: interval, wins and losses, p values corrected for the table's tests.

    Example: `cellskew compare quickstart --between strategy --within model`
    """
    from sweeps import tables
    from sweeps.answers import comparison, differences

    _check_compared(between, questions)
    asked = ask(name, storage, tracking_uri, where, all, type, all_settings)
    if questions:
        return _answer(asked, tie, printed)
    by, full = comparison.per_skew(asked.runs, between, words(within)), asked.metrics(metric, type)
    found = [comparison.compare(asked.runs, between, by, one, against, tie, asked.designs) for one in full]
    with tables.into(printed.out):
        return differences.show(comparison.as_one_family(found), printed.form, asked.warning)


def _check_compared(between: str | None, questions: bool) -> None:
    if (between is None) != questions:
        raise RequestError("say what to compare: either --between CHOICE or --questions, which the sweep's file asks")
    if questions:
        why = "--questions asks what the sweep's file says: write --within, --against, --metric and --type there"
        refuse_idle(why, "within", "against", "metric", "type")


def _answer(asked: Asked, tie: float, printed: Printed) -> None:
    """Answer what the sweep's file asks."""
    from sweeps import tables
    from sweeps.answers import differences, questions

    listed = asked.runs.attrs["questions"]
    found = questions.answer(asked.runs, listed, asked.designs, tie)
    with tables.into(printed.out):
        differences.show(found, printed.form, asked.warning, [str(question) for question in listed])


@gathers(name=sweeps_of)
def report(
    name: list[str],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page to write; default report.html, or report.pdf.")
    ] = None,
    metric: Annotated[str, typer.Option(help="Metric of plots and comparisons.")] = "macro_f1",
    format: Annotated[Page | None, typer.Option(help="Default: what --out ends in, else html.")] = None,
    figures: Annotated[Path | None, typer.Option(help="A folder for the figures as SVG files.")] = None,
    png: Annotated[bool, typer.Option("--png", help="With --figures: as PNG too, by Chromium.")] = False,
    where: Where = None,
    all: Every = False,
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
) -> None:
    """Write one HTML page with a sweep's tables, plots, tests and costs, to be sent to a colleague.

    Example: `cellskew report quickstart -o quickstart.html`
    """
    from data_pipeline.atomic import deliver
    from sweeps.answers.page import copies, report
    from sweeps.answers.runs import results

    if png and figures is None:
        raise RequestError("--png makes figures into PNG files: name their folder, --figures FOLDER")
    is_pdf = format == Page.pdf if format is not None else out is not None and out.suffix == ".pdf"
    out = Path("report.pdf" if is_pdf else "report.html") if out is None else out
    asked = ask(name, storage, tracking_uri, where, all)
    full, title = results.full_name(metric, asked.runs), " ".join(map(title_of, name))
    about = file_of(name, storage), asked.said, _place(asked.runs, name)
    page = report.report(asked.runs, title, full, asked.designs, *about)
    deliver(out, copies.pdf(page) if is_pdf else page.encode())
    print(f"{out}: {'A4, to be read or printed' if is_pdf else 'open it with a browser'}")
    if figures is not None:
        print(copies.write_pictures(page, figures, png))


def _place(runs: Any, names: list[str]) -> "Place | None":
    """Return where MLflow shows a sweep's runs; None for several sweeps, a bundle, and where MLflow doesn't answer.

    As a database does that is read straight and is of another version of MLflow: a page without links is one.
    """
    if (uri := runs.attrs.get("uri")) is None or len(names) != 1:
        return None
    from sweeps.tracking import about

    try:
        return about.place_of(uri, names[0])
    except RequestError:
        return None


def export(
    name: Name,
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle to write, a .zip file.")] = Path("bundle.zip"),
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
) -> None:
    """One file for a paper's supplement: sweep file, tables, versions, digests, report, and how to redo it.

    Example: `cellskew export quickstart -o quickstart.zip`
    """
    from sweeps.answers import bundle
    from sweeps.answers.page import report

    if out.suffix != ".zip":
        raise RequestError(f"--out {out}: a bundle's name ends in .zip")
    asked = ask(name, storage, tracking_uri, None, False)
    sweep = file_of(name, storage)
    page = report.report(asked.runs, name, "test_macro_f1", asked.designs, sweep)
    bundle.write(out, name, asked.runs, asked.designs.stored, sweep, page)
    print(f"{out}: `cellskew results {out}` reads it anywhere")
