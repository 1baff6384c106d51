"""What the columns of a file stand for: which are no genes, and which names are doubtful."""

import re
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
    r"(adt|hto|ab|anti|prot|protein)[-_.:].+|.*total.?seq.?[abcd]?|.*hashtag.*|hto.?\d+|ercc-\d{5}"
    r"|(chr)?[0-9xy]{1,2}[:_-]\d{3,}[-_]\d{3,}",
    re.I,
)
NUMBER = re.compile(r"\d+(\.0)?")
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
    found = []
    elsewhere = f"; var has {', '.join(columns[:8])}: name one with `gene_names:`" if columns else ""
    nameless = [repr(name) for name in names if name.strip().casefold() in NO_NAME]
    if nameless:
        found.append(f"{path}: {len(nameless):,} genes have no name ({', '.join(nameless[:SHOWN])}){elsewhere}")
    numbers = [name for name in names if NUMBER.fullmatch(name)]
    if numbers:
        shown = ", ".join(numbers[:SHOWN])
        found.append(f"{path}: {len(numbers):,} of {len(names):,} names of genes are numbers ({shown}){elsewhere}")
    there = set(names)
    made = [name for name in names if name.rpartition("-")[2].isdigit() and name.rpartition("-")[0] in there]
    if made:
        found.append(
            f"{path}: {len(made):,} genes bear the name of another and a number ({', '.join(made[:SHOWN])}): if they "
            "were made unique, models with a vocabulary don't know them; keep the names as they were, and add them up "
            "with `duplicates: sum`"
        )
    return found
