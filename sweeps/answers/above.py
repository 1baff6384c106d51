"""What MLflow's runs above the trials say: the means of each choice, so that the table of runs answers by itself."""

import pandas as pd

from sweeps.answers.designs import Designs
from sweeps.answers.runs.results import SHOWN
from sweeps.file.trials import NAMED, SEPARATOR
from sweeps.tracking.about import SUMMARY, Summary

AXES = [axis for axis in NAMED if axis not in ("split", "seed")]  # what makes a choice, in the order of a run's name


def summaries(runs: pd.DataFrame, designs: Designs) -> list[Summary]:
    """Return one for each choice with finished trials: mean_<metric>, sd_<metric>, splits and trials.

    Of SHOWN, and of these after each adjustment (mean_macro_f1.logit_adjust). Trial seeds within a split are averaged
    first; sd is over splits. runs: see results.choose.
    """
    finished = runs[runs["status"] == "FINISHED"]
    return [_summary(part, designs) for _, part in finished.groupby(AXES, sort=False)]


def _summary(part: pd.DataFrame, designs: Designs) -> Summary:
    first = part.iloc[0]
    numbers = {"trials": float(len(part)), "splits": float(part["split"].nunique())}
    for metric in (name for name in part if name.partition(".")[0] in SHOWN and part[name].notna().any()):
        found, name = designs.estimate(part[part[metric].notna()], metric), metric.removeprefix("test_")
        numbers[f"mean_{name}"] = found.mean
        numbers |= {} if pd.isna(found.sd) else {f"sd_{name}": found.sd}
    tags = {f"{SUMMARY}.{axis}": str(first[axis]) for axis in AXES}  # not a trial's, which queries go by
    return Summary(SEPARATOR.join(tags.values()), numbers, tags, list(part["run_id"]))
