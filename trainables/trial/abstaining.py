"""What `posthoc: [abstain, conformal]` come to on test cells: numbers, a table per type, a row per cell."""

import io
from pathlib import Path

import numpy as np
import pandas as pd

from data_pipeline.atomic import publish
from data_pipeline.spreadsheets import to_csv
from trainables.metrics import wilson
from trainables.trial.confidence import ABSTAINING, threshold

Cells = tuple[np.ndarray, np.ndarray]  # probabilities [n, C], labels int [n]


def write(
    names: list[str], validation: Cells, test: Cells, cell_ids: list[str], classes: list[str], directory: Path
) -> dict[str, float]:
    """Write <name>.csv of each of ABSTAINING that is named, and abstaining.parquet; returns test_<name>_<metric>."""
    truth = np.array(classes, dtype=object)[test[1]]
    cells, numbers = pd.DataFrame({"cell_id": cell_ids, "truth": truth}), {}
    for name in names:
        made = ABSTAINING[name](*validation, test[0])
        tell = _named if name == "abstain" else _sets
        found, table = tell(made, validation, test, classes)
        numbers |= {f"test_{name}_{metric}": value for metric, value in found.items()}
        publish(directory / f"{name}.csv", to_csv(table).encode())
        cells[name] = _column(name, made, test[0], classes)
    data = io.BytesIO()
    cells.to_parquet(data, index=False)
    publish(directory / "abstaining.parquet", data.getvalue())
    return numbers


def _column(name: str, made: np.ndarray, probabilities: np.ndarray, classes: list[str]) -> list[object]:
    """Return what each cell is given: a type or None, or a list of types."""
    if name == "abstain":
        return [classes[best] if named else None for best, named in zip(probabilities.argmax(1), made, strict=True)]
    return [[classes[place] for place in np.flatnonzero(row)] for row in made]


def _named(
    named: np.ndarray, validation: Cells, test: Cells, classes: list[str]
) -> tuple[dict[str, float], pd.DataFrame]:
    """Return the share of cells that are named and how many of these rightly; and by type at a threshold of its own."""
    right = test[0].argmax(1) == test[1]
    numbers = {"named": float(named.mean())} | ({"accuracy": float(right[named].mean())} if named.any() else {})
    least = threshold(validation[0].max(1), validation[0].argmax(1) == validation[1])
    numbers |= {"threshold": least} if np.isfinite(least) else {}
    rows = [{"class": name} | _of_type(place, validation, test) for place, name in enumerate(classes)]
    return numbers, pd.DataFrame(rows)


def _of_type(place: int, validation: Cells, test: Cells) -> dict[str, float]:
    """Return a type's threshold, and the precision and recall that its test cells have at it."""
    seen, given = (cells[0].argmax(1) == place for cells in (validation, test))
    least = threshold(validation[0][seen, place], validation[1][seen] == place)
    kept = given & (test[0][:, place] >= least)
    hits, cells = int((kept & (test[1] == place)).sum()), int((test[1] == place).sum())
    row = {"validation": int(seen.sum()), "threshold": least if np.isfinite(least) else np.nan}
    row |= {"test": cells, "named": int(kept.sum())}
    return row | _share("precision", hits, int(kept.sum())) | _share("recall", hits, cells)


def _sets(
    sets: np.ndarray, validation: Cells, test: Cells, classes: list[str]
) -> tuple[dict[str, float], pd.DataFrame]:
    """Return how often sets hold the true type, over cells and as a mean over types, and how large they are."""
    holds, sizes = sets[np.arange(len(sets)), test[1]], sets.sum(axis=1)
    rows = []
    for place, name in enumerate(classes):
        mine = test[1] == place
        row = {"class": name, "validation": int((validation[1] == place).sum()), "test": int(mine.sum())}
        rows.append(row | _share("coverage", int(holds[mine].sum()), int(mine.sum())) | {"size": _mean(sizes[mine])})
    table = pd.DataFrame(rows)
    numbers = {"coverage": float(holds.mean()), "macro_coverage": float(table["coverage"].mean())}
    return numbers | {"size": float(sizes.mean()), "single": float((sizes == 1).mean())}, table


def _share(name: str, hits: int, cells: int) -> dict[str, float]:
    """Return a share with what so few cells leave open of it; NaN of none."""
    low, high = wilson(np.array([hits]), np.array([cells]))
    return {name: hits / cells if cells else np.nan, f"{name}_low": float(low[0]), f"{name}_high": float(high[0])}


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan
