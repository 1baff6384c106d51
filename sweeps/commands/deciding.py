"""`cellskew answer`, `leaderboard`, `needs`, `shares`: from what came out of a sweep to a decision."""

from typing import Annotated

import typer

from sweeps.commands.asked import ask, sweeps_of
from sweeps.commands.options import STORAGE, AsJson, Every, Printed, Storage, Types, Uri, Where, gathers, printed_as


@gathers(name=sweeps_of)
def answer(
    name: list[str],
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

    asked = ask(name, storage, tracking_uri, where, all)
    usual = "f1" if type else "macro_f1"
    kinds, by = type or [None], usual if metric is None else metric
    found = [answer.answer(asked.runs, by, asked.designs, kind, budget) for kind in kinds]
    answer.show(found, "json" if as_json else "text", asked.warning)


@gathers(name=sweeps_of)
def needs(
    name: list[str],
    type: Annotated[list[str], typer.Option("--type", help="A cell type; again for another.", show_default=False)],
    recall: Annotated[float, typer.Option(help="Share of the type's cells that is to be found.")] = 0.8,
    where: Where = None,
    all: Every = False,
    as_json: AsJson = False,
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
) -> None:
    """How many training cells a type needs for a recall, by choice, and which remedy does instead; never seen: noticed?

    Example: `cellskew needs rare-cells --type gamma --recall 0.9`
    """
    from sweeps.answers.deciding import needs, needs_said, unseen

    asked = ask(name, storage, tracking_uri, where, all, type)
    found = [one for kind in type for one in needs.needs(asked.runs, kind, recall, asked.designs)]
    never = [one for kind in type for one in unseen.unseen(asked.runs, kind, asked.designs)]
    needs_said.show(found, never, asked.designs, "json" if as_json else "text", asked.warning)


@gathers(name=sweeps_of)
def leaderboard(
    name: list[str],
    metric: Annotated[str | None, typer.Option(help="Metric to rank by; default macro_f1, or f1 of --type.")] = None,
    type: Types = None,
    where: Where = None,
    all: Every = False,
    as_json: AsJson = False,
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
) -> None:
    """Ranks of choices with intervals, who beats whom, score against cost: a board per dataset and skew.

    Example: `cellskew leaderboard quickstart --where 'skew == "natural"'`
    """
    from sweeps.answers.deciding import leaderboard

    asked = ask(name, storage, tracking_uri, where, all, type)
    found = [
        board for one in asked.metrics(metric, type) for board in leaderboard.boards(asked.runs, one, asked.designs)
    ]
    leaderboard.show(found, asked.runs, asked.designs, "json" if as_json else "text", asked.warning)


@gathers(name=sweeps_of, printed=printed_as)
def shares(
    name: list[str],
    printed: Printed,
    metric: Annotated[str | None, typer.Option(help="Metric; default macro_f1, or f1 of --type.")] = None,
    type: Types = None,
    where: Where = None,
    all: Every = False,
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
) -> None:
    """What share of a metric's variance skew, model, remedy and split have, in each dataset by itself.

    Example: `cellskew shares quickstart`
    """
    from sweeps import tables
    from sweeps.answers.deciding import variance

    asked = ask(name, storage, tracking_uri, where, all, type)
    full = asked.metrics(metric, type)
    found = [one for each in full for one in variance.of_variance(asked.runs, each, asked.designs)]
    with tables.into(printed.out):
        variance.show(found, printed.form, asked.warning)
