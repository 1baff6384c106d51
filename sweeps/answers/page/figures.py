"""The figures of a report, each as panels of plain SVG: one range and one colour per remedy throughout."""

import textwrap
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pandas as pd

from data_pipeline.names import short
from sweeps.answers import celltypes, summary
from sweeps.answers.comparison import ALL, Comparison
from sweeps.answers.deciding.critical import Ranks
from sweeps.answers.deciding.wording import many
from sweeps.answers.designs import Designs
from sweeps.answers.page.svg import Axis, Panel, bar, colour, decades, dot, line, ticks
from sweeps.answers.runs.choices import PLAIN, remedy
from sweeps.answers.summary import title
from trainables.metrics import ends_of

ENDS = ("f1", *ends_of("f1"))
WIDE, TALL = 10, 30  # columns of a table of types, rows of a panel: as many as fit on paper


def share(label: str) -> Axis:
    """Return an axis from 0 to 1."""
    return Axis(0, 1, ticks(0, 1), label)


def remedies(trials: pd.DataFrame) -> dict[str, str]:
    """Return each remedy with its colour, doing nothing first."""
    listed = list(dict.fromkeys(remedy(row) for _, row in trials[list(PLAIN)].drop_duplicates().iterrows()))
    return {name: colour(at) for at, name in enumerate(sorted(listed, key=lambda name: name != "none"))}


def recall_by_cells(types: pd.DataFrame, colours: dict[str, str]) -> list[str]:
    """Return a panel per model: the recall of each type against its training cells; a dot is a mean over splits."""
    known = types[(types["test"] > 0) & (types["train"] > 0)]
    by = ["model", *PLAIN, "dataset", "skew", "class"]
    means = known.groupby(by, sort=False)[["train", "test", "recall"]].mean().reset_index()
    if means.empty:
        return []
    least, most = means["train"].min(), means["train"].max()
    x = Axis(np.log10(least) - 0.1, np.log10(most) + 0.1, decades(least, most), "training cells of the type", log=True)
    found = []
    means = means.assign(remedy=[remedy(row) for row in means[list(PLAIN)].to_dict("records")])
    for model, group in means.groupby("model", sort=False):
        panel, radius = Panel(model, x, share("recall")), 3.5 if len(group) < 200 else 2.5
        marks = [
            dot(panel.at(row.train, row.recall), colours[row.remedy], _of_type(row, row.remedy), radius)
            for _, row in _mixed(group, list(colours)).iterrows()
        ]
        found.append(panel.draw(marks, f"{model}: recall of each type against its training cells"))
    return found


def _mixed(rows: pd.DataFrame, order: list[str]) -> pd.DataFrame:
    """Return rows so that each remedy is drawn above the others as often as below: the last would hide them."""
    spot = rows.groupby(["dataset", "skew", "class"], sort=False).ngroup()
    return rows.iloc[np.argsort((spot + rows["remedy"].map(order.index)) % len(order), kind="stable")]


def _of_type(row: pd.Series, name: str) -> str:
    about = f"{row['class']}, {row['dataset']}, {row['skew']}, {name}"
    return f"{about}: recall {row['recall']:.2f} with {row['train']:.0f} training and {row['test']:.0f} test cells"


def by_skew(trials: pd.DataFrame, metric: str, designs: Designs, colours: dict[str, str]) -> dict[str, list[str]]:
    """Return, by dataset, a panel per model: the metric over skews, the mildest first, with intervals over splits."""
    if trials["skew"].nunique() < 2:
        return {}
    by = ["dataset", "model", *PLAIN, "skew"]
    table = summary.summarise(trials, by, [metric], designs)
    table = table.assign(at=table[metric], low=table[f"{metric}_low"], high=table[f"{metric}_high"])
    span = (float(table[["at", "low"]].min(axis=None)), float(table[["at", "high"]].max(axis=None)))
    pad = max(0.02, 0.05 * (span[1] - span[0]))
    y = Axis(span[0] - pad, span[1] + pad, ticks(span[0] - pad, span[1] + pad), title(metric))
    found = {}
    for dataset, group in table.groupby("dataset", sort=False):
        order = _skews(trials[trials["dataset"] == dataset], designs)
        x = Axis(-0.6, len(order) - 0.4, [(at, label) for at, label in enumerate(order.values())], "")
        found[dataset] = [
            _skew_panel(model, mine, x, y, list(order), colours) for model, mine in group.groupby("model", sort=False)
        ]
    return found


