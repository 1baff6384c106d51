"""`cellskew init`: a first sweep file for a data file, every choice with its reason beside it."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from data_pipeline.errors import RequestError
from data_pipeline.genes import looks_ensembl
from data_pipeline.names import shown
from data_pipeline.reading import likely
from data_pipeline.reading.cells import Cells
from data_pipeline.reading.check import FEW_CELLS
from data_pipeline.reading.file import places
from data_pipeline.reading.file.inspection import LABEL_WORDS
from data_pipeline.reading.h5ad import open_cells
from data_pipeline.reading.known import catalog
from data_pipeline.rows import choice

SPLITS = {"test": 0.2, "validation": 0.1}
SEEDS = (0, 1, 2)
GENES = 2000  # highly variable ones, where the file has more
RARE = 50  # training cells: what `test_recall_tail` calls rare
RATIOS = (100, 50, 20, 10)  # of the largest type to the smallest
LEAST_KEPT = 0.1  # share of the training cells that a skew may leave, to be worth while
LISTED = 12  # names in a comment
PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
TAIL = """\
strategies: [none, oversample, square_root]    # remedies in the training cells; none is what they are compared with
losses: [cross_entropy]    # remedies in the loss: weighted, class_balanced, focal, logit_adjusted, ...
posthoc: [logit_adjust]    # remedies after training, at no cost
models:    # the baselines first: they take seconds, and a network that doesn't beat them is no help
  majority: {}
  logistic_regression: {}
  # knn: {}
  # linear_svm: {}
  # celltypist: {}
  # gradient_boosting: {}
  # scanvi: {}    # many minutes; with the extra scvi: docs/install.md
  # mlp: {}
  # scgpt: {size: small}    # from scratch; with `weights: FOLDER` the official checkpoint is fine-tuned
  # geneformer: {size: small}
  # scbert: {size: small}
"""


def draft(data: str, options: dict[str, Any], storage: Path) -> str:
    """Return the text of a sweep file for an h5ad file or a dataset of the catalog.

    options: of the file, as a sweep's `datasets:` has them; what isn't given is guessed, and said to be. Every split
    and skew drafted can be had. RequestError if the file can't be used, or no column of obs is named like cell types.
    """
    is_listed = data in catalog.entries() and not Path(data).exists()
    entry, why = ({"name": data}, {}) if is_listed else _described(data, options)
    cells = open_cells(catalog.resolve(entry, storage))
    if "donor" in why and not _has_every_type(cells):
        del entry["donor"]
        why["label"] = f"{why.get('label', 'as given')}; by whole donors some types would lack training cells"
        cells = open_cells(catalog.resolve(entry, storage))
    if not is_listed:
        _explain_drops(entry, why, cells)
    name = f"{entry['name']}-first"
    doubts = [f"# doubt: {shown(doubt)}" for doubt in cells.facts["warnings"]]
    lines = [*_head(data, cells), f"name: {name}", *_dataset(entry, why), *doubts, *_body(cells)]
    return "\n".join(lines) + f"\n{TAIL}"


# the dataset


def _described(data: str, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a file's entry under `datasets:`, and of each key why it is what it is."""
    path = places.absolute(data)
    seen = likely.look(path, options.get("layer"))
    entry: dict[str, Any] = {"name": _name(path), "path": path, **options}
    why: dict[str, str] = {}
    if "label" not in options:
        entry["label"], why["label"] = _label(path, seen)
    if "donor" not in options and seen.donors:
        entry["donor"], number = seen.donors[0]
        why["donor"] = f"guessed: {number:,} values; whole donors are held out, so that the test is on new ones"
    if seen.layer is not None and "layer" not in options:
        entry["layer"], why["layer"] = seen.layer, "X holds no counts"
    if "values" not in options and seen.values.kind != "counts":
        entry["values"] = {"kind": "log1p", "base": seen.values.base, "target_sum": seen.values.target_sum}
        why["values"] = "recognised; with raw counts, strategies that make cells could be used as well"
    entry |= {"unlabelled": "drop", "empty_cells": "drop"}
    return entry, why


