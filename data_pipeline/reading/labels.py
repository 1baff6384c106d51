"""Names of cell types: brought to one form where that is certain, renamed by a table, doubted where two look alike."""

import csv
import io
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from data_pipeline.errors import RequestError
from data_pipeline.names import did_you_mean

Renames = tuple[tuple[str, str], ...]  # (label, what it is called instead; "" leaves its cells out)

INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"  # zero width: blanks that str.strip leaves
CYRILLIC = "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425\u0430\u0435\u043e\u0440\u0441\u0445"
GREEK = "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a7"
ALIKE = str.maketrans(CYRILLIC + GREEK, "ABEKMHOPCTXaeopcx" + "ABEZHIKMNOPTX", INVISIBLE + "\u00ad")
NO_LABEL = {"", "nan", "NaN", "NA", "<NA>", "None"}
NO_TYPE = re.compile(
    r"(unknown|unassigned|unlabell?ed|unannotated|unclassified|undefined|undetermined|uncertain|ambiguous|not[ _-]?"
    r"(available|assigned|applicable)|n/?a|none|null|nan|missing|doublets?|low[ _-]?quality|\?+|-+)"
    r"([ _-]*(cells?|type|\d+))?",
    re.IGNORECASE,
)
WHOLE = re.compile(r"([+-]?\d+)\.0*")
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")
HEADERS = {("label", "name"), ("from", "to"), ("old", "new"), ("label", "new"), ("label", "new_label")}
GAP = r"[\s_\-\u2010-\u2015\u2212]+"
GAPS = re.compile(rf"(?<!\d){GAP}|{GAP}(?!\d)")  # blanks, underscores and dashes; between digits they tell apart
MINUS = re.compile(r"(?<=\S)[-\u2212](?=\s|$)")  # CD16- is not CD16
BUT_FOR = "but for case, blanks, dashes or kinds of letters"
EXAMPLES = 5


def clean(name: object) -> str:
    """Return a label in Unicode's composed form (NFC), without blanks around it."""
    text = unicodedata.normalize("NFC", str(name))
    while text != (shorter := text.strip().strip(INVISIBLE)):
        text = shorter
    return text


def without_decimals(texts: np.ndarray, renames: Renames = ()) -> tuple[np.ndarray, Renames]:
    """Return cleaned labels (str objects [n], of all files) and what they are renamed to, in one form of number.

    Where all labels are numbers, whole ones lose their decimals: "1.0" in one file is "1" in another.
    """
    codes, kinds = pd.factorize(texts)
    if not all(NUMBER.fullmatch(kind) for kind in kinds if kind not in NO_LABEL):
        return texts, renames
    return np.array([_whole(kind) for kind in kinds], dtype=object)[codes], tuple(
        (_whole(label), name) for label, name in renames
    )


def _whole(text: str) -> str:
    return WHOLE.sub(r"\1", text) if WHOLE.fullmatch(text) else text


# renaming by a table


