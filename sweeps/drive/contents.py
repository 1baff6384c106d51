"""What is behind a sweep file's paths: trials are known by it, changes are refused, places may change."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.errors import RequestError
from data_pipeline.hashes import Hashes, identity_hash
from data_pipeline.reading.vectors import Vectors, open_vectors
from data_pipeline.tree import is_nested, tree_problems
from sweeps.file.config import Model, SweepSpec
from sweeps.file.trials import TUNING, Contents, Trial
from sweeps.tracking.kept.runs import RunState
from sweeps.tracking.records import clean
from trainables.fitting.contents import contents_of, files_of, network_of
from trainables.spec import code_of

if TYPE_CHECKING:
    from data_pipeline.reading.cells import Cells
    from sweeps.tracking.store import Tracker

STARTED = ("RUNNING", "FINISHED", "FAILED", "KILLED")
ADOPTED = (
    "trials of this sweep were known by where their data and weights lay; from now on they are known by what these "
    "hold, wherever they lie"
)


def known(spec: SweepSpec, cells: dict[str, Any], storage: Path, keep: bool = True) -> SweepSpec:
    """Return the sweep with the contents of its datasets and weights, as far as they are here.

    keep: remember the hashes of weights and vectors in the storage folder, so that each file is read once for them.
    """
    check_trees(spec, cells)
    hashes = Hashes(storage / "weights.json")
    folders = {
        model.label: model for model in spec.models if model.weights is not None and Path(model.weights).is_dir()
    }
    weights = {label: weights_hash(model, hashes) for label, model in folders.items()}
    digests = {name: opened.digest for name, opened in cells.items() if hasattr(opened, "digest")}
    vectors = {
        model.label: {name: vectors_hash(model.on, opened, hashes) for name, opened in cells.items()}
        for model in spec.models
        if model.on is not None
    }
    if keep and (weights or vectors):
        hashes.keep()
    return spec.model_copy(update={"contents": Contents(digests, weights, vectors)})


def check_trees(spec: SweepSpec, cells: dict[str, Any]) -> None:
    """RequestError where a tree lacks types of its dataset, or the loss `hierarchical` would be `cross_entropy`."""
    problems = []
    for name, opened in cells.items():
        tree = spec.trees.get(name, {})
        lacking = tree_problems(tree, opened.classes, f"dataset {name}") if tree else []
        problems += lacking
        if not lacking and _goes_by_tree(spec) and not is_nested(tree, opened.classes):
            problems.append(
                f"dataset {name}: the loss hierarchical would be cross_entropy under another name: "
                + ("no type of it lies above another in its tree" if tree else "it has no `tree:`")
                + "; leave it out there: exclude: [{dataset: "
                + name
                + ", loss: hierarchical}]"
            )
    if problems:
        raise RequestError(*problems)


def _goes_by_tree(spec: SweepSpec) -> bool:
    return any(loss.kind == "hierarchical" for loss in spec.losses)


def vectors_hash(on: dict[str, Any], cells: Any, hashes: Hashes) -> str:
    """Return what stands for the files, and for code from outside, that a model's vectors come from.

    "" where the files aren't here.
    """
    if "model" in on:
        model, folder = on["model"], Path(on["weights"])
        is_here = folder.is_dir() and bool(files_of(model, folder))
        return network_of(model, contents_of(model, folder, hashes.of), code_of(model)) if is_here else ""
    source = getattr(cells, "source", None)
    paths = [on["embeddings"]] if "embeddings" in on else [] if source is None else source.all_paths
    found = [hashes.of(Path(path)) for path in paths if Path(path).is_file()]
    return identity_hash(found) if found and len(found) == len(paths) else ""


def vectors_of(on: dict[str, Any], cells: "Cells") -> Vectors:
    """Return the given vectors that stand for a dataset's cells; RequestError if there are none, or some lack one."""
    paths = [on["embeddings"]] if "embeddings" in on else list(cells.source.all_paths)
    return open_vectors(paths, on.get("obsm"), cells.cell_ids, on["sha256"], cells.name)


def check_vectors(trials: list[Trial], cells: dict[str, Any]) -> None:
    """RequestError if trials are on vectors that aren't there, of every dataset and place at once."""
    asked = {}
    for trial in trials:
        on = trial.config().get("on")
        if on and "model" not in on and hasattr(cells.get(trial.dataset), "cell_ids"):
            asked.setdefault(identity_hash(on, trial.dataset), (on, trial.dataset))
    problems: list[str] = []
    for on, dataset in asked.values():
        try:
            vectors_of(on, cells[dataset])
        except RequestError as error:
            problems += error.problems
    if problems:
        raise RequestError(*problems)


def weights_hash(model: Model, hashes: Hashes) -> str:
    """Return what stands for the files of a weights folder that the model reads, whatever else lies beside them."""
    return contents_of(model.model, Path(model.weights), hashes.of)


