"""A whole sweep on machines that share no folder, on an S3 store: a node dies while it trains, its disk with it."""

import shutil
from pathlib import Path

import pytest
from fault_tools import check_same, finish, start, state, wait_until
from servers import s3_endpoint

from data_pipeline.shared import objects
from data_pipeline.shared.store import OWN

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "nobody-may-read-this", "AWS_REGION": "us-east-1"}
STORE = "s3://apart/cellskew"


@pytest.fixture
def endpoint(tmp_path, monkeypatch):
    """An S3 store with an empty bucket, which this process and those that it starts have the credentials of."""
    import boto3

    with s3_endpoint(tmp_path / "moto.log") as url:
        for name, value in (KEYS | {"AWS_ENDPOINT_URL": url}).items():
            monkeypatch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="apart")
        yield url


@pytest.fixture
def cluster(endpoint):
    """A head without CPUs."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        yield found
    finally:
        found.shutdown()


def join(cluster, folder: Path):
    """Start a node whose own folder nobody else has."""
    return cluster.add_node(num_cpus=1, env_vars={OWN: str(folder)})


def kept(key: str) -> list[str]:
    """Return the files of a trial that the store has."""
    turns = objects.names(STORE, f"trials/{key}/turns")
    return list(objects.get_list(STORE, f"trials/{key}/turns/{turns[-1]}") or {}) if turns else []


@pytest.mark.slow
def test_a_node_is_lost_with_its_disk_and_the_sweep_comes_to_the_same(tmp_path, cluster, undisturbed):
    _, expected = undisturbed
    nodes = {tmp_path / name: join(cluster, tmp_path / name) for name in ("node-a", "node-b")}
    cluster.wait_for_nodes()
    storage = tmp_path / "driver" / "storage"
    driver = start(storage, options=("--shared", STORE, "--address", cluster.address))
    lost: list[Path] = []

    def kept_its_first_epoch() -> bool:
        lost[:] = [
            path
            for path in tmp_path.glob("node-*/trials/*/epoch-*")
            if f"{path.name}/state.json" in kept(path.parent.name)
        ]
        return bool(lost) or driver.is_over()

    wait_until(kept_its_first_epoch, 200, driver.said)
    assert lost, driver.said()
    folder, key = lost[0].parents[2], lost[0].parent.name
    cluster.remove_node(nodes[folder], allow_graceful=False)
    shutil.rmtree(folder)
    join(cluster, tmp_path / "node-c")
    said = finish(driver)
    check_same(state(storage), expected)
    assert "4 of 4 trials finished" in said and KEYS["AWS_SECRET_ACCESS_KEY"] not in said
    (turn,) = objects.names(STORE, f"trials/{key}/turns")
    assert turn.startswith("000002-"), "another worker went on with it"
    assert (storage / "trials" / key / "log.txt").read_text().count(" on ") >= 2
    assert not (folder / "trials").exists() and (storage / "trials" / key / "checkpoint").is_dir()
