"""What networks at rest make before the first trial: how many sets of vectors, their disk and time."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps import tables
from sweeps.drive.forecast import estimate
from sweeps.file.trials import Trial
from trainables.spec import get

BYTES_PER_NUMBER = 6  # itself in four, its column in two
WIDTHS = {"scgpt": 512, "geneformer": 256}  # of published weights that aren't here
BYTES_PER_TOKEN = {"scbert": 4 * 200}  # of what a head reads that has a vector of every token, at the published size


@dataclass(frozen=True)
class Vectors:
    """Sets of vectors by one network for one dataset: `number` of them, one per `fitted` choice of genes.

    seconds: of one CPU core, at the speed of the published size, which smaller weights beat; gb: on disk; of all sets.
    """

    model: str
    dataset: str
    labels: tuple[str, ...]
    number: int
    num_cells: int
    seconds: float
    gb: float


def vectors(trials: list[Trial], cells: dict[str, Any], fitted_on: Any) -> list[Vectors]:
    """Return what has to be made. fitted_on: a trial's axes in which the choice of its genes differs."""
    found: dict[tuple[str, str, str], dict[tuple[str, ...], list[Trial]]] = {}
    for trial in trials:
        if (network := _network(trial)) is not None:
            sets = found.setdefault((*network, trial.dataset), {})
            sets.setdefault(fitted_on(trial), []).append(trial)
    return [
        _of(model, weights, cells[dataset], list(sets.values())) for (model, weights, dataset), sets in found.items()
    ]


def _network(trial: Trial) -> tuple[str, str] | None:
    """Return (model, weights) of the network whose vectors a trial is on; None without one."""
    on = trial.described.get("on", {})
    if "model" in on:
        return on["model"], on["weights"]
    return None if trial.rests is None else (trial.model, trial.described["weights"])


def _of(model: str, weights: str, cells: Any, sets: list[list[Trial]]) -> Vectors:
    trials = [trial for one in sets for trial in one]
    tokens = sum(estimate.tokens(one[0], cells) for one in sets) * len(cells.labels)
    each = estimate.seconds_of(model)["official"] * estimate.heavier(model, weights)
    seconds = estimate.PREDICTION * each * tokens / 1e6
    size = len(cells.labels) * _width(model, weights) * BYTES_PER_NUMBER / 1e9
    labels = tuple(dict.fromkeys(trial.label for trial in trials))
    return Vectors(model, trials[0].dataset, labels, len(sets), len(cells.labels), seconds, size * len(sets))


def _width(model: str, weights: str) -> int:
    """Return the numbers of a vector, read off the weights where they are here."""
    spec = get(model)
    if spec.build_head is None or not Path(weights).is_dir():
        return WIDTHS.get(model, max(WIDTHS.values()))
    head = spec.build_head(2, Path(weights), **spec.options().model_dump())
    return next(tensor.shape[1] for tensor in head.parameters() if tensor.ndim == 2)


def sentences(found: list[Vectors]) -> list[str]:
    """Return what `plan` says of them: one sentence each, and what all genes would save where genes are chosen."""
    return [sentence for one in found for sentence in _sentences(one)]


def _sentences(one: Vectors) -> list[str]:
    took = f"about {tables.hours(one.seconds)} of one CPU core at the published sizes, {_disk(one.gb)} of disk"
    whom = ", ".join(one.labels)
    if one.number == 1:
        return [
            f"{one.dataset}: one set of vectors of {one.num_cells:,} cells is made by {one.model} at rest before the "
            f"first trial of {whom} ({took}); all splits, skews, strategies, losses and seeds share it"
        ]
    share = (one.number - 1) / one.number
    saved = f"{tables.hours(share * one.seconds)} and {_disk(share * one.gb)}"
    return [
        f"{one.dataset}: {one.number} sets of vectors of {one.num_cells:,} cells are made by {one.model} at rest "
        f"before the first trial of {whom} ({took}), as genes are chosen for each split; with `genes: all` one would "
        f"do, and save {saved}"
    ]


def unstored(trials: list[Trial], cells: dict[str, Any]) -> list[str]:
    """Return a sentence for each network of a dataset whose head is trained alone and yet not on stored vectors."""
    found: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        is_pretrained = trial.described["weights"] is not None
        if is_pretrained and trial.rests is None and trial.described["options"].get("train") == "head":
            found.setdefault((trial.dataset, trial.model), []).append(trial)
    return [_unstored(*one, mine, cells[one[0]]) for one, mine in found.items()]


def _unstored(dataset: str, model: str, trials: list[Trial], cells: Any) -> str:
    whom = ", ".join(dict.fromkeys(trial.label for trial in trials))
    said = f"{dataset}: no vectors are stored for {whom}, whose frozen network runs in every trial"
    if model not in BYTES_PER_TOKEN:
        return said
    gb = BYTES_PER_TOKEN[model] * estimate.tokens(trials[0], cells) / 1e9
    return (
        f"{said}: {model}'s head reads a vector of every gene, {_disk(gb)} a cell at the published size. In memory a "
        f"trial would keep all cells with fix_projections: true, cache_gigabytes: {gb * len(cells.labels):.2g}"
    )


def _disk(gb: float) -> str:
    return f"{gb:.1f} GB" if gb >= 1 else f"{1000 * gb:.1f} MB"
