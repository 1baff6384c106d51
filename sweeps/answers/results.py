"""MLflow -> a tidy table of runs; groups with mean, spread and confidence interval over seeds."""

from typing import Any

import numpy as np
import pandas as pd

from data_pipeline.errors import RequestError
from sweeps import tables
from sweeps.file.plugins import unknown
from sweeps.tracking.database import NoSuchSweep, StoredRun
from sweeps.tracking.runs import runs_of

SEEDS = ["split", "seed"]
AXES = ["dataset", "split", "skew", "strategy", "loss", "model", "seed"]
STATUSES = ("FINISHED", "RUNNING", "SCHEDULED", "KILLED", "FAILED")
SHOWN = ("test_macro_f1", "test_balanced_accuracy", "test_recall_tail")
TITLES = {
    "test_macro_f1": "macro F1",
    "test_balanced_accuracy": "balanced accuracy",
    "test_recall_tail": "rare-type recall",
}
NOTES = ["reason", "cause", "trouble", "defects", "protocol"]
FIXED = ["run_id", "status", "key", "name", "started", "ended", *AXES, *NOTES, "test_per_train"]


def fetch(uri: str, sweep: str) -> pd.DataFrame:
    """Return one row per trial ever registered in a sweep, in the order of registration.

    Columns: FIXED (started and ended in ms; test_per_train: test cells per training cell of the split), then the last
    value of every metric. RequestError if there is no such sweep, naming the nearest. The embedded database is read
    directly, which takes a tenth of the time.
    """
    try:
        rows = [_row(run) for run in runs_of(uri, sweep)]
    except NoSuchSweep as missing:
        raise _no_sweep(sweep, list(missing.args)) from None
    frame = pd.DataFrame(rows, columns=None if rows else FIXED)
    return frame.sort_values(["started", "run_id"], ignore_index=True)


def _no_sweep(sweep: str, names: list[str]) -> RequestError:
    known = [name for name in names if name != "Default"]
    return RequestError(f"{unknown('sweep', sweep, known)}; `cellskew run SWEEP.yaml` makes one")


def _row(run: StoredRun) -> dict[str, Any]:
    """Return a row of `fetch`."""
    row = {"run_id": run.run_id, "status": run.status, "key": run.tags["cellskew.trial"], "name": run.name}
    row |= {"started": run.started, "ended": run.ended}
    row |= {name: run.tags.get(f"cellskew.{name}", "") for name in (*AXES, *NOTES)}
    test, validation = (float(run.params.get(f"split.{part}", "nan")) for part in ("test", "validation"))
    return row | {"test_per_train": test / (1 - test - validation)} | run.metrics


def summarise(runs: pd.DataFrame, by: list[str], metrics: list[str]) -> pd.DataFrame:
    """Return one row per group of finished runs: `by`, and per metric mean, sd and the 95 % interval over the seeds.

    A seed is a pair of split seed and trial seed. Whatever else differs within a group (skews, say) is averaged for
    each seed first, so that the interval (Student's t over the seeds, NaN with one) says how sure the mean is.
    Columns: `by`, n (seeds), runs, uneven (some seed lacks a run that another has: the mean mixes different trials),
    <metric>, <metric>_sd, <metric>_low, <metric>_high; n_<metric> where seeds lack the metric.
    """
    check_columns(runs, by, metrics)
    finished = runs[runs["status"] == "FINISHED"]
    rows = []
    for values, group in finished.groupby(by, sort=False, dropna=False) if len(finished) else ():
        per_seed = group.groupby(SEEDS, sort=False)[metrics].mean()
        row = dict(zip(by, values, strict=True)) | {"n": len(per_seed), "runs": len(group), "uneven": _uneven(group)}
        for metric in metrics:
            row |= _interval(per_seed[metric].dropna().to_numpy(dtype=float), metric, len(per_seed))
        rows.append(row)
    return pd.DataFrame(rows, columns=None if rows else [*by, "n", "runs", "uneven"])


def _uneven(group: pd.DataFrame) -> bool:
    """Tell whether the seeds of a group have different runs finished."""
    others = group[[axis for axis in AXES if axis not in SEEDS]].agg("\0".join, axis=1)
    return others.groupby([group[axis] for axis in SEEDS]).agg(frozenset).nunique() > 1


