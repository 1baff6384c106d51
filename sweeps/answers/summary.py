"""`cellskew results`: means over splits with their spread and intervals, and what may be said of them."""

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from sweeps import tables
from sweeps.answers import celltypes
from sweeps.answers.designs import GRID, Designs
from sweeps.answers.runs import results
from sweeps.statistics.intervals import FEW, LEAST, span

NAMED = 6  # of what a row averages
HOW = {  # a design -> how its intervals come about
    "splits": "Student's t over splits, widened for the cells that they share (Nadeau & Bengio 2003)",
    "fixed": "test cells drawn again within types (paired bootstrap), and retraining on these training cells",
    "donors": "Student's t over splits, widened for the donors that they share, or whole donors drawn again (paired "
    "bootstrap), whichever is wider",
}


def summarise(runs: pd.DataFrame, by: list[str], metrics: list[str], designs: Designs | None = None) -> pd.DataFrame:
    """Return one row per group of finished runs: `by`, and per metric its mean over splits, its spread and interval.

    Trial seeds within a split are averaged first, then whatever else differs within a group (skews, say), then splits;
    datasets count alike. The 95 % interval is that of the mean, see designs; NaN under three splits, where the range
    over splits says what there is to say.
    Columns: `by`, n (splits, the fewest of any dataset), seeds (of a split, the most), runs, uneven (some split lacks a
    run that another has: the mean mixes different trials), and <metric>, <metric>_sd (over splits, within datasets),
    <metric>_low, <metric>_high, <metric>_least, <metric>_most (mean over datasets of the lowest and highest split),
    <metric>_lacking (runs that don't have it); of one type's numbers also those of celltypes.one_split.
    """
    results.check_columns(runs, by, metrics)
    finished = runs[runs["status"] == "FINISHED"]
    by = by_settings(finished, by)
    if "settings" not in by:
        results.check_alone(finished)
    designs = Designs(runs) if designs is None else designs
    rows = []
    for values, group in finished.groupby(by, sort=False, dropna=False) if len(finished) else ():
        row = dict(zip(by, values, strict=True)) | _counts(group)
        for metric in metrics:
            row |= _numbers(group, metric, designs)
        rows.append(row)
    return pd.DataFrame(rows, columns=None if rows else [*by, "n", "seeds", "runs", "uneven"])


def by_settings(finished: pd.DataFrame, by: Sequence[str]) -> list[str]:
    """Return the columns to group by: also settings or adjustments where runs that share all labels differ in them.

    And defects, where a row would average runs that have them with runs that don't.
    """
    several = ["settings"] if "settings" in finished and finished["settings"].any() else []
    several += ["posthoc"] if "posthoc" in finished and finished["posthoc"].nunique() > 1 else []
    several += ["defects"] if "defects" in finished and _differ(finished, by, "defects") else []
    return [*by, *(name for name in several if name not in by)]


def _differ(finished: pd.DataFrame, by: Sequence[str], column: str) -> bool:
    """Tell whether runs that are alike in model and `by` differ in a column."""
    same = list(dict.fromkeys(name for name in (*by, "model", "strategy") if name in finished and name != column))
    return bool((finished.groupby(same, dropna=False)[column].nunique() > 1).any())


def _counts(group: pd.DataFrame) -> dict[str, int | bool]:
    splits = group.groupby("dataset")["split"].nunique()
    seeds = group.groupby([name for name in GRID if name in group], dropna=False)["seed"].nunique()
    return {"n": int(splits.min()), "seeds": int(seeds.max()), "runs": len(group), "uneven": _uneven(group)}


def _uneven(group: pd.DataFrame) -> bool:
    """Tell whether the splits of a dataset have different runs finished."""
    others = group[["skew", "strategy", "loss", "model", "seed"]].agg("\0".join, axis=1)
    sets = others.groupby([group["dataset"], group["split"]]).agg(frozenset)
    return bool((sets.groupby(level=0).nunique() > 1).any())


def _numbers(group: pd.DataFrame, metric: str, designs: Designs) -> dict[str, float]:
    found = designs.estimate(group, metric)
    names = ("", "_sd", "_low", "_high", "_least", "_most")
    numbers = [np.nan] * len(names)
    if found is not None:
        numbers = [found.mean, found.sd, *found.interval(span(metric)), found.least, found.most]
    lacking = {f"{metric}_lacking": int(group[metric].isna().sum())} | celltypes.one_split(group, metric)
    return dict(zip((f"{metric}{name}" for name in names), numbers, strict=True)) | lacking


def as_text(table: pd.DataFrame, by: list[str], metrics: list[str]) -> pd.DataFrame:
    """Return what `summarise` found as a table of text for people; one column per metric, and n."""
    by = [name for name in table.columns[: list(table.columns).index("n")]] if len(table) else by
    text = table[by].astype(str)
    if table.get("mark", pd.Series(dtype=str)).any():
        text[""] = table["mark"]
    for metric in metrics:
        of_type = f"{metric}_one_low" in table
        text[title(metric)] = [cell(row, metric, short=of_type) for _, row in table.iterrows()]
        if of_type:
            text[f"one split{' ' * metrics.index(metric)}"] = [_range(row, metric) for _, row in table.iterrows()]
    tested = _tested(table, metrics)
    for name in tested:
        of = f" of {name.partition(':')[2]}" if len(tested) > 1 else ""
        text[f"test cells{of}"] = [f"{cells:.0f}" for cells in table[name]]
    text["n"] = [f"{row.n}{'*' if row.uneven else ''}" for row in table.itertuples()]
    return text


