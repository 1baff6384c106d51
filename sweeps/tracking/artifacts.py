"""A trial's files -> the artifacts of its run. Workers do this themselves; the tracking store is not asked."""

import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

from trainables.trial.outcome import MODEL_FOLDER

FILES = (".yaml", ".csv", ".png", ".parquet", ".json")


def upload(directory: Path, artifact_uri: str, tracking_uri: str | None, with_checkpoint: bool) -> None:
    """Copy a trial's tables, picture and predictions, and the checkpoint of its best epoch, to its run's artifacts.

    tracking_uri: of the server that stores artifacts itself (mlflow-artifacts:), else None.
    """
    files = sorted(path for path in directory.iterdir() if path.suffix in FILES and not path.name.startswith("."))
    model = directory / MODEL_FOLDER
    folder = model if with_checkpoint and model.is_dir() else None
    if urlsplit(artifact_uri).scheme in ("", "file"):
        _copy(files, folder, Path(unquote(urlsplit(artifact_uri).path)))
    else:
        _store(files, folder, artifact_uri, tracking_uri)


def _copy(files: list[Path], folder: Path | None, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, target / file.name)
    if folder is not None:
        shutil.copytree(folder, target / folder.name, dirs_exist_ok=True)


def _store(files: list[Path], folder: Path | None, artifact_uri: str, tracking_uri: str | None) -> None:
    """Put files, and a folder under its name, into a run's artifact store."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    store = get_artifact_repository(artifact_uri, tracking_uri=tracking_uri)
    for file in files:
        store.log_artifact(str(file))
    if folder is not None:
        store.log_artifacts(str(folder), folder.name)
