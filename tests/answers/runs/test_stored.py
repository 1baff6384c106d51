"""What runs left: read from disk, or from an MLflow server that holds the artifacts itself; each once."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from servers import MlflowServer

from sweeps.answers.runs.stored import Stored
from sweeps.tracking.kept import registry

TABLE = pd.DataFrame(
    {"class": ["NA", "B"], "natural": [40, 9], "train": [40, 3], "test": [10, 2], "recall": [0.9, 0.5]}
)
SAID = pd.DataFrame({"cell_id": ["c1", "c2"], "truth": ["B", "NA"], "prediction": ["NA", "NA"]})
SAID = SAID.assign(**{"prediction.logit_adjust": ["B", "NA"], "p_NA": 0.5, "p_B": 0.5})


def files(folder: Path) -> Path:
    folder.mkdir()
    TABLE.to_csv(folder / "per_class.csv", index=False)
    SAID.to_parquet(folder / "predictions.parquet")
    return folder


def run(artifact_uri: str, run_id: str = "r1") -> pd.Series:
    return pd.Series({"run_id": run_id, "artifact_uri": artifact_uri})


def check(stored: Stored, one: pd.Series) -> None:
    pd.testing.assert_frame_equal(stored.per_class(one), TABLE)
    found, adjusted = stored.predictions(one), stored.predictions(one, "logit_adjust")
    assert (found.classes, found.cells.tolist(), found.truth.tolist()) == (["NA", "B"], ["c1", "c2"], [1, 0])
    assert (found.predicted.tolist(), adjusted.predicted.tolist()) == ([0, 0], [1, 0])
    assert found.predicted.dtype == np.int64 and stored.predictions(one, "temperature") is None


class Server:
    """Stands for MLflow: gives the files of a folder away, and counts how often, and how often it was connected to."""

    def __init__(self, folder: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.asked, self.connected = folder, [], 0
        monkeypatch.setattr(registry, "connect", self.connect)
        monkeypatch.setattr(registry, "download_artifacts", self.download)

    def connect(self, uri: str) -> None:
        self.connected += 1

    def download(self, artifact_uri: str, dst_path: str, tracking_uri: str) -> str:
        place, name = artifact_uri.rsplit("/", 1)
        assert (place.rsplit("/", 1)[1], tracking_uri) == ("artifacts", "http://mlflow:5000")
        self.asked.append(name)
        if self.folder is None:
            raise MlflowException("no such artifact")
        path = Path(dst_path) / name
        path.write_bytes((self.folder / name).read_bytes())
        return str(path)


def test_artifacts_on_this_machine_are_read_from_disk(tmp_path):
    folder = files(tmp_path / "artifacts of r1")
    check(Stored(None), run(str(folder)))
    check(Stored("http://nobody:1"), run(folder.as_uri()))
    assert Stored(None).per_class(run(str(tmp_path / "elsewhere"))) is None


def test_artifacts_that_a_server_keeps_are_asked_of_it_once(tmp_path, monkeypatch):
    server = Server(files(tmp_path / "there"), monkeypatch)
    stored = Stored("http://mlflow:5000")
    for _ in range(2):
        check(stored, run("mlflow-artifacts:/1/r1/artifacts"))
    assert sorted(server.asked) == ["per_class.csv", "predictions.parquet"]
    several = pd.DataFrame([run(f"mlflow-artifacts:/1/r{n}/artifacts", f"r{n}") for n in range(30)])
    assert all(table.equals(TABLE) for table in stored.tables(several))
    assert len(server.asked) == 31 and server.connected == 1


def test_what_a_server_does_not_give_is_none_and_asked_once(monkeypatch):
    server = Server(None, monkeypatch)
    stored, one = Stored("http://mlflow:5000"), run("mlflow-artifacts:/1/r1/artifacts")
    assert [stored.per_class(one), stored.predictions(one), stored.per_class(one)] == [None, None, None]
    assert server.asked == ["per_class.csv", "predictions.parquet"]
    assert stored.tables(pd.DataFrame([one, one])) == [None, None]


@pytest.mark.server
@pytest.mark.timeout(600)
def test_a_real_server_gives_what_lies_on_its_disk(tmp_path):
    server = MlflowServer(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "kept"), tmp_path / "server.log")
    server.start()
    try:
        client = MlflowClient(server.uri)
        made = client.create_run(client.create_experiment("small"))
        client.log_artifacts(made.info.run_id, str(files(tmp_path / "here")))
        assert made.info.artifact_uri.startswith("mlflow-artifacts:"), "the premise: no disk of this machine"
        check(Stored(server.uri), run(made.info.artifact_uri, made.info.run_id))
        assert Stored(server.uri).per_class(run(made.info.artifact_uri.replace(made.info.run_id, "0" * 32))) is None
    finally:
        server.stop()
