"""Kinds of nodes that an autoscaler may bring: told, read where the autoscaler runs, or known to Ray."""

import json
import types
from pathlib import Path

import pytest
import yaml

from data_pipeline.errors import RequestError
from sweeps.cluster import kinds, resources
from sweeps.file import config

GPU_NODE = {"CPU": 96.0, "GPU": 8.0}


@pytest.fixture
def nothing_told(monkeypatch):
    monkeypatch.delenv(kinds.TOLD, raising=False)
    monkeypatch.setattr(kinds.ray, "get_runtime_context", lambda: types.SimpleNamespace(gcs_address="10.0.0.1:6379"))


def test_what_the_variable_says_counts(monkeypatch):
    monkeypatch.setenv(kinds.TOLD, '[{"CPU": 96, "GPU": 8}]')
    assert kinds.node_types() == [GPU_NODE]
    monkeypatch.setenv(kinds.TOLD, "8 CPUs")
    with pytest.raises(RequestError, match="CELLSKEW_NODE_TYPES must be a JSON list like"):
        kinds.node_types()


def processes(folder: Path, gcs: str, configuration: Path) -> Path:
    """Return a /proc in which an autoscaler runs, and a program that is none."""
    for number, words in (
        (7, ["python"]),
        (8, ["monitor.py", f"--gcs-address={gcs}", kinds.OPTION + str(configuration)]),
    ):
        (folder / str(number)).mkdir(parents=True)
        (folder / str(number) / "cmdline").write_bytes("\0".join(words).encode())
    return folder


def test_the_file_that_the_autoscaler_on_this_machine_was_started_with_counts(tmp_path):
    file = tmp_path / "bootstrap.yaml"
    shown = {
        "head": {"resources": {"CPU": 0}, "max_workers": 0},
        "a100": {"resources": dict(GPU_NODE), "min_workers": 0, "max_workers": 4},
    }
    file.write_text(yaml.safe_dump({"available_node_types": shown}))
    there = processes(tmp_path / "proc", "10.0.0.1:6379", file)
    assert list(kinds._started_with("10.0.0.1:6379", there)) == [file]
    assert list(kinds._started_with("10.0.0.2:6379", there)) == [], "another cluster's"
    assert kinds._in_file(file) == [GPU_NODE]


def test_the_shipped_launcher_brings_gpu_nodes_and_cpu_nodes():
    found = kinds._in_file(Path(__file__).parents[2] / "cluster.yaml")
    assert {"CPU": 32.0} in found and any(kind.get("GPU") == 8 for kind in found) and len(found) == 2


def test_a_kind_of_node_that_ray_itself_knows_of_counts(monkeypatch, nothing_told):
    from ray._private import state

    def group(most: int, **resources: float) -> types.SimpleNamespace:
        return types.SimpleNamespace(max_count=most, resources=resources)

    groups = [group(0, CPU=0), group(8, CPU=96, GPU=8), group(0, CPU=4, GPU=1)]
    monkeypatch.setattr(state.state, "get_cluster_config", lambda: types.SimpleNamespace(node_group_configs=groups))
    assert kinds.node_types() == [GPU_NODE]


def test_a_trial_that_only_a_node_to_come_has_room_for_is_waited_for_and_others_are_refused():
    text = "name: s\ndatasets: [pbmc68k_reduced]\nmodels: {geneformer: {size: tiny}, majority: {}}\n"
    trials = config.parse(text, Path("s.yaml")).trials()
    head = {"node": 1.0}
    with pytest.raises(RequestError, match="resources.geneformer: a trial asks for 1 CPU and 0 GPU"):
        resources.check_room(trials, [head])
    nodes = [head, json.loads(json.dumps(GPU_NODE))]
    resources.check_room(trials, nodes)
    asked = {trial.model: resources.of_trial(trial, nodes)["gpu"] for trial in trials}
    assert asked == {"geneformer": 1.0, "majority": 0.0}
