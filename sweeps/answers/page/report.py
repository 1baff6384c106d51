"""`cellskew report`: a sweep's answer as one HTML page that needs nothing else, to be sent to a colleague.

Figures are plain SVG made here, with a little script for sorting, filtering and switching: they are there in print,
without scripts and offline, and no plotting library has to be embedded in every page.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pandas as pd

from data_pipeline.errors import RequestError
from sweeps import tables
from sweeps.answers import celltypes, comparison, differences, frames, summary
from sweeps.answers.deciding import answer, critical, leaderboard, table, wording
from sweeps.answers.designs import Designs
from sweeps.answers.page import conditions, figures, power
from sweeps.answers.page.svg import breaking, text
from sweeps.answers.runs import results
from sweeps.answers.runs.looks import looks_at
from sweeps.answers.summary import title
from sweeps.statistics.families import DATASETS

if TYPE_CHECKING:
    from sweeps.tracking.about import Place

COSTS = {
    "trial_seconds": "seconds per trial",
    "seconds_per_epoch": "seconds per epoch, training steps only",
    "cells_per_second": "cells trained on per second",
    "peak_memory_gb": "peak memory, GB",
}
HEADINGS = {  # of a condition's panels: what they are called, and what stands under them
    "calibration": (
        "can probabilities be trusted?",
        "Share of cells that are right by their highest probability, all splits' test cells together; a larger dot has "
        "more cells; dashed: as sure as right. Without adjustments after training.",
    ),
    "coverage": (
        "what if only the surest cells are named?",
        "Share of mistakes among the surest cells, against how many are named; mean over trials. AURC: the area under "
        "the line, less is better. Without adjustments after training.",
    ),
    "learning": (
        "the course of training",
        "Macro F1 on validation cells after each round, mean over trials as far as all trained; a dot: the round of a "
        "trial whose weights were tested.",
    ),
    "cost": (
        "score against cost",
        "Means over trials, one range for all models; seconds of a trial. Without adjustments after training, which "
        "cost nothing.",
    ),
}
MOST = 50  # failures that are listed


def report(
    runs: pd.DataFrame,
    name: str,
    metric: str,
    designs: Designs,
    sweep: str | None = None,
    beside: Sequence[str] = (),
    place: "Place | None" = None,
) -> str:
    """Return the page. runs: those that the sweep wants, see results.choose; sweep: its file's text, None: not at hand.

    beside: what else must be said above, see several.join; place: where MLflow shows the runs, None: nowhere.
    RequestError if nothing is finished yet, or no run has the metric.
    """
    finished = runs[runs["status"] == "FINISHED"]
    if finished.empty:
        raise RequestError(f"no trial of {name} is finished yet; `cellskew status {name}` says how far it is")
    results.check_columns(finished, [], [metric])
    results.check_alone(finished)
    about = _about(runs, finished, name, metric, designs)
    about["warnings"] = [*beside, *about["warnings"]]
    return _rendered(about | {"sweep": sweep, "place": place})


def _rendered(about: dict[str, Any]) -> str:
    import jinja2
    from markupsafe import Markup

    folder = files("sweeps.answers.page")
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.filters["text"] = lambda said: Markup(text(said))
    page.filters["words"] = lambda said: Markup(breaking(said))
    page.filters["lines"] = lambda said: Markup(text(said, lines=True))
    style, script = ((folder / one).read_text(encoding="utf-8") for one in ("page.css", "page.js"))
    template = page.from_string((folder / "page.html.j2").read_text(encoding="utf-8"))
    return template.render(about | {"style": style, "script": script})


def _about(runs: pd.DataFrame, finished: pd.DataFrame, name: str, metric: str, designs: Designs) -> dict[str, Any]:
    trials, types = frames.trials(finished), frames.types(finished, designs.stored)
    colours = figures.remedies(trials)
    found = list(_comparisons(finished, metric, designs))
    return {
        "name": name,
        "metric": title(metric),
        "counted": _counted(runs, finished),
        "warnings": [said for said in (results.warning(runs), results.of_processors(runs)) if said is not None],
        "answer": [_parted(said) for said in answer.answer(runs, metric, designs).sentences],
        "choices": _choices(trials, metric, designs),
        "colours": colours,
        "recall": figures.recall_by_cells(types, colours) if len(types) else [],
        "skews": figures.by_skew(trials, metric, designs, colours),
        "forests": [(one.between, figures.forest(one, colours), differences.explained(one)) for one in found],
        "ranks": [(figures.ranks(one), critical.explained(one)) for one in _over_datasets(finished, metric, designs)],
        "conditions": conditions.conditions(finished, types, designs, colours, metric),
        "headings": HEADINGS,
        "power": _power(types, designs, looks_at(finished)),
        "costs": _costs(finished),
        "missing": _missing(runs),
        "runs": [(row["name"], row["run_id"], row["status"].lower()) for _, row in runs.iterrows()],
        "redo": _redo(finished),
        "notes": [*celltypes.of_skews(finished, designs.stored), *designs.notes],
    }


def _parted(said: str) -> tuple[str, str]:
    head, _, rest = said.partition(": ")
    return head, rest


def _counted(runs: pd.DataFrame, finished: pd.DataFrame) -> str:
    last = datetime.fromtimestamp(finished["ended"].max() / 1000, UTC)
    axes = ("dataset", "skew", "strategy", "model", "split")
    counted = ", ".join(wording.many(finished[axis].nunique(), axis) for axis in axes)
    return f"{len(finished)} of {len(runs)} trials finished, the last on {last:%Y-%m-%d %H:%M} UTC: {counted}"


def _choices(trials: pd.DataFrame, metric: str, designs: Designs) -> dict[str, Any]:
    """Return the table of choices: columns, rows of (text, number to sort by), and what must be said under it."""
    shown = list(dict.fromkeys([metric, *(one for one in results.SHOWN if one in trials)]))
    built = table.build(trials, table.columns(trials), shown, designs)
    left = list(built.columns[: list(built.columns).index("n")])
    rows = []
    for _, row in built.iterrows():
        cells = [(row[name], row[name]) for name in left]
        cells += [(row["mark"], {table.BEST: 0, table.TIE: 1}.get(row["mark"], 2))]
        cells += [(summary.cell(row, one), -1 if pd.isna(row[one]) else row[one]) for one in shown]
        rows.append({"cells": [*cells, (row["n"], row["n"])], "kind": row["kind"], "mark": row["mark"]})
    said = [*summary.explained(built, shown, trials, designs), *table.explained(built)]
    head = [*left, "", *map(title, shown), "n"]
    return {
        "head": head,
        "left": len(left) + 1,
        "rows": rows,
        "said": said,
        "skews": list(dict.fromkeys(built["skew"])),
    }


def _comparisons(finished: pd.DataFrame, metric: str, designs: Designs) -> Iterator[comparison.Comparison]:
    """Yield paired differences to doing nothing, for every kind of remedy in the sweep: a family of tests each."""
    for between in ("strategy", "loss", "posthoc", "defects"):
        try:
            within = comparison.per_skew(finished, between, ["model"])
            yield comparison.compare(finished, between, within, metric, tie=0.005, designs=designs)
        except RequestError:  # one level only, or no pairs
            continue


def _over_datasets(finished: pd.DataFrame, metric: str, designs: Designs) -> list[critical.Ranks]:
    """Return the ranks of choices over datasets, none where there are too few of these."""
    if finished["dataset"].nunique() < DATASETS:
        return []
    return critical.over_datasets(leaderboard.boards(finished, metric, designs), looks_at(finished))


def _power(types: pd.DataFrame, designs: Designs, looks: int) -> dict[str, Any]:
    found = power.power(types, designs, looks)
    return {"head": power.HEAD, "rows": [one.row() for one in found], "said": list(power.sentences(found))}


def _costs(finished: pd.DataFrame) -> list[list[str]]:
    there = {metric: said for metric, said in COSTS.items() if metric in finished}
    table = finished.groupby("model", sort=False)[list(there)].mean()
    rows = [
        [model, *(tables.number(value) for value in row)]
        for model, row in zip(table.index, table.to_numpy(), strict=True)
    ]
    return [["model", *there.values()], *rows]


def _missing(runs: pd.DataFrame) -> dict[str, Any]:
    counts = runs["status"].value_counts().drop("FINISHED", errors="ignore").to_dict()
    failed = runs[runs["status"] == "FAILED"]
    listed = [
        (row["name"], row["run_id"], str(row["reason"]).splitlines()[0][:300] if row["reason"] else "")
        for _, row in failed.iterrows()
    ]
    return {"counts": counts, "failed": listed[:MOST], "more": max(0, len(listed) - MOST)}


def _redo(finished: pd.DataFrame) -> list[tuple[str, str]]:
    """Return what the trials were made with: code, packages, digests; of how many, where they differ."""
    found = []
    for name in results.MADE_WITH:
        counts = finished[name].value_counts().drop("", errors="ignore") if name in finished else pd.Series(dtype=int)
        found += [
            (name, f"{value} ({wording.many(number, 'trial')})" if len(counts) > 1 else f"{value}")
            for value, number in counts.items()
        ]
    return found
