"""A comparison for people: its table, and what must be said under it."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from sweeps import tables
from sweeps.answers import celltypes, comparison
from sweeps.answers.comparison import ALL, Comparison
from sweeps.answers.summary import explained_intervals, pooled, title
from sweeps.statistics import families, intervals

SURE = 0.05  # p, corrected, under which a sentence says so


def as_text(found: Comparison) -> pd.DataFrame:
    """Return a comparison as a table of text for people."""
    table = found.table
    text = table[
        [*found.within, *(["dataset"] if "dataset" in table and "dataset" not in found.within else [])]
    ].astype(str)
    text[found.between] = table["level"]
    text[title(found.metric)] = [f"{mean:.3f}" for mean in table["mean"]]
    text[f"- {found.against}"] = [
        f"{row.difference:+.3f}" + ("" if pd.isna(row.low) else f" [{row.low:+.3f}, {row.high:+.3f}]")
        for row in table.itertuples()
    ]
    text["wins/ties/losses"] = [f"{row.wins}/{row.ties}/{row.losses}" for row in table.itertuples()]
    text["n"] = table["n"].astype(str)
    text["p"] = [_or_dash(value, ".3g") for value in table["p"]]
    text["p, Holm"] = [_or_dash(value, ".3g") for value in table["p_holm"]]
    return text


def _or_dash(value: float, form: str) -> str:
    return "-" if pd.isna(value) else format(value, form)


def explained(found: Comparison, family: str | None = None) -> list[str]:
    """Return the sentences under such a table: its columns, the tests that make up the family, what is left out.

    family: what p is corrected for, None for the tests of this table.
    """
    table, against = found.table, f"{found.between} {found.against}"
    seeds, several = int(table["seeds"].max()), ALL in set(table.get("dataset", ()))
    of_seeds = f" ({seeds} trial seeds in each, averaged first)" if seeds > 1 else ""
    pairs = "wins, ties and losses: pairs of trials"
    said = [f"differences to {against} on the same cells, over n splits{of_seeds}; {pairs}"]
    said.append(pooled(found.compared, [*found.within, found.between, *(["dataset"] if several else [])]))
    said += celltypes.tested(found.compared, [found.metric])
    said += celltypes.rare(found.compared, found.designs.stored, [found.metric])
    if number := comparison.tests([found]):
        said.append(f"[95 % confidence interval] and p: {explained_intervals(found.designs, set(_datasets(found)))}")
        rows = 'the rows "all"' if several else "the rows of this table"
        said += _repeated(found)
        said.append(_family(number, rows) if family is None else f"p, Holm: corrected for {family}")
        said += _beside_0(table)
    said += _few(table["n"])
    if several:
        said.append(_scope(len(_datasets(found))))
    return said + [f"left out: {one}" for one in found.lost()] + found.designs.notes


def _repeated(found: Comparison) -> list[str]:
    """Return that rows ask the same, if any do."""
    number = int(found.table["p"].notna().sum()) - comparison.tests([found])
    return [f"rows that have the same predictions as another, and are one test with it: {number}"] if number else []


def _family(number: int, rows: str) -> str:
    if number == 1:
        return f"p, Holm: one test, {rows} and no others, so nothing to correct for; another table is another family"
    return f"p, Holm: corrected for {number} tests, {rows} and no others; another table is another family"


def _beside_0(table: pd.DataFrame) -> list[str]:
    """Return why an interval leaves out 0 and is not called sure, where one is."""
    unsure = table[((table["low"] > 0) | (table["high"] < 0)) & (table["p_holm"] >= SURE)]
    if unsure.empty:
        return []
    return [
        f"intervals that leave out 0 though p, Holm, is {SURE} or more: {len(unsure)}; each interval is of its row "
        "alone, p, Holm, of all rows together"
    ]


def _few(n: pd.Series) -> list[str]:
    """Return what must be said of few splits."""
    least = intervals.LEAST
    if (n == 1).all():
        return [f"one split: trial seeds tell of these cells alone, so no interval and no p; {least} splits are needed"]
    if (n < least).any():
        return [f"under {least} splits there is no interval and no p: add splits: seeds"]
    if (n < intervals.FEW).any():
        return [f"WARNING: under {intervals.FEW} splits tests find little and intervals rest on little"]
    return []


def _scope(datasets: int) -> str:
    if datasets < families.DATASETS:
        units = f"{families.DATASETS} would make them units"
        return f"all: mean over these {datasets} datasets, which says nothing of others ({units})"
    return f"all: over {datasets} datasets as units: t interval, p by Wilcoxon's signed-rank test"


def _datasets(found: Comparison) -> list[str]:
    if "dataset" in found.table:
        return [name for name in dict.fromkeys(found.table["dataset"]) if name != ALL]
    return found.designs.datasets


WIDTH = 25  # characters of a row's interval
MANY = 20  # rows, up to which each has its sentence


def forest(found: Comparison) -> list[str]:
    """Return each row's difference (o) and interval (-) around 0 (|), all rows on one scale."""
    table = found.table
    ends = pd.concat([table["low"], table["high"], table["difference"]]).abs()
    reach = float(ends.max()) if ends.max() > 0 else 1.0
    return [_drawn(row, reach) for row in table.itertuples()]


