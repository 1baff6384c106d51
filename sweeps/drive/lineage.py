"""Which data a sweep's trials are trained on, and by which file: recorded, and compared with what was recorded."""

from pathlib import Path
from typing import Any

import yaml

from data_pipeline.atomic import publish
from data_pipeline.errors import RequestError
from sweeps.file.config import SweepSpec
from sweeps.file.trials import Trial
from sweeps.tracking.kept.runs import RunState
from sweeps.tracking.uris import bare, default_uri

STARTED = ("RUNNING", "FINISHED", "FAILED", "KILLED")


def data_of(name: str, cells: Any) -> dict[str, str]:
    """Return what is recorded of an opened dataset: name, digest of its contents and options, files."""
    source = getattr(cells, "source", None)
    return {"name": name, "digest": cells.digest, "source": "" if source is None else ", ".join(source.all_paths)}


def check_digests(trials: list[Trial], known: dict[str, RunState], data: dict[str, dict[str, str]], sweep: str) -> None:
    """RequestError if trials of this sweep were trained on data that have changed since. data: data_of each dataset."""
    changed: dict[str, list[str]] = {}
    for trial in trials:
        run = known.get(trial.key)
        before = run.tags.get("cellskew.digest", "") if run is not None and run.status in STARTED else ""
        if before and before != data[trial.dataset]["digest"]:
            changed.setdefault(trial.dataset, []).append(before)
    problems = [
        f"dataset {name} has changed since {len(befores)} trials of sweep {sweep} were started on it (contents "
        f"{befores[0][:12]} then, {data[name]['digest'][:12]} now). Put the old file back, or give the sweep "
        "another `name:` to start anew."
        for name, befores in changed.items()
    ]
    if problems:
        raise RequestError(*problems)


def starts_anew(run: RunState, folder: Path, from_scratch: bool) -> bool:
    """Tell whether an unfinished trial that MLflow has points of, or may get some of, is to be trained from the start.

    It is if that was asked for, and if its folder, where an earlier attempt's epochs were, is empty or gone.
    """
    if from_scratch and (run.has_metrics or run.status != "SCHEDULED"):
        return True
    return run.has_metrics and not any(path.name[0] != "." for path in (folder.iterdir() if folder.is_dir() else ()))


def keep_file(spec: SweepSpec, storage: Path, tracking_uri: str) -> None:
    """Keep the resolved file, which `resume` reads and an edited one is compared with, and its tracking store."""
    folder = storage / "sweeps"
    kept = {f"{spec.name}.yaml": yaml.safe_dump(spec.given, sort_keys=False, allow_unicode=True)}
    if bare(tracking_uri) == default_uri(storage):  # goes where the folder goes
        (folder / f"{spec.name}.tracking").unlink(missing_ok=True)
    else:
        kept[f"{spec.name}.tracking"] = bare(tracking_uri)
    for name, text in kept.items():
        publish(folder / name, text.encode())
