"""Which setting of a tuned model counts: that of the best validation cells, of each split on its own."""

from collections.abc import Iterator

import pandas as pd

from sweeps.file.trials import AXES

LABELS = [*AXES, "defects", "protocol"]
CHOSEN_BY = "validation_macro_f1"
SECONDS = "trial_seconds"
SHOWN = 3  # settings in a sentence


def best(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs, of those that share all labels but what is tuned the one with the best validation macro F1.

    With `tuned_among`: of how many it is the best, those that are finished and have the number; `tuned_seconds`: what
    training all of them took. Of equals the first in the file's order, and so where none has it: test cells choose
    nothing. Unfinished runs stay.
    """
    if "tuned" not in runs or not (runs["tuned"] != "").any():
        return runs
    finished = runs[(runs["tuned"] != "") & (runs["status"] == "FINISHED")]
    scores = finished.get(CHOSEN_BY, pd.Series(float("nan"), index=finished.index))
    groups = scores.fillna(float("-inf")).groupby([finished[name] for name in LABELS], sort=False)
    among = scores.notna().groupby([finished[name] for name in LABELS], sort=False).transform("sum")
    spent = finished.get(SECONDS, pd.Series(float("nan"), index=finished.index))
    seconds = spent.groupby([finished[name] for name in LABELS], sort=False).transform("sum", min_count=1)
    told = runs.assign(tuned_among=among, tuned_seconds=seconds)
    return told.drop(index=finished.index.difference(groups.idxmax()))


def is_open(runs: pd.DataFrame) -> pd.Series:
    """Tell which runs are of a setting that isn't finished: it is no choice yet, and none beside the one that is."""
    return (runs.get("tuned", pd.Series("", index=runs.index)) != "") & (runs["status"] != "FINISHED")


def told(runs: pd.DataFrame) -> Iterator[str]:
    """Yield what must be said of each tuned model's numbers."""
    tuned = runs[(runs["tuned"] != "") & (runs["status"] == "FINISHED")] if "tuned" in runs else runs.iloc[:0]
    for model, mine in tuned.groupby("model", sort=False):
        over = int(mine["tuned_over"].iloc[0])
        if "tuned_among" not in mine:
            yield f"{model}: all {over} settings are here, none chosen on validation cells"
            continue
        yield (
            f"{model}: tuned over {over} settings on validation cells, each choice {over} trainings: {_chosen(mine)}"
            + "".join(_doubts(mine["tuned_among"], over))
        )


def _chosen(mine: pd.DataFrame) -> str:
    """Say which settings were chosen, the most frequent first."""
    counts = mine["tuned"].value_counts()
    each = "; ".join(f"{setting} ({number} of {len(mine)})" for setting, number in counts.head(SHOWN).items())
    return each + (f" and {len(counts) - SHOWN} others" if len(counts) > SHOWN else "")


def _doubts(among: pd.Series, over: int) -> Iterator[str]:
    """Say of how many choices some setting had no number to be chosen by."""
    fewer, none = int(((among > 0) & (among < over)).sum()), int((among == 0).sum())
    if fewer:
        yield f". {fewer} of {len(among)} are among fewer: other settings aren't finished, or lack {CHOSEN_BY}"
    if none:
        yield f". {none} of {len(among)} have no {CHOSEN_BY}: there the first of the file counts"