def _skew_panel(model: str, table: pd.DataFrame, x: Axis, y: Axis, order: list[str], colours: dict[str, str]) -> str:
    lines = max(label.count("\n") for _, label in x.ticks) + 1
    panel = Panel(model, x, y, width=max(300, 96 * len(order) + 70), height=230 + 11 * lines, bottom=20 + 11 * lines)
    marks: list[str] = []
    named = table.assign(remedy=[remedy(row) for _, row in table.iterrows()])
    for name, group in named.groupby("remedy", sort=False):
        group = group.assign(place=group["skew"].map(order.index)).sort_values("place")
        shift = 0.5 * (list(colours).index(name) - (len(colours) - 1) / 2) / max(1, len(colours))
        css, points = colours[name], []
        for row in group.itertuples():
            points.append(panel.at(row.place + shift, row.at))
            ends = ""
            if not pd.isna(row.low):
                marks.append(bar(panel.at(row.place + shift, row.low), panel.at(row.place + shift, row.high), css))
                ends = f" [{row.low:.3f}, {row.high:.3f}]"
            tip = f"{model}, {name}, {row.skew}: {row.at:.3f}{ends}, {many(row.n, 'split')}"
            marks.append(dot(points[-1], css, tip))
        marks.insert(0, line(points, css))
    return panel.draw(marks, f"{model}: {y.label} over skews, a line per remedy")


def _skews(trials: pd.DataFrame, designs: Designs) -> dict[str, str]:
    """Return the skews of a dataset, the mildest first, with their true imbalance and number of training cells."""
    sizes = celltypes.sizes(trials, designs.stored)
    known = sorted(sizes, key=lambda skew: sizes[skew].ratio)
    unknown = [skew for skew in dict.fromkeys(trials["skew"]) if skew not in sizes]
    names = _told_apart([*unknown, *known])
    named = {skew: "\n".join(textwrap.wrap(short(name, 45), 15)) for skew, name in names.items()}
    said = {skew: f"{named[skew]}\n{sizes[skew].ratio:.0f}:1\n{sizes[skew].cells:,.0f} cells" for skew in known}
    return {skew: named[skew] for skew in unknown} | said


def _told_apart(skews: list[str]) -> dict[str, str]:
    """Return skews by name without the end that all have in common: exponential-5 of exponential-5-total=700."""
    parts = {skew: skew.split("-") for skew in skews}
    while len(parts) > 1 and min(map(len, parts.values())) > 2 and len({one[-1] for one in parts.values()}) == 1:
        parts = {skew: one[:-1] for skew, one in parts.items()}
    return {skew: "-".join(one) for skew, one in parts.items()}


def forest(found: Comparison, colours: dict[str, str]) -> list[str]:
    """Return panels per choice that is compared, all of one range: a row per comparison, by model, then skew.

    Each has the difference and its interval around 0; filled where Holm's p is under 0.05.
    """
    table = found.table[found.table["dataset"] == ALL] if "dataset" in found.table else found.table
    table = _in_order(table[table["difference"].notna()], found.within)
    if table.empty:
        return []
    ends = pd.concat([table["low"], table["high"]]).abs().dropna()
    bars = float(ends.quantile(0.97)) if len(ends) else 0.0
    reach = 1.1 * max(0.02, bars, float(table["difference"].abs().max()))
    x = Axis(-reach, reach, ticks(-reach, reach), f"{title(found.metric)}, difference to {found.against}")
    return [
        _level(group[at : at + TALL], str(level), found, x, colours.get(str(level), "c7"))
        for level, group in table.groupby("level", sort=False)
        for at in range(0, len(group), TALL)
    ]


