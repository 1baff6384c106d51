"""Real servers: MLflow stopped, failing, late; PostgreSQL and S3 behind it. Nothing is lost and nothing comes twice."""

import hashlib
import json
import shutil
import time
from pathlib import Path

import pytest
from fault_tools import ARTIFACTS, SWEEP, Driver, artifacts, check_same, finish, histories, part_of, start, wait_until
from gates import PATIENCE
from servers import MlflowServer, Proxy, free_port, postgres, s3_endpoint, server_on

from data_pipeline.errors import RequestError
from sweeps.answers.networks.promote import promote

pytestmark = [pytest.mark.server, pytest.mark.faults, pytest.mark.timeout(2400)]
SHORT = SWEEP.replace("[0, 1]", "[0]")  # two trials: scgpt, majority
PASSWORD = "hunter2-and-more"


@pytest.fixture
def expected(undisturbed) -> dict:
    """The state of the same trials on the embedded store with nothing in their way."""
    return part_of(undisturbed[1], "·s0·")


@pytest.fixture
def server(tmp_path, blank_database) -> MlflowServer:
    shutil.copyfile(blank_database, tmp_path / "server.db")
    made = MlflowServer(f"sqlite:///{tmp_path}/server.db", str(tmp_path / "server-artifacts"), tmp_path / "server.log")
    made.start()
    yield made
    made.stop()


def run(storage: Path, uri: str, stage: str = "", **environment: str) -> Driver:
    return start(storage, stage, SHORT, ("--tracking-uri", uri), **environment)


def trained(storage: Path) -> int:
    return len(list(storage.glob("trials/*/result.json")))


def check_against(uri: str, expected: dict) -> None:
    """Every run, parameter, point of a metric and artifact on the server is that of the undisturbed sweep."""
    runs = histories(uri)
    found = {name: downloaded(uri, run["id"]) for name, run in runs.items()}
    check_same({"runs": runs, "files": expected["files"], "artifacts": found}, expected)


def downloaded(uri: str, run_id: str) -> list[str]:
    """Return what `fault_tools.artifacts` does of a run, fetched through the server."""
    from mlflow import MlflowClient

    client, found = MlflowClient(uri), []
    listed = [*client.list_artifacts(run_id), *client.list_artifacts(run_id, "checkpoint")]
    for path in [Path(artifact.path) for artifact in listed if Path(artifact.path).suffix in ARTIFACTS]:
        data = Path(client.download_artifacts(run_id, str(path))).read_bytes()
        found.append(f"{path.name} {hashlib.sha256(data).hexdigest()}")
    return sorted(found)


def test_a_server_stopped_in_mid_sweep_stalls_no_training_and_loses_nothing(server, tmp_path, expected):
    storage = tmp_path / "storage"
    driver = run(storage, server.uri, "noted")
    try:
        driver.wait_for_gate()
        server.stop()
        driver.open_gate()
        wait_until(lambda: trained(storage) == 2, 400, driver.said)  # all epochs, without a server
        queue = storage / "sweeps" / "small.outbox.jsonl"
        assert any(json.loads(line).get("step") == 3 for line in queue.read_text().splitlines())
        server.start()
    finally:
        if server.process is None:
            driver.end()
    finish(driver)
    check_against(server.uri, expected)
    assert not queue.exists()


@pytest.mark.slow
def test_answers_of_500_and_lost_answers_make_no_second_run_and_no_second_point(server, tmp_path, expected):
    storage, proxy = tmp_path / "storage", Proxy(server.port)
    try:
        proxy.mode = "lose"
        driver = run(storage, proxy.uri, "noted")
        try:
            driver.wait_for_gate()
            proxy.mode = "refuse"
            driver.open_gate()
            wait_until(lambda: proxy.refused > 5, 300, driver.said)
            proxy.mode = "lose"
        finally:
            finish(driver)
        assert proxy.lost > 0
    finally:
        proxy.close()
    check_against(server.uri, expected)