def _drawn(row: Any, reach: float) -> str:
    place = lambda value: round((value / reach + 1) / 2 * (WIDTH - 1))  # noqa: E731
    cells = [" "] * WIDTH
    if not pd.isna(row.low):
        cells[place(row.low) : place(row.high) + 1] = "-" * (place(row.high) - place(row.low) + 1)
    cells[WIDTH // 2] = "|"
    if not pd.isna(row.difference):
        cells[place(row.difference)] = "o"
    return "".join(cells)


def sentences(found: Comparison, tests: int) -> list[str]:
    """Return a sentence per row: what a choice does to the metric, by how much, how often, and whether it is sure.

    tests: of the family that p is corrected for.
    """
    return [_sentence(found, row, tests) for _, row in found.table.iterrows()]


def _sentence(found: Comparison, row: pd.Series, tests: int) -> str:
    where = ", ".join(str(row[name]) for name in [*found.within, "dataset"] if name in row)
    verb, named = (
        ("raises" if row["difference"] > 0 else "lowers"),
        f"{title(found.metric)}{f' ({where})' if where else ''}",
    )
    ends = "" if pd.isna(row["low"]) else f" [{row['low']:+.3f}, {row['high']:+.3f}]"
    pairs = f"{row['wins']} of {row['pairs']} pairs better, {row['losses']} worse"
    if row["same"]:
        return f"{row['level']} against {found.against}: {named} is the same, as all predictions are; nothing to test"
    if pd.isna(row["p_holm"]):
        return f"{row['level']} against {found.against}: {named} {row['difference']:+.3f}{ends}, {pairs}; not tested"
    if row["p_holm"] < SURE:
        said = f"{row['level']} {verb} {named} by {abs(row['difference']):.3f}{ends}"
    else:
        said = f"whether {row['level']} changes {named} can't be told: {row['difference']:+.3f}{ends}"
    return f"{said}, {pairs}, p {row['p_holm']:.2g} corrected over {tests}"


def show(found: Sequence[Comparison], form: str, warning: str | None, asked: Sequence[str] = ()) -> None:
    """Print comparisons, one family, as tables or as one CSV or JSON. asked: the question that each answers, if any."""
    parts = [one.table.assign(**_about(one, place, found, asked)) for place, one in enumerate(found)]
    if tables.for_programs(pd.concat(parts, ignore_index=True), form, warning):
        return
    tests = comparison.tests(found)
    family = None if len(found) == 1 else f"the {tests} tests of all {len(found)} tables"
    for place, one in enumerate(found):
        print("\n" * (place > 0), end="")
        tables.say(*([f"{asked[place]}?"] if asked else ()), form=form)
        text = as_text(one)
        tables.draw(text, left=list(text.columns).index(title(one.metric)), form=form)
        _tell(one, tests, form)
        tables.say(*explained(one, family), form=form)


def _tell(found: Comparison, tests: int, form: str) -> None:
    """Print each row's interval and sentence; of more than MANY rows only those that are sure, and how many are not."""
    table = found.table
    told = pd.Series(True, index=table.index) if len(table) <= MANY else table["p_holm"] < SURE
    drawn = forest(found) if form != tables.LATEX else [""] * len(table)
    for line, words, is_told in zip(drawn, sentences(found, tests), told, strict=True):
        if is_told:
            tables.say(words, form=form, mark=line)
    if not told.all():
        tables.say(f"none of the other {int((~told).sum())} differences is sure", form=form)


def _about(one: Comparison, place: int, found: Sequence[Comparison], asked: Sequence[str]) -> dict[str, str]:
    if asked:
        return {"question": asked[place]}
    return {"metric": one.metric} if len(found) > 1 else {}
