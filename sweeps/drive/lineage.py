"""Which data a sweep's trials are trained on, and by which file: recorded, and compared with what was recorded."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from data_pipeline.atomic import publish
from data_pipeline.shared.store import Shared
from data_pipeline.shared.turns import has_begun, put_once
from sweeps.drive.request import Request
from sweeps.file.config import SweepSpec
from sweeps.file.trials import Trial
from sweeps.tracking.artifacts import LOGS
from sweeps.tracking.kept.runs import RunState
from sweeps.tracking.uris import bare, default_uri, store_of


def data_of(name: str, cells: Any) -> dict[str, str]:
    """Return what is recorded of an opened dataset: name, digest of its contents and options, files."""
    source = getattr(cells, "source", None)
    return {"name": name, "digest": cells.digest, "source": "" if source is None else ", ".join(source.all_paths)}


def anew(
    todo: list[Trial], known: dict[str, RunState], trials: Path, from_scratch: bool, shared: Shared | None = None
) -> list[Trial]:
    """Return those of unfinished trials that are trained from the start, each for a new run: see starts_anew.

    What others have in their folder here alone, as an earlier run without `shared` left it, is put there: a worker
    elsewhere would begin anew in a run that has points.
    """
    if shared is not None and not from_scratch:
        for trial in todo:
            put_once(shared, trials / trial.key, LOGS)
    return [trial for trial in todo if starts_anew(known[trial.key], trials / trial.key, from_scratch, shared)]


def starts_anew(run: RunState, folder: Path, from_scratch: bool, shared: Shared | None = None) -> bool:
    """Tell whether an unfinished trial that MLflow has points of, or may get some of, is to be trained from the start.

    It is if that was asked for, and if its folder, where an earlier attempt's epochs were, is empty or gone; shared:
    where these are if machines share no folder.
    """
    if from_scratch and (run.has_metrics or run.status != "SCHEDULED"):
        return True
    if shared is not None:
        return run.has_metrics and not has_begun(shared, folder, LOGS)  # a log that a failure left is no round
    is_here = any(path.name[0] != "." for path in (folder.iterdir() if folder.is_dir() else ()))
    return run.has_metrics and not is_here


def shared(request: Request, sweep: str) -> str | None:
    """Return the URI of the store in which a sweep's nodes find one another's files: the one given, else as before."""
    return store_of(request.storage, sweep) if request.shared is None else request.shared


def keep_file(spec: SweepSpec, storage: Path, tracking_uri: str, store: str | None = None) -> None:
    """Keep the resolved file and what is behind its paths, which an edited one is compared with, and its stores."""
    folder = storage / "sweeps"
    kept = {f"{spec.name}.yaml": yaml.safe_dump(spec.given, sort_keys=False, allow_unicode=True)}
    kept[f"{spec.name}.contents.json"] = json.dumps(asdict(spec.contents))
    if bare(tracking_uri) == default_uri(storage):  # goes where the folder goes
        (folder / f"{spec.name}.tracking").unlink(missing_ok=True)
    else:
        kept[f"{spec.name}.tracking"] = bare(tracking_uri)
    if store is not None:
        kept[f"{spec.name}.shared"] = store
    for name, text in kept.items():
        publish(folder / name, text.encode())