def _name(path: str) -> str:
    """Return a name made of a file's: none of the catalog's, whose files are others."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(path).stem).strip("._-")[:80] or "cells"
    return f"my-{name}" if name in catalog.entries() else name


def _label(path: str, seen: likely.Likely) -> tuple[str, str]:
    if not seen.labels:
        raise RequestError(
            f"{path}: no column of obs is named like cell types ({', '.join(LABEL_WORDS[:6])}, ...); say with --label "
            "which one holds them"
        )
    (first, number), others = seen.labels[0], seen.labels[1:]
    rest = ", ".join(f"{scalar(name)} ({count:,})" for name, count in others[:LISTED])
    return first, f"guessed: {number:,} types" + (f"; it could also be {rest}" if rest else "")


def _explain_drops(entry: dict[str, Any], why: dict[str, str], cells: Cells) -> None:
    """Keep the keys that leave cells out only where they do, and say how many."""
    left_out = cells.facts["left_out"]
    for key in ("unlabelled", "empty_cells"):
        if left_out:
            why[key] = f"{left_out:,} cells have no type, or not a single count"
        else:
            del entry[key]


def _dataset(entry: dict[str, Any], why: dict[str, str]) -> list[str]:
    if list(entry) == ["name"]:
        return [f"datasets: [{scalar(entry['name'])}]"]
    lines = [f"{key}: {_value(value)}" + (f"    # {why[key]}" if key in why else "") for key, value in entry.items()]
    return ["datasets:", f"  - {lines[0]}", *(f"    {line}" for line in lines[1:])]


# the rest


def _head(data: str, cells: Cells) -> list[str]:
    counts = np.bincount(cells.labels, minlength=len(cells.classes))
    kind = "Ensembl ids" if looks_ensembl(cells.genes) else "symbols"
    order = np.argsort(-counts, kind="stable")
    return [
        f"# Drafted by `cellskew init`: {cells.num_cells:,} cells, {cells.num_genes:,} genes ({kind}), {len(counts)} "
        f"types, largest / smallest {counts.max() / counts.min():.0f}.",
        "# Change what you like. What it would do: cellskew plan THIS_FILE. To do it: cellskew run THIS_FILE",
        f"# types: {_listed([(cells.classes[i], counts[i]) for i in order])}",
    ]


def _body(cells: Cells) -> list[str]:
    train = _train(cells)
    rare = [(cells.classes[i], train[i]) for i in np.argsort(train, kind="stable") if train[i] <= RARE]
    tiny = int((np.bincount(cells.labels, minlength=len(cells.classes)) < FEW_CELLS).sum())
    few = f"; {tiny} of them too small for training, validation and test" if tiny else ""
    genes = f"{{select: hvg, n: {GENES}}}" if cells.num_genes > GENES else "all"
    splits = f"{{seeds: {list(SEEDS)}, test: {SPLITS['test']}, validation: {SPLITS['validation']}}}"
    return [
        *([f"# rare, with at most {RARE} training cells: {_listed(rare)}{few}"] if rare else []),
        f"genes: {genes}",
        f"splits: {splits}    # three are for trying out; take five or more for an answer",
        "skews:",
        "  - natural    # training cells as they are",
        *(f"  - {_value(skew)}    # {why}" for skew, why in _skews(cells, train)),
    ]


def _skews(cells: Cells, train: np.ndarray) -> list[tuple[dict[str, Any], str]]:
    """Return the skews beside natural that can be had, and leave enough cells, each with its reason."""
    found = []
    steeper = [ratio for ratio in RATIOS if ratio > 1.5 * train.max() / train[train > 0].min()]
    for ratio in steeper:
        skew = {"kind": "exponential", "ratio": ratio}
        if _share_kept(cells, skew) >= LEAST_KEPT:
            found.append((skew, f"the largest type {ratio} times the smallest, the others between"))
            break
    thin = _to_thin(cells, train)
    return found + ([thin] if thin is not None else [])


def _to_thin(cells: Cells, train: np.ndarray) -> tuple[dict[str, Any], str] | None:
    """Return the smallest common type cut to a few cells: would it have been found had it been rare?"""
    for kind in np.argsort(train, kind="stable"):
        levels = [50, 10] if train[kind] >= 2 * RARE else [10]
        skew = {"kind": "rarefy", "class": cells.classes[kind], "cells": levels}
        asked = [{"kind": "rarefy", "class_name": cells.classes[kind], "cells": level} for level in levels]
        is_common = train[kind] >= (2 * RARE if train.max() >= 2 * RARE else 20)
        if is_common and all(_can_be_had(cells, one) for one in asked):
            return skew, f"would a type of {train[kind]:,} training cells be found if it had so few?"
    return None


def _train(cells: Cells) -> np.ndarray:
    """Return training cells per class in the first split, int64 [C]."""
    return _chosen(cells, {"kind": "natural"}, SEEDS[0]).counts(cells.labels, len(cells.classes))["train"]


def _chosen(cells: Cells, skew: dict[str, Any], seed: int) -> choice.Rows:
    split = {"seed": seed, **SPLITS}
    return choice.choose(cells.labels, cells.classes, split, skew, cells.donors, cells.fixed_test, cells.twins)


def _has_every_type(cells: Cells) -> bool:
    """Tell whether every type that can be trained on is, in every split."""
    counts = np.bincount(cells.labels, minlength=len(cells.classes))
    try:
        parts = [_chosen(cells, {"kind": "natural"}, seed).counts(cells.labels, len(counts)) for seed in SEEDS]
    except RequestError:
        return False
    return all((part["train"][counts >= FEW_CELLS] > 0).all() for part in parts)


def _can_be_had(cells: Cells, skew: dict[str, Any]) -> bool:
    return _share_kept(cells, skew) > 0


def _share_kept(cells: Cells, skew: dict[str, Any]) -> float:
    """Return the least share of the training cells that a skew keeps in any split, 0 if it is refused in one."""
    try:
        rows = [_chosen(cells, skew, seed) for seed in SEEDS]
    except RequestError:
        return 0.0
    return min(len(one.kept) / len(one.split.train) for one in rows)


# words


def _listed(pairs: list[tuple[str, int]]) -> str:
    more = f" and {len(pairs) - LISTED} more" if len(pairs) > LISTED else ""
    return ", ".join(f"{scalar(name)} {number:,}" for name, number in pairs[:LISTED]) + more


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_value(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, str):
        return scalar(value)
    return str(int(value)) if value == int(value) else str(value)


def scalar(text: str) -> str:
    """Return a text as YAML on one line: as it is where nobody could take it for anything else, in quotes elsewhere."""
    if PLAIN.fullmatch(text) and yaml.safe_load(text) == text:
        return text
    return yaml.dump(text, default_style='"', allow_unicode=True, width=float("inf")).strip()
