"""What the columns of a file stand for: which are no genes, and which names are doubtful."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline.reading.file import hdf5

if TYPE_CHECKING:
    import h5py

KIND_COLUMNS = ("feature_types", "feature_type", "feature_biotype", "modality")
OTHER_KIND = re.compile(
    r"antibod|capture|protein(?!.?coding)|adt|hto|hashtag|multiplexing|crispr|guide|peak|atac|spike|custom", re.I
)
OTHER_NAME = re.compile(
    r"(adt|hto|ab|anti|prot|protein)[-_.:].+|.+[-_.](adt|hto|prot|protein|antibody)|.*isotype.*"
    r"|.*total.?seq.?[abcd]?|.*hashtag.*|hto.?\d+|ercc-\d{5}"
    r"|(chr)?[0-9xy]{1,2}[:_-]\d{3,}[-_]\d{3,}",
    re.I,
)
NUMBER = re.compile(r"\d+(\.0)?")
MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sept?|oct|nov|dec)"
DATE = re.compile(rf"\d{{1,2}}-{MONTH}|{MONTH}-\d{{1,2}}|\d{{4}}-\d\d-\d\d( 00:00:00)?|\d(\.\d+)?e\+\d+", re.I)
GENOME = re.compile(r"(GRC[a-z]\d+|hg\d+|mm\d+|rn\d+|T2T\w*?)[_-]+", re.I)
ENSEMBL = re.compile(r"(ENS[A-Z]*G)\d{11}")
AROUND = re.compile(r"[\s\u200b\ufeff].*|.*[\s\u200b\ufeff]|\"[^\"]*\"|'[^']*'")
DATES = ": a spreadsheet program has made them of SEPT2, MARCH1, 2310009E13Rik; restore the names"
STRIP = ": models with a vocabulary don't know them so; write the names without"
MADE = (
    ": if they were made unique, models with a vocabulary don't know them; keep the names as they were, and add them "
    "up with `duplicates: sum`"
)
CASES = ": of two species, or one gene twice"
NO_NAME = {"", "nan", "none", "na", "<na>"}
SHOWN = 3


def other_features(var: "h5py.Group | h5py.Dataset", names: np.ndarray) -> np.ndarray:
    """Return which columns stand for antibodies, peaks, spike-ins, not genes, bool [G]: by var's kind, or by name."""
    columns = hdf5.column_names(var)
    other = np.array([OTHER_NAME.fullmatch(name) is not None for name in names], dtype=bool)
    for column in KIND_COLUMNS:
        if column in columns:
            kinds = hdf5.column(var, column).astype(str)
            is_other = {kind: OTHER_KIND.search(kind) is not None for kind in kinds.unique()}
            other |= kinds.map(is_other).to_numpy(bool)
    return other


def doubts(path: str, names: np.ndarray, columns: Sequence[str]) -> list[str]:
    """Return what is doubtful about the names of genes. columns: of var, where others may be."""
    elsewhere = f"; var has {', '.join(columns[:8])}: name one with `gene_names:`" if columns else ""
    found = []
    for what, wrong, way_out in (
        ("have no name", [name for name in names if name.strip().casefold() in NO_NAME], elsewhere),
        ("are called by a number", [name for name in names if NUMBER.fullmatch(name)], elsewhere),
        ("are called by a date or a large number", [name for name in names if DATE.fullmatch(name)], DATES + elsewhere),
        ("have blanks or quotes around their names", [name for name in names if AROUND.fullmatch(name)], STRIP),
        ("bear the name of another and a number", _made_unique(names), MADE),
        ("differ from another in case only", _alike_but_for_case(names), CASES),
    ):
        if wrong:
            found.append(f"{path}: {len(wrong):,} of {len(names):,} genes {what} ({_some(wrong)}){way_out}")
    return found + _species(path, names)


def _some(names: list[str]) -> str:
    return ", ".join(repr(str(name)) for name in names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _made_unique(names: np.ndarray) -> list[str]:
    there = set(names)
    return [name for name in names if name.rpartition("-")[2].isdigit() and name.rpartition("-")[0] in there]


def _alike_but_for_case(names: np.ndarray) -> list[str]:
    folded = Counter(name.casefold() for name in set(names))
    return [name for name in dict.fromkeys(names) if folded[name.casefold()] > 1]


def _species(path: str, names: np.ndarray) -> list[str]:
    """Return a doubt where names say that genes are of several species: by a genome before them, or by Ensembl."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        told = GENOME.match(name) or ENSEMBL.match(name)
        if told is not None:
            kinds.setdefault(told[1], []).append(name)
    if len(kinds) < 2:
        return []
    listed = "; ".join(f"{len(some):,} such as {some[0]!r}" for some in kinds.values())
    return [
        f"{path}: genes are of {len(kinds)} species ({listed}): all count in every cell's total, and a model knows one "
        "species. Write a file with the genes and the cells of one"
    ]
