"""How long trials take and how much disk they fill, roughly: for their order, the time left, and `cellskew plan`."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sweeps.drive.forecast.shapes import Shape
from sweeps.file.trials import Trial
from trainables.budget import total_steps
from trainables.fitting.contents import files_of
from trainables.spec import Recipe, get

SECONDS = {  # of one CPU core per million tokens trained on
    "scgpt": {"tiny": 4.0, "small": 13.0, "official": 3500.0},
    "scbert": {"tiny": 2.0, "small": 6.0, "official": 450.0},
    "geneformer": {"tiny": 3.0, "small": 9.0, "official": 900.0},
    "mlp": {"tiny": 0.15, "small": 0.17},
}
BASELINE_SECONDS = {
    "knn": 0.2,
    "logistic_regression": 1.9,
    "linear_svm": 2.2,
    "gradient_boosting": 7.8,
    "scanvi": 100.0,
}  # per 1,000 rows, of 11 types
MOST_ROWS = {"scanvi": 20_000}  # from which on a method goes the fewer times through its cells the more they are
OTHER_BASELINE = 0.15
PER_TOKEN = {"geneformer": 3_145_728}  # weights that a token is multiplied with, of V1-10M, which was measured
HEAD_STEPS = {"scgpt": 2.7e-3, "geneformer": 0.8e-3}  # seconds per step on stored vectors, of published sizes
PREDICTION = 1 / 3  # of a training step's time: the forward pass alone
FIXED_SECONDS = 0.3  # opening, files
PARAMETERS = {"tiny": 2e4, "small": 4e4, "official": 2e7}  # trained ones that don't depend on the genes
HEADS = {"scgpt": 5.3e5, "scbert": 8.8e6, "geneformer": 7e4}  # parameters of the published sizes' heads, counted
PER_RANK = 2.5e4  # of scGPT's adapters at their usual layers, counted: 12 x (512 + 1536); the others have fewer
PER_GENE = {"tiny": 32, "small": 64, "official": 512}
VOCABULARY = {"scgpt": 60_697, "scbert": 16_907, "geneformer": 25_426}  # of the published weights
COPIES = 2  # of a parameter on disk: the best weights, and those uploaded
FILES_MB = 0.2  # predictions, tables, pictures
EXPRESSED = 0.3  # of highly variable genes in a cell


def costs(trials: list[Trial], shapes: dict[str, Shape], cells: dict[str, Any]) -> dict[str, float]:
    """Return seconds per trial key, on one CPU core. cells: as in `shapes`, with num_genes."""
    return {key: found.cpu_seconds for key, found in works(trials, shapes, cells).items()}


def works(trials: list[Trial], shapes: dict[str, Shape], cells: dict[str, Any]) -> dict[str, "Work"]:
    """Return the work of each trial, by key."""
    return {trial.key: work(trial, shapes[trial.key], tokens(trial, cells[trial.dataset])) for trial in trials}


@dataclass(frozen=True)
class Work:
    """What of a trial decides how long it takes.

    tokens: trained on, each evaluated one counting a third; batch: tokens of a batch; cpu_seconds: about, on one core.
    """

    steps: int
    rounds: int
    tokens: float
    batch: float
    cpu_seconds: float


def work(trial: Trial, shape: Shape, tokens_per_cell: float) -> Work:
    """Return what a trial has to do: training, an evaluation per round, the test."""
    if trial.described["recipe"] is None:
        rows = min(shape.num_rows, MOST_ROWS.get(trial.model, shape.num_rows))
        per_row = BASELINE_SECONDS.get(trial.model, OTHER_BASELINE)
        return Work(0, 1, 0.0, 0.0, FIXED_SECONDS + per_row * rows / 1000)
    recipe, number = Recipe(**trial.described["recipe"]), steps(trial, shape)
    rounds = recipe.epochs + recipe.crt_epochs
    evaluated = rounds * shape.validation.sum() + shape.test.sum()
    step = PREDICTION if _train(trial) == "head" else 1.0  # nothing goes back through what is frozen
    tokens_per_cell = tokens_per_cell if trial.rests is None else 1.0
    tokens = float(step * number * recipe.cells_per_step + PREDICTION * evaluated) * tokens_per_cell
    size = size_of(trial)
    seconds = seconds_of(trial.model)[size] * heavier(trial.model, trial.described["weights"]) * tokens / 1e6
    if trial.rests is not None:
        seconds = HEAD_STEPS.get(trial.model, max(HEAD_STEPS.values())) * number
    return Work(number, rounds, tokens, recipe.batch_size * tokens_per_cell, FIXED_SECONDS + seconds)


def seconds_of(model: str) -> dict[str, float]:
    """Return seconds of a CPU core per million tokens, by size; of a network that was never measured, scGPT's."""
    return SECONDS.get(model, SECONDS["scgpt"])


