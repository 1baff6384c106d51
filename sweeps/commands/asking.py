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
    From,
    MaybeName,
    Name,
    Storage,
    Types,
    Uri,
    Where,
    words,
)

if TYPE_CHECKING:
    from sweeps.answers.designs import Designs
    from sweeps.answers.runs.stored import Stored


def answer(
    name: Name,
    type: Types = None,
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
    usual = "f1" if type else "macro_f1"
    kinds, by = type or [None], usual if metric is None else metric
    found = [answer.answer(asked.runs, by, asked.designs, kind, budget) for kind in kinds]
    answer.show(found, "json" if as_json else "text", asked.warning)


def results(
    name: MaybeName = None,
    by: Annotated[
        str | None, typer.Option(help="Columns to group by; default: a table per skew, a row per choice.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="Metrics to show, or list; default macro_f1, balanced_accuracy, recall_tail.")
    ] = None,
    type: Types = None,
    where: Where = None,
    all: Every = False,
    format: Annotated[Format, typer.Option(help="How to print.")] = Format.table,
    as_json: AsJson = False,
    bundle: From = None,
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
) -> None:
    """Choices with mean, spread and 95 % interval over splits: the best first, ties marked, baselines below.

    Example: `cellskew results quickstart --type CD34+ --metric recall`
    """
    from sweeps.answers.celltypes import NUMBERS
    from sweeps.answers.deciding import table
    from sweeps.answers.runs import results

    asked = _asked(_named(name, bundle), storage, tracking_uri, where, all, type)
    if metric == "list":
        return print("\n".join(results.metric_names(asked.runs)))
    usual = list(NUMBERS) if type else [one for one in results.SHOWN if one in asked.runs.columns]
    listed = usual if metric is None else words(metric)
    metrics = [results.full_name(one, asked.runs, kind) for kind in type or [None] for one in listed]
    form, columns = "json" if as_json else format.value, None if by is None else words(by)
    runs = asked.by_choice if columns is None or "posthoc" in columns else asked.runs
    return table.show(runs, columns, metrics, asked.designs, form, results.warning(asked.runs))


def compare(
    name: Name,
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
    format: Annotated[Format, typer.Option(help="How to print.")] = Format.table,
    as_json: AsJson = False,
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
) -> None:
    """Paired differences on the same cells: interval, wins and losses, p values corrected for the table's tests.

    Example: `cellskew compare quickstart --between strategy --within model`
    """
    from sweeps.answers import comparison, differences

    if (between is None) != questions:
        raise RequestError("say what to compare: either --between CHOICE or --questions, which the sweep's file asks")
    asked, form = _asked(name, storage, tracking_uri, where, all, type), "json" if as_json else format.value
    if questions:
        return _answer(asked, tie, form)
    by, full = comparison.per_skew(asked.runs, between, words(within)), asked.metrics(metric, type)
    found = [comparison.compare(asked.runs, between, by, one, against, tie, asked.designs) for one in full]
    return differences.show(comparison.as_one_family(found), form, asked.warning)


def _answer(asked: "_Asked", tie: float, form: str) -> None:
    """Answer what the sweep's file asks."""
    from sweeps.answers import differences, questions

    listed = asked.runs.attrs["questions"]
    found = questions.answer(asked.runs, listed, asked.designs, tie)
    differences.show(found, form, asked.warning, [str(question) for question in listed])


def report(
    name: Name,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("report.html"),
    metric: Annotated[str, typer.Option(help="Metric of plots and comparisons.")] = "macro_f1",
    where: Where = None,
    all: Every = False,
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
) -> None:
    """Write one HTML page with a sweep's tables, plots, tests and costs, to be sent to a colleague.

    Example: `cellskew report quickstart -o quickstart.html`
    """
    from data_pipeline.atomic import publish
    from sweeps.answers.page import report
    from sweeps.answers.runs import results

    asked = _asked(name, storage, tracking_uri, where, all)
    full = results.full_name(metric, asked.runs)
    publish(out, report.report(asked.runs, name, full, asked.designs, _file(name, storage)).encode())
    print(f"{out}: open it with a browser")


@dataclass(frozen=True)
class _Asked:
    """The runs that a question is about, see results.fetch, and how sure their numbers are."""

    runs: Any
    designs: "Designs"

    def metrics(self, typed: str | None, kinds: list[str] | None) -> list[str]:
        """Return what a metric is called among the runs, of each type if there are any; None: macro F1, or F1."""
        from sweeps.answers.runs import results

        plain = typed or ("f1" if kinds else "macro_f1")
        return [results.full_name(plain, self.runs, kind) for kind in kinds or [None]]

    @property
    def by_choice(self) -> Any:
        """The runs, once as they are and once per adjustment after training."""
        from sweeps.answers.runs import choices

        return choices.unfolded(self.runs)

    @property
    def warning(self) -> str | None:
        """What must stand above a comparison of them."""
        from sweeps.answers.runs import results

        said = [one for one in (results.warning(self.runs), results.of_processors(self.runs)) if one is not None]
        return "\n".join(said) if said else None


def _named(name: str | None, bundle: Path | None) -> str:
    if (name is None) == (bundle is None):
        raise RequestError("say which sweep: its name, or a bundle that `cellskew export` wrote (--from bundle.zip)")
    return str(bundle) if name is None else name


def _file(name: str, storage: Path) -> str | None:
    """Return the sweep's file as it last ran, None where it isn't at hand."""
    path = storage / "sweeps" / f"{name}.yaml"
    return path.read_text(encoding="utf-8") if path.is_file() else None


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
    asked = _asked(name, storage, tracking_uri, None, False)
    sweep = _file(name, storage)
    page = report.report(asked.runs, name, "test_macro_f1", asked.designs, sweep)
    bundle.write(out, name, asked.runs, asked.designs.stored, sweep, page)
    print(f"{out}: `cellskew results {out}` reads it anywhere")


def _found(name: str, storage: Path, uri: str | None, every: bool) -> tuple[Any, "Stored"]:
    """Return a sweep's runs and what they left: from MLflow, or from a bundle (*.zip)."""
    from sweeps.answers import bundle
    from sweeps.answers.runs import results
    from sweeps.answers.runs.stored import Stored
    from sweeps.tracking.uris import of_sweep

    if name.endswith(".zip"):
        return bundle.read(Path(name))
    place = of_sweep(storage, uri, name)
    runs, left_out = results.choose(place, results.fetch(place, name), every)
    if left_out is not None:
        print(f"cellskew: {left_out}", file=sys.stderr)
    return runs, Stored(place)


def _asked(
    name: str, storage: Path, uri: str | None, where: str | None, every: bool, kinds: list[str] | None = None
) -> _Asked:
    """Return what the options of a question choose; those that the sweep no longer wants are counted in a line."""
    from sweeps.answers import celltypes
    from sweeps.answers.designs import Designs
    from sweeps.answers.runs import choices, selection

    runs, stored = _found(name, storage, uri, every)
    for kind in kinds or ():
        runs = celltypes.with_type(runs, kind, stored)
    if where is not None:
        runs = selection.where(choices.unfolded(runs) if "posthoc" in where else runs, where)
    return _Asked(runs, Designs(runs, stored))
