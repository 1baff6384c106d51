"""What a finished trial leaves behind: metrics, tables, a picture, predictions; result.json last."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy.special import log_softmax, softmax

from data_pipeline.atomic import publish
from trainables import metrics
from trainables.config import TrialConfig
from trainables.material import Material

MODEL_FOLDER = "checkpoint"  # in a trial's directory and among its run's artifacts, see trainables.trial.package
FILES = ("config.yaml", "per_class.csv", "confusion_matrix.csv", "confusion_matrix.png", "most_confused.csv")
FILES += ("predictions.parquet",)
NOT_MADE = "not_made.json"  # which of them couldn't be made, and why: the trial's numbers are good without
LABELS = {"fontsize": 7, "parse_math": False}  # a type's name may hold a $


def finished(directory: Path) -> dict[str, Any] | None:
    """Return what result.json of a finished trial says, or None: {"history": [...], "final": {...}}."""
    try:
        return json.loads((directory / "result.json").read_text())
    except (OSError, ValueError):
        return None


def conclude(
    config: TrialConfig,
    material: Material,
    prior: np.ndarray,
    validation_logits: np.ndarray,
    test_logits: np.ndarray,
) -> dict[str, float]:
    """Evaluate the test cells, write every file but result.json, and return the test_* metrics.

    Logits are float [n, C] that softmax makes probabilities of, under the class mix `prior` (see losses.Loss).
    """
    truth = material.labels[material.test]
    probabilities = softmax(test_logits.astype(np.float64), axis=1)
    numbers = {f"test_{name}": value for name, value in _evaluate(config, material, probabilities).items()}
    if config.posthoc:
        numbers |= _posthoc(config, material, prior, validation_logits, test_logits)
    if config.distances is not None:
        numbers |= _generated(config.distances, config.directory)
    numbers |= _tested_on(material)
    _write_tables(config.directory, material, probabilities, truth)
    publish(config.directory / "config.yaml", yaml.safe_dump(config.public(), sort_keys=True).encode())
    return numbers


def _tested_on(material: Material) -> dict[str, int]:
    """Return what the numbers rest on, which tells how sure they are: see docs/metrics.md."""
    shards = material.real
    numbers = {"test_cells": len(material.test), "natural_cells": len(material.natural)}
    numbers["fixed_test"] = int(shards.fixed_test is not None)
    if shards.donors is not None:
        parts = {"test_donors": material.test, "natural_donors": material.natural}
        numbers |= {name: len(np.unique(shards.donors[rows])) for name, rows in parts.items()}
    return numbers


def _evaluate(config: TrialConfig, material: Material, probabilities: np.ndarray) -> dict[str, float]:
    """Return the metrics on test cells; beside them *_rarefied, of the class that the skew `rarefy` has thinned."""
    truth = material.labels[material.test]
    numbers = metrics.evaluate(probabilities, truth, material.counts(material.natural), material.counts(material.kept))
    if config.skew["kind"] == "rarefy":
        thinned = metrics.of_class(probabilities, truth, material.classes.index(str(config.skew["class_name"])))
        numbers |= {f"{name}_rarefied": value for name, value in thinned.items()}
    return numbers


def _posthoc(
    config: TrialConfig, material: Material, prior: np.ndarray, validation: np.ndarray, test: np.ndarray
) -> dict[str, float]:
    """Return the metrics of each adjustment made after training, as test_<metric>.<adjustment>.

    <adjustment>_applied is 0 where nothing was adjusted; posthoc.json says why.
    """
    from trainables.posthoc import POSTHOC

    labels = material.labels[material.validation]
    numbers, unchanged = {}, {}
    for name in config.posthoc:
        adjusted = POSTHOC[name](validation, labels, prior, test)
        found = _evaluate(config, material, adjusted.probabilities)
        numbers |= {f"test_{key}.{name}": value for key, value in found.items()}
        numbers[f"{name}_applied"] = float(adjusted.unchanged is None)
        unchanged[name] = adjusted.unchanged
    publish(config.directory / "posthoc.json", json.dumps({"unchanged": unchanged}, indent=1).encode())
    return numbers


def _generated(distances: Path, directory: Path) -> dict[str, float]:
    """Put the table of made cells among the trial's files; returns how many, and their means over types."""
    publish(directory / "generated_cells.csv", distances.read_bytes())
    table = pd.read_csv(distances)
    means = table[["mean_correlation", "auc"]].mean().dropna()
    return {"generated_cells": int(table["made"].sum())} | {f"generated_{name}": means[name] for name in means.index}


def _write_tables(directory: Path, material: Material, probabilities: np.ndarray, truth: np.ndarray) -> None:
    classes, predicted = material.classes, probabilities.argmax(1)
    parts = {"natural": material.natural, "train": material.kept, "validation": material.validation}
    cells = {name: material.counts(rows) for name, rows in parts.items()}
    table = metrics.per_class(probabilities, truth, classes, cells)
    confusion = metrics.confusion(truth, predicted, classes)
    made = {
        "per_class.csv": lambda: table.to_csv(index=False).encode(),
        "confusion_matrix.csv": lambda: confusion.to_csv().encode(),
        "most_confused.csv": lambda: metrics.most_confused(confusion).to_csv(index=False).encode(),
        "confusion_matrix.png": lambda: picture(confusion),
        "predictions.parquet": lambda: _predictions(material, probabilities, truth),
    }
    publish_each(directory, made)


def publish_each(directory: Path, made: dict[str, Callable[[], bytes]]) -> None:
    """Write files; those that can't be made are named in NOT_MADE, with the reason. A full disk raises OSError."""
    failed = {}
    for name, make in made.items():
        try:
            data = make()
        except Exception as error:  # whatever a drawing or a table dies of, a trained network must not
            failed[name] = f"{type(error).__name__}: {error}"[:500]
        else:
            publish(directory / name, data)
    if failed:
        publish(directory / NOT_MADE, json.dumps(failed, indent=1).encode())
    else:
        (directory / NOT_MADE).unlink(missing_ok=True)


def _predictions(material: Material, probabilities: np.ndarray, truth: np.ndarray) -> bytes:
    names = np.array(material.classes, dtype=object)
    columns = {
        "cell_id": material.shards.cell_ids.take(material.test).to_pylist(),
        "truth": names[truth],
        "prediction": names[probabilities.argmax(1)],
    }
    if material.real.donors is not None:
        columns["donor"] = material.real.donors[material.test]
    scores = pd.DataFrame(probabilities.astype(np.float32), columns=[f"p_{name}" for name in material.classes])
    return pd.concat([pd.DataFrame(columns), scores], axis=1).to_parquet(index=False)


def picture(confusion: pd.DataFrame) -> bytes:
    """Return a PNG of the confusion matrix, each row (true type) as shares of its cells."""
    import io

    from matplotlib.figure import Figure

    counts = confusion.to_numpy(dtype=float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.5 + 0.32 * len(confusion)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(confusion)), [_short(name) for name in confusion.columns], rotation=90, **LABELS)
    rows = [f"{_short(name)} ({int(n)})" for name, n in zip(confusion.index, counts.sum(1), strict=True)]
    axes.set_yticks(range(len(confusion)), rows, **LABELS)
    axes.set(xlabel="predicted", ylabel="true type (test cells)")
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true type")
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=90)
    return data.getvalue()


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:27]}…"


def logits_of(probabilities: np.ndarray) -> np.ndarray:
    """Return log probabilities, float64 [n, C], finite: what a baseline has in place of logits."""
    return log_softmax(np.log(np.maximum(probabilities, 1e-12)), axis=1)
