"""`cellskew report`: a sweep's answer as one HTML page that needs nothing else, to be sent to a colleague."""

import io
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from data_pipeline.errors import RequestError
from data_pipeline.names import shown
from sweeps.answers import celltypes, comparison, differences, summary
from sweeps.answers.deciding import table as of_choices
from sweeps.answers.designs import Designs
from sweeps.answers.runs import choices, results
from sweeps.answers.summary import title
from sweeps.statistics.intervals import LEAST
from trainables.metrics import ends_of
from trainables.trial.drawing import label, names_as_they_are

COSTS = {
    "trial_seconds": "seconds per trial",
    "seconds_per_epoch": "seconds per epoch, training steps only",
    "cells_per_second": "cells trained on per second",
    "peak_memory_gb": "peak memory, GB",
}
AXES = ("dataset", "skew", "strategy", "model")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums }
th, td { padding: .2em .8em; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
.warning { background: #fde8e8; border-left: 4px solid #c00; padding: .5em 1em }
.note { color: #666 } svg { max-width: 100%; height: auto }
"""


def report(runs: pd.DataFrame, name: str, metric: str, designs: Designs) -> str:
    """Return the page. runs: those that the sweep wants, see results.choose; designs: how sure their numbers are.

    RequestError if nothing is finished yet, or no run has the metric.
    """
    finished = _with_remedies(runs[runs["status"] == "FINISHED"])
    if finished.empty:
        raise RequestError(f"no trial of {name} is finished yet; `cellskew status {name}` says how far it is")
    results.check_columns(finished, [], [metric])
    results.check_alone(finished)
    parts = [
        f"<h1>{escape(name)}</h1>",
        _about(runs, finished),
        *_warning(runs),
        "<h2>Which model, which remedy</h2>",
        *_summary(finished, metric, designs),
        *_skews(finished, metric, designs),
        *_comparisons(finished, metric, designs),
        *_by_type(finished, designs),
        "<h2>What it costs</h2>",
        _costs(finished),
        *_unfinished(runs),
        _method(finished),
    ]
    head = f'<meta charset="utf-8"><title>{escape(name)}</title><style>{STYLE}</style>'
    return f"<!doctype html><html lang=en><head>{head}</head><body>\n" + "\n".join(parts) + "\n</body></html>\n"


def _with_remedies(finished: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with `remedy`: the strategy, and the loss where there are several: figures never mix them."""
    several = finished["loss"].nunique() > 1
    return finished.assign(remedy=finished["strategy"] + (" · " + finished["loss"] if several else ""))


def _html(table: pd.DataFrame) -> str:
    return table.map(lambda cell: shown(cell) if isinstance(cell, str) else cell).to_html(index=False, border=0)


def _about(runs: pd.DataFrame, finished: pd.DataFrame) -> str:
    last = datetime.fromtimestamp(finished["ended"].max() / 1000, UTC)
    splits, seeds = finished["split"].nunique(), finished["seed"].nunique()
    counted = ", ".join(f"{finished[axis].nunique()} {axis}(s)" for axis in AXES)
    return (
        f"<p>{len(finished)} of {len(runs)} trials finished, the last on {last:%Y-%m-%d %H:%M} UTC: {counted}, "
        f"{splits} split(s) x {seeds} trial seed(s); datasets: {escape(', '.join(finished['dataset'].unique()))}.</p>"
    )


def _warning(runs: pd.DataFrame) -> Iterator[str]:
    for said in (results.warning(runs), results.of_processors(runs)):
        if said is not None:
            yield f'<p class="warning">{escape(said)}</p>'


def _notes(sentences: list[str]) -> str:
    return f'<p class="note">{"<br>".join(escape(one) for one in sentences)}</p>'


def _summary(finished: pd.DataFrame, metric: str, designs: Designs) -> Iterator[str]:
    runs = choices.unfolded(finished)
    by = of_choices.columns(runs)
    shown = list(dict.fromkeys([metric, *(one for one in results.SHOWN if one in finished)]))
    table = of_choices.build(runs, by, shown, designs)
    text = summary.as_text(table, by, shown)
    yield _figure(lambda axes: _dots(axes[0], table, by, metric), height=1 + 0.24 * len(table))
    yield _html(text)
    yield _notes(
        [
            *celltypes.of_skews(finished, designs.stored),
            *of_choices.explained(table),
            *summary.explained(table, shown, finished, designs),
        ]
    )


def _plain(name: str) -> str:
    """Return a name as matplotlib prints it, lines kept, dollars being dollars."""
    return "\n".join(label(line, 80) for line in str(name).split("\n")).replace("$", r"\$")


def _ends(table: pd.DataFrame, metric: str) -> tuple[pd.Series, pd.Series]:
    """Return the ends of the bars: intervals, or where there are none (under three splits) the means themselves."""
    return tuple(table[f"{metric}_{end}"].fillna(table[metric]) for end in ("low", "high"))


def _dots(axes: Any, table: pd.DataFrame, by: list[str], metric: str) -> None:
    """A dot with its interval per row; a colour per model."""
    places = np.arange(len(table))[::-1]
    low, high = _ends(table, metric)
    for number, (_, group) in enumerate(table.groupby("model", sort=False)):
        at, colour = places[group.index], f"C{number % 10}"
        axes.hlines(at, low[group.index], high[group.index], colour, lw=1.5)
        axes.plot(group[metric], at, "o", color=colour, ms=5)
    axes.set_yticks(places, [_plain(" · ".join(row)) for row in table[by].astype(str).to_numpy()], fontsize=8)
    axes.set_ylim(-0.7, len(table) - 0.3)
    axes.set_xlabel(_plain(title(metric)))
    axes.grid(axis="x", alpha=0.3)


def _skews(finished: pd.DataFrame, metric: str, designs: Designs) -> Iterator[str]:
    """A figure per dataset: the metric over its skews, the mildest first, a panel per model, a colour per remedy."""
    if finished["skew"].nunique() < 2:
        return
    yield "<h2>How it changes with the skew</h2>"
    models, remedies = (list(dict.fromkeys(finished[axis])) for axis in ("model", "remedy"))
    colours = {remedy: f"C{number % 10}" for number, remedy in enumerate(remedies)}
    for dataset, group in finished.groupby("dataset", sort=False):
        skews = _skews_of(group, designs)
        table = summary.summarise(group, ["model", "remedy", "skew"], [metric], designs)
        paint = lambda panels, skews=skews, table=table: _panels(panels, table, metric, models, skews, colours)  # noqa: E731
        yield _figure(paint, height=3.2, columns=len(models))
        yield _notes(
            [f"{dataset}: skews by how unequal the training cells are (largest : smallest type, cells in all)"]
        )


def _skews_of(group: pd.DataFrame, designs: Designs) -> dict[str, str]:
    """Return the skews of a dataset with what they are called on an axis, the mildest first."""
    sizes = celltypes.sizes(group, designs.stored)
    known = sorted(sizes, key=lambda skew: sizes[skew].ratio)
    unknown = [skew for skew in dict.fromkeys(group["skew"]) if skew not in sizes]
    said = {skew: f"{skew}\n{sizes[skew].ratio:.0f}:1, {sizes[skew].cells:.0f}" for skew in known}
    return dict(zip(unknown, unknown, strict=True)) | said


def _panels(panels: Any, table: pd.DataFrame, metric: str, models: list[str], skews: dict, colours: dict) -> None:
    order = list(skews)
    for axes, model in zip(panels, models, strict=True):
        for remedy, group in table[table["model"] == model].groupby("remedy", sort=False):
            group = group.iloc[np.argsort([order.index(skew) for skew in group["skew"]])]
            at = np.array([order.index(skew) for skew in group["skew"]])
            at = at + 0.06 * (list(colours).index(remedy) - (len(colours) - 1) / 2)
            low, high = _ends(group, metric)
            axes.plot(at, group[metric], "o:", ms=4, lw=0.8, color=colours[remedy], label=_plain(remedy))
            axes.vlines(at, low, high, colours[remedy], lw=1.5, alpha=0.7)
        axes.set_xticks(range(len(order)), [_plain(skews[skew]) for skew in order], fontsize=7, rotation=20, ha="right")
        axes.set_xlim(-0.5, len(order) - 0.5)
        axes.set_title(_plain(model), fontsize=9)
        axes.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel(_plain(title(metric)))
    named = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    panels[0].figure.legend(named.values(), named.keys(), fontsize=7, frameon=False, loc="outside right upper")


def _comparisons(finished: pd.DataFrame, metric: str, designs: Designs) -> Iterator[str]:
    """Paired differences to doing nothing, for every kind of remedy that the sweep has: a family of tests each."""
    for between in ("strategy", "loss", "posthoc", "defects"):
        try:
            within = comparison.per_skew(finished, between, ["model"])
            found = comparison.compare(finished, between, within, metric, tie=0.005, designs=designs)
        except RequestError:  # one level only, or no pairs
            continue
        yield f"<h2>What {between} changes</h2>"
        yield _html(differences.as_text(found))
        yield _notes(differences.explained(found))


def _by_type(finished: pd.DataFrame, designs: Designs) -> Iterator[str]:
    """F1 of every cell type at every skew, mean over the trials of a model and remedy; from the trials' tables."""
    tables = [(run, designs.stored.per_class(run)) for _, run in finished.iterrows()]
    rows = [
        celltypes.with_intervals(table).assign(
            dataset=run["dataset"], skew=run["skew"], column=f"{run['model']} · {run['remedy']}"
        )
        for run, table in tables
        if table is not None and "train" in table
    ]
    if not rows:
        return
    yield "<h2>By cell type</h2>"
    for (dataset, skew), group in pd.concat(rows, ignore_index=True).groupby(["dataset", "skew"], sort=False):
        cells = group.groupby("class")[["train", "test"]].mean().sort_values("train", ascending=False)
        f1, low, high = (
            group.pivot_table(name, "class", "column", sort=False).reindex(cells.index)
            for name in ("f1", *ends_of("f1"))
        )
        labels = [f"{label(kind, 28)} ({row.train:.0f}, {row.test:.0f})" for kind, row in cells.iterrows()]
        paint = lambda axes, f1=f1, ends=(low, high), labels=labels: _heat(axes[0], f1, ends, labels)  # noqa: E731
        yield _figure(paint, height=1.6 + 0.34 * len(f1))
        cells_said = "in brackets: training cells after the skew, test cells; of a split"
        small = "small: what so few test cells leave open in one split (95 %, Wilson; mean over trials)"
        yield _notes([f"{dataset}, {skew}: F1 per type, mean over trials; {cells_said}; {small}"])


def _heat(axes: Any, f1: pd.DataFrame, ends: tuple[pd.DataFrame, pd.DataFrame], labels: list[str]) -> None:
    numbers = f1.to_numpy(dtype=float)
    axes.imshow(np.nan_to_num(numbers), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(numbers):
        if not np.isnan(value):
            ink = "white" if value > 0.6 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="bottom", color=ink, fontsize=6)
            low, high = (end.iat[row, column] for end in ends)
            axes.text(column, row, f"{low:.2f}–{high:.2f}", ha="center", va="top", color=ink, fontsize=4.5)
    axes.set_xticks(range(f1.shape[1]), [_plain(name) for name in f1.columns], rotation=35, ha="right", fontsize=7)
    axes.set_yticks(range(f1.shape[0]), [_plain(one) for one in labels], fontsize=7)


def _costs(finished: pd.DataFrame) -> str:
    shown = {metric: title for metric, title in COSTS.items() if metric in finished}
    table = finished.groupby("model", sort=False)[list(shown)].mean()
    return _html(table.map(lambda value: f"{value:,.3g}").rename(columns=shown).reset_index())


def _unfinished(runs: pd.DataFrame) -> Iterator[str]:
    failed = runs[runs["status"] == "FAILED"]
    if len(failed):
        yield "<h2>What failed</h2>"
        reasons = [str(reason).splitlines()[0][:200] if reason else "" for reason in failed["reason"]]
        yield _html(pd.DataFrame({"trial": failed["name"], "reason": reasons}).head(20))


def _method(finished: pd.DataFrame) -> str:
    splits, seeds = finished["split"].nunique(), finished["seed"].nunique()
    but = " This does not hold for the runs with defects that the warning names." if finished["defects"].any() else ""
    return (
        f"<h2>How it was done</h2><p>Cells were split first ({splits} split seed(s), {seeds} trial seed(s)); skews and "
        "strategies saw training labels alone, validation and test cells keep their natural mix. Every average over "
        "types runs over all types that have test cells. Which state of a network was tested was chosen on validation "
        "cells. Rare types, in rare-type recall: at most 50 training cells before the skew. Under "
        f"{LEAST} splits there is no interval.{but}</p>"
    )


def _figure(draw: Callable[[Any], None], height: float, columns: int = 1) -> str:
    """Return a drawing as SVG text, the same for the same numbers. draw(axes [columns], which share y)."""
    from matplotlib.figure import Figure

    with names_as_they_are(**{"svg.hashsalt": "cellskew", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8.5 if columns < 4 else 2.2 * columns + 1, height), layout="constrained")
        draw(figure.subplots(1, columns, sharey=True, squeeze=False)[0])
        data = io.StringIO()
        figure.savefig(data, format="svg", metadata={"Date": None, "Creator": None})
    return data.getvalue()[data.getvalue().index("<svg") :]
