"""A head without CPUs, and Ray's own autoscaler, which brings a node with a GPU when the sweep asks for it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_trials import Silent, check_whole, drive, spec
from servers import free_port, stop, wait_for_port

HERE = "127.0.0.1"
TYPES = {
    "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
    "gpu": {"resources": {"CPU": 2, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 1},
}
LISTS = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands", "rsync_exclude")
LISTS += ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_filter")


@pytest.fixture
def autoscaled(tmp_path, monkeypatch):
    """A cluster whose only node is a head without CPUs; gives its address."""
    import ray
    from conftest import PATHS

    ray.shutdown()
    port = free_port()
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("PYTHONPATH", PATHS)
    monkeypatch.setenv("CELLSKEW_SIMULATED_GPUS", "1")
    file = tmp_path / "autoscaling.yaml"
    file.write_text(json.dumps(configuration(f"{HERE}:{port}")))
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", f"--autoscaling-config={file}"]
    command += [f"--port={port}", f"--node-ip-address={HERE}", "--num-cpus=0", "--num-gpus=0"]
    command += ["--include-dashboard=false", "--object-store-memory=100000000"]
    quick = os.environ | {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    with (tmp_path / "ray.log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=quick, start_new_session=True)
    try:
        wait_for_port(port, process)
        yield f"{HERE}:{port}"
    finally:
        ray.shutdown()
        stop(process)


def configuration(address: str) -> dict:
    """Return the file of Ray's autoscaler for nodes that are processes on this machine."""
    provider = {"type": "fake_multinode", "gcs_address": address}
    provider |= {"disable_node_updaters": True, "disable_launch_config_check": True}
    given = {"cluster_name": "made-up", "max_workers": 1, "idle_timeout_minutes": 0.05, "upscaling_speed": 1.0}
    given |= {"provider": provider, "auth": {}, "docker": {}, "file_mounts": {}, "file_mounts_sync_continuously": False}
    given |= {name: [] for name in LISTS}
    return given | {"head_node_type": "ray.head.default", "available_node_types": TYPES}


def there(address: str) -> tuple[list[dict], list[dict]]:
    """Return the resources of the nodes that are alive, and what the autoscaler is asked for."""
    import ray
    from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL as ASKED
    from ray.experimental.internal_kv import _internal_kv_get

    ray.init(address, log_to_driver=False)
    try:
        asked = json.loads(_internal_kv_get(ASKED) or "[]")
        return [node["Resources"] for node in ray.nodes() if node["Alive"]], asked
    finally:
        ray.shutdown()


@pytest.mark.cluster
def test_a_sweep_brings_the_node_that_it_needs_and_asks_for_nothing_afterwards(autoscaled, tmp_path):
    nodes, _ = there(autoscaled)
    assert not any("GPU" in node for node in nodes)
    storage, screen = tmp_path / "runs", Silent()
    asked = spec(resources="{scgpt: {gpu: 0.5}}")
    outcome = drive(storage, asked, screen, address=autoscaled)
    assert outcome.finished == 8 and not outcome.failed, screen.said
    assert outcome.given["GPU"][1] == 1, "room that there was"
    check_whole(storage, asked)
    deadline = time.monotonic() + 20
    while there(autoscaled)[1]:
        assert time.monotonic() < deadline, "the node is still asked for"
        time.sleep(1)
