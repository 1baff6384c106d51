"""Options that several commands have."""

import functools
import inspect
import re
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from data_pipeline.errors import RequestError

STORAGE = Path("cellskew-runs")
_GIVEN: ContextVar[frozenset[str]] = ContextVar("given", default=frozenset())  # names, of the command that runs
ADVICE = re.compile(r"`(\w+):(?: ([^`]*))?`")  # as a sweep file has it
Storage = Annotated[Path, typer.Option(help="Folder for shards, checkpoints and results; every node must see it.")]
Shared = Annotated[
    str | None,
    typer.Option(
        help="s3://BUCKET/FOLDER: where nodes that share no folder find one another's files; --storage is then each "
        "node's own folder."
    ),
]
Uri = Annotated[
    str | None,
    typer.Option(help="MLflow server; default: as before, else MLFLOW_TRACKING_URI, else a store in --storage."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Sweep = Annotated[Path, typer.Argument(help="A sweep file (YAML).", show_default=False)]
Name = Annotated[str, typer.Argument(help="Name of a sweep that was run before.", show_default=False)]
MaybeNames = Annotated[
    list[str] | None,
    typer.Argument(help="A sweep that was run before, or a bundle (*.zip); several are one table.", show_default=False),
]
From = Annotated[Path | None, typer.Option("--from", help="A bundle that `cellskew export` wrote; needs no MLflow.")]
Address = Annotated[
    str | None,
    typer.Option(help="Join a running Ray cluster, from one of its nodes: auto or HOST:6379; default RAY_ADDRESS."),
]
Concurrent = Annotated[int | None, typer.Option(min=1, help="Most trials at once.")]
Retry = Annotated[bool, typer.Option("--retry-failed", help="Run failed trials again, from their last checkpoint.")]
Scratch = Annotated[bool, typer.Option("--from-scratch", help="Start unfinished trials over, without checkpoints.")]
MaxFailed = Annotated[
    int | None, typer.Option(min=1, help="Stop once so many trials have failed; running ones save their round.")
]
Budget = Annotated[
    str | None,
    typer.Option(help='Start no trial once so much is used, let running ones save: "40 gpu-hours", "12 hours".'),
]
OnEnd = Annotated[
    str | None,
    typer.Option(help="Shell command at the end; CELLSKEW_SWEEP, _EXIT and _SAID are in its environment."),
]
Nodes = Annotated[int, typer.Option(min=1, help="With --gpus: nodes of the cluster to plan for.")]
Gpus = Annotated[int | None, typer.Option(min=0, help="Plan for a cluster: GPUs of each node.")]
GpuMemory = Annotated[float, typer.Option(min=1, help="With --gpus: gigabytes of each GPU.")]
Cpus = Annotated[int | None, typer.Option(min=1, help="With --gpus: CPUs of each node; default 12 per GPU.")]
Price = Annotated[float | None, typer.Option(min=0, help="With --gpus: price of a GPU-hour.")]
Label = Annotated[str | None, typer.Option(help="Column of obs that holds the cell types.")]
Donor = Annotated[str | None, typer.Option(help="Column of obs that holds the donor.")]
Move = Annotated[bool, typer.Option("--move-tracking", help="Go on in the store that --tracking-uri names.")]
Layer = Annotated[str | None, typer.Option(help='Where the counts are: a layer, or "raw"; default X.')]
Kind = Annotated[str, typer.Option(help="counts, or log1p with --base and --target-sum.")]
Base = Annotated[str, typer.Option(help="Base of the logarithm: e, 2, 10, ...")]
Target = Annotated[float, typer.Option(help="What a cell's scaled counts add up to.")]
GeneNames = Annotated[str | None, typer.Option(help="Column of var that holds the gene names.")]
Duplicates = Annotated[str | None, typer.Option(help="Cells or genes of one name: sum, first or rename.")]
Empty = Annotated[str | None, typer.Option(help="Cells without a single count: drop.")]
Twins = Annotated[
    str | None,
    typer.Option(
        help="Cells with the counts of another: together (in one part of a split, the default), drop, ignore."
    ),
]
Features = Annotated[
    str | None, typer.Option("--other-features", help="Antibodies, peaks and other features that are no genes: drop.")
]
Totals = Annotated[str | None, typer.Option(help="Column of obs with a cell's counts over all genes measured.")]
TestPath = Annotated[list[str] | None, typer.Option(help="An h5ad file whose cells are the test set; may be repeated.")]
Map = Annotated[
    Path | None, typer.Option("--map", help="Table of two columns, label and new name; an empty one leaves cells out.")
]
Where = Annotated[str | None, typer.Option(help='Only some runs: model == "scgpt" and skew != "natural"')]

Every = Annotated[bool, typer.Option("--all", help="Also runs of trials that the sweep's file no longer has.")]
By = Annotated[str | None, typer.Option(help="Columns to group by; default: a table per skew, a row per choice.")]
Settings = Annotated[bool, typer.Option("--all-settings", help="All settings of what is tuned, not the chosen.")]
Between = Annotated[
    str | None, typer.Option(help="What to compare: strategy, loss, model, skew, posthoc, defects, ...")
]
Against = Annotated[str | None, typer.Option(help="Compare with this one; default none, natural, cross_entropy, ...")]
Types = Annotated[
    list[str] | None, typer.Option("--type", help="One cell type's recall, precision and f1; again for another.")
]


class Page(StrEnum):
    """What `report` writes."""

    html = "html"
    pdf = "pdf"


class Format(StrEnum):
    """How a table is printed."""

    table = "table"
    latex = "latex"
    csv = "csv"
    json = "json"
    parquet = "parquet"


FORMS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".tex": "latex", ".txt": "table"}  # by a file's name


@dataclass(frozen=True)
class Printed:
    """How a table is printed, and into which file; None: on the screen."""

    form: str
    out: Path | None


def printed_as(
    format: Annotated[Format | None, typer.Option(help="How to print; default what --out ends in, else table.")] = None,
    as_json: AsJson = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A file in place of the screen.")] = None,
) -> Printed:
    """Return how a table is to be printed; RequestError for a file whose name doesn't say how."""
    if as_json and format is not None and format != Format.json:
        raise RequestError(f"--json and --format {format.value}: a table is printed as one of them")
    if format is None and out is not None and not as_json and out.suffix not in FORMS:
        raise RequestError(f"--out {out}: say how with --format, or give a name that ends in {', '.join(FORMS)}")
    usual = "table" if out is None else FORMS.get(out.suffix, "table")
    return Printed("json" if as_json else usual if format is None else format.value, out)


def of_values(kind: str, base: str, target_sum: float) -> dict[str, Any]:
    """Return the options of a file whose numbers are not counts; RequestError for parts of these beside counts."""
    if kind == "counts":
        refuse_idle("--base and --target-sum say how log1p was made: say --values log1p as well", "base", "target_sum")
        return {}
    try:
        number = base if base == "e" else float(base)
    except ValueError:
        raise RequestError(f"--base {base!r} is neither e nor a number above 1") from None
    return {"values": {"kind": kind, "base": number, "target_sum": target_sum}}


def notes_given(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that knows which of its options and arguments were given, see refuse_idle."""
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    signature = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def run(context: typer.Context, **named: Any) -> None:
        sources = {name: context.get_parameter_source(name) for name in named}
        names = (name for name, source in sources.items() if source and source.name == "COMMANDLINE")
        before = _GIVEN.set(frozenset(names))
        try:
            command(**named)
        finally:
            _GIVEN.reset(before)

    run.__signature__ = signature.replace(parameters=[context, *signature.parameters.values()])
    run.__annotations__ = {one.name: one.annotation for one in run.__signature__.parameters.values()}
    return run


def refuse_idle(why: str, *names: str) -> None:
    """RequestError, saying why, if any of the command's options or arguments was given that would do nothing."""
    if _GIVEN.get() & set(names):
        raise RequestError(why)


def said(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in given.items() if value is not None}


def gathers(**parts: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a command the options of other functions; under each one's name stands what that
    function makes of them."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        theirs = {name: list(inspect.signature(part).parameters.values()) for name, part in parts.items()}
        own = inspect.signature(command).parameters
        every = [one for name in own for one in theirs.get(name, [own[name]])]
        signature = inspect.Signature([every[0], *(one.replace(kind=one.KEYWORD_ONLY) for one in every[1:])])

        @functools.wraps(command)
        def run(*given: Any, **named: Any) -> None:
            bound = signature.bind(*given, **named)
            bound.apply_defaults()
            said = bound.arguments
            made = {
                name: part(**{one.name: said.pop(one.name) for one in theirs[name]}) for name, part in parts.items()
            }
            command(**said, **made)

        run.__signature__, run.__annotations__ = signature, {one.name: one.annotation for one in every}
        return run

    return decorate


def advises_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command whose errors advise its own options, in place of what a sweep file would say."""
    known = set(inspect.signature(command).parameters)

    @functools.wraps(command)
    def run(*given: Any, **named: Any) -> None:
        try:
            command(*given, **named)
        except RequestError as error:
            raise type(error)(*(as_options(problem, known) for problem in error.problems)) from None

    return run


def as_options(problem: str, known: set[str]) -> str:
    """Return a sentence with "`duplicates: sum`" as "`--duplicates sum`", for the options that are `known`."""
    return ADVICE.sub(lambda found: _option(found[1], found[2] or "") if found[1] in known else found[0], problem)


def as_both(doubt: str, known: set[str]) -> str:
    """Return a sentence with "`twins: drop`" as "`--twins drop` (in a sweep file: `twins: drop`)": heeded now, or when
    the sweep file is written."""
    return ADVICE.sub(lambda found: _both(found[0], as_options(found[0], known)), doubt)


def _both(line: str, option: str) -> str:
    return line if option == line else f"{option} (in a sweep file: {line})"


def _option(name: str, value: str) -> str:
    if name == "labels":  # of a sweep file: `labels: {map: names.csv}`
        return f"`--map {value.removeprefix('{map: ').removesuffix('}')}`"
    if value.startswith("{kind: "):  # of `values:`, whose parts are options of their own
        kind, *parts = value.removeprefix("{kind: ").removesuffix("}").split(", ")
        value = " ".join([kind, *(f"--{one.replace('_', '-').replace(': ', ' ')}" for one in parts)])
    elif value:
        value = quote(value)
    return f"`--{name.replace('_', '-')}{' ' if value else ''}{value}`"


def words(listed: str) -> list[str]:
    """Return the words of a list with commas."""
    return [word.strip() for word in listed.split(",") if word.strip()]
