"""MLflow as the keeper of finished runs, their artifacts and registered models."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException

from sweeps.tracking.connection import asking, connect
from sweeps.tracking.kept.runs import RunState, state_of, stored
from sweeps.tracking.places import local_path
from sweeps.tracking.uris import take_credentials


@dataclass(frozen=True)
class Version:
    """A version of a registered model: of which run, which folder of its artifacts."""

    number: str
    run_id: str
    folder: str
    tags: dict[str, str]


class Registry:
    """One MLflow; RequestError for whatever it refuses. storage: where files of runs may lie that were moved."""

    def __init__(self, uri: str, storage: Path | None = None) -> None:
        self.uri, self.storage = take_credentials(uri), None if storage is None else storage.absolute()
        self.client = connect(self.uri)

    def run(self, run_id: str) -> RunState | None:
        """Return the run of a trial by its id; None if MLflow has none of that id, or it is not a trial's."""
        with asking(self.uri):
            try:
                run = self.client.get_run(run_id)
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise
        return state_of(stored(run), self.uri, self.storage) if "cellskew.trial" in run.data.tags else None

    def has_artifact(self, run: RunState, name: str) -> bool:
        """Tell whether a run has an artifact, file or folder, of that name at its top."""
        here = local_path(run.artifact_uri)
        if here is not None:
            return (here / name).exists()
        with asking(self.uri):
            return any(found.path == name for found in self.client.list_artifacts(run.run_id))

    def fetch_artifact(self, run: RunState, name: str, into: Path) -> Path:
        """Return the place of a run's artifact, copied to the folder `into` unless it lies on this machine."""
        here = local_path(run.artifact_uri)
        return self.download(run.artifact_uri, name, into) if here is None else here / name

    def download(self, artifact_uri: str, name: str, into: Path) -> Path:
        """Return the place of an artifact, copied to the folder `into` by MLflow.

        By a run's id MLflow would ask twice for all of the run, and for models that were logged with it.
        """
        with asking(self.uri):
            return Path(download_artifacts(f"{artifact_uri}/{name}", dst_path=str(into), tracking_uri=self.uri))

    def add_artifact(self, run: RunState, file: Path, folder: str) -> None:
        """Put a file into a folder of a run's artifacts."""
        here = local_path(run.artifact_uri)
        if here is not None:
            (here / folder).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, here / folder / file.name)
            return
        with asking(self.uri):
            self.client.log_artifact(run.run_id, str(file), folder)

    def version(self, name: str, number: str | None) -> Version | None:
        """Return a version of a registered model (its name without quotes), the newest without a number; None: none."""
        with asking(self.uri):
            every = self.client.search_model_versions(f"name = '{name}'")
        mine = [one for one in every if number in (None, str(one.version))]
        if not mine:
            return None
        found = max(mine, key=lambda one: int(one.version))
        return Version(str(found.version), found.run_id, found.source.rstrip("/").rsplit("/", 1)[1], dict(found.tags))

    def register(self, name: str, run: RunState, folder: str, tags: dict[str, str]) -> tuple[str, bool]:
        """Make a run's artifact folder a version of model `name`; returns (version, whether it is new).

        A run has one version of a name, however often this is called.
        """
        with asking(self.uri):
            try:
                self.client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            for known in self.client.search_model_versions(f"name = '{name}'"):
                if known.run_id == run.run_id:
                    return str(known.version), False
            made = self.client.create_model_version(
                name, self._source(run, folder), run.run_id, tags=tags, await_creation_for=0
            )
            return str(made.version), True

    def _source(self, run: RunState, folder: str) -> str:
        """Return what a version is made of: a run's folder, or the place that it was moved to."""
        recorded = self.client.get_run(run.run_id).info.artifact_uri
        is_moved = local_path(recorded) != local_path(run.artifact_uri)
        return f"{run.artifact_uri}/{folder}" if is_moved else f"runs:/{run.run_id}/{folder}"
