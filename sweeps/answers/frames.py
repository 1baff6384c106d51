"""A sweep as two tables: its trials, and its trials x cell types, adjustments after training included."""

import pandas as pd

from sweeps.answers import celltypes
from sweeps.answers.runs import choices
from sweeps.answers.runs.stored import Stored
from sweeps.file.trials import AXES

ABOUT = ["run_id", "key", *AXES, "posthoc"]


def trials(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the finished runs, one per row and adjustment (`posthoc`, "none" for the plain one), see results.fetch."""
    return choices.unfolded(runs[runs["status"] == "FINISHED"]).reset_index(drop=True)


def types(runs: pd.DataFrame, stored: Stored) -> pd.DataFrame:
    """Return one row per finished run, adjustment and type: ABOUT and the columns of metrics.per_class.

    Runs that tell adjustments apart already, see choices.unfolded, have rows of their own one alone. A run whose table
    per type can't be read has no rows, an adjustment whose predictions weren't kept none of its own.
    """
    rows, finished = [], runs[runs["status"] == "FINISHED"]
    for (_, run), table in zip(finished.iterrows(), stored.tables(finished), strict=True):
        if table is None:
            continue
        table = celltypes.with_intervals(table)
        about = {name: run[name] for name in ABOUT if name in run and name != "posthoc"}
        for name in [run["posthoc"]] if "posthoc" in run else ["none", *celltypes.adjustments(run)]:
            mine = table if name == "none" else celltypes.adjusted_table(run, name, table, stored)
            rows += [] if mine is None else [mine.assign(**about, posthoc=name)]
    if not rows:
        return pd.DataFrame(columns=[*ABOUT, "class"])
    found = pd.concat(rows, ignore_index=True)
    return found[[*ABOUT, *(name for name in found if name not in ABOUT)]]
