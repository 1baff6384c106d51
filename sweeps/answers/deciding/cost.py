"""What a training costs: seconds, GPU-hours by the share of a GPU that it had; of what is tuned, of all settings."""

import pandas as pd

from sweeps import tables


def gpu_hours(runs: pd.DataFrame) -> pd.Series:
    """Return the GPU-hours of each run: its seconds by its share of a GPU; 0 on a CPU, NaN if they aren't known."""
    return seconds(runs) / 3600 * shares(runs)


def seconds(runs: pd.DataFrame) -> pd.Series:
    """Return the seconds of each run, with those of the settings that it was chosen from; NaN if they aren't known."""
    own = runs.get("trial_seconds", pd.Series(float("nan"), index=runs.index))
    return runs["tuned_seconds"].fillna(own) if "tuned_seconds" in runs else own


def shares(runs: pd.DataFrame) -> pd.Series:
    """Return the share of a GPU that each run had; a whole one where a run says only that it had one."""
    there = (runs["gpu"] != "").astype(float) if "gpu" in runs else pd.Series(0.0, index=runs.index)
    if "gpus" not in runs:
        return there
    told = pd.to_numeric(runs["gpus"], errors="coerce")
    return told.where(told.notna(), there)


def in_words(row: pd.Series) -> str:
    """Return what one training of a row of a ranking costs: scgpt · none 12 s on a CPU."""
    if pd.isna(row["seconds"]):
        return f"{row['label']} not recorded"
    time = f"{row['seconds']:.2g} s" if row["seconds"] < 99 else tables.hours(row["seconds"])
    if not row["gpus"]:
        return f"{row['label']} {time} on CPUs"
    where = f"{row['gpus']:.2g} of a GPU" if row["gpus"] <= 1 else f"{row['gpus']:.3g} GPUs"
    return f"{row['label']} {time} on {where} ({row['seconds'] / 3600 * row['gpus']:.2g} GPU-hours)"
