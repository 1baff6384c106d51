"""Any file that a program may write is opened as what it says, or refused in a few lines: no third way.

100 examples, always the same, in ordinary tests; CELLSKEW_FUZZ=2000 makes so many others, in parts of 250 so that none
takes longer than a test may.
"""

import os
import tempfile
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from h5ad_writers import WRITERS, NotWritten, Told
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st

from data_pipeline.errors import RequestError
from data_pipeline.reading.check import summarise
from data_pipeline.reading.file import matrix
from data_pipeline.reading.h5ad import Source, open_cells

EXAMPLES = int(os.environ.get("CELLSKEW_FUZZ", 0))
PARTS = range(max(1, EXAMPLES // 250))
MOST_LINES = 12
EXACT = 2**24  # whole numbers below are kept by float32
TYPES = [
    "B",
    "T cell",
    "NK",
    "Müller",
    "Mu\u0308ller",
    " B",
    "T cell\u00a0",
    "1",
    "1.0",
    "2",
    "γδ T",
    "a\nb",
    "$x$",
    "'",
]
MISSING = ["", "nan", "None", " "]
DTYPES = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "?"]
ODD = [np.nan, np.inf, -np.inf, -1.0, 0.5, 1e-3, 2.0**24 - 1, 2.0**24, 2.0**24 + 1, 2.0**31, 1e30, 1e300]
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)


@dataclass
class Asked:
    """How the files are opened."""

    duplicates: str | None
    empty_cells: str | None
    unlabelled: str | None
    twins: str
    labels: tuple[tuple[str, str], ...]


@st.composite
def files(draw: st.DrawFn) -> Told:
    num_cells, num_genes = draw(st.integers(0, 9)), draw(st.integers(1, 8))
    numbers = draw(matrices(num_cells, num_genes))
    return Told(
        matrix=numbers,
        labels=draw(columns(num_cells)),
        cells=draw(names(num_cells, "cell")),
        genes=draw(names(num_genes, "GENE")),
        form="dense" if numbers.dtype == np.float16 else draw(st.sampled_from(["csr", "csc", "dense"])),
        where=draw(st.sampled_from(["X", "X", "raw", "counts"])),
        kind=draw(st.sampled_from(["plain", "category", "category", "nullable"])),
        unused=draw(st.lists(st.sampled_from(TYPES), unique=True, max_size=3)),
        messy=draw(st.booleans()),
        compression=draw(st.sampled_from([None, "gzip", "lzf"])),
    )


@st.composite
def matrices(draw: st.DrawFn, num_cells: int, num_genes: int) -> np.ndarray:
    """Counts of any dtype; in one of four files a number is odd, where the dtype can hold it."""
    size = num_cells * num_genes
    counts = draw(st.lists(st.sampled_from([0, 0, 1, 1, 2, 3, 7, 100]), min_size=size, max_size=size))
    matrix = np.array(counts, dtype=np.float64).reshape(num_cells, num_genes)
    if num_cells > 1 and draw(st.booleans()):
        matrix[draw(st.integers(1, num_cells - 1))] = matrix[0]  # a twin
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    if size and draw(st.integers(0, 3)) == 0:
        place = (draw(st.integers(0, num_cells - 1)), draw(st.integers(0, num_genes - 1)))
        odd = draw(st.sampled_from(ODD))
        if dtype.kind == "f" or (dtype.kind in "iu" and np.iinfo(dtype).min <= odd <= np.iinfo(dtype).max):
            matrix[place] = odd
    with np.errstate(all="ignore"):
        return matrix.astype(dtype)


@st.composite
def columns(draw: st.DrawFn, num_cells: int) -> list:
    """Labels: texts, whole numbers, numbers, truth values; some missing."""
    one = draw(
        st.sampled_from(
            [
                st.sampled_from(TYPES[:4]),
                st.sampled_from([*TYPES, *MISSING]),
                st.sampled_from([*TYPES[:3], None]),
                st.integers(0, 3),
                st.sampled_from([0.0, 1.0, 2.0, np.nan]),
                st.sampled_from([0.5, 1.0, np.inf, 1e20]),
                st.booleans(),
            ]
        )
    )
    return draw(st.lists(one, min_size=num_cells, max_size=num_cells))


@st.composite
def names(draw: st.DrawFn, length: int, stem: str) -> list[str]:
    """Names in order, or odd ones, or some of them twice."""
    kind = draw(st.integers(0, 5))
    if kind == 0:
        return draw(st.lists(NAMES, min_size=length, max_size=length))
    if kind == 1:
        return [f"{stem}{number // 2}" for number in range(length)]
    if kind == 2:
        return [str(number) for number in range(length)]
    return [f"{stem}{number}" for number in range(length)]