def check_distinct(trials: list[Trial]) -> None:
    """RequestError if names of a sweep's file, of models or datasets, turn out to mean the same trials."""
    first: dict[str, Trial] = {}
    doubled: Counter[tuple[str, str, str]] = Counter()
    for trial in trials:
        before = first.setdefault(trial.key, trial)
        if before is not trial:
            axis = next((axis for axis in trial.labels if trial.labels[axis] != before.labels[axis]), "model")
            doubled[axis, *(one.called if axis == "model" else one.labels[axis] for one in (before, trial))] += 1
    problems = [
        f"{axis} {one} and {axis} {other} mean the same (trials: {number}): what lies at their paths is the same, or "
        "their settings come to the same; leave one of them out"
        for (axis, one, other), number in doubled.items()
    ]
    if problems:
        raise RequestError(*problems)


def runs(spec: SweepSpec, trials: list[Trial], tracker: "Tracker", say: Callable[[str], None]) -> dict[str, RunState]:
    """Return the sweep's runs by what their trials are; RequestError if some were started on other data or weights.

    Runs that an earlier version registered by where files lay are taken over, and so are their trials' folders.
    """
    found = tracker.runs()
    check(trials, found, spec.name)
    other = {found[trial.key].run_id: trial for trial in trials if _is_told_otherwise(trial, found)}
    tracker.adopt(other)
    if renamed := sum(found[trial.key].name != trial.name for trial in other.values()):
        say(f"{renamed} runs are called otherwise now, as the sweep's file calls them; none is trained again for that")
    by_place = known_by_place(trials, found)
    if not by_place:
        return tracker.runs() if other else found
    check_weights_are_old(spec, by_place, found)
    for trial in by_place.values():
        move_folder(tracker.storage, trial)
    tracker.adopt(by_place)
    say(f"{len(by_place)} {ADOPTED}")
    return tracker.runs()


def _is_told_otherwise(trial: Trial, runs: dict[str, RunState]) -> bool:
    """Tell whether a trial's run says that its files lie elsewhere, or calls something of it by another name.

    From now on files are watched for changes where they are, and tables go by the names of the file as it is.
    """
    run = runs.get(trial.key)
    if run is None:
        return False
    said = {"cellskew.architecture": run.tags.get("cellskew.model")} | run.tags  # earlier versions had no labels
    names = dict.fromkeys(TUNING, "") | clean(trial.tags())
    return any(said.get(name, "") != value for name, value in names.items())


def check(trials: list[Trial], runs: dict[str, RunState], sweep: str) -> None:
    """RequestError if what lies where the file says isn't what trials of this sweep were started on."""
    before = {run.declared: run for run in runs.values() if run.status in STARTED}
    changed: dict[tuple[str, str, str], int] = {}
    for trial in trials:
        run = before.get(trial.declared)
        if run is None or trial.key in runs:
            continue
        for what, now, then in _compared(trial, run):
            if then and then != now:
                changed[what, then, now] = changed.get((what, then, now), 0) + 1
    problems = [
        f"{what} has changed since {number} trials of sweep {sweep} were started on it (contents {then[:12]} then, "
        f"{now[:12]} now). Put the old file back, or give the sweep another `name:` to start anew."
        for (what, then, now), number in changed.items()
    ]
    if problems:
        raise RequestError(*problems)


def _compared(trial: Trial, run: RunState) -> list[tuple[str, str, str]]:
    """Return what a trial rests on: (its name, what it holds now, what the run was started on, "" if not recorded)."""
    return [
        (f"dataset {trial.dataset}", trial.digest, run.tags.get("cellskew.digest", "")),
        (f"the weights folder of {trial.label}", trial.weights_hash, run.tags.get("cellskew.weights", "")),
        (f"what {trial.label} is on", trial.vectors_hash, run.tags.get("cellskew.vectors", "")),
    ]


def known_by_place(trials: list[Trial], runs: dict[str, RunState]) -> dict[str, Trial]:
    """Return, by run id, the trials whose runs were registered by where their files lay, by an earlier version."""
    old = {run.key: run for run in runs.values() if "cellskew.declared" not in run.tags}
    return {old[trial.declared].run_id: trial for trial in trials if trial.declared in old and trial.key not in runs}


def check_weights_are_old(spec: SweepSpec, adopted: dict[str, Trial], runs: dict[str, RunState]) -> None:
    """RequestError if weights, whose contents earlier versions didn't record, are newer than runs that used them."""
    started = {run.run_id: run.started for run in runs.values() if run.status in STARTED}
    problems = []
    for model in (model for model in spec.models if model.weights is not None):
        files = files_of(model.model, Path(model.weights))
        newest = max((path.stat().st_mtime for path in files.values()), default=0.0)
        times = [
            started[run_id] for run_id, trial in adopted.items() if trial.label == model.label and run_id in started
        ]
        if newer := sum(time / 1000 < newest for time in times):
            problems.append(
                f"the weights of {model.label} in {model.weights} were changed or copied after {newer} trials had been "
                "registered, by a version that didn't record what was in them: whether they are the same can't be "
                "told. If they are, set back their time (touch -d 2000-01-01 FILE) and run again; if not, give the "
                "sweep another `name:`"
            )
    if problems:
        raise RequestError(*problems)


def move_folder(storage: Path, trial: Trial) -> None:
    """Give a trial's folder that was named by `declared` the name that it has now."""
    old, new = storage / "trials" / trial.declared, storage / "trials" / trial.key
    if old.is_dir() and not new.exists():
        old.rename(new)
