"""`cellskew plan`: what a sweep would do, from its file and the labels, without touching anything."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from data_pipeline.errors import RequestError
from data_pipeline.reading.check import doubts
from data_pipeline.reading.known import catalog
from sweeps import tables
from sweeps.cluster.resources import notes, own_cpus
from sweeps.drive import contents, rounds
from sweeps.drive.forecast import budgets, estimate, vectors
from sweeps.drive.forecast.fleet import Done
from sweeps.drive.forecast.rest import Rest, if_all, rest
from sweeps.drive.forecast.shapes import Shape, shapes
from sweeps.file import changes
from sweeps.file.config import SweepSpec
from sweeps.file.reading_data import check_paths
from sweeps.file.trials import Trial
from trainables import vocabulary
from trainables.protocol import DEFECTS
from trainables.spec import get

BYTES_PER_TOKEN = 3  # a gene's number in two, its bin in one


@dataclass(frozen=True)
class Plan:
    """What `plan` found. shapes: by (dataset, split, skew, strategy); seconds: on one CPU core, all trials
    together, and vectors; works: by trial; vectors: what networks at rest make beforehand.

    budgets: see budgets.budgets. at_most: trials, of a sweep that adds splits until it is sure; all else is of those of
    its first look.
    """

    name: str
    trials: list[Trial]
    at_most: int
    models: dict[str, int]
    left_out: list[str]
    datasets: dict[str, str]
    shapes: dict[tuple[str, str, str, str], Shape]
    budgets: list[dict[str, Any]]
    works: dict[str, estimate.Work]
    disk_gb: float
    notes: list[str]
    vectors: list[vectors.Vectors]

    @property
    def seconds(self) -> float:
        return self.rest({}).seconds

    def rest(self, done: Mapping[str, Done]) -> Rest:
        """Return what isn't `done`; vectors are there where one of the trials that are on them is."""
        begun = {(trial.dataset, trial.label) for trial in self.trials if trial.key in done}
        due = [one for one in self.vectors if begun.isdisjoint((one.dataset, label) for label in one.labels)]
        return rest(self.trials, self.works, done, sum(one.seconds for one in due))


def plan(spec: SweepSpec, storage: Path) -> Plan:
    """Return the plan of a sweep; RequestError for what can't be had. Datasets not here: from the catalog's counts."""
    if not spec.trials():
        raise RequestError(f"sweep {spec.name} has no trials: its exclude rules leave nothing over")
    cells, origin = _look_at_all(spec, storage)
    rounds.check(spec, cells)
    known = contents.known(spec, cells, storage, keep=False)
    every, trials = known.trials(), known.first(spec.looks[0]).trials()
    contents.check_distinct(every)
    contents.check_vectors(every, cells)
    found, made = shapes(trials, cells, spec.places), vectors.vectors(trials, cells, _fitted_on)
    by_axes = {}
    for trial in trials:
        axes = tuple(trial.labels[axis] for axis in ("dataset", "split", "skew", "strategy"))
        by_axes.setdefault(axes, found[trial.key])
    return Plan(
        name=spec.name,
        trials=trials,
        at_most=len(every),
        models=dict(Counter(trial.label for trial in trials)),
        left_out=spec.impossible() + spec.excluded(),
        datasets=origin,
        shapes=by_axes,
        budgets=budgets.budgets(trials, found),
        works=estimate.works(trials, found, cells),
        disk_gb=_disk(trials, cells) + sum(one.gb for one in made),
        vectors=made,
        notes=changes.since(storage / "sweeps" / f"{spec.name}.yaml", every)
        + [*_data(spec, cells), *_notes(by_axes), *budgets.many_passes(trials, found)]
        + [*vectors.sentences(made), *vectors.unstored(trials, cells)]
        + [*_tuning(trials), *_controls(trials), *_defects(trials), *notes(trials)],
    )


