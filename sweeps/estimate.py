"""How long trials take and how much disk they fill, roughly: for their order, the time left, and `cellskew plan`."""

from sweeps.shapes import Shape
from sweeps.trials import Trial

SECONDS = {  # per 1,000 training rows and epoch on one CPU core
    "scgpt": {"tiny": 2.0, "small": 8.0, "official": 2000.0},
    "scbert": {"tiny": 3.0, "small": 12.0, "official": 1000.0},
    "geneformer": {"tiny": 2.0, "small": 8.0, "official": 800.0},
}
BASELINE_SECONDS = 0.5
FIXED_SECONDS = 2.0  # opening, evaluation, files
CHECKPOINT_MB = {"tiny": 3, "small": 20, "official": 600}  # weights, two moments, the best weights


def costs(trials: list[Trial], shapes: dict[str, Shape]) -> dict[str, float]:
    """Return seconds per trial key, on one CPU core."""
    return {trial.key: cost(trial, shapes[trial.key].num_rows) for trial in trials if trial.key in shapes}


def cost(trial: Trial, num_rows: int) -> float:
    """Return roughly the seconds that a trial of so many rows per epoch takes on one CPU core."""
    size = trial.described["options"].get("size", "small")
    per_thousand = SECONDS.get(trial.model, {}).get(size, BASELINE_SECONDS)
    return FIXED_SECONDS + trial.epochs * per_thousand * num_rows / 1000


def checkpoint_mb(trial: Trial) -> float:
    """Return roughly the megabytes that a trial's checkpoint and files keep on disk."""
    if trial.described["recipe"] is None:
        return 0.2
    return CHECKPOINT_MB[trial.described["options"].get("size", "small")]
