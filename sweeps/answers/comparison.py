"""`cellskew compare`: what a choice changes, on the same cells, and whether seeds alone could have done it."""

import textwrap
from typing import Any

import numpy as np
import pandas as pd

from data_pipeline.errors import RequestError
from sweeps import tables
from sweeps.answers.results import AXES, SEEDS, TITLES, check_columns
from sweeps.file.plugins import unknown

CHOICES = [axis for axis in AXES if axis not in SEEDS] + ["posthoc", "defects"]
USUAL = {"none", "natural", "cross_entropy", "logistic_regression"}  # what others are compared with, unless told
COLUMNS = ["level", "against", "n", "pairs", "unpaired", "mean", "mean_against"]
COLUMNS += ["difference", "low", "high", "effect", "wins", "ties", "losses", "p", "p_holm"]


def compare(
    runs: pd.DataFrame, between: str, within: list[str], metric: str, against: str | None = None, tie: float = 0.0
) -> pd.DataFrame:
    """Return one row per group of `within` and level of `between`, compared with the level `against`.

    Two finished runs are a pair if they differ in `between` alone: same dataset, split, skew and so on. Differences
    (level - against) are averaged for each split first, or for each seed where there is one split; n is the number of
    those. Test and interval are Student's t over them, two-sided, its variance enlarged for the cells that training
    sets of several splits share (Nadeau & Bengio 2003); p_holm is corrected for all rows (Holm 1979). effect:
    difference / sd of the differences (Cohen's d of paired samples); wins, ties, losses: pairs, |difference| <= tie
    being a tie. p and interval are NaN with fewer than two differences or where all are equal but not zero.
    RequestError for an unknown column, metric or level, and where there is nothing to compare.
    """
    if between not in CHOICES:
        raise RequestError(unknown("choice for --between", between, CHOICES))
    if between in within:
        raise RequestError(f"--within {between} is what --between compares; leave it out there")
    runs = _with_posthoc(runs, metric) if between == "posthoc" else runs
    check_columns(runs, [*within, between], [metric])
    finished = runs[(runs["status"] == "FINISHED") & runs[metric].notna()].replace({"defects": {"": "none"}})
    levels = list(dict.fromkeys(finished[between]))
    against = _baseline(levels, against, between)
    same = [name for name in (*AXES, "defects") if name != between]
    table = finished.pivot_table(metric, same, between, sort=False)
    correction = float(finished["test_per_train"].mean())
    rows = []
    for values, group in table.groupby(within, sort=False) if within else [((), table)]:
        named = dict(zip(within, values, strict=True))
        rows += [named | _row(group, level, against, correction, tie) for level in levels if level != against]
    found = pd.DataFrame([row for row in rows if row["pairs"]], columns=[*within, *COLUMNS])
    if found.empty:
        raise RequestError(f"no two finished runs differ in {between} alone; `cellskew status` says what is missing")
    return found.assign(p_holm=holm(found["p"].to_numpy(dtype=float)))


