"""The table that ends a run of a sweep, and the sentence that holds the best network against the best baseline."""

import pandas as pd

from sweeps import tables
from sweeps.answers import summary
from sweeps.answers.designs import Designs, Estimate
from sweeps.answers.runs import results
from sweeps.answers.runs.results import SHOWN

MARK = " <"  # behind the number of the best baseline


def show(runs: pd.DataFrame, designs: Designs) -> None:
    """Print model x strategy (x loss): means over datasets, skews and splits with their spread; nothing if none is.

    runs: those that the sweep wants, see results.choose.
    """
    metrics = [metric for metric in SHOWN if metric in runs.columns]
    finished = runs[runs["status"] == "FINISHED"]
    if finished.empty or not metrics:
        return
    by = remedies(finished)
    table = summary.summarise(runs, by, metrics, designs)
    text = summary.as_text(table, by, metrics)
    best = best_baseline(table, metrics[0])
    if best is not None:
        text.loc[best, summary.title(metrics[0])] += MARK
    if (said := results.warning(finished)) is not None:
        tables.console().print(said, style="bold red")
    tables.draw(text, left=len(by))
    tables.say(*summary.explained(table, metrics, runs, designs), *closing(table, runs, metrics[0], designs))


def remedies(finished: pd.DataFrame) -> list[str]:
    """Return the columns that tell remedies apart."""
    return ["model", "strategy", *(["loss"] if finished["loss"].nunique() > 1 else [])]


def is_baseline(model: str) -> bool:
    """Tell whether a model is one of the baselines; one that this version doesn't know counts as a network."""
    from trainables.spec import get, names

    return model in names() and get(model).kind == "baseline"


def best_baseline(table: pd.DataFrame, metric: str) -> int | None:
    """Return the row of a table of `summarise` that has the best baseline, remedies counted; None without one."""
    return _best(table, metric, [is_baseline(model) for model in table["model"]])


def _best(table: pd.DataFrame, metric: str, which: list[bool]) -> int | None:
    values = table.loc[which, metric].dropna()
    return None if values.empty else int(values.idxmax())


def closing(table: pd.DataFrame, runs: pd.DataFrame, metric: str, designs: Designs) -> list[str]:
    """Return the sentence that holds the best network against the best baseline, remedies counted in both.

    Their difference is paired: over the cells of the grid that both have finished.
    """
    baselines = [is_baseline(model) for model in table["model"]]
    best, rival = _best(table, metric, [not one for one in baselines]), _best(table, metric, baselines)
    if best is None or rival is None:
        return []
    by = remedies(runs[runs["status"] == "FINISHED"])
    found = _difference(runs, table.loc[best, by], table.loc[rival, by], metric, designs)
    names = [" · ".join(table.loc[row, by]) for row in (best, rival)]
    said = f"best network: {names[0]}, {table.loc[best, metric]:.3f}; best baseline (<): {names[1]}, "
    said += f"{table.loc[rival, metric]:.3f}"
    if found is None:
        return [f"{said}; they share no cell of the grid, so nothing is said of their difference"]
    low, high = found.interval(None)
    ends = "" if pd.isna(low) else f" [{low:+.3f}, {high:+.3f}]"
    return [f"{said}; difference on the same cells {found.mean:+.3f}{ends}. Both were picked as the best of this table"]


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