def _look_at_all(spec: SweepSpec, storage: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what `look` says of each dataset, by name; RequestError with what is wrong with any of them."""
    cells, origin, problems = {}, {}, []
    for entry, name in zip(spec.datasets, spec.dataset_names, strict=True):
        try:
            check_paths(entry)
            cells[name], origin[name] = look(entry, storage)
        except RequestError as error:
            problems += error.problems
    if problems:
        raise RequestError(*problems)
    return cells, origin


def look(entry: str | dict[str, Any], storage: Path) -> tuple[Any, str]:
    """Return (labels, classes, donors, fixed_test, twins of a dataset; where they come from), writing nothing."""
    name = entry if isinstance(entry, str) else entry.get("name")
    listed = catalog.entries().get(name)
    is_ours = listed is not None and (isinstance(entry, str) or "path" not in entry)
    if is_ours and not listed.present(storage):
        return declared(listed), "the catalog's published counts; the file is not here yet"
    from data_pipeline.reading.h5ad import open_cells

    cells = open_cells(catalog.resolve(entry, storage))
    return cells, ", ".join(cells.source.all_paths)


def declared(listed: catalog.Entry) -> Any:
    """Return labels as the catalog declares them, test cells of a fixed test set last."""
    classes = sorted({*listed.classes, *listed.test_classes})
    parts = [[counts.get(name, 0) for name in classes] for counts in (listed.classes, listed.test_classes)]
    labels = np.concatenate([np.repeat(np.arange(len(classes)), part) for part in parts])
    is_test = np.arange(len(labels)) >= sum(parts[0]) if listed.test_classes else None
    return SimpleNamespace(
        labels=labels, classes=classes, donors=None, fixed_test=is_test, twins=None, num_genes=listed.genes
    )


def _data(spec: SweepSpec, cells: dict[str, Any]) -> list[str]:
    """Return what is doubtful about each dataset that was opened, and which packages and weights are wanting."""
    opened = {name: one for name, one in cells.items() if hasattr(one, "facts")}
    said = [f"{name}: {doubt}" for name, one in opened.items() for doubt in doubts(one)]
    return said + [what for _, what in spec.lacking()] + _weights(spec) + _coverage(spec, opened)


def _notes(by_axes: dict[tuple, Shape]) -> list[str]:
    """Return what the splits had to do with tiny classes and donors, naming those of a sentence that isn't of all."""
    splits: dict[str, dict[str, None]] = {}
    where: dict[tuple[str, str], dict[str, None]] = {}
    for (dataset, split, *_), shape in by_axes.items():
        splits.setdefault(dataset, {})[split] = None
        for note in shape.notes:
            where.setdefault((dataset, note), {})[split] = None
    return [
        f"{dataset}: {note}" if found == splits[dataset] else f"{dataset}, split {', '.join(found)}: {note}"
        for (dataset, note), found in where.items()
    ]


def _weights(spec: SweepSpec) -> list[str]:
    given = {(one.label, "weights"): one.weights for one in spec.models}
    given |= {(one.label, key): one.on.get(key) for one in spec.models if one.on for key in ("weights", "embeddings")}
    is_here = {"weights": Path.is_dir, "embeddings": Path.is_file}
    absent = {one: path for one, path in given.items() if path is not None and not is_here[one[1]](Path(path))}
    return [f"{key} of {label} are not on this machine: {path}" for (label, key), path in absent.items()]


def _tuning(trials: list[Trial]) -> list[str]:
    """Return what tuning makes of the number of trials, a sentence per model."""
    tuned: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.tuned and not trial.control:
            tuned.setdefault(trial.label, []).append(trial)
    return [
        f"{label} is tuned over {mine[0].num_settings} settings ({', '.join(mine[0].tuned)}): {len(mine)} trials in "
        f"place of {len(mine) // mine[0].num_settings}; tables have those whose setting is best on validation cells"
        for label, mine in tuned.items()
    ]


def _coverage(spec: SweepSpec, cells: dict[str, Any]) -> list[str]:
    """Return what is doubtful about how well official weights know the genes of each dataset."""
    found = []
    for model in spec.models:
        if model.weights is None or not Path(model.weights).is_dir():
            continue
        for name, one in cells.items():
            told = vocabulary.coverage(model.model, one.genes, Path(model.weights), model.options)
            found += [f"{name}: {doubt}" for doubt in vocabulary.doubts(model.model, told)]
    return list(dict.fromkeys(found))  # several models may read the same weights


def _controls(trials: list[Trial]) -> list[str]:
    """Return how many trials show chance, if any."""
    number = sum(bool(trial.control) for trial in trials)
    return [f"{number} trials are controls, on shuffled labels: one per dataset, split and model"] if number else []


def _defects(trials: list[Trial]) -> list[str]:
    """Return of each of the published recipe's defects in use what it does and where it stands."""
    used = {name for trial in trials for name in trial.described["defects"]}
    return [
        f"made with defect {name}: {defect.explanation} ({defect.where})"
        for name, defect in DEFECTS.items()
        if name in used
    ]


def _disk(trials: list[Trial], cells: dict[str, Any]) -> float:
    """Return roughly the gigabytes of shards (one set per encoding) and of what trials keep."""
    encodings = {}
    for trial in trials:
        encodings[trial.dataset, trial.model, trial.described["weights"], _fitted_on(trial)] = trial
    tokens = 0.0
    for (dataset, *_), trial in encodings.items():
        tokens += len(cells[dataset].labels) * estimate.tokens(trial, cells[dataset])
    return tokens * BYTES_PER_TOKEN / 1e9 + sum(estimate.disk_mb(trial, cells[trial.dataset]) for trial in trials) / 1e3


def _fitted_on(trial: Trial) -> tuple[str, ...]:
    """Return the axes that the cells differ in which a trial's genes or medians are fitted on; none: nothing is."""
    learns = get(trial.model).fit_encoder is not None and trial.described["weights"] is None
    if trial.described["genes"]["select"] == "all" and not learns:
        return ()
    axes = ("split", "skew") if trial.described["genes"]["fit"] == "kept" else ("split",)
    return tuple(trial.labels[axis] for axis in axes)


def show(found: Plan, done: Mapping[str, Done], as_json: bool) -> None:
    """Print a plan: trials, class counts by class and by skew x strategy, time, disk, notes. done: finished trials."""
    left = found.rest(done)
    if as_json:
        tables.print_json(_as_json(found) | {"finished": left.finished, "cpu_seconds_left": left.seconds})
        return
    out = tables.console()
    models = ", ".join(f"{name} {count}" for name, count in found.models.items())
    number = len(found.trials)
    least = "" if found.at_most == number else f"at least {number}, at most {found.at_most} trials; what follows is of "
    tables.headed(found.name, f": {least}{number} trials ({models})")
    for dataset, origin in found.datasets.items():
        first = next(axes[1] for axes in found.shapes if axes[0] == dataset)
        inside = {axes[2:]: shape for axes, shape in found.shapes.items() if axes[:2] == (dataset, first)}
        print()
        tables.headed(dataset, f" ({origin}), split {first}")
        _by_class(inside)
        _by_strategy(inside)
        budgets.draw([row for row in found.budgets if (row["dataset"], row["split"]) == (dataset, first)])
    for note in [*found.notes, *found.left_out]:
        out.print(f"note: {note}")
    disk = f"{found.disk_gb:.1f} GB of disk{if_all(number, found.at_most)}"
    tables.say("", f"{left.said(own_cpus())}, {disk}.", "Nothing has been touched.")


def _by_class(inside: dict[tuple[str, str], Shape]) -> None:
    """Print cells per class: in test, validation and training, and in training after each skew."""
    first = next(iter(inside.values()))
    table = pd.DataFrame({"class": first.classes, "test": first.test, "validation": first.validation})
    for (skew, _), shape in inside.items():
        table[f"train {skew}"] = shape.kept
    tables.draw(table.sort_values(table.columns[3], ascending=False))


def _by_strategy(inside: dict[tuple[str, str], Shape]) -> None:
    rows = []
    for (skew, strategy), shape in inside.items():
        counts = shape.kept if shape.trained is None else shape.trained
        seen = counts[counts > 0]
        most = "at most " if shape.trained is None else ""
        rows.append(
            (skew, strategy, f"{most}{counts.sum():,}", seen.max(), seen.min(), f"{seen.max() / seen.min():.1f}")
        )
    print()
    tables.draw(pd.DataFrame(rows, columns=["skew", "strategy", "rows", "largest", "smallest", "ratio"]), left=2)


def _as_json(found: Plan) -> dict[str, Any]:
    def counts(shape: Shape, numbers: np.ndarray | None) -> dict[str, int] | None:
        return None if numbers is None else dict(zip(shape.classes, numbers.tolist(), strict=True))

    parts = ("train", "validation", "test", "kept", "trained")
    shapes = [
        dict(zip(("dataset", "split", "skew", "strategy"), axes, strict=True))
        | {part: counts(shape, getattr(shape, part)) for part in parts}
        for axes, shape in found.shapes.items()
    ]
    return {
        "name": found.name,
        "trials": [{"key": trial.key if trial.is_known else None, "name": trial.name} for trial in found.trials],
        "at_most": found.at_most,
        "models": found.models,
        "datasets": found.datasets,
        "class_counts": shapes,
        "budgets": found.budgets,
        "cpu_seconds": found.seconds,
        "disk_gb": found.disk_gb,
        "vectors": [asdict(one) for one in found.vectors],
        "notes": [*found.notes, *found.left_out],
    }
