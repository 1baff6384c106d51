"""A trial's files -> the artifacts of its run. Workers do this themselves; the tracking store is not asked."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sweeps.tracking.places import local_path
from trainables.trial.outcome import MODEL_FOLDER

LOGS = ("log.txt", "log.1.txt")  # of a trial: what was said in its worker, the newer one first
FILES = (".yaml", ".csv", ".png", ".parquet", ".json")


@dataclass(frozen=True)
class Upload:
    """Where a trial's files go, and whether the checkpoint of its best epoch goes with them.

    tracking_uri: of the server that stores artifacts itself (mlflow-artifacts:), else None.
    """

    artifact_uri: str
    tracking_uri: str | None
    with_checkpoint: bool


def upload(directory: Path, to: Upload, arrived: set[Path] | None = None) -> None:
    """Copy a trial's tables, picture and predictions, and the checkpoint if it is to go, to its run's artifacts.

    arrived: files that are there, which grows, so that another attempt goes on where a store refused this one.
    """
    tables = (path for path in directory.iterdir() if path.suffix in FILES and not path.name.startswith("."))
    model = sorted((directory / MODEL_FOLDER).rglob("*")) if to.with_checkpoint else []
    _put(directory, [*sorted(tables), *_logs(directory), *(path for path in model if path.is_file())], to, arrived)


def upload_log(directory: Path, to: Upload) -> None:
    """Copy the log of a trial that failed to its run's artifacts, as far as there is one."""
    _put(directory, _logs(directory), to)


def make_place(to: Upload) -> Upload:
    """Make the folder of all runs, where files go to one, and return `to`; the driver's part.

    A worker makes none: where it doesn't see that folder it isn't on the same disk, and would copy into the void.
    """
    here = local_path(to.artifact_uri)
    if here is not None:
        with contextlib.suppress(OSError):  # said by whatever is to be put there
            here.parents[1].mkdir(parents=True, exist_ok=True)
    return to


def is_seen(here: Path) -> bool:
    """Tell whether this machine sees the folder of all runs in which a run's files are to lie at `here`."""
    return here.parents[1].exists()


def probe(to: Upload) -> None:
    """Put a small file where a run's files are to go and take it away again; raises what the store says."""
    here = local_path(to.artifact_uri)
    if here is not None:
        with tempfile.TemporaryFile(dir=here.parents[1]) as file:
            file.write(b"cellskew")
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "probe.txt"
        file.write_text("cellskew asks whether files arrive\n")
        _repository(to).log_artifact(str(file))
    with contextlib.suppress(Exception):  # not every store lets files be removed
        _repository(to).delete_artifacts(file.name)


def _logs(directory: Path) -> list[Path]:
    return [directory / name for name in LOGS if (directory / name).exists()]


def _put(directory: Path, files: list[Path], to: Upload, arrived: set[Path] | None = None) -> None:
    """Have files of a folder where a run's lie, under the names that they have in it."""
    here = local_path(to.artifact_uri)
    put = _storing(to) if here is None else partial(_copy, here)
    arrived = set() if arrived is None else arrived
    for file in files:
        if file not in arrived:
            put(file, file.parent.relative_to(directory))
            arrived.add(file)


def _copy(here: Path, file: Path, folder: Path) -> None:
    (here / folder).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, here / folder / file.name)


def _storing(to: Upload) -> Callable[[Path, Path], None]:
    store = _repository(to)
    return lambda file, folder: store.log_artifact(str(file), None if folder == Path() else folder.as_posix())


def _repository(to: Upload) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(to.artifact_uri, tracking_uri=to.tracking_uri)