def _tested(table: pd.DataFrame, metrics: list[str]) -> list[str]:
    """Return the columns with the test cells of the types that metrics are of."""
    of_types = [metric for metric in metrics if f"{metric}_one_low" in table]
    return list(dict.fromkeys(celltypes.of_split(metric)[2] for metric in of_types))


def title(metric: str) -> str:
    """Return what a metric is called in tables, which is what may be typed: macro_f1, val_loss; recall of DC."""
    name, _, kind = metric.removeprefix("test_").partition(":")
    return f"{name} of {kind}" if kind else name


def _range(row: pd.Series, metric: str) -> str:
    low, high = row[f"{metric}_one_low"], row[f"{metric}_one_high"]
    return "-" if pd.isna(low) else f"{low:.2f}–{high:.2f}"


def cell(row: pd.Series, metric: str, short: bool = False) -> str:
    """Return a mean with its spread: ± sd and interval, or under three splits the range over splits.

    short: without sd, and the interval to two places.
    """
    mean, sd = row[metric], row[f"{metric}_sd"]
    if pd.isna(mean):
        return "-"
    if row["n"] < LEAST:
        least, most = row[f"{metric}_least"], row[f"{metric}_most"]
        return f"{mean:.3f}" if least == most else f"{mean:.3f} ({least:.3f} to {most:.3f})"
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    places = 2 if short else 3
    ends = "" if pd.isna(low) else f" [{low:.{places}f}, {high:.{places}f}]"
    return tables.spread(mean, np.nan if short else sd) + ends


def explained(table: pd.DataFrame, metrics: list[str], runs: pd.DataFrame, designs: Designs) -> list[str]:
    """Return the sentences under such a table: what its columns are, and what they can't tell."""
    finished = runs[runs["status"] == "FINISHED"]
    by = table.columns[: table.columns.get_loc("n")]
    said = [f"mean over n splits of the test cells' numbers{_seeds(table)}; {pooled(finished, by)}"]
    if (table["n"] >= LEAST).any():
        how = explained_intervals(designs, set(finished["dataset"]))
        said.append(f"± sd over splits; [95 % confidence interval of the mean: {how}]")
    if (table["n"] < LEAST).any():
        said.append(f"(lowest to highest split): under {LEAST} splits there is no interval; add splits: seeds")
    elif (table["n"] < FEW).any():
        said.append(f"WARNING: under {FEW} splits intervals rest on little; {FEW} or more are worth their time")
    if table["uneven"].any():
        said.append("n*: some splits lack finished runs that others have: those means are over different trials")
    said += celltypes.rare(finished, designs.stored, metrics)
    if _tested(table, metrics):
        said.append(
            "one split: what so few test cells of the type leave open of the number (95 %, Wilson); mean over runs"
        )
    return [*said, *celltypes.tested(finished, metrics), *_lacking(finished, metrics), *designs.notes]


def _seeds(table: pd.DataFrame) -> str:
    seeds = int(table["seeds"].max())
    return f" ({seeds} trial seeds in each, averaged first)" if seeds > 1 else ""


def pooled(finished: pd.DataFrame, by: Collection[str]) -> str:
    """Say what a row averages, at most, of finished runs in a table that has a row per value of `by`, and which."""
    axes = [axis for axis in ("dataset", "skew", "strategy", "loss", "model") if axis not in by]
    known = [name for name in by if name in finished]
    most = finished.groupby(known, dropna=False)[axes].nunique().max() if known else finished[axes].nunique()
    several = [f"{most[axis]:.0f} {plural(axis)} ({_named(finished[axis])})" for axis in axes if most[axis] > 1]
    if not several:
        return "a row averages nothing else"
    return f"a row averages {' x '.join(several)}" + (", these and no others" if "dataset" in axes else "")


def _named(values: pd.Series) -> str:
    listed = list(dict.fromkeys(values))
    return ", ".join(listed[:NAMED]) + (f", and {len(listed) - NAMED} more" if len(listed) > NAMED else "")


def plural(axis: str) -> str:
    """Return strategies for strategy, splits for split."""
    return {"strategy": "strategies", "loss": "losses", "remedy": "remedies"}.get(axis, f"{axis}s")


def explained_intervals(designs: Designs, datasets: Collection[str]) -> str:
    """Say how intervals came about, by the designs of the datasets."""
    kinds: dict[str, list[str]] = {}
    for dataset in designs.datasets:
        if dataset in datasets:
            kinds.setdefault(designs.kind(dataset), []).append(dataset)
    if len(kinds) == 1:
        return HOW[next(iter(kinds))]
    return "; ".join(f"{', '.join(names)}: {HOW[kind]}" for kind, names in kinds.items())


def _lacking(finished: pd.DataFrame, metrics: list[str]) -> list[str]:
    """Return a sentence per metric that some runs don't have."""
    said = []
    for metric in metrics:
        without = finished[finished[metric].isna()]
        if len(without):
            named = ", ".join(map(str, dict.fromkeys(without["dataset"])))
            said.append(f"{title(metric)}: {len(without)} of {len(finished)} runs have none and are left out ({named})")
    return said
