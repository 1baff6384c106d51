"""The tables of all files of a dataset -> its cells and genes, in row and column numbers; conflicts in words."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_pipeline.reading import labels
from data_pipeline.reading.file import inspection
from data_pipeline.reading.file.inspection import Table, quoted
from data_pipeline.reading.labels import Renames
from data_pipeline.reading.source import Source
from data_pipeline.reading.stacked import Files, Part


@dataclass
class Joint:
    """Columns of obs of all files, one below the other, in file rows."""

    cells: np.ndarray
    labels: np.ndarray
    labelled: np.ndarray
    donors: np.ndarray | None
    totals: np.ndarray | None
    is_test: np.ndarray
    renamed: list[list[Any]]  # label, its new name, its cells


def join_cells(tables: list[Table], source: Source) -> Joint:
    """Return the cells of all files, their labels renamed as asked; problems of a column are noted in its table."""
    found = [inspection.label_strings(table, source) for table in tables]
    texts, labelled = (np.concatenate(parts) for parts in zip(*found, strict=True))
    texts, renames = labels.without_decimals(texts, source.labels)
    counts = Counter(texts[labelled])
    texts, dropped = _renamed_labels(texts, labelled, tables, renames)
    donors = None
    if source.donor is not None:
        donors = np.concatenate([inspection.donor_strings(table, source) for table in tables])
        donors, _ = labels.without_decimals(donors)
    totals = None
    if all(table.totals is not None for table in tables):
        totals = np.concatenate([table.totals for table in tables])
    test = [np.full(len(table.cells), number >= len(source.paths)) for number, table in enumerate(tables)]
    cells = np.concatenate([table.cells for table in tables])
    return Joint(
        _renamed(cells) if source.duplicates == "rename" else cells,
        texts,
        labelled & ~dropped,
        donors,
        totals,
        np.concatenate(test),
        [[label, name, counts[label]] for label, name in renames if label in counts],
    )


def _renamed_labels(
    texts: np.ndarray, labelled: np.ndarray, tables: list[Table], renames: Renames
) -> tuple[np.ndarray, np.ndarray]:
    """Return (labels renamed, bool: cells to be left out); what is wrong with the renames goes to the first table."""
    if not renames:
        return texts, np.zeros(len(texts), bool)
    wrong, doubts = labels.rename_problems(set(texts[labelled]), renames, tables[0].path)
    tables[0].problems += wrong
    tables[0].doubts += doubts
    return labels.rename(texts, renames)


WAY_OUT = (
    "Bring them to the same names with `labels: {map: names.csv}`, a table of two columns: a label and its new name"
)


def foreign_labels(joint: Joint, tables: list[Table], source: Source) -> tuple[list[str], list[str]]:
    """Return (reasons to refuse, doubts): files that share no label with the others."""
    if source.label is None:
        return [], []
    ends = np.cumsum([len(table.cells) for table in tables])[:-1]
    texts, labelled = np.split(joint.labels, ends), np.split(joint.labelled, ends)
    kinds = [set(names[has]) for names, has in zip(texts, labelled, strict=True)]
    train, test = set().union(*kinds[: len(source.paths)]), set().union(*kinds[len(source.paths) :])
    if train and test and not train & test:
        return [
            f"{', '.join(source.test_paths)}: has no label of the training files ({_first(test)} against "
            f"{_first(train)}), so every test cell would be missed. {WAY_OUT}."
        ], []
    return [], [
        f"{path}: shares no label with the other training files ({_first(own)}). If it should: {WAY_OUT}"
        for number, (path, own) in enumerate(zip(source.paths, kinds, strict=False))
        if len(own) > 1 and len(source.paths) > 1 and not own & set().union(*_without(kinds, number))
    ]


def _first(names: set[str]) -> str:
    return quoted(np.array(sorted(names), dtype=object))


def _without(kinds: list[set[str]], number: int) -> list[set[str]]:
    return kinds[:number] + kinds[number + 1 :]


def _renamed(names: np.ndarray) -> np.ndarray:
    """Return the names with -1, -2 ... behind the second, third ... of a name, skipping names already taken."""
    taken, count = set(names), Counter()
    fresh = names.copy()
    for row in np.flatnonzero(pd.Index(names).duplicated()):
        name = names[row]
        while fresh[row] in taken:
            count[name] += 1
            fresh[row] = f"{name}-{count[name]}"
        taken.add(fresh[row])
    return fresh


def join_genes(tables: list[Table], source: Source, scratch: Path) -> tuple[list[str], Files, list[str]]:
    """Return (genes in the first file's order, the files brought to it, what is wrong)."""
    problems = _mixed_up(tables, source)
    if source.duplicates == "rename":
        for table in tables:
            table.genes = _renamed(table.genes)
    names = [table.genes[_taken(table, source)] for table in tables]
    repeating = [(table, found) for table, found in zip(tables, names, strict=True) if len(set(found)) < len(found)]
    problems += [] if source.duplicates else [_repeated(table.path, "gene", found) for table, found in repeating]
    problems += [_nothing_left(table) for table in tables if len(table.genes) and not _taken(table, source).any()]
    genes = list(dict.fromkeys(names[0]))
    column = {gene: number for number, gene in enumerate(genes)}
    parts = []
    for table, found in zip(tables, names, strict=True):
        problems += _other_genes(tables[0].path, table.path, found, column)
        numbers = np.array([column.get(gene, -1) for gene in found], dtype=np.int64)
        if source.duplicates == "first":
            numbers[pd.Index(found).duplicated()] = -1
        columns = np.full(len(table.genes), -1)
        columns[_taken(table, source)] = numbers
        same = len(columns) == len(genes) and np.array_equal(columns, np.arange(len(genes)))
        parts.append(Part(table.path, source.layer, len(table.cells), None if same else columns))
    return genes, Files(parts, len(genes), source.values, scratch), problems


def _mixed_up(tables: list[Table], source: Source) -> list[str]:
    """Return a reason to refuse each file that has genes of one name in another order than the first file."""
    first = tables[0].genes
    if source.duplicates not in ("first", "rename") or len(set(first)) == len(first):
        return []
    return [
        f"{table.path}: its genes are in another order than those of {tables[0].path}, so of genes with one name it "
        f"can't be told which is which. Add them up with `duplicates: sum`, or write both files in one order."
        for table in tables[1:]
        if not np.array_equal(table.genes, first)
    ]


def _taken(table: Table, source: Source) -> np.ndarray:
    """Return which columns of a file are taken for genes, bool [G]."""
    return ~table.other if source.other_features == "drop" else np.ones(len(table.genes), bool)


def _nothing_left(table: Table) -> str:
    return (
        f"{table.path}: none of its {len(table.genes):,} features is a gene ({quoted(table.genes)}), so "
        "`other_features: drop` leaves nothing."
    )


def feature_doubts(tables: list[Table], source: Source) -> list[str]:
    """Return a doubt for each file with features that are no genes: what they are, and what becomes of them."""
    if source.other_features == "drop":
        done = "they are left out, as the options say"
    else:
        done = "they count as genes and in every cell's total; leave them out with `other_features: drop`"
    return [
        f"{table.path}: {int(table.other.sum()):,} of {len(table.genes):,} features are no genes, by kind or name "
        f"({quoted(table.genes[table.other])}): {done}"
        for table in tables
        if table.other.any()
    ]


def _other_genes(first: str, path: str, names: np.ndarray, column: dict[str, int]) -> list[str]:
    extra = np.array([gene for gene in names if gene not in column], dtype=object)
    lacking = np.array(sorted(column.keys() - set(names)), dtype=object)
    if not len(extra) and not len(lacking):
        return []
    told = [f"{len(lacking):,} lacking ({quoted(lacking)})"] if len(lacking) else []
    told += [f"{len(extra):,} more ({quoted(extra)})"] if len(extra) else []
    return [
        f"{path}: its genes are not those of {first}: {', '.join(told)}. Several files of one dataset need "
        "the same genes: write both with the genes they share."
    ]


def _repeated(path: str, noun: str, names: np.ndarray) -> str:
    counts = Counter(names)
    repeated = np.array([name for name, count in counts.items() if count > 1], dtype=object)
    return (
        f"{path}: {len(repeated):,} {noun} {'name is' if len(repeated) == 1 else 'names are'} there more than once "
        f"({quoted(repeated)}). Add up what shares a name with `duplicates: sum`, keep the first of each with "
        f"`duplicates: first`, or tell them apart by a number with `duplicates: rename`."
    )


def group_rows(joint: Joint, source: Source, problems: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return (file rows, offsets): cell i is made of rows[offsets[i]:offsets[i + 1]]. Conflicts go to `problems`."""
    rows = np.flatnonzero(joint.labelled)
    names = pd.Index(joint.cells[rows])
    if not names.has_duplicates:
        return rows, np.arange(len(rows) + 1)
    if source.duplicates is None:
        problems.append(_repeated(", ".join(source.all_paths), "cell", joint.cells[rows]))
    if source.duplicates != "sum":
        rows = rows[~names.duplicated()]
        return rows, np.arange(len(rows) + 1)
    codes = pd.factorize(names)[0]
    rows = rows[np.argsort(codes, kind="stable")]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(codes))])
    problems += [f"{', '.join(source.all_paths)}: {said}" for said in _conflicts(joint, rows, offsets)]
    return rows, offsets


def _conflicts(joint: Joint, rows: np.ndarray, offsets: np.ndarray) -> list[str]:
    first = np.repeat(rows[offsets[:-1]], np.diff(offsets))
    other = (joint.labels[first] != joint.labels[rows]) | (joint.is_test[first] != joint.is_test[rows])
    if joint.donors is not None:
        other |= joint.donors[first] != joint.donors[rows]
    if not other.any():
        return []
    names = np.unique(joint.cells[rows[other]])
    return [
        f"{len(names):,} cell names stand for cells with different labels, donors or files ({quoted(names)}), so they "
        "can't be added up. Tell them apart with `duplicates: rename`, or keep the first with `duplicates: first`."
    ]


def drop_empty(
    sums: np.ndarray, joint: Joint, grouped: tuple[np.ndarray, np.ndarray], source: Source, problems: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return `grouped` without cells that have no count; unless they may be dropped, that is a problem."""
    rows, offsets = grouped
    if not len(rows):
        return grouped
    empty = np.add.reduceat(sums[rows], offsets[:-1]) == 0
    if not empty.any():
        return grouped
    if source.empty_cells is None:
        names = joint.cells[rows[offsets[:-1][empty]]]
        problems.append(
            f"{', '.join(source.all_paths)}: {len(names):,} of {len(empty):,} cells have not a single count "
            f"(first: {quoted(names)}). Leave them out with `empty_cells: drop`."
        )
    lengths = np.diff(offsets)
    return rows[np.repeat(~empty, lengths)], np.concatenate([[0], np.cumsum(lengths[~empty])])
