"""Tables on standard output, for people and for programs."""

import json
import sys
import textwrap

import pandas as pd
from rich.console import Console
from rich.table import Table


def console() -> Console:
    """Return standard output; wide enough for a table when it is not a terminal."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=160)


def draw(table: pd.DataFrame, title: str | None = None, left: int = 1) -> None:
    """Print a table of text; the first `left` columns are aligned left, the others right."""
    drawn = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(table.columns):
        drawn.add_column(str(name), justify="left" if place < left else "right", overflow="fold")
    for row in table.itertuples(index=False):
        drawn.add_row(*(str(cell) for cell in row))
    console().print(drawn)


def spread(mean: float, sd: float) -> str:
    """Return mean ± sd to three places."""
    if pd.isna(mean):
        return "-"
    return f"{mean:.3f}" if pd.isna(sd) else f"{mean:.3f} ± {sd:.3f}"


def for_programs(table: pd.DataFrame, form: str, warning: str | None) -> bool:
    """Print a table as CSV or JSON if that was asked for; else the warning alone, and return False.

    The warning of a CSV goes to standard error, so that the table stays one.
    """
    if form == "json":
        rows = json.loads(table.to_json(orient="records"))
        print(json.dumps({"warning": warning, "rows": rows}, indent=1, ensure_ascii=False))
    elif form == "csv":
        if warning is not None:
            print(warning, file=sys.stderr)
        print(table.to_csv(index=False), end="")
    elif warning is not None:
        console().print(warning, style="bold red")
    return form in ("json", "csv")


def hours(seconds: float) -> str:
    """Return a duration in minutes, hours or days, whichever fits."""
    if seconds < 5400:
        return f"{max(1, round(seconds / 60))} min"
    return f"{seconds / 3600:.0f} h" if seconds < 72 * 3600 else f"{seconds / 86400:,.0f} days"


def say(*sentences: str) -> None:
    """Print sentences below a table, each on lines of its own, as wide as a page."""
    for sentence in sentences:
        print(textwrap.fill(sentence, 110, subsequent_indent="  "))
