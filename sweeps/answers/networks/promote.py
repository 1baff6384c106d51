"""`cellskew promote`: what a finished trial has learnt as a version of a model in MLflow's registry."""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.errors import RequestError
from sweeps.cluster import environment
from sweeps.tracking.uris import shown_uri, stores
from trainables.trial.outcome import MODEL_FOLDER

if TYPE_CHECKING:
    from sweeps.tracking.kept.registry import Registry
    from sweeps.tracking.kept.runs import RunState

assert environment.DEFAULTS  # imported first: MLflow, imported below, reads them
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}")
MERGED = "merged"  # folder among a run's artifacts: an adapted network with its base
LINK = "cellskew.checkpoint"  # tag of a run, and of the version made of it, whose weights stay in the storage folder
ADJUSTMENT = "cellskew.posthoc"  # tag of a version: the adjustment after training that it was chosen with
WHY_NONE = (
    "its sweep says `tracking: {checkpoints: none}`, an earlier version trained it, which kept none of a baseline, or "
    "its model doesn't say what to keep (`fitted`, see docs/your-own-model.md)"
)
ORIGIN = (
    "trial",
    "sweep",
    "model",
    "architecture",
    "dataset",
    "skew",
    "strategy",
    "loss",
    "split",
    "seed",
    "protocol",
    "digest",
)


@dataclass(frozen=True)
class Promoted:
    """A version of a registered model; `new`: made now, not by an earlier call."""

    name: str
    version: str
    run_name: str
    place: str
    new: bool


def promote(run_id: str, name: str, storage: Path, given_uri: str | None, adjustment: str = "none") -> Promoted:
    """Register the checkpoint of run `run_id` as model `name`; again: the same version. RequestError if it can't be.

    adjustment: made after training, with which `predict --model` is to use it. Of a network with adapters these and
    their base together, in a folder of its own among the run's artifacts.
    """
    check_name(name, "--name")
    registry, run = find(run_id, storage, given_uri)
    link = linked(run, storage)
    if link is not None:
        _add_description(registry, run, link)
    elif not registry.has_artifact(run, MODEL_FOLDER):
        raise RequestError(
            f"{run.name} has no checkpoint among its artifacts: {WHY_NONE}. Say upload or link there, delete the run "
            f"(mlflow runs delete --run-id {run_id}) and run the sweep again: a trial that is trained is only uploaded"
        )
    tags = {f"cellskew.{word}": run.tags[f"cellskew.{word}"] for word in ORIGIN if f"cellskew.{word}" in run.tags}
    tags |= {} if adjustment == "none" else {ADJUSTMENT: adjustment}
    if _merge(registry, run, link):
        folder, place = MERGED, f"{run.artifact_uri}/{MERGED}"
    else:
        tags |= {} if link is None else {LINK: str(link)}
        folder, place = MODEL_FOLDER, f"{run.artifact_uri}/{MODEL_FOLDER}" if link is None else str(link)
    version, new = registry.register(name, run, folder, tags)
    if not new:
        _check_adjustment(registry, name, version, adjustment)
    return Promoted(name, version, run.name, place, new)


def _check_adjustment(registry: "Registry", name: str, number: str, adjustment: str) -> None:
    """RequestError if the version that a run has already is used with another adjustment than is asked for now."""
    known = registry.version(name, number).tags.get(ADJUSTMENT, "none")
    if known != adjustment:
        raise RequestError(
            f"models:/{name}/{number} is this run already, used with the adjustment {known}, not {adjustment}; give "
            "another --name"
        )


def check_name(name: str, option: str) -> None:
    """RequestError for a name that no registered model is given."""
    if not NAME.fullmatch(name):
        raise RequestError(f"{option} {name!r}: use up to 100 letters, digits, spaces, dots, dashes, underscores")


def _merge(registry: "Registry", run: "RunState", link: Path | None) -> bool:
    """Tell whether a run's network has adapters; see to it that its artifacts have it merged then."""
    from trainables.trial.annotator import write_merged
    from trainables.trial.package import is_adapted

    with tempfile.TemporaryDirectory(prefix="cellskew-") as scratch:
        into = Path(scratch)
        description = f"{MODEL_FOLDER}/model.json"
        if not is_adapted(registry.fetch_artifact(run, description, into) if link is None else link / "model.json"):
            return False
        if not registry.has_artifact(run, MERGED):
            folder = registry.fetch_artifact(run, MODEL_FOLDER, into) if link is None else link
            for file in write_merged(folder, into / MERGED).iterdir():
                registry.add_artifact(run, file, MERGED)
        return True


def find(run_id: str, storage: Path, given_uri: str | None) -> tuple["Registry", "RunState"]:
    """Return a finished run, and the MLflow that has it; RequestError if there is none."""
    from sweeps.tracking.kept.registry import Registry

    uris = stores(storage, given_uri)
    for registry in (Registry(uri, storage) for uri in uris):
        run = registry.run(run_id)
        if run is not None:
            _check(run)
            return registry, run
    raise RequestError(
        f"MLflow at {', '.join(map(shown_uri, uris))} has no trial's run {run_id!r}; `cellskew results SWEEP --by "
        "run_id,model,strategy` lists them; look elsewhere with --storage or --tracking-uri"
    )


def linked(run: "RunState", storage: Path) -> Path | None:
    """Return the checkpoint that a run links to instead of having it; the storage folder may have been moved since."""
    link = run.tags.get(LINK)
    if link is None:
        return None
    here = storage.absolute() / "trials" / run.key / MODEL_FOLDER
    return here if here.is_dir() else Path(link)


def _check(run: "RunState") -> None:
    """RequestError if the run is not a finished one, of a model that has learnt something."""
    if control := run.tags.get("cellskew.control"):
        raise RequestError(f"{run.name} is a control ({control}), which knows nothing of cells; choose another run")
    if run.status != "FINISHED":
        sweep = run.tags.get("cellskew.sweep", "NAME")
        reason = f" ({run.reason})" if run.reason else ""
        raise RequestError(f"{run.name} is {run.status}{reason}, not FINISHED; go on with `cellskew resume {sweep}`")


def _add_description(registry: "Registry", run: "RunState", folder: Path) -> None:
    """Put the linked checkpoint's description among the run's artifacts, which a version's source must be part of."""
    if not (folder / "model.safetensors").exists():
        raise RequestError(
            f"{run.name}: its checkpoint was linked to, not uploaded, and {folder} is not there; call this on a "
            "machine that sees the storage folder"
        )
    registry.add_artifact(run, folder / "model.json", MODEL_FOLDER)


def show(found: Promoted) -> None:
    """Print which version the model has now."""
    word = "is now" if found.new else "was already"
    print(f"models:/{found.name}/{found.version} {word} the best checkpoint of {found.run_name}\n  in {found.place}")
