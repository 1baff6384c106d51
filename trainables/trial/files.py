"""A finished trial's tables, picture and predictions. What can't be made costs no number, and is made later."""

import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from data_pipeline.atomic import publish
from data_pipeline.names import short
from data_pipeline.spreadsheets import to_csv
from trainables import metrics
from trainables.config import TrialConfig
from trainables.material import Material, open_material
from trainables.trial.drawing import LITERAL, names_as_they_are

FILES = ("config.yaml", "per_class.csv", "confusion_matrix.csv", "confusion_matrix.png", "most_confused.csv")
FILES += ("predictions.parquet",)
NOT_MADE = "not_made.json"  # which of them couldn't be made, and why: the trial's numbers are good without
EVALUATED = ".evaluated.npz"  # what files are made of, by adjustment: kept while one of them is lacking
PLAIN = "none"  # the adjustment that adjusts nothing
LABELS = {"fontsize": 7} | LITERAL
ROOM = 28  # characters of a type beside its row
Makers = dict[str, Callable[[], bytes]]
Said = dict[str, np.ndarray]  # adjustment, or PLAIN, -> probabilities of the test cells, float64 [n, C]


def write_files(config: TrialConfig, material: Material, said: Said) -> None:
    """Write FILES, but those that can't be made: NOT_MADE names these, and what they are made of is kept."""
    if publish_each(config.directory, _makers(config, material, said)):
        data = io.BytesIO()
        np.savez(data, **said)
        publish(config.directory / EVALUATED, data.getvalue())


def make_missing(config: TrialConfig) -> dict[str, str]:
    """Make what a finished trial lacks, without training; returns what it lacks now, by file, and why."""
    lacking, kept = missing(config.directory), config.directory / EVALUATED
    if not lacking or not kept.exists():
        return lacking
    with np.load(kept, allow_pickle=False) as said:
        made = _makers(config, open_material(config), dict(said))
    failed = publish_each(config.directory, {name: made[name] for name in lacking if name in made})
    if not failed:
        kept.unlink()
    return failed


def missing(directory: Path) -> dict[str, str]:
    """Return which files a trial lacks, and why."""
    path = directory / NOT_MADE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def publish_each(directory: Path, made: Makers) -> dict[str, str]:
    """Write files; returns those that can't be made, with the reason, as NOT_MADE says. A full disk raises OSError."""
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
    return failed


def _makers(config: TrialConfig, material: Material, said: Said) -> Makers:
    truth, predicted = material.labels[material.test], said[PLAIN].argmax(1)
    parts = {"natural": material.natural, "train": material.kept, "validation": material.validation}
    cells = {name: material.counts(rows) for name, rows in parts.items()}
    confusion = cache(lambda: metrics.confusion(truth, predicted, material.classes))
    return {
        "config.yaml": lambda: yaml.safe_dump(config.public(), sort_keys=True).encode(),
        "per_class.csv": lambda: to_csv(metrics.per_class(said[PLAIN], truth, material.classes, cells)).encode(),
        "confusion_matrix.csv": lambda: to_csv(confusion(), index=True).encode(),
        "most_confused.csv": lambda: to_csv(metrics.most_confused(confusion())).encode(),
        "confusion_matrix.png": lambda: picture(confusion()),
        "predictions.parquet": lambda: _predictions(material, said, truth),
    }


def prediction_of(adjustment: str) -> str:
    """Return the column of predictions.parquet that holds the types predicted after an adjustment, or PLAIN."""
    return "prediction" if adjustment == PLAIN else f"prediction.{adjustment}"


def _predictions(material: Material, said: Said, truth: np.ndarray) -> bytes:
    names = np.array(material.classes, dtype=object)
    columns = {
        "cell_id": material.shards.cell_ids.take(material.test).to_pylist(),
        "truth": names[truth],
        **{prediction_of(name): names[probabilities.argmax(1)] for name, probabilities in said.items()},
    }
    if material.real.donors is not None:
        columns["donor"] = material.real.donors[material.test]
    scores = pd.DataFrame(said[PLAIN].astype(np.float32), columns=[f"p_{name}" for name in material.classes])
    return pd.concat([pd.DataFrame(columns), scores], axis=1).to_parquet(index=False)


def picture(confusion: pd.DataFrame) -> bytes:
    """Return a PNG of the confusion matrix, each row (true type) as shares of its cells."""
    with names_as_they_are():
        return _drawn(confusion)


def _drawn(confusion: pd.DataFrame) -> bytes:
    from matplotlib.figure import Figure

    counts = confusion.to_numpy(dtype=float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.5 + 0.32 * len(confusion)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(confusion)), [short(name, ROOM) for name in confusion.columns], rotation=90, **LABELS)
    rows = [f"{short(name, ROOM)} ({int(n)})" for name, n in zip(confusion.index, counts.sum(1), strict=True)]
    axes.set_yticks(range(len(confusion)), rows, **LABELS)
    axes.set(xlabel="predicted", ylabel="true type (test cells)")
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true type")
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=90)
    return data.getvalue()
