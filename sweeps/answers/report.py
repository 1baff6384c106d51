"""`cellskew report`: a sweep's answer as one HTML page that needs nothing else, to be sent to a colleague."""

import io
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_pipeline.errors import RequestError
from sweeps.answers import comparison, results
from sweeps.tables import spread

COSTS = {
    "trial_seconds": "seconds per trial",
    "seconds_per_epoch": "seconds per epoch, training steps only",
    "cells_per_second": "cells trained on per second",
    "peak_memory_gb": "peak memory, GB",
}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums }
th, td { padding: .2em .8em; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
.warning { background: #fde8e8; border-left: 4px solid #c00; padding: .5em 1em }
.note { color: #666 } svg { max-width: 100%; height: auto }
"""


def report(runs: pd.DataFrame, name: str, metric: str, trials: Path) -> str:
    """Return the page. runs: results.fetch; trials: where the trials' folders lie, for their tables per cell type.

    RequestError if nothing is finished yet, or no run has the metric.
    """
    finished = runs[runs["status"] == "FINISHED"]
    if finished.empty:
        raise RequestError(f"no trial of {name} is finished yet; `cellskew status {name}` says how far it is")
    results.check_columns(finished, [], [metric])
    parts = [
        f"<h1>{escape(name)}</h1>",
        _about(runs, finished),
        *_warning(runs),
        "<h2>Which model, which remedy</h2>",
        *_summary(finished, metric),
        *_skews(finished, metric),
        *_comparisons(finished, metric),
        *_by_type(finished, trials),
        "<h2>What it costs</h2>",
        _costs(finished),
        *_unfinished(runs),
        _method(finished),
    ]
    head = f'<meta charset="utf-8"><title>{escape(name)}</title><style>{STYLE}</style>'
    return f"<!doctype html><html lang=en><head>{head}</head><body>\n" + "\n".join(parts) + "\n</body></html>\n"


def _title(metric: str) -> str:
    return results.TITLES.get(metric, metric)


def _html(table: pd.DataFrame) -> str:
    return table.to_html(index=False, border=0, escape=True)


def _about(runs: pd.DataFrame, finished: pd.DataFrame) -> str:
    last = datetime.fromtimestamp(finished["ended"].max() / 1000, UTC)
    seeds = len(finished[results.SEEDS].drop_duplicates())
    counted = ", ".join(f"{finished[axis].nunique()} {axis}(s)" for axis in ("dataset", "skew", "strategy", "model"))
    return (
        f"<p>{len(finished)} of {len(runs)} trials finished, the last on {last:%Y-%m-%d %H:%M} UTC: {counted}, {seeds} "
        f"seed(s); datasets: {escape(', '.join(finished['dataset'].unique()))}.</p>"
    )


def _warning(runs: pd.DataFrame) -> Iterator[str]:
    if (said := results.warning(runs)) is not None:
        yield f'<p class="warning">{escape(said)}</p>'


def _remedies(finished: pd.DataFrame) -> list[str]:
    return ["model", "strategy", *(["loss"] if finished["loss"].nunique() > 1 else [])]


def _summary(finished: pd.DataFrame, metric: str) -> Iterator[str]:
    by = _remedies(finished)
    shown = list(dict.fromkeys([metric, *(one for one in results.SHOWN if one in finished)]))
    table = results.summarise(finished, by, shown)
    text = table[by].astype(str)
    for one in shown:
        text[_title(one)] = [spread(*pair) for pair in zip(table[one], table[f"{one}_sd"], strict=True)]
    text["n"] = table["n"].astype(str) + table["uneven"].map({True: "*", False: ""})
    yield _figure(lambda axes: _dots(axes, table, by, metric), height=1 + 0.24 * len(table))
    yield _html(text)
    yield (
        '<p class="note">Mean ± standard deviation over n seeds on test cells with their natural mix; bars: 95 % '
        "confidence interval of the mean. Datasets and skews are averaged for each seed first"
        f"{'; n*: some seeds lack finished runs that others have' if table['uneven'].any() else ''}.</p>"
    )


def _dots(axes: Any, table: pd.DataFrame, by: list[str], metric: str) -> None:
    """A dot with its interval per row; a colour per model."""
    places = np.arange(len(table))[::-1]
    low, high = (table[f"{metric}_{end}"].fillna(table[metric]) for end in ("low", "high"))
    for number, (_, group) in enumerate(table.groupby("model", sort=False)):
        at, colour = places[group.index], f"C{number % 10}"
        axes.hlines(at, low[group.index], high[group.index], colour, lw=1.5)
        axes.plot(group[metric], at, "o", color=colour, ms=5)
    axes.set_yticks(places, [" · ".join(row) for row in table[by].astype(str).to_numpy()], fontsize=8)
    axes.set_xlabel(_title(metric))
    axes.set_xlim(_limits(axes.get_xlim(), table[metric]))
    axes.grid(axis="x", alpha=0.3)


def _limits(limits: tuple[float, float], means: pd.Series) -> tuple[float, float]:
    """Return the limits of an axis, cut to 0..1 for what lies there: intervals over few seeds may go far beyond."""
    return (max(limits[0], -0.02), min(limits[1], 1.02)) if means.between(0, 1).all() else limits


def _skews(finished: pd.DataFrame, metric: str) -> Iterator[str]:
    """A panel per model: the metric over the skews, a line per strategy."""
    skews = list(dict.fromkeys(finished["skew"]))
    if len(skews) < 2:
        return
    table = results.summarise(finished, ["model", "strategy", "skew"], [metric])

    def draw(axes: Any, model: str, legend: bool) -> None:
        for number, (strategy, group) in enumerate(table[table["model"] == model].groupby("strategy", sort=False)):
            at, line = [skews.index(skew) for skew in group["skew"]], {"color": f"C{number % 10}", "label": strategy}
            axes.plot(at, group[metric], "o-", ms=4, **line)
            low, high = (group[f"{metric}_{end}"].fillna(group[metric]) for end in ("low", "high"))
            axes.fill_between(at, low, high, color=line["color"], alpha=0.12, lw=0)
        axes.set_xticks(range(len(skews)), skews, rotation=20, ha="right", fontsize=7)
        axes.set(title=model, ylabel=_title(metric), ylim=_limits(axes.get_ylim(), table[metric]))
        if legend:
            axes.legend(fontsize=7, frameon=False)

    yield "<h2>How it changes with the skew</h2>"
    for number, model in enumerate(dict.fromkeys(finished["model"])):
        yield _figure(lambda axes, model=model, number=number: draw(axes, model, number == 0), height=3)


def _comparisons(finished: pd.DataFrame, metric: str) -> Iterator[str]:
    """Paired differences to doing nothing, for every kind of remedy that the sweep has."""
    for between in ("strategy", "loss", "posthoc", "defects"):
        try:
            table = comparison.compare(finished, between, ["model"], metric, tie=0.005)
        except RequestError:  # one level only, or no pairs
            continue
        yield f"<h2>What {between} changes</h2>"
        yield _html(comparison.as_text(table, between, ["model"], metric))
        yield f'<p class="note">{escape(comparison.explained(table, between))}</p>'


def _by_type(finished: pd.DataFrame, trials: Path) -> Iterator[str]:
    """F1 of every cell type, mean over the trials of a model and strategy; from the trials' own tables."""
    rows = []
    for run in finished.itertuples():
        path = trials / run.key / "per_class.csv"
        if path.exists():
            rows.append(pd.read_csv(path).assign(dataset=run.dataset, column=f"{run.model} · {run.strategy}"))
    if not rows:
        return
    table = pd.concat(rows, ignore_index=True)
    yield "<h2>By cell type</h2>"
    for dataset, group in table.groupby("dataset", sort=False):
        cells = group.groupby("class")["train"].median().sort_values()
        f1 = group.pivot_table("f1", "class", "column", sort=False).reindex(cells.index[::-1])
        labels = [f"{kind} ({cells[kind]:.0f})" for kind in f1.index]
        yield _figure(lambda axes, f1=f1, labels=labels: _heat(axes, f1, labels), height=1.6 + 0.26 * len(f1))
        yield f'<p class="note">{escape(str(dataset))}: F1 per type, mean over trials; in brackets: training cells.</p>'


def _heat(axes: Any, f1: pd.DataFrame, labels: list[str]) -> None:
    numbers = f1.to_numpy(dtype=float)
    axes.imshow(np.nan_to_num(numbers), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(numbers):
        if not np.isnan(value):
            ink = "white" if value > 0.6 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=6)
    axes.set_xticks(range(f1.shape[1]), f1.columns, rotation=35, ha="right", fontsize=7)
    axes.set_yticks(range(f1.shape[0]), labels, fontsize=7)


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
        "types runs over all types that have test cells. The best epoch was chosen on validation cells. Rare types, in "
        f"rare-type recall: at most 50 training cells.{but}</p>"
    )


def _figure(draw: Callable[[Any], None], height: float) -> str:
    """Return a drawing as SVG text, the same for the same numbers."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "cellskew", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8.5, height), layout="constrained")
        draw(figure.subplots())
        data = io.StringIO()
        figure.savefig(data, format="svg", metadata={"Date": None, "Creator": None})
    return data.getvalue()[data.getvalue().index("<svg") :]
