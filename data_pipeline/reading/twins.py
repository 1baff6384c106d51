"""The same cell under two names: rows of counts hashed in the pass that validates, alike ones brought together."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from data_pipeline.reading.joining import Joint
    from data_pipeline.reading.source import Source

FEWEST = 5  # expressed genes: cells with fewer may be alike by chance
ROWS = 256  # hashed at once
EXAMPLES = 3


def row_hashes(counts: sparse.csr_matrix) -> np.ndarray:
    """Return what stands for each row's counts, uint64 [n]; 0 for rows with fewer than FEWEST genes.

    A sum of mixed (gene, count), modulo 2^64: the order of the genes doesn't matter.
    """
    found = np.zeros(counts.shape[0], np.uint64)
    for start in range(0, counts.shape[0], ROWS):
        ends = counts.indptr[start : start + ROWS + 1].astype(np.int64)
        inside = slice(ends[0], ends[-1])
        mixed = _mixed(counts.indices[inside], counts.data[inside])
        running = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)])
        sums = running[ends[1:] - ends[0]] - running[ends[:-1] - ends[0]]
        found[start : start + ROWS] = np.where(np.diff(ends) < FEWEST, np.uint64(0), sums)
    return found


def _mixed(genes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return 64 well mixed bits for each (gene, count): the finaliser of splitmix64 (Steele et al. 2014, OOPSLA)."""
    bits = counts.astype(np.float32).view(np.uint32).astype(np.uint64)
    mixed = (genes.astype(np.uint64) << np.uint64(32)) | bits
    mixed += np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def settle(
    hashes: np.ndarray, joint: "Joint", grouped: tuple[np.ndarray, np.ndarray], source: "Source"
) -> tuple[tuple[np.ndarray, np.ndarray], "Twins"]:
    """Return (file rows and offsets of the cells that `source.twins` leaves, as in joining.group_rows; the twins).

    hashes: uint64 per file row, row_hashes'. `drop` keeps the first of each group, a cell of the fixed test set before
    others. `together` leaves out the cells whose twin is in the fixed test set: no other part may have them.
    """
    rows, offsets = grouped
    if not len(rows):
        return grouped, Twins(None, 0, {})
    own = np.add.reduceat(hashes[rows], offsets[:-1])
    is_test, names = joint.is_test[rows[offsets[:-1]]], joint.cells[rows[offsets[:-1]]]
    first = _first_of(own, is_test)
    facts = _facts(first, joint.labels[rows[offsets[:-1]]], names, is_test)
    again = first != np.arange(len(first))
    gone = again if source.twins == "drop" else again & ~is_test & is_test[first]
    gone &= source.twins != "ignore"
    lengths = np.diff(offsets)
    kept = rows[np.repeat(~gone, lengths)], np.concatenate([[0], np.cumsum(lengths[~gone])])
    together = first[~gone] if source.twins == "together" and np.any(again & ~gone) else None
    return kept, Twins(together, len(first), facts | {"left_out": int(gone.sum())})


@dataclass(frozen=True)
class Twins:
    """Cells with the counts of another cell.

    together: int64 [n], a number that they share, of the cells that are left; None where there are none, or it doesn't
    count. facts, of all `num_cells` cells: cells (that have a twin), groups, examples (pairs of names), other_labels
    (groups with more than one label), across (groups in the fixed test set and outside of it), left_out (cells).
    """

    together: np.ndarray | None
    num_cells: int
    facts: dict[str, Any]


def _first_of(hashes: np.ndarray, is_test: np.ndarray) -> np.ndarray:
    """Return for each cell the first with the same hash, cells of the test set before others; 0 is nobody's twin."""
    order = np.argsort(~is_test, kind="stable")
    names = np.unique(hashes, return_inverse=True)[1].astype(np.int64)
    names[hashes == 0] = len(hashes) + np.flatnonzero(hashes == 0)
    _, first, which = np.unique(names[order], return_index=True, return_inverse=True)
    found = np.empty(len(hashes), np.int64)
    found[order] = order[first[which]]
    return found


def _facts(first: np.ndarray, labels: np.ndarray, names: np.ndarray, is_test: np.ndarray) -> dict[str, Any]:
    again = np.flatnonzero(first != np.arange(len(first)))
    other, across = labels[again] != labels[first[again]], is_test[again] != is_test[first[again]]
    return {
        "cells": len(again) + len(np.unique(first[again])),
        "groups": len(np.unique(first[again])),
        "examples": [[str(names[first[row]]), str(names[row])] for row in again[:EXAMPLES]],
        "other_labels": len(np.unique(first[again[other]])),
        "across": len(np.unique(first[again[across]])),
    }


def doubts(found: Twins, source: "Source") -> list[str]:
    """Return what to say of twins: how many, which, and what becomes of them."""
    facts = found.facts
    if not facts.get("cells"):
        return []
    pairs = ", ".join(f"{one!r} and {other!r}" for one, other in facts["examples"])
    said = (
        f"{facts['cells']:,} of {found.num_cells:,} cells have the counts of another in every gene, in "
        f"{facts['groups']:,} groups ({pairs}): the same cells under other names"
    )
    if facts["across"]:
        said += f"; {facts['across']:,} groups are in the test files and in the others"
    if facts["other_labels"]:
        said += f"; {facts['other_labels']:,} groups have more than one label"
    return [f"{said}. {_fate(facts, source)}"]


def _fate(facts: dict[str, Any], source: "Source") -> str:
    left_out = f"{facts['left_out']:,} cells are left out"
    if source.twins == "drop":
        return f"`twins: drop`: the first of each is kept, {left_out}"
    if source.twins == "ignore":
        return "`twins: ignore`: they are split like others, so a network may be tested on what it was trained on"
    gone = f"; {left_out}, because the test files have them" if facts["left_out"] else ""
    return (
        f"They stay in one part of a split{gone}. `twins: drop` keeps the first of each, `twins: ignore` lets them be"
    )
