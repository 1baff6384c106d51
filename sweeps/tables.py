"""Tables on standard output, for people and for programs."""

import io
import json
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import pandas as pd
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_pipeline.atomic import deliver
from data_pipeline.errors import RequestError
from data_pipeline.names import shown
from data_pipeline.spreadsheets import to_csv

LATEX = "latex"
GAP = 2  # spaces between columns
PAGE = 110  # characters of a line of prose, at most
IN_LATEX = {letter: f"\\{letter}" for letter in "&%$#_{}"}
IN_LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$"}
IN_LATEX |= {"±": r"$\pm$", "·": r"$\cdot$", "–": "--", "…": r"\dots{}"}


def console() -> Console:
    """Return standard output; wide enough for a table when it is not a terminal. Text is printed as it stands."""
    plain = {"highlight": False, "markup": False, "emoji": False}
    found = Console(**plain)
    return found if found.is_terminal else Console(**plain, width=160)


def headed(name: str, rest: str) -> None:
    """Print a line that begins with a name in bold."""
    console().print(Text.assemble((shown(name), "bold"), shown(rest, lines=True)))


def fits(table: pd.DataFrame) -> bool:
    """Tell whether a table of text is as narrow as standard output."""
    return _width(table) + 2 <= console().width


def _width(table: pd.DataFrame) -> int:
    """Return how many columns of a screen a table of text takes; cells may have several lines."""
    texts = ([str(name), *map(str, table.iloc[:, at])] for at, name in enumerate(table.columns))
    widths = [max(cell_len(line) for text in listed for line in text.split("\n")) for listed in texts]
    return sum(widths) + GAP * (len(widths) - 1)


def parts(table: pd.DataFrame, left: int, width: int) -> list[pd.DataFrame]:
    """Return a table of text as what fits side by side into so many columns, its first `left` columns in each part.

    Of one that is too wide intervals, and what a choice consists of, get lines of their own; words are never broken.
    One whose columns are all left is prose, and stays whole.
    """
    if left >= len(table.columns) or _width(table) <= width:
        return [table]
    table = table.map(lambda cell: str(cell).replace(" [", "\n[").replace(" · ", " ·\n"))
    table.columns = [name.replace(" ", "\n") if at >= left else name for at, name in enumerate(table.columns)]
    found, begin = [], left
    while begin < len(table.columns):
        ends = range(begin + 1, len(table.columns) + 1)
        among = [table.iloc[:, [*range(left), *range(begin, end)]] for end in ends]
        fitting = [one for one in among if _width(one) <= width]
        found.append(fitting[-1] if fitting else among[0])
        begin += len(found[-1].columns) - left
    return found


def draw(
    table: pd.DataFrame, title: str | None = None, left: int = 1, breaks: Collection[int] = (), form: str = "table"
) -> None:
    """Print a table of text; the first `left` columns are aligned left, the others right.

    breaks: rows before which a line is left empty. form: "latex" prints a tabular for a paper, else a table.
    """
    if form == LATEX:
        print_exactly(as_latex(table, title, left, breaks))
        return
    plain, out = table.map(shown), console()
    plain.columns = [shown(name) for name in table.columns]
    for number, part in enumerate(parts(plain, left, out.width)):
        drawn = Table(title_justify="left", box=None, pad_edge=False, header_style="bold")
        drawn.title = Text(shown(title)) if title is not None and not number else None
        for place, name in enumerate(part.columns):
            drawn.add_column(Text(name), justify="left" if place < left else "right", overflow="fold")
        for place, row in enumerate(part.itertuples(index=False)):
            if place in breaks:
                drawn.add_row()
            drawn.add_row(*map(Text, row))
        out.print(*([""] if number else []), drawn, sep="\n")


def as_latex(table: pd.DataFrame, title: str | None, left: int, breaks: Collection[int]) -> str:
    """Return a tabular with the rules of the package booktabs, the title as a comment above."""
    head = f"% {shown(title)}\n" if title else ""
    rows = [" & ".join(map(_in_latex, row)) + r" \\" for row in [table.columns, *table.itertuples(index=False)]]
    lines = [
        rf"\begin{{tabular}}{{{'l' * left}{'r' * (len(table.columns) - left)}}}",
        r"\toprule",
        rows[0],
        r"\midrule",
    ]
    for place, row in enumerate(rows[1:]):
        lines += [r"\addlinespace"] if place in breaks else []
        lines.append(row)
    return head + "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _in_latex(cell: object) -> str:
    said = "".join(IN_LATEX.get(letter, letter) for letter in shown(cell).strip())
    return f"{{}}{said}" if said.startswith("[") else said  # else an argument of the line break before it