def _with_posthoc(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the runs once as they are and once per adjustment, whose numbers stand as <metric>.<name> beside."""
    names = [name.removeprefix(f"{metric}.") for name in runs.columns if name.startswith(f"{metric}.")]
    adjusted = [
        runs.assign(posthoc=name, **{metric: runs[f"{metric}.{name}"]})[lambda one: one[metric].notna()]
        for name in names
    ]
    return pd.concat([runs.assign(posthoc="none"), *adjusted], ignore_index=True)


def _baseline(levels: list[str], against: str | None, between: str) -> str:
    if len(levels) < 2:
        only = f"only {levels[0]}" if levels else "nothing"
        raise RequestError(f"there is {only} among the finished runs to compare --between {between}")
    if against is None:
        return next((level for level in levels if level in USUAL), levels[0])
    if against not in levels:
        raise RequestError(unknown(f"{between} for --against", against, levels))
    return against


def _row(group: pd.DataFrame, level: str, against: str, correction: float, tie: float) -> dict[str, Any]:
    """Return the comparison of two columns of `group`, whose rows are what else is the same."""
    both = group.reindex(columns=[level, against]).dropna(how="all")
    pairs = both.dropna()
    difference = pairs[level] - pairs[against]
    by_split = pairs.index.get_level_values("split").nunique() > 1
    per_seed = pairs.groupby(level="split" if by_split else "seed").mean()
    return {
        "level": level,
        "against": against,
        "n": len(per_seed),
        "pairs": len(pairs),
        "unpaired": len(both) - len(pairs),
        "mean": per_seed[level].mean(),
        "mean_against": per_seed[against].mean(),
        "wins": int((difference > tie).sum()),
        "ties": int((difference.abs() <= tie).sum()),
        "losses": int((difference < -tie).sum()),
    } | _test((per_seed[level] - per_seed[against]).to_numpy(), correction if by_split else 0.0)


def _test(differences: np.ndarray, correction: float) -> dict[str, float]:
    """Return mean, 95 % interval, effect and p of paired differences float [n].

    correction: test cells per training cell of a split (Nadeau & Bengio 2003); 0: the ordinary paired t-test.
    """
    from scipy.special import stdtr, stdtrit  # scipy.stats takes a second to import

    n = len(differences)
    found = dict.fromkeys(("low", "high", "effect", "p"), np.nan) | {"difference": np.nan}
    if not n:
        return found
    mean = differences.mean()
    if n > 1 and not differences.any():
        return {"difference": 0.0, "low": 0.0, "high": 0.0, "effect": 0.0, "p": 1.0}
    sd = differences.std(ddof=1) if n > 1 else 0.0
    if sd <= 1e-12:
        return found | {"difference": mean}
    error = sd * np.sqrt(1 / n + correction)
    half = stdtrit(n - 1, 0.975) * error
    p = 2 * stdtr(n - 1, -abs(mean) / error)
    return {"difference": mean, "low": mean - half, "high": mean + half, "effect": mean / sd, "p": p}


def holm(p: np.ndarray) -> np.ndarray:
    """Return p values float [m] corrected for their number by Holm's step-down method; NaN stays and isn't counted."""
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]
    corrected = np.full(len(p), np.nan)
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def as_text(table: pd.DataFrame, between: str, within: list[str], metric: str) -> pd.DataFrame:
    """Return what `compare` found as a table of text for people."""
    text = table[within].astype(str)
    text[between] = table["level"]
    text[TITLES.get(metric, metric)] = [f"{mean:.3f}" for mean in table["mean"]]
    text[f"- {table['against'].iloc[0]}"] = [
        f"{row.difference:+.3f}" + ("" if pd.isna(row.low) else f" [{row.low:+.3f}, {row.high:+.3f}]")
        for row in table.itertuples()
    ]
    text["effect"] = [_or_dash(value, "+.2f") for value in table["effect"]]
    text["wins/ties/losses"] = [f"{row.wins}/{row.ties}/{row.losses}" for row in table.itertuples()]
    text["n"] = [f"{row.n}{'*' if row.unpaired else ''}" for row in table.itertuples()]
    text["p"] = [_or_dash(value, ".3g") for value in table["p"]]
    text["p, Holm"] = [_or_dash(value, ".3g") for value in table["p_holm"]]
    return text


def _or_dash(value: float, form: str) -> str:
    return "-" if pd.isna(value) else format(value, form)


def explained(table: pd.DataFrame, between: str) -> str:
    """Return what the columns of such a table mean."""
    unpaired = int(table["unpaired"].sum())
    return (
        f"paired differences to {between} {table['against'].iloc[0]} on the same cells, averaged for each of n seeds; "
        "[95 % confidence interval] and p: Student's t, corrected for the training cells that splits share (Nadeau & "
        "Bengio 2003), then for the number of rows (Holm); effect: difference / sd of the differences; wins, ties and "
        "losses: pairs of trials"
    ) + (f"; n*: {unpaired} runs have no finished partner and are left out" if unpaired else "")


def show(table: pd.DataFrame, between: str, within: list[str], metric: str, form: str, warning: str | None) -> None:
    """Print what compare returned as a table, CSV or JSON."""
    if tables.for_programs(table, form, warning):
        return
    tables.draw(as_text(table, between, within, metric), left=len(within) + 1)
    print(textwrap.fill(explained(table, between), 110))