def _in_order(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return rows by one column, then the next, each in the order in which its values first come."""
    places = [table[name].map({one: at for at, one in enumerate(dict.fromkeys(table[name]))}) for name in by]
    return table.iloc[np.lexsort(places[::-1])] if by else table


def _level(table: pd.DataFrame, level: str, found: Comparison, x: Axis, css: str) -> str:
    labels = [" · ".join(str(row[name]) for name in found.within) for _, row in table.iterrows()]
    panel = _rows(f"{level} against {found.against}", x, labels)
    marks = [bar(*(panel.at(0, end) for end in (panel.y.low, panel.y.high)), "zero")]
    for at, (_, row) in enumerate(table.iterrows()):
        marks += _interval(panel, row, len(labels) - 1 - at, css.split()[0])
    return panel.draw(marks, f"{level}: difference to {found.against}, a row each")


def _rows(name: str, x: Axis, labels: list[str]) -> Panel:
    """Return a panel with a row per label, which stands above it, so that it is no wider than a phone."""
    rows = len(labels)
    y = Axis(-0.5, rows - 0.5, [(rows - 1 - at, short(label, 70)) for at, label in enumerate(labels)], "")
    return Panel(name, x, y, 380, 26 + 46 + 28 * rows, left=8, above=True)


def _interval(panel: Panel, row: pd.Series, place: int, css: str) -> list[str]:
    ends = "" if pd.isna(row["low"]) else f" [{row['low']:+.3f}, {row['high']:+.3f}]"
    tip = f"{row['level']}: {row['difference']:+.3f}{ends}, {many(row['n'], 'split')}"
    tip += "" if pd.isna(row["p_holm"]) else f", p {row['p_holm']:.3g} (Holm)"
    inside = lambda value: panel.at(float(np.clip(value, panel.x.low, panel.x.high)), place)  # noqa: E731
    bars = [] if pd.isna(row["low"]) else [bar(inside(row["low"]), inside(row["high"]), css)]
    filled = css if row["p_holm"] < 0.05 else f"{css} open"
    return [*bars, dot(inside(row["difference"]), filled, tip, 4)]


def ranks(found: Ranks) -> str:
    """Return a row per choice: its mean rank over datasets, and half of the critical difference to each side."""
    rows = len(found.labels)
    x = Axis(0.5, rows + 0.5, ticks(1, rows, min(10, max(1, rows - 1))), "mean rank, 1 the best")
    panel, marks = _rows(f"ranks at {found.skew}", x, list(found.labels)), []
    half = found.apart / 2 if found.differs else 0.0
    for at, (label, rank) in enumerate(zip(found.labels, found.ranks, strict=True)):
        ends = (panel.at(float(np.clip(rank + side * half, 0.5, rows + 0.5)), rows - 1 - at) for side in (-1, 1))
        marks += [bar(*ends, "c0"), dot(panel.at(rank, rows - 1 - at), "c0", f"{label}: mean rank {rank:.2f}", 4)]
    return panel.draw(marks, str(found))


@dataclass(frozen=True)
class Heat:
    """F1 of types at one skew, of some of the choices.

    models: each with how many columns are its; remedies: of the columns; rows: a type with its cells, and per column
    (F1, low, high).
    """

    models: list[tuple[str, int]]
    remedies: list[str]
    rows: list[tuple[str, list[tuple[float, float, float]]]]


def heat(types: pd.DataFrame, colours: dict[str, str]) -> dict[str, list[Heat]]:
    """Return, by dataset and skew, F1 of each type, the commonest first, with what one split leaves open of it.

    Of more choices than fit side by side in parts, whole models where these fit; remedies in the order of the colours.
    """
    known = types[types["test"] > 0]
    known = known.assign(remedy=[remedy(row) for row in known[list(PLAIN)].to_dict("records")])
    found = {}
    for (dataset, skew), group in known.groupby(["dataset", "skew"], sort=False):
        cells = group.groupby("class")[["train", "test"]].mean().sort_values("train", ascending=False)
        means = group.groupby(["class", "model", "remedy"], sort=False)[list(ENDS)].mean().unstack([1, 2])
        means = means.reindex(cells.index)
        columns = [
            (model, name)
            for model in dict.fromkeys(group["model"])
            for name in colours
            if ("f1", model, name) in means.columns
        ]
        found[f"{dataset}, {skew}"] = [_part(means, cells, part) for part in _parts(columns)]
    return found


def _parts(columns: list[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    parts: list[list[tuple[str, str]]] = [[]]
    for _, group in groupby(columns, key=lambda column: column[0]):
        mine = list(group)
        if parts[-1] and len(parts[-1]) + len(mine) > WIDE:
            parts.append([])
        for column in mine:
            if len(parts[-1]) == WIDE:
                parts.append([])
            parts[-1].append(column)
    return parts


def _part(means: pd.DataFrame, cells: pd.DataFrame, columns: list[tuple[str, str]]) -> Heat:
    values = np.stack([means[[(end, *column) for column in columns]].to_numpy(dtype=float) for end in ENDS], axis=-1)
    rows = [
        (f"{kind} ({row.train:.0f}, {row.test:.0f})", [tuple(map(float, one)) for one in values[at]])
        for at, (kind, row) in enumerate(cells.iterrows())
    ]
    models = [(model, len(list(group))) for model, group in groupby(columns, key=lambda column: column[0])]
    return Heat(models, [name for _, name in columns], rows)
