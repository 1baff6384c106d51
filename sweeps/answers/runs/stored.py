"""What finished runs left among their artifacts: numbers per type, and what was said of each test cell."""

import functools
import io
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from data_pipeline.errors import RequestError
from data_pipeline.spreadsheets import read_csv
from sweeps.statistics.resampling import Predictions
from sweeps.tracking.places import local_path

if TYPE_CHECKING:
    from sweeps.tracking.kept.registry import Registry

AT_ONCE = 10  # files asked for: as many as MLflow's client has connections
HIGHEST = "probability"  # column of predictions.parquet in a bundle, in place of a probability per type


@dataclass(frozen=True)
class Scores:
    """What a trial said of test cells. truth, given: int64 [n] into `classes`; highest: probability, float32 [n]."""

    truth: np.ndarray
    given: np.ndarray
    highest: np.ndarray
    classes: list[str]


class Stored:
    """The artifacts of one MLflow's runs; each is read once. None comes back for what isn't there or can't be reached.

    uri: the tracking store, asked where artifacts lie on no disk of this machine.
    """

    def __init__(self, uri: str | None) -> None:
        self.uri = uri
        self._read = functools.lru_cache(maxsize=None)(self._fetch)

    def file(self, run_id: str, artifact_uri: str, name: str) -> bytes | None:
        """Return a file that lies at the top of a run's artifacts."""
        return self._read(run_id, artifact_uri, name)

    def per_class(self, run: pd.Series) -> pd.DataFrame | None:
        """Return a run's table per type, see metrics.per_class."""
        data = self._read(run["run_id"], run.get("artifact_uri"), "per_class.csv")
        return None if data is None else read_csv(data, text=["class"])

    def tables(self, runs: pd.DataFrame) -> list[pd.DataFrame | None]:
        """Return `per_class` of every run, in order; several are asked for at once."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(self.per_class, [run for _, run in runs.iterrows()]))

    def predictions(self, run: pd.Series, adjustment: str = "none") -> Predictions | None:
        """Return what a run said of its test cells, after an adjustment if one is named."""
        data = self._read(run["run_id"], run.get("artifact_uri"), "predictions.parquet")
        if data is None:
            return None
        import pyarrow.parquet as parquet

        from trainables.trial.files import prediction_of

        file = parquet.ParquetFile(io.BytesIO(data))
        said = prediction_of(adjustment)
        if said not in file.schema.names:
            return None
        there = [name for name in ("cell_id", "truth", said, "donor") if name in file.schema.names]
        table = file.read(columns=there).to_pandas()
        classes = [name.removeprefix("p_") for name in file.schema.names if name.startswith("p_")]
        number = {name: place for place, name in enumerate(classes)}
        truth, predicted = (table[name].map(number).to_numpy(np.int64) for name in ("truth", said))
        donors = table["donor"].to_numpy(str) if "donor" in table else None
        return Predictions(table["cell_id"].to_numpy(str), truth, predicted, classes, donors)

    def scores(self, run: pd.Series) -> Scores | None:
        """Return what a run took its test cells for and how sure it was, without adjustment."""
        data = self._read(run["run_id"], run.get("artifact_uri"), "predictions.parquet")
        if data is None:
            return None
        table = pd.read_parquet(io.BytesIO(data))
        classes = [name.removeprefix("p_") for name in table if name.startswith("p_")]
        highest = highest_of(table)
        if np.isnan(highest).any():
            return None
        number = {name: place for place, name in enumerate(classes)}
        truth, given = (table[name].map(number).to_numpy(np.int64) for name in ("truth", "prediction"))
        return Scores(truth, given, highest, classes)

    @functools.cached_property
    def _registry(self) -> "Registry":
        from sweeps.tracking.kept.registry import Registry

        return Registry(self.uri)

    def _fetch(self, run_id: str, artifact_uri: str, name: str) -> bytes | None:
        if not isinstance(artifact_uri, str) or not artifact_uri:
            return None
        here = local_path(artifact_uri)
        if here is not None:
            return (here / name).read_bytes() if (here / name).is_file() else None
        if self.uri is None:
            return None
        with tempfile.TemporaryDirectory() as folder:
            try:
                return self._registry.download(artifact_uri, name, Path(folder)).read_bytes()
            except (RequestError, OSError):
                return None


def highest_of(predictions: pd.DataFrame) -> np.ndarray:
    """Return each cell's highest probability, float32 [n]; NaN in bundles of earlier versions, which had none."""
    if HIGHEST in predictions:
        return predictions[HIGHEST].to_numpy(np.float32)
    return predictions.filter(regex="^p_").to_numpy(np.float32).max(axis=1)
