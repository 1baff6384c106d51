"""What a finished trial leaves behind: metrics, files (see trainables.trial.files); result.json last."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import log_softmax, softmax

from data_pipeline.atomic import publish
from data_pipeline.tree import ancestors, hierarchical
from trainables import metrics
from trainables.config import TrialConfig
from trainables.material import Material
from trainables.trial import abstaining
from trainables.trial.confidence import ABSTAINING, aurc
from trainables.trial.files import PLAIN, write_files

if TYPE_CHECKING:
    from trainables.posthoc import Adjusted

MODEL_FOLDER = "checkpoint"  # in a trial's directory and among its run's artifacts, see trainables.trial.package


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
    probabilities = softmax(test_logits.astype(np.float64), axis=1)
    numbers = {f"test_{name}": value for name, value in _evaluate(config, material, probabilities).items()}
    if config.control is not None:
        numbers["test_chance"] = 1 / len(np.unique(material.labels[material.test]))
    adjusted = _adjusted(config, material, prior, validation_logits, test_logits)
    if adjusted:
        numbers |= _posthoc(config, material, adjusted)
    numbers |= _abstaining(config, material, validation_logits, probabilities)
    if config.distances is not None:
        numbers |= _generated(config.distances, config.directory)
    numbers |= _tested_on(material) | _validated(material, validation_logits)
    write_files(config, material, {name: one.probabilities for name, one in adjusted.items()} | {PLAIN: probabilities})
    return numbers


def _validated(material: Material, logits: np.ndarray) -> dict[str, float]:
    """Return what settings are chosen by, of the weights that the test cells were given: none without validation."""
    labels = material.labels[material.validation]
    return {"validation_macro_f1": metrics.validation_numbers(logits, labels)["val_macro_f1"]} if len(labels) else {}


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
    numbers["aurc"] = aurc(probabilities.max(1), probabilities.argmax(1) == truth)
    if config.tree is not None:
        table = metrics.confusion_counts(truth, probabilities.argmax(1), len(material.classes))
        numbers |= hierarchical(table, ancestors(config.tree, material.classes))
    if config.skew["kind"] == "rarefy":
        thinned = metrics.of_class(probabilities, truth, material.classes.index(str(config.skew["class_name"])))
        numbers |= {f"{name}_rarefied": value for name, value in thinned.items()}
    return numbers


def _adjusted(
    config: TrialConfig, material: Material, prior: np.ndarray, validation: np.ndarray, test: np.ndarray
) -> "dict[str, Adjusted]":
    """Return what each adjustment made after training makes of the test cells."""
    from trainables.posthoc import POSTHOC

    labels = material.labels[material.validation]
    return {name: POSTHOC[name](validation, labels, prior, test) for name in config.posthoc if name in POSTHOC}


def _posthoc(config: TrialConfig, material: Material, adjusted: "dict[str, Adjusted]") -> dict[str, float]:
    """Return the metrics of each adjustment, as test_<metric>.<adjustment>.

    <adjustment>_applied is 0 where nothing was adjusted; posthoc.json says why.
    """
    numbers = {}
    for name, one in adjusted.items():
        found = _evaluate(config, material, one.probabilities)
        numbers |= {f"test_{key}.{name}": value for key, value in found.items()}
        numbers[f"{name}_applied"] = float(one.unchanged is None)
    unchanged = {name: one.unchanged for name, one in adjusted.items()}
    publish(config.directory / "posthoc.json", json.dumps({"unchanged": unchanged}, indent=1).encode())
    return numbers


def _abstaining(
    config: TrialConfig, material: Material, validation_logits: np.ndarray, probabilities: np.ndarray
) -> dict[str, float]:
    """Write what leaving cells unnamed, or naming several types, comes to; returns its metrics."""
    names = [name for name in config.posthoc if name in ABSTAINING]
    if not names:
        return {}
    validation = softmax(validation_logits.astype(np.float64), axis=1), material.labels[material.validation]
    test, cell_ids = (probabilities, material.labels[material.test]), material.shards.cell_ids.take(material.test)
    return abstaining.write(names, validation, test, cell_ids.to_pylist(), material.classes, config.directory)


def _generated(distances: Path, directory: Path) -> dict[str, float]:
    """Put the table of made cells among the trial's files; returns how many, and their means over types."""
    publish(directory / "generated_cells.csv", distances.read_bytes())
    table = pd.read_csv(distances)
    means = table[["mean_correlation", "auc"]].mean().dropna()
    return {"generated_cells": int(table["made"].sum())} | {f"generated_{name}": means[name] for name in means.index}


def logits_of(probabilities: np.ndarray) -> np.ndarray:
    """Return log probabilities, float64 [n, C], finite: what a baseline has in place of logits."""
    return log_softmax(np.log(np.maximum(probabilities, 1e-12)), axis=1)