@pytest.mark.slow
def test_a_server_that_comes_up_late_is_waited_for(server, tmp_path, expected):
    server.stop()
    driver = run(tmp_path / "storage", server.uri)
    try:
        wait_until(lambda: "tracking: http" in driver.said(), 300, driver.said)
        time.sleep(5)  # it has asked a few times by then
        server.start()
    finally:
        finish(driver)
    check_against(server.uri, expected)


@pytest.mark.slow
def test_a_server_down_at_the_end_leaves_a_queue_that_the_next_run_delivers(server, tmp_path, expected):
    storage = tmp_path / "storage"
    finish(run(storage, server.uri))  # all trained
    server.stop()
    Path(f"{server.store.removeprefix('sqlite:///')}").unlink()  # another, empty server
    server.start()
    driver = run(storage, server.uri, "closing", **{PATIENCE: "20"})
    try:
        driver.wait_for_gate()
        wait_until(lambda: uploaded(server) >= 2, 60, driver.said)
        server.stop()
        driver.open_gate()
    finally:
        said = finish(driver, expected=1)
    assert "deliver" in said
    server.start()
    assert "2 of 2 trials finished" in finish(run(storage, server.uri))
    check_against(server.uri, expected)


def uploaded(server: MlflowServer) -> int:
    return len(list(Path(server.artifacts).glob("**/predictions.parquet")))


@pytest.mark.slow
def test_no_server_is_refused_after_a_while_in_words_without_the_password(tmp_path):
    from sweeps.tracking.store import Tracker

    uri = f"http://ann:{PASSWORD}@127.0.0.1:{free_port()}"
    with pytest.raises(RequestError, match="doesn't answer.*Start it, or choose another with --tracking-uri") as no:
        Tracker(uri, "small", tmp_path, patience=1)
    assert PASSWORD not in str(no.value)


def test_postgresql_and_s3_behind_the_server_survive_a_killed_driver(tmp_path, expected):
    storage = tmp_path / "storage"
    with postgres(PASSWORD, tmp_path / "postgres.log") as database, s3_endpoint(tmp_path / "s3.log") as endpoint:
        server = server_on(database, endpoint, tmp_path / "server.log", PASSWORD)
        try:
            server.start()
            uri = server.uri.replace("//", f"//ann:{PASSWORD}@")
            driver = run(storage, uri, "last_epoch")
            try:
                driver.wait_for_gate()
                driver.kill("driver")
                driver.wait()
            finally:
                driver.end()
            statuses = {one["status"] for one in histories(server.uri).values()}
            assert "FINISHED" not in statuses or "RUNNING" in statuses
            said = driver.said() + finish(run(storage, uri))
            check_against(server.uri, expected)
            check_promoted(server.uri, uri, storage)
            check_no_secret(storage, server.uri, said)
        finally:
            server.stop()


def check_promoted(plain: str, uri: str, storage: Path) -> None:
    """The network's run becomes one version of a model, whose files come back from the S3 store."""
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    client = MlflowClient(plain)
    experiment = client.get_experiment_by_name("small").experiment_id
    (run,) = client.search_runs([experiment], "tags.`cellskew.model` = 'scgpt'")
    made = [promote(run.info.run_id, "annotator", storage, uri) for _ in range(2)]
    assert [(one.version, one.new) for one in made] == [("1", True), ("1", False)]
    (version,) = client.search_model_versions("name = 'annotator'")
    assert PASSWORD not in f"{version} {made}"
    folder = download_artifacts(f"runs:/{run.info.run_id}/checkpoint", tracking_uri=plain)
    assert {path.name for path in Path(folder).iterdir()} == {"model.json", "model.safetensors"}


def check_no_secret(storage: Path, uri: str, said: str) -> None:
    """The password is in no parameter, tag, file of the storage folder or line on the screen."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    assert runs and PASSWORD not in "".join(json.dumps(one.to_dictionary()) for one in runs)
    assert "ann:***@127.0.0.1" in said and PASSWORD not in said
    kept = [path for path in storage.rglob("*") if path.is_file()]
    assert kept and not [path for path in kept if PASSWORD.encode() in path.read_bytes()]
    assert not artifacts(storage), "files went to the embedded store"
