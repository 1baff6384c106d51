"""The table of choices: a row is one choice that a person can make, the best first, what ties with it marked.

Baselines, and what chance alone gives, stand apart below the networks.
"""

from collections.abc import Sequence

import pandas as pd

from sweeps import tables
from sweeps.answers import celltypes, summary
from sweeps.answers.deciding.ranking import rankings
from sweeps.answers.designs import Designs
from sweeps.answers.runs import choices, results
from sweeps.answers.runs.choices import BASELINE, CHANCE, CHOICE, NETWORK
from sweeps.answers.runs.results import SHOWN
from sweeps.statistics.intervals import has_best, sign

BEST, TIE = "best", "tie"
GROUPS = ["dataset", "skew"]  # within which rows are sorted
ORDER = {NETWORK: 0, BASELINE: 1, CHANCE: 2}


def columns(runs: pd.DataFrame) -> list[str]:
    """Return the columns of a table that has a row per skew and choice: a mean over skews would answer no question.

    runs: finished, see choices.unfolded. Loss and adjustment are left out where there is one alone.
    """
    several = [name for name in ("loss", "posthoc") if runs[name].nunique() > 1]
    return ["skew", "model", "strategy", *several]


def build(runs: pd.DataFrame, by: Sequence[str], metrics: Sequence[str], designs: Designs) -> pd.DataFrame:
    """Return summary.summarise of runs, the best of each dataset and skew first, with `kind` and `mark`.

    runs: see choices.unfolded; those that aren't are taken as they are. kind: network, baseline or chance, in this
    order; "" where `by` has no model. mark: best, tie (can't be told from the best, see ranking) or ""; of nothing
    where a row is no single choice.
    """
    runs = runs if "posthoc" in runs else runs.assign(posthoc="none")
    table = summary.summarise(runs, list(by), list(metrics), designs)
    if table.empty or not len(metrics):
        return table
    table["kind"] = table["model"].map(choices.kinds(runs)) if "model" in table else ""
    table["mark"] = _marks(table, runs[runs["status"] == "FINISHED"], metrics[0], designs)
    keys = {name: _places(table[name]) for name in GROUPS if name in table}
    keys |= {"kind": table["kind"].map(ORDER).fillna(0), "value": -sign(metrics[0]) * table[metrics[0]]}
    order = pd.DataFrame(keys).sort_values(list(keys), kind="stable", na_position="last").index
    return table.loc[order].reset_index(drop=True)


def _places(values: pd.Series) -> pd.Series:
    """Return the order in which values first come, int."""
    return values.map({value: place for place, value in enumerate(dict.fromkeys(values))})


def _marks(table: pd.DataFrame, runs: pd.DataFrame, metric: str, designs: Designs) -> list[str]:
    by = [name for name in ("skew", *CHOICE, "dataset") if name in table]
    pooled = [name for name in ("skew", *CHOICE) if name not in by and runs[name].nunique() > 1]
    if pooled or "settings" in table or "model" not in table or not has_best(metric):
        return [""] * len(table)
    found: dict[tuple[str, ...], str] = {}
    for dataset, group in runs.groupby("dataset", sort=False) if "dataset" in by else [("", runs)]:
        for ranking in rankings(group, metric, designs):
            for row in ranking.candidates.itertuples():
                mark = BEST if row.label == ranking.best["label"] else TIE if row.tied else ""
                found[dataset, ranking.skew, row.label] = mark
    usual = {name: runs[name].iloc[0] for name in ("skew", *CHOICE)}
    rows = [usual | row for row in table[by].to_dict("records")]
    return [found.get((row.get("dataset", ""), row["skew"], choices.label(row)), "") for row in rows]


def show(
    runs: pd.DataFrame,
    by: Sequence[str] | None,
    metrics: Sequence[str],
    designs: Designs,
    form: str,
    warning: str | None,
) -> None:
    """Print the table as text, LaTeX, CSV or JSON; one for each type that metrics are of.

    by: its columns; None: a table per skew, a row per choice.
    """
    finished = runs[runs["status"] == "FINISHED"]
    kinds: dict[str, list[str]] = {} if len(metrics) else {"": []}
    for metric in metrics:
        kinds.setdefault(metric.partition(":")[2], []).append(metric)
    listed = columns(finished) if by is None else by
    built = {kind: build(runs, listed, mine, designs) for kind, mine in kinds.items()}
    if tables.for_programs(_for_programs(built), form, warning):
        return
    if finished.empty:
        print("no finished trial yet")
        return
    for kind, table in built.items():
        _draw(table, kinds[kind], kind, by is None, form)
    first = next(iter(built.values()))
    tables.say(
        *(celltypes.of_skews(finished, designs.stored) if by is None else ()),
        *summary.explained(first, list(metrics), runs, designs),
        *explained(pd.concat(list(built.values()))),
        form=form,
    )


def _for_programs(built: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the tables below one another; of types with a column `type`, and without it in the names of the others."""
    if list(built) == [""]:
        return built[""]
    plain = [
        table.rename(columns=lambda name, kind=kind: name.replace(f":{kind}", "")).assign(type=kind)
        for kind, table in built.items()
    ]
    return pd.concat(plain, ignore_index=True)


def _draw(table: pd.DataFrame, metrics: list[str], kind: str, per_skew: bool, form: str) -> None:
    text = summary.as_text(table, [], metrics).rename(columns=lambda name: name.removesuffix(f" of {kind}"))
    left = list(text.columns).index(summary.title(metrics[0]).removesuffix(f" of {kind}"))
    if not per_skew:
        tables.draw(text, title=kind or None, left=left, breaks=_breaks(table), form=form)
        return
    for skew in dict.fromkeys(table["skew"]):
        here = table["skew"] == skew
        title = f"{kind}, skew {skew}" if kind else f"skew {skew}"
        mine = text[here].drop(columns="skew")
        tables.draw(mine, title=title, left=left - 1, breaks=_breaks(table[here]), form=form)


def _breaks(table: pd.DataFrame) -> set[int]:
    """Return before which rows a line is left empty: where baselines, chance or another skew begin."""
    groups = list(zip(*(table[name] for name in [*GROUPS, "kind"] if name in table), strict=True))
    return {at for at in range(1, len(groups)) if groups[at] != groups[at - 1]}


def explained(table: pd.DataFrame) -> list[str]:
    """Return what the marks mean, if there are any."""
    if not table["mark"].any():
        return []
    return [
        f"{BEST}: the first of its skew, picked from all, which flatters it; {TIE}: can't be told from it on the "
        "same cells (95 %, for all differences at once); `cellskew answer` says more"
    ]


def end(runs: pd.DataFrame, designs: Designs) -> None:
    """Print the table that ends a run of a sweep; nothing if nothing is finished."""
    finished = runs[runs["status"] == "FINISHED"]
    metrics = [metric for metric in SHOWN if metric in runs.columns]
    if len(finished) and metrics:
        show(choices.unfolded(runs), None, metrics, designs, "table", results.warning(runs))