ASKED = st.builds(
    Asked,
    st.sampled_from([None, None, "sum", "first", "rename"]),
    st.sampled_from([None, "drop", "drop"]),
    st.sampled_from([None, "drop", "drop"]),
    st.sampled_from(["together", "drop", "ignore"]),
    st.sampled_from([*[()] * 8, (("B", "T cell"), ("NK", "")), (("1.0", "one"), ("Müller", "B"))]),
)


# the truth, in memory and step by step


class Refusal(Exception):
    """The file has to be refused."""


def clean(label: object, kind: str) -> str | None:
    """Return a label as it should be called, None where there is none."""
    if label is None or label != label:
        return None
    if isinstance(label, float):
        if kind != "category" and (not label.is_integer() or abs(label) >= 2**53):
            raise Refusal("continuous numbers")
        return str(int(label)) if label.is_integer() else str(label)
    text = unicodedata.normalize("NFC", str(label)).strip()
    return None if text in ("", "nan", "NaN", "NA", "<NA>", "None") else text


def labels_of(told: Told, asked: Asked) -> list[str | None]:
    """Return the labels cleaned and renamed; "" is a cell that the renames leave out."""
    found = [clean(label, told.kind) for label in told.labels]
    there = {label for label in found if label is not None}
    renames = dict(asked.labels)
    if all(label.replace(".", "", 1).isdigit() for label in there):
        found = [None if label is None else label.removesuffix(".0") for label in found]
        renames = {label.removesuffix(".0"): name for label, name in renames.items()}
    if renames and not renames.keys() & set(found):
        raise Refusal("renames of labels that no cell has")
    return [renames.get(label, label) for label in found]


def rows_of(told: Told, asked: Asked, num_files: int = 1) -> list[tuple[str, str, np.ndarray]]:
    """Return (name, label, counts of the genes in order) of each cell; Refusal where the file has to be refused."""
    if len(told.cells) < num_files:
        raise Refusal("no cells")
    with np.errstate(all="ignore"):
        stored = told.matrix.astype(np.float64)
        _, matrix = genes_of(told, asked, stored)
    if not are_counts(matrix) or (asked.duplicates != "first" and not are_counts(stored)):
        raise Refusal("no counts")
    labels = labels_of(told, asked)
    if None in labels and asked.unlabelled is None:
        raise Refusal("unlabelled")
    repeats, turned = len(set(told.genes)) < len(told.genes), told.genes != told.genes[::-1]
    if num_files == 2 and repeats and turned and asked.duplicates in ("first", "rename"):
        raise Refusal("which of two genes is which")
    names = renamed(told.cells) if asked.duplicates == "rename" else told.cells
    rows = [(name, label, row) for name, label, row in zip(names, labels, matrix, strict=True) if label]
    rows = merged(rows, asked)
    if any(not row.any() for _, _, row in rows) and asked.empty_cells is None:
        raise Refusal("empty cells")
    rows = [row for row in rows if row[2].any()]
    if asked.twins == "drop":
        rows = [row for number, row in enumerate(rows) if not any(alike(row, other) for other in rows[:number])]
    if len({label for _, label, _ in rows}) < 2:
        raise Refusal("one type")
    return rows


def are_counts(numbers: np.ndarray) -> bool:
    return bool(np.all(np.isfinite(numbers) & (numbers >= 0) & (numbers == np.rint(numbers)) & (numbers < EXACT)))


def alike(one: tuple, other: tuple) -> bool:
    return np.count_nonzero(one[2]) >= 5 and np.array_equal(one[2], other[2])


def genes_of(told: Told, asked: Asked, matrix: np.ndarray) -> tuple[list[str], np.ndarray]:
    genes = renamed(told.genes) if asked.duplicates == "rename" else told.genes
    first = list(dict.fromkeys(genes))
    if len(first) < len(genes) and asked.duplicates is None:
        raise Refusal("genes twice")
    if asked.duplicates == "sum":
        sums = [matrix[:, [other == gene for other in genes]].sum(axis=1) for gene in first]
        return first, np.stack(sums, axis=1)
    return first, matrix[:, [genes.index(gene) for gene in first]]