def spread(mean: float, sd: float) -> str:
    """Return mean ± sd to three places."""
    if pd.isna(mean):
        return "-"
    return f"{mean:.3f}" if pd.isna(sd) else f"{mean:.3f} ± {sd:.3f}"


def number(value: float) -> str:
    """Return a number to two digits, from 100 on to the last before the point."""
    if pd.isna(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"


def for_programs(table: pd.DataFrame, form: str, warning: str | None) -> bool:
    """Print a table as CSV, JSON or parquet if that was asked for; else the warning alone, and return False.

    The warning of a CSV or parquet goes to standard error, so that the table stays one.
    """
    if form == "json":
        rows = json.loads(table.to_json(orient="records"))
        print_json({"warning": warning, "rows": rows})
    elif form in ("csv", "parquet"):
        if warning is not None:
            print(warning, file=sys.stderr)
        print_exactly(to_csv(table)) if form == "csv" else print_parquet(table)
    elif warning is not None and form == LATEX:
        say(*warning.splitlines(), form=form)
    else:
        warn(warning)
    return form in ("json", "csv", "parquet")


def print_parquet(table: pd.DataFrame) -> None:
    """Print a table as a parquet file; RequestError where a person would see it."""
    if sys.stdout.isatty():
        raise RequestError("parquet is for programs: name a file with -o TABLE.parquet")
    sys.stdout.flush()
    sys.stdout.buffer.write(as_parquet(table))


def as_parquet(table: pd.DataFrame) -> bytes:
    """Return a table as a parquet file, without what runs are told beside it (attrs)."""
    data, plain = io.BytesIO(), table.copy()
    plain.attrs = {}
    plain.to_parquet(data, index=False)
    return data.getvalue()


@contextmanager
def into(out: Path | None) -> Iterator[None]:
    """Have what is printed meanwhile put into a file, which is there whole afterwards; None: printed."""
    if out is None:
        yield
        return
    data = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="")
    with redirect_stdout(data):
        yield
        data.flush()
    deliver(out, data.buffer.getvalue())
    print(f"{out}: written")


def warn(said: str | None) -> None:
    """Print what must stand above a table, if there is anything."""
    if said is not None:
        console().print(shown(said, lines=True), style="bold red")


def print_json(what: Any) -> None:
    """Print JSON, in whatever encoding standard output has."""
    is_unicode = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    print(json.dumps(what, indent=1, ensure_ascii=not is_unicode))


def print_exactly(text: str) -> None:
    """Print text for programs: in UTF-8 where standard output is of an encoding that lacks some of it."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode())
    else:
        print(text, end="")


def hours(seconds: float) -> str:
    """Return a duration in minutes, hours or days, whichever fits."""
    if seconds < 5400:
        return f"{max(1, round(seconds / 60))} min"
    return f"{seconds / 3600:.0f} h" if seconds < 72 * 3600 else f"{seconds / 86400:,.0f} days"


def say(*sentences: str, form: str = "table", mark: str = "") -> None:
    """Print sentences below a table, each on lines of its own, as wide as a page or a narrower terminal; below LaTeX as
    comments.

    mark: drawn before each.
    """
    first, next_ = ("% ", "%   ") if form == LATEX else ("", "  ")
    if mark:
        first, next_ = f"{mark}  ", " " * (len(mark) + 2)
    for sentence in sentences:
        print(wrapped(shown(sentence, lines=True), min(PAGE, console().width), first, next_))


def wrapped(text: str, width: int, first: str = "", next_: str = "  ") -> str:
    """Return a sentence in lines of so many columns, of which Chinese letters and emoji take two.

    first, next_: what its lines begin with. It is broken between words alone: names, paths and numbers stay whole.
    """
    lines, line = [], first
    for word in text.split():
        if line.strip() and cell_len(f"{line} {word}") > width:
            lines.append(line)
            line = next_
        line += word if line in (first, next_) else f" {word}"
    return "\n".join([*lines, line])