@cache
def heavier(model: str, weights: str | None) -> float:
    """Return how many times a network's work per token is that of the published size that was measured.

    At least 1, as small networks gain less than they shrink; and 1 where the weights aren't here.
    """
    per_token = get(model).per_token
    if per_token is None or weights is None or not Path(weights).is_dir():
        return 1.0
    return max(1.0, per_token(Path(weights)) / PER_TOKEN[model])


def steps(trial: Trial, shape: Shape) -> int:
    """Return the optimiser steps of a network's trial, unless patience ends it earlier; 0 for a baseline."""
    if trial.described["recipe"] is None:
        return 0
    recipe = Recipe(**trial.described["recipe"])
    return total_steps(recipe, shape.num_natural, int(shape.kept.sum()), shape.num_rows)


def tokens(trial: Trial, cells: Any) -> float:
    """Return about how many tokens a cell has: scBERT reads every gene (pretrained, of its list unless `gene_set` says
    otherwise), the others those that the cell expresses.

    Expressed genes are as measured, or a tenth of all where the file isn't here.
    """
    selected = _selected(trial, cells)
    if trial.model == "scbert":
        return VOCABULARY["scbert"] if _reads_its_list(trial) else selected + 1
    facts = getattr(cells, "facts", None)
    expressed = facts["nonzero"] / len(cells.labels) if facts else 0.1 * cells.num_genes
    return expressed if selected == cells.num_genes else min(expressed, EXPRESSED * selected)


def disk_mb(trial: Trial, cells: Any) -> float:
    """Return roughly the megabytes that a finished trial's weights and files keep on disk."""
    if trial.described["recipe"] is None:
        return FILES_MB + COPIES * _learnt(trial, cells) / 1e6
    size = size_of(trial)
    if _train(trial) not in ("all", "published"):
        rank = 0 if _train(trial) == "head" else _train(trial)["lora"]["rank"]
        return FILES_MB + COPIES * 4 * (HEADS.get(trial.model, 0) + PER_RANK * rank) / 1e6
    weights = trial.described["weights"]
    if _train(trial) == "all" and weights is not None and Path(weights).is_dir():
        return FILES_MB + COPIES * _file_bytes(trial.model, weights) / 1e6
    genes = _selected(trial, cells) if weights is None else VOCABULARY.get(trial.model, 0)
    return FILES_MB + COPIES * 4 * (PARAMETERS[size] + PER_GENE[size] * genes) / 1e6


@cache
def _file_bytes(model: str, weights: str) -> int:
    """Return the size of the file that has a network's weights: the largest that it reads."""
    return max((path.stat().st_size for path in files_of(model, Path(weights)).values()), default=0)


def _learnt(trial: Trial, cells: Any) -> float:
    """Return about the bytes of what a baseline has learnt: knn keeps its training cells, others a number per gene."""
    genes = _selected(trial, cells)
    if trial.model == "knn":
        return 4.0 * len(cells.labels) * (trial.described["options"].get("components") or genes)
    return 8.0 * len(cells.classes) * genes


def size_of(trial: Trial) -> str:
    """Return the size that a network has; pretrained ones count as of the published size."""
    return "official" if trial.described["weights"] is not None else trial.described["options"].get("size", "small")


def _train(trial: Trial) -> Any:
    """Return what of a network is trained, see spec.what_is_trained."""
    return trial.described["options"].get("train", "all")


def _reads_its_list(trial: Trial) -> bool:
    return trial.described["weights"] is not None and trial.described["options"].get("gene_set") == "list"


def _selected(trial: Trial, cells: Any) -> int:
    return min(trial.described["genes"].get("n", cells.num_genes), cells.num_genes)