def merged(rows: list[tuple], asked: Asked) -> list[tuple]:
    names = [name for name, _, _ in rows]
    if len(set(names)) == len(names):
        return rows
    if asked.duplicates is None:
        raise Refusal("cells twice")
    found: dict[str, tuple] = {}
    for name, label, row in rows:
        if name in found and asked.duplicates == "sum":
            if found[name][1] != label:
                raise Refusal("two labels of one name")
            found[name] = (name, label, found[name][2] + row)
        found.setdefault(name, (name, label, row))
    largest = max((row.max(initial=0) for _, _, row in rows), default=0)
    if asked.duplicates == "sum" and largest * max(map(names.count, names)) >= EXACT:
        raise Refusal("a sum may be rounded")
    return list(found.values())


def renamed(names: list[str]) -> list[str]:
    taken, made = set(names), []
    for name in names:
        fresh, number = name, 0
        while fresh in made or (fresh != name and fresh in taken):
            number += 1
            fresh = f"{name}-{number}"
        made.append(fresh)
    return made


# the rule


@pytest.mark.parametrize("part", PARTS)
@settings(
    max_examples=EXAMPLES // len(PARTS) or 100,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(files(), st.lists(st.sampled_from(list(WRITERS)), min_size=1, max_size=2), ASKED, st.booleans())
def test_a_file_is_opened_as_what_it_says_or_refused_in_a_few_lines(
    part: int, told: Told, writers: list[str], asked: Asked, turned: bool
):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        if turned:  # CSC by way of a copy on disk, as a large matrix
            patch.setattr(matrix, "SMALL", 0)
            patch.setattr(matrix, "COLUMNS_PIECE", 4)
        try:
            paths = written(told, writers, Path(folder))
        except NotWritten as reason:  # by anndata; what is written by hand always can be
            event(f"can't be written: {reason}")
            return
        layer = None if told.where == "X" else told.where
        source = Source("fuzz", paths, "celltype", layer=layer, **vars(asked))
        try:
            truth = rows_of(told, asked, len(writers))
        except Refusal as refusal:
            said = refused(source)
            event(f"refused: {refusal}")
            note(f"{refusal}: {said}")
            assert said is not None, f"opened, though it should be refused: {refusal}"
            return
        event(f"opened, written by {' and '.join(writers)}")
        cells = open_cells(source, Path(folder) / "cache")
        compare(cells, truth, told, asked)
        again = open_cells(source, Path(folder) / "cache")
        assert again.digest == cells.digest and np.array_equal(again.labels, cells.labels)
        cells.counts.files.close()
        again.counts.files.close()


def written(told: Told, writers: list[str], folder: Path) -> tuple[str, ...]:
    """Write the cells into one file, or into two, the second with its genes backwards; returns the paths."""
    half = len(told.cells) // len(writers)
    parts = [slice(0, half), slice(half, None)] if len(writers) == 2 else [slice(None)]
    for number, (writer, rows) in enumerate(zip(writers, parts, strict=True)):
        backwards = slice(None, None, -1 if number and told.genes != told.genes[::-1] else 1)
        some = {"matrix": told.matrix[rows, backwards], "labels": told.labels[rows], "cells": told.cells[rows]}
        WRITERS[writer](replace(told, **some, genes=told.genes[backwards]), folder / f"{number}.h5ad")
    return tuple(str(folder / f"{number}.h5ad") for number in range(len(writers)))


def refused(source: Source) -> str | None:
    try:
        open_cells(source)
    except RequestError as error:
        assert len(str(error).splitlines()) <= MOST_LINES, str(error)
        assert all(any(path in problem for path in source.paths) for problem in error.problems)
        return str(error)
    return None


def compare(cells, truth: list[tuple], told: Told, asked: Asked) -> None:
    """Assert that every name, label and count is the truth's."""
    assert cells.genes == genes_of(told, asked, told.matrix.astype(np.float64))[0]
    assert list(cells.cell_ids) == [name for name, _, _ in truth]
    assert [cells.classes[label] for label in cells.labels] == [label for _, label, _ in truth]
    wanted = np.array([row for _, _, row in truth])
    assert np.array_equal(cells.read(0, len(truth)).toarray(), wanted)
    assert np.array_equal(cells.totals, wanted.sum(axis=1))
    backwards = np.arange(len(truth))[::-1]
    assert np.array_equal(cells.take(backwards).toarray(), wanted[backwards])
    for one in range(len(truth)):
        for other in range(one):
            together = cells.twins is not None and cells.twins[one] == cells.twins[other]
            assert together == (asked.twins == "together" and alike(truth[one], truth[other]))
    assert summarise(cells)["cells"] == len(truth)
