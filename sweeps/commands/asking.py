"""`cellskew results`, `compare`, `report`: what came out of a sweep."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data_pipeline.errors import RequestError
from sweeps.commands.options import (
    STORAGE,
    Against,
    AsJson,
    Between,
    Every,
    Format,
    Name,
    Storage,
    Type,
    Uri,
    Where,
    words,
)

if TYPE_CHECKING:
    from sweeps.answers.designs import Designs


def answer(
    name: Name,
    type: Type = None,
    metric: Annotated[str | None, typer.Option(help="Metric to choose by; default macro_f1, or f1 of --type.")] = None,
    budget: Annotated[
        float | None, typer.Option(min=0, help="GPU-hours that one training may take; dearer choices are left out.")
    ] = None,
    where: Where = None,
    all: Every = False,
    as_json: AsJson = False,
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
) -> None:
    """Which choice is best, what ties with it, how sure that is, what it costs, and what can't be said.

    Example: `cellskew answer quickstart --type CD34+`
    """
    from sweeps.answers.deciding import answer

    asked = _asked(name, storage, tracking_uri, where, all)
    usual = "macro_f1" if type is None else "f1"
    found = answer.answer(asked.runs, usual if metric is None else metric, asked.designs, type, budget)
    answer.show(found, "json" if as_json else "text", asked.warning)


def results(
    name: Name,
    by: Annotated[str, typer.Option(help="Columns to group by.")] = "dataset,skew,model,strategy,loss",
    metric: Annotated[
        str | None, typer.Option(help="Metrics to show; default macro_f1, balanced_accuracy, recall_tail.")
    ] = None,
    type: Type = None,
    where: Where = None,
    all: Every = False,
    format: Annotated[Format, typer.Option(help="How to print.")] = Format.table,
    as_json: AsJson = False,
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
) -> None:
    """Mean, spread and 95 % confidence interval over splits, from MLflow.

    Example: `cellskew results quickstart --by model,strategy --metric recall_tail --format csv`
    """
    from sweeps.answers import summary
    from sweeps.answers.celltypes import NUMBERS
    from sweeps.answers.runs import results

    asked = _asked(name, storage, tracking_uri, where, all, type)
    usual = [one for one in results.SHOWN if one in asked.runs.columns] if type is None else list(NUMBERS)
    listed = usual if metric is None else words(metric)
    metrics = [results.full_name(one, asked.runs, type) for one in listed]
    table = summary.summarise(asked.runs, words(by), metrics, asked.designs)
    form = "json" if as_json else format.value
    summary.show(table, metrics, asked.runs, asked.designs, form, results.warning(asked.runs))


def compare(
    name: Name,
    between: Between = None,
    within: Annotated[
        str, typer.Option(help="Columns that get a comparison each, beside the skew; all else is pooled.")
    ] = "",
    against: Against = None,
    metric: Annotated[str, typer.Option(help="Metric to compare.")] = "test_macro_f1",
    type: Type = None,
    tie: Annotated[float, typer.Option(min=0, help="Pairs that differ by no more count as ties.")] = 0.005,
    questions: Annotated[bool, typer.Option("--questions", help="What the sweep's file asks, as one family.")] = False,
    where: Where = None,
    all: Every = False,
    format: Annotated[Format, typer.Option(help="How to print.")] = Format.table,
    as_json: AsJson = False,
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
) -> None:
    """Paired differences on the same cells: interval, wins and losses, p values corrected for the table's tests.

    Example: `cellskew compare quickstart --between strategy --within model`
    """
    from sweeps.answers import comparison, differences
    from sweeps.answers.runs import results

    if (between is None) != questions:
        raise RequestError("say what to compare: either --between CHOICE or --questions, which the sweep's file asks")
    asked, form = _asked(name, storage, tracking_uri, where, all, type), "json" if as_json else format.value
    if questions:
        return _answer(asked, tie, form)
    full = results.full_name(metric, asked.runs, type)
    by = comparison.per_skew(asked.runs, between, words(within))
    found = comparison.compare(asked.runs, between, by, full, against, tie, asked.designs)
    return differences.show(found, form, asked.warning)


def _answer(asked: "_Asked", tie: float, form: str) -> None:
    """Answer what the sweep's file asks."""
    from sweeps.answers import questions

    listed = asked.runs.attrs["questions"]
    questions.show(listed, questions.answer(asked.runs, listed, asked.designs, tie), form, asked.warning)


def report(
    name: Name,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("report.html"),
    metric: Annotated[str, typer.Option(help="Metric of plots and comparisons.")] = "test_macro_f1",
    where: Where = None,
    all: Every = False,
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
) -> None:
    """Write one HTML page with a sweep's tables, plots, tests and costs, to be sent to a colleague.

    Example: `cellskew report quickstart -o quickstart.html`
    """
    from data_pipeline.atomic import publish
    from sweeps.answers import report
    from sweeps.answers.runs import results

    asked = _asked(name, storage, tracking_uri, where, all)
    full = results.full_name(metric, asked.runs)
    publish(out, report.report(asked.runs, name, full, asked.designs).encode())
    print(f"{out}: open it with a browser")


@dataclass(frozen=True)
class _Asked:
    """The runs that a question is about, see results.fetch, and how sure their numbers are."""

    runs: Any
    designs: "Designs"

    @property
    def warning(self) -> str | None:
        """What must stand above a comparison of them."""
        from sweeps.answers.runs import results

        said = [one for one in (results.warning(self.runs), results.of_processors(self.runs)) if one is not None]
        return "\n".join(said) if said else None


def _asked(
    name: str, storage: Path, uri: str | None, where: str | None, every: bool, kind: str | None = None
) -> _Asked:
    """Return what the options of a question choose; those that the sweep no longer wants are counted in a line."""
    from sweeps.answers import celltypes
    from sweeps.answers.designs import Designs
    from sweeps.answers.runs import results, selection
    from sweeps.answers.runs.stored import Stored
    from sweeps.tracking.uris import of_sweep

    place = of_sweep(storage, uri, name)
    runs, left_out = results.choose(place, results.fetch(place, name), every)
    if left_out is not None:
        print(f"cellskew: {left_out}", file=sys.stderr)
    stored = Stored(place)
    runs = runs if where is None else selection.where(runs, where)
    runs = runs if kind is None else celltypes.with_type(runs, kind, stored)
    return _Asked(runs, Designs(runs, stored))
