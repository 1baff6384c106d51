"""The table that ends a run of a sweep, and the sentence that holds the best network against the best baseline."""

from collections.abc import Iterator

import pandas as pd

from sweeps import tables
from sweeps.answers import celltypes, summary
from sweeps.answers.designs import Designs, Estimate
from sweeps.answers.runs import results
from sweeps.answers.runs.results import SHOWN

MARK = " <"  # behind the number of the best baseline


def show(runs: pd.DataFrame, designs: Designs) -> None:
    """Print a table per skew of model x strategy (x loss): means over datasets and splits; nothing if none is finished.

    runs: those that the sweep wants, see results.choose.
    """
    metrics = [metric for metric in SHOWN if metric in runs.columns]
    finished = runs[runs["status"] == "FINISHED"]
    if finished.empty or not metrics:
        return
    by = rows(finished)
    table = summary.summarise(runs, by, metrics, designs)
    text = summary.as_text(table, by, metrics)
    mark(text, table, metrics[0])
    if (said := results.warning(finished)) is not None:
        tables.console().print(said, style="bold red")
    for skew in dict.fromkeys(table["skew"]):
        tables.draw(text[table["skew"] == skew].drop(columns="skew"), title=f"skew {skew}", left=len(by) - 1)
    tables.say(
        *celltypes.of_skews(finished, designs.stored),
        *summary.explained(table, metrics, runs, designs),
        *closing(table, runs, metrics[0], designs),
    )


def rows(finished: pd.DataFrame) -> list[str]:
    """Return the columns of a table that has a row per skew and remedy: a mean over skews would answer no question."""
    return ["skew", "model", "strategy", *(["loss"] if finished["loss"].nunique() > 1 else [])]


def is_baseline(model: str) -> bool:
    """Tell whether a model is one of the baselines; one that this version doesn't know counts as a network."""
    from trainables.spec import get, names

    return model in names() and get(model).kind == "baseline"


def mark(text: pd.DataFrame, table: pd.DataFrame, metric: str) -> None:
    """Put MARK behind the best baseline of each skew, remedies counted, in the text of a table of `summarise`."""
    for _, group in table.groupby("skew", sort=False):
        best = _best(group, metric, group["model"].map(is_baseline))
        if best is not None:
            text.loc[best, summary.title(metric)] += MARK


def _best(table: pd.DataFrame, metric: str, which: pd.Series) -> int | None:
    values = table.loc[which, metric].dropna()
    return None if values.empty else int(values.idxmax())


def closing(table: pd.DataFrame, runs: pd.DataFrame, metric: str, designs: Designs) -> Iterator[str]:
    """Yield for each skew the sentence that holds the best network against the best baseline, remedies counted in both.

    Their difference is paired: over the cells of the grid that both have finished.
    """
    by, held = rows(runs[runs["status"] == "FINISHED"]), False
    for skew, group in table.groupby("skew", sort=False):
        baselines = group["model"].map(is_baseline)
        best, rival = _best(group, metric, ~baselines), _best(group, metric, baselines)
        if best is None or rival is None:
            continue
        held = True
        found = _difference(runs, table.loc[best, by], table.loc[rival, by], metric, designs)
        names = [" · ".join(table.loc[row, by[1:]]) for row in (best, rival)]
        said = f"{skew}: best network {names[0]}, {table.loc[best, metric]:.3f}; best baseline (<) {names[1]}, "
        yield f"{said}{table.loc[rival, metric]:.3f}; {_in_words(found)}"
    if held:
        yield "best network, best baseline: each was picked as the best of its table, which flatters both"


def _in_words(difference: Estimate | None) -> str:
    if difference is None:
        return "they share no cell of the grid, so nothing is said of their difference"
    low, high = difference.interval(None)
    ends = "" if pd.isna(low) else f" [{low:+.3f}, {high:+.3f}]"
    return f"difference on the same cells {difference.mean:+.3f}{ends}"


def _difference(runs: pd.DataFrame, one: pd.Series, other: pd.Series, metric: str, designs: Designs) -> Estimate | None:
    """Return the Estimate of the difference between two rows of the table, None without a pair."""
    same = [name for name in results.AXES if name not in one.index]
    finished = runs[(runs["status"] == "FINISHED") & runs[metric].notna()]
    mine, theirs = (
        finished[(finished[list(which.index)] == which).all(axis=1)].drop_duplicates(same).set_index(same)
        for which in (one, other)
    )
    both = mine.index.intersection(theirs.index, sort=False)
    if both.empty:
        return None
    return designs.estimate(mine.loc[both].reset_index(), metric, minus=theirs.loc[both].reset_index())