def read_renames(path: str | Path) -> Renames:
    """Return the (label, new name) of a table of two columns: commas, semicolons or tabs between them.

    An empty second column leaves the label's cells out. A first line such as `label,name` is a heading. RequestError
    lists every line that can't be used.
    """
    found: dict[str, str] = {}
    problems = []
    for number, row in _rows(Path(path)):
        fields = [clean(field) for field in row]
        if not any(fields) or (number == 1 and tuple(field.lower() for field in fields) in HEADERS):
            continue
        problem = _row_problem(fields, found)
        if problem:
            problems.append(f"{path}:{number}: {problem}")
        else:
            found[fields[0]] = fields[1]
    if not found and not problems:
        problems.append(f"{path}: holds no line `label,new name`")
    if len(problems) > EXAMPLES:
        problems[EXAMPLES:] = [f"{path}: and so on, {len(problems):,} lines in all"]
    if problems:
        raise RequestError(*problems)
    return tuple(found.items())


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of its last line, fields) of each row."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RequestError(
            f"{path}: can't be read ({error.strerror}); `labels: {{map: FILE}}` names a table"
        ) from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path}: isn't UTF-8 text; save the table as CSV in UTF-8") from error
    first = next(iter(text.splitlines()), "")
    separator = max(",;\t", key=first.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    yield from ((rows.line_num, row) for row in rows)


def _row_problem(fields: list[str], found: dict[str, str]) -> str | None:
    if len(fields) != 2:
        return f"has {len(fields)} columns, but a label and its new name are two; quote a name that has a comma"
    label, target = fields
    if label in NO_LABEL:
        return "cells without a label can't be renamed; leave them out with `unlabelled: drop`"
    if target in NO_LABEL - {""}:
        return f"{target!r} stands for no label; leave the second column empty to leave the cells out"
    if found.get(label, target) != target:
        return f"{label!r} becomes {found[label]!r} further up, and {target!r} here"
    return None


def rename(texts: np.ndarray, renames: Renames) -> tuple[np.ndarray, np.ndarray]:
    """Return (labels after the renames, str objects [n]; bool [n]: cells whose label has an empty target)."""
    codes, kinds = pd.factorize(texts)
    table = dict(renames)
    targets = np.array([table.get(kind, kind) for kind in kinds], dtype=object)
    dropped = np.array([kind in table and not table[kind] for kind in kinds], dtype=bool)
    return targets[codes], dropped[codes]


def rename_problems(kinds: set[str], renames: Renames, where: str) -> tuple[list[str], list[str]]:
    """Return (reasons to refuse, doubts) about a table of renames for cells of these types."""
    names = [label for label, _ in renames]
    idle = [name for name in names if name not in kinds]
    if not idle:
        return [], []
    said = f"{where}: the table of labels names {len(idle):,} that no cell has: " + "; ".join(
        f"{name!r} {did_you_mean(name, kinds)}".rstrip() for name in idle[:EXAMPLES]
    )
    return ([said], []) if len(idle) == len(names) else ([], [said])


# doubts


def doubts(counts: dict[str, int]) -> list[str]:
    """Return what is doubtful about types (name -> cells): near twins, and names that are no type."""
    none = [f"{name!r} ({counts[name]:,} cells)" for name in counts if NO_TYPE.fullmatch(name)]
    found = []
    if near := near_twins(counts):
        found.append(
            f"labels that look alike ({BUT_FOR}) are taken as different types: {_some(near)}. If they are one, give "
            "both one name with `labels: {map: names.csv}`"
        )
    if none:
        found.append(
            f"trained and tested as a type of its own, though its name is none: {_some(none)}. An empty new name in "
            "`labels: {map: names.csv}` leaves those cells out"
        )
    return found


def donor_doubts(counts: dict[str, int]) -> list[str]:
    """Return a doubt about donors (name -> cells) that may be one: of one donor cells would be on both sides."""
    near = near_twins(counts)
    if not near:
        return []
    return [
        f"donors that look alike ({BUT_FOR}) are taken as different people: {_some(near)}. If they are one, give their "
        "cells one name in the file, else cells of one donor are in training and in test"
    ]


def near_twins(counts: dict[str, int]) -> list[str]:
    """Return names (name -> cells) that look alike, in words, a group each."""
    groups: dict[str, list[str]] = {}
    for name in counts:
        groups.setdefault(_looks(name), []).append(name)
    return [
        " and ".join(f"{_spelt(name)} ({counts[name]:,} cells)" for name in names)
        for names in groups.values()
        if names[1:]
    ]


def _looks(name: str) -> str:
    """Return what names that look alike share: without case, gaps, what can't be seen, and in one kind of letters."""
    plain = unicodedata.normalize("NFKC", name).translate(ALIKE)
    return GAPS.sub("", MINUS.sub("\u00ac", plain)).casefold()


def _spelt(name: str) -> str:
    return ascii(name) if name.translate(ALIKE) != name else repr(name)


def _some(said: list[str]) -> str:
    return "; ".join(said[:EXAMPLES]) + (f"; and {len(said) - EXAMPLES} more" if len(said) > EXAMPLES else "")
