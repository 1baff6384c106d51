"""Tables as CSV that a spreadsheet program may open: what it would take for a formula is text, and comes back whole."""

import csv
import io
import re
from collections.abc import Sequence

import pandas as pd

FORMULA = re.compile(r"'*[=+\-@\t\r＝＋－＠]")  # begins of cells that some program computes, quoted by us before or not


def to_csv(table: pd.DataFrame, index: bool = False, header: bool = True) -> str:
    """Return a table as CSV. Text, of a header too, that begins like a formula gets a quote (') before it."""
    guarded = table.copy()
    guarded.columns = [_guarded(name) for name in table.columns]
    texts = [guarded.columns]
    for place, kind in enumerate(table.dtypes):
        if not pd.api.types.is_numeric_dtype(kind):
            texts.append([_guarded(value) for value in table.iloc[:, place]])
            guarded.isetitem(place, texts[-1])
    if index:
        guarded.index = pd.Index([_guarded(name) for name in table.index], name=table.index.name)
        texts.append(guarded.index)
    has_returns = any("\r" in str(text) for some in texts for text in some)
    quoting = csv.QUOTE_NONNUMERIC if has_returns else csv.QUOTE_MINIMAL  # which leaves a lone \r bare, as a line's end
    return guarded.to_csv(index=index, header=header, lineterminator="\n", quoting=quoting)


def read_csv(data: bytes, text: Sequence[str]) -> pd.DataFrame:
    """Return what `to_csv` wrote. text: columns of names, which stay what they are: 01, NA, nothing at all."""
    kinds = dict.fromkeys(text, str)
    table = pd.read_csv(io.BytesIO(data), dtype=kinds, keep_default_na=False, na_values=[""], encoding="utf-8")
    table.columns = [_unguarded(name) for name in table.columns]
    return table.assign(**{name: table[name].fillna("").map(_unguarded) for name in text if name in table})


def _guarded(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def _unguarded(value: str) -> str:
    return value[1:] if value[:1] == "'" and FORMULA.match(value) else value
