"""MLflow as the keeper of finished runs, their artifacts and registered models."""

from pathlib import Path

from mlflow.exceptions import MlflowException

from sweeps.tracking.connection import asking, connect
from sweeps.tracking.kept.runs import RunState, state_of, stored
from sweeps.tracking.uris import take_credentials


class Registry:
    """One MLflow; RequestError for whatever it refuses."""

    def __init__(self, uri: str) -> None:
        self.uri = take_credentials(uri)
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
        return state_of(stored(run)) if "cellskew.trial" in run.data.tags else None

    def has_artifact(self, run_id: str, name: str) -> bool:
        """Tell whether a run has an artifact, file or folder, of that name at its top."""
        with asking(self.uri):
            return any(found.path == name for found in self.client.list_artifacts(run_id))

    def fetch_artifact(self, run_id: str, name: str, into: Path) -> Path:
        """Return the place of a run's artifact, copied to the folder `into` unless it lies on this machine."""
        with asking(self.uri):
            return Path(self.client.download_artifacts(run_id, name, str(into)))

    def add_artifact(self, run_id: str, file: Path, folder: str) -> None:
        """Put a file into a folder of a run's artifacts."""
        with asking(self.uri):
            self.client.log_artifact(run_id, str(file), folder)

    def register(self, name: str, run_id: str, folder: str, tags: dict[str, str]) -> tuple[str, bool]:
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
                if known.run_id == run_id:
                    return str(known.version), False
            source = f"runs:/{run_id}/{folder}"
            made = self.client.create_model_version(name, source, run_id, tags=tags, await_creation_for=0)
            return str(made.version), True
