"""Which setting of a tuned model counts: that of the best validation cells, of each split on its own."""

from collections.abc import Iterator

import pandas as pd

AXES = ["dataset", "split", "skew", "strategy", "loss", "model", "seed"]
LABELS = [*AXES, "defects", "protocol"]
CHOSEN_BY = "validation_macro_f1"
SHOWN = 3  # settings in a sentence


def best(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs, of those that share all labels but what is tuned the one with the best validation macro F1.

    Of equals the first in the file's order, and so where there are no validation cells: test cells choose nothing. Runs
    that aren't finished stay, as they have no numbers.
    """
    if "tuned" not in runs or not (runs["tuned"] != "").any():
        return runs
    finished = runs[(runs["tuned"] != "") & (runs["status"] == "FINISHED")]
    by = _scores(finished).fillna(float("-inf"))
    chosen = by.groupby([finished[name] for name in LABELS], sort=False).idxmax()
    return runs.drop(index=finished.index.difference(chosen))


def _scores(finished: pd.DataFrame) -> pd.Series:
    return finished.get(CHOSEN_BY, pd.Series(float("nan"), index=finished.index))


def told(runs: pd.DataFrame) -> Iterator[str]:
    """Yield what must be said of each tuned model's numbers."""
    tuned = runs[runs["tuned"] != ""] if "tuned" in runs else runs.iloc[:0]
    for model, mine in tuned.groupby("model", sort=False):
        finished = mine[mine["status"] == "FINISHED"]
        over = mine["tuned_over"].iloc[0]
        if finished.duplicated(LABELS).any():
            yield f"{model}: all {over} settings are here, none chosen on validation cells"
        elif len(finished):
            yield (
                f"{model}: tuned over {over} settings on validation cells, a choice per split: {_chosen(finished)}"
                + ("".join([*_unchosen(finished), *_open(mine, finished)]))
            )


def _chosen(finished: pd.DataFrame) -> str:
    """Say which settings were chosen, the most frequent first."""
    counts = finished["tuned"].value_counts()
    each = ", ".join(f"{setting} in {number}" for setting, number in counts.head(SHOWN).items())
    more = f" and {len(counts) - SHOWN} others" if len(counts) > SHOWN else ""
    return f"{each}{more} of {len(finished)}"


def _unchosen(finished: pd.DataFrame) -> Iterator[str]:
    if number := int(_scores(finished).isna().sum()):
        yield f"; the first of the file counts in {number} of {len(finished)}, which has no validation cells"


def _open(mine: pd.DataFrame, finished: pd.DataFrame) -> Iterator[str]:
    """Say of how many choices some setting isn't finished, so that they may yet change."""
    unfinished = mine[mine["status"] != "FINISHED"][LABELS].drop_duplicates()
    number = len(unfinished.merge(finished[LABELS], on=LABELS))
    if number:
        yield f"; {number} of these choices {_is(number)} among fewer, as some settings aren't finished"


def _is(number: int) -> str:
    return "is" if number == 1 else "are"