def _interval(values: np.ndarray, metric: str, n: int) -> dict[str, float]:
    mean = values.mean() if len(values) else np.nan
    found = {metric: mean, f"{metric}_sd": np.nan, f"{metric}_low": np.nan, f"{metric}_high": np.nan}
    if len(values) > 1:
        from scipy.special import stdtrit  # scipy.stats takes a second to import

        sd = values.std(ddof=1)
        half = stdtrit(len(values) - 1, 0.975) * sd / np.sqrt(len(values))
        found |= {f"{metric}_sd": sd, f"{metric}_low": mean - half, f"{metric}_high": mean + half}
    return found if len(values) == n else found | {f"n_{metric}": len(values)}


def check_columns(runs: pd.DataFrame, by: list[str], metrics: list[str]) -> None:
    """RequestError naming all columns to group by and metrics that the runs don't have."""
    numbers = metric_names(runs)
    problems = [unknown("column", name, [*AXES, "protocol", "defects"]) for name in by if name not in runs.columns]
    problems += [unknown("metric", name, numbers) for name in metrics if name not in numbers]
    if problems:
        raise RequestError(*problems)


def metric_names(runs: pd.DataFrame) -> list[str]:
    """Return the metrics that some run has, final ones first."""
    return sorted((name for name in runs.columns if name not in FIXED), key=lambda name: (name[:5] != "test_", name))


def warning(runs: pd.DataFrame) -> str | None:
    """Return what must stand above any table that has runs made with the published recipe's defects, or None."""
    if "defects" not in runs.columns or not (tagged := runs[runs["defects"] != ""]).size:
        return None
    names = sorted({name for listed in tagged["defects"] for name in listed.split(",")})
    return f"WARNING: {len(tagged)} of {len(runs)} runs were made with known defects on purpose: {', '.join(names)}"


def show_final(runs: pd.DataFrame) -> None:
    """Print model x strategy (x loss): each seed's mean over datasets and skews, then mean ± sd over the seeds."""
    shown = [metric for metric in SHOWN if metric in runs.columns]
    finished = runs[runs["status"] == "FINISHED"]
    if finished.empty or not shown:
        return
    by = ["model", "strategy", *(["loss"] if finished["loss"].nunique() > 1 else [])]
    table = summarise(runs, by, shown)
    text = table[by].astype(str)
    for metric in shown:
        pairs = zip(table[metric], table[f"{metric}_sd"], strict=True)
        text[TITLES.get(metric, metric)] = [tables.spread(*pair) for pair in pairs]
    if (said := warning(runs)) is not None:
        tables.console().print(said, style="bold red")
    tables.draw(text, left=len(by))
    print(_grounds(finished))
    _say_uneven(table)


def _say_uneven(table: pd.DataFrame) -> None:
    if len(table) and table["uneven"].any():
        print("note: some seeds lack finished runs that others have (n*): those means are over different trials")


def _grounds(finished: pd.DataFrame) -> str:
    """Say over what the final table's numbers were averaged."""
    datasets, skews = finished["dataset"].nunique(), finished["skew"].nunique()
    seeds = len(finished[["split", "seed"]].drop_duplicates())
    return f"mean over {datasets} dataset(s) x {skews} skew(s), ± sd over {seeds} seed(s), on test cells"


def show(table: pd.DataFrame, by: list[str], metrics: list[str], form: str, warning: str | None) -> None:
    """Print what summarise returned as a table, CSV or JSON."""
    if tables.for_programs(table, form, warning):
        return
    if table.empty:
        print("no finished trial yet")
        return
    text = table[by].astype(str)
    for metric in metrics:
        columns = (table[name] for name in (metric, f"{metric}_sd", f"{metric}_low", f"{metric}_high"))
        text[TITLES.get(metric, metric)] = [_cell(*numbers) for numbers in zip(*columns, strict=True)]
    text["n"] = table["n"].astype(str) + table["uneven"].map({True: "*", False: ""})
    tables.draw(text, left=len(by))
    print("mean ± sd over n seeds [95 % confidence interval of the mean, Student's t]; what else differs within a row")
    print("(skews, datasets, ...) is averaged for each seed first")
    _say_uneven(table)


def _cell(mean: float, sd: float, low: float, high: float) -> str:
    return tables.spread(mean, sd) + ("" if pd.isna(low) else f" [{low:.3f}, {high:.3f}]")
