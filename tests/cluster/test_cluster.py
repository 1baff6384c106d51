"""Sweeps on clusters: what trials ask for, and trials that share GPUs on two nodes of a simulated one."""

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data_pipeline.errors import RequestError
from sweeps.cluster import resources
from sweeps.drive.launching.order import on_node
from sweeps.drive.launching.worker import cause
from sweeps.file import config
from trainables.training.device import NoGpuError, choose_device

SWEEP = """
name: on-a-cluster
datasets: [pbmc68k_reduced]
genes: {select: hvg, n: 60}
models: {geneformer: {size: tiny, epochs: 1}, logistic_regression: {}}
splits: {seeds: [0, 1]}
strategies: [none, undersample]
resources: {geneformer: {gpu: 0.5, cpu: 1}, logistic_regression: {cpu: 1}}
"""


# what a trial asks for

LAPTOP, GPU_NODE = {"CPU": 2.0}, {"CPU": 96.0, "GPU": 8.0}


def trials(lines: str = "") -> dict:
    text = SWEEP.split("resources:")[0] + lines
    return {trial.model: trial for trial in config.parse(text, Path("sweep.yaml")).trials()}


@pytest.mark.parametrize(
    ("lines", "nodes", "expected"),
    [
        ("", [LAPTOP], {"cpu": 1, "gpu": 0}),
        ("", [LAPTOP, GPU_NODE], {"cpu": 1, "gpu": 1}),
        ("resources: {geneformer: {gpu: 0}}", [GPU_NODE], {"cpu": 1, "gpu": 0}),
        ("resources: {geneformer: {gpu: 0.25, cpu: 4}}", [GPU_NODE], {"cpu": 4, "gpu": 0.25}),
        ("resources: {geneformer: {gpu: auto}}", [LAPTOP], {"cpu": 1, "gpu": 0}),
        ("resources: {geneformer: {gpu: 0.35}}", [GPU_NODE], {"cpu": 1, "gpu": 0.5}),
        ("resources: {geneformer: {gpu: 0.15}}", [GPU_NODE], {"cpu": 1, "gpu": 0.1666}),
        ("resources: {geneformer: {gpu: 0.6}}", [GPU_NODE], {"cpu": 1, "gpu": 1}),
    ],
)
def test_a_network_takes_a_gpu_where_there_is_one_unless_told_otherwise(lines, nodes, expected):
    found = trials(lines)
    assert resources.of_trial(found["geneformer"], nodes) == expected
    assert resources.of_trial(found["logistic_regression"], nodes) == {"cpu": 1, "gpu": 0}


def test_what_fits_on_no_node_is_named():
    asked = list(trials("resources: {geneformer: {gpu: 0.5}, logistic_regression: {cpu: 3}}").values())
    assert resources.too_large(asked, [LAPTOP, GPU_NODE]) == []
    (no_gpu, no_cpu) = resources.too_large(asked, [LAPTOP])
    assert no_gpu.startswith("resources.geneformer: a trial asks for 1 CPU and 0.5 GPU, but the largest node has 2 CPU")
    assert no_cpu.startswith("resources.logistic_regression: a trial asks for 3 CPU")


@pytest.mark.parametrize("places", range(1, 21))
def test_as_many_shares_fit_on_a_gpu_as_it_has_places(places):
    share = resources.nth(1 / places)
    assert round(share * 10_000) * places <= 10_000, "Ray counts in ten-thousandths"
    assert resources.nth(share) == share and share >= 1 / places - 1e-4


def test_several_gpus_are_whole_ones_for_one_network_each_with_cpus_of_its_own():
    asked = trials("resources: {geneformer: {gpu: 2}}")["geneformer"]
    assert resources.of_trial(asked, [GPU_NODE]) == {"cpu": 2, "gpu": 2}
    assert resources.too_large([asked], [GPU_NODE]) == []
    (said,) = resources.too_large([asked], [{"CPU": 96.0, "GPU": 1.0}, {"CPU": 96.0, "GPU": 1.0}])
    assert "asks for 2 CPU and 2 GPU of one node, but the largest node has 96 CPU and 1 GPU" in said
    bundles = on_node("a", {"CPU": 3.0, "GPU": 2.0})
    assert bundles.bundles == [{"CPU": 1.5, "GPU": 1.0}] * 2 and bundles.strategy == "STRICT_PACK"
    assert on_node(None, {"CPU": 1.0, "GPU": 0.25}).bundles == [{"CPU": 1.0, "GPU": 0.25}]


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (
            "{geneformer: {gpu: 1.5}}",
            "1.5 GPUs can't be shared by trials: give a share of one, as 0.5, or whole ones, as 2",
        ),
        ("{logistic_regression: {gpu: 2}}", "a trial on 2 GPUs is one that trains a network"),
        ("{logistic_regression: {gpu: 0.5}}", "a trial on 0.5 GPUs is one that trains a network; this one takes a CPU"),
        ("{geneformer: {gpu: -1}}", "greater than or equal to 0"),
    ],
)
def test_parts_of_several_gpus_and_those_of_baselines_are_refused(share, said):
    with pytest.raises(RequestError, match=re.escape(said)):
        trials(f"resources: {share}")


def test_a_share_of_a_gpu_means_cuda_unless_gpus_are_simulated(monkeypatch):
    monkeypatch.delenv("CELLSKEW_SIMULATED_GPUS", raising=False)
    assert [resources.device_of({"gpu": share}) for share in (0.0, 0.25, 1.0)] == ["cpu", "cuda", "cuda"]
    monkeypatch.setenv("CELLSKEW_SIMULATED_GPUS", "1")
    assert resources.device_of({"gpu": 0.25}) == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_trial_whose_gpu_torch_does_not_see_is_refused_with_its_node():
    with pytest.raises(NoGpuError, match=rf"node {platform.node()}: .* but torch .* sees none") as refused:
        choose_device("cuda")
    assert cause(refused.value) == "node", "another node's GPUs may be seen"


def test_no_cluster_at_an_address_is_refused_at_once(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP)
    command = [sys.executable, "-m", "sweeps.cli", "run", str(file), "--storage", str(tmp_path / "runs")]
    asked = subprocess.run([*command, "--address", "127.0.0.1:1"], capture_output=True, text=True)
    assert asked.returncode == 2, asked.stderr
    assert "cellskew: no Ray cluster answers at 127.0.0.1:1: " in asked.stderr and "Traceback" not in asked.stderr


@pytest.mark.cluster
def test_a_small_sweep_runs_on_two_nodes_with_trials_sharing_gpus(tmp_path, monkeypatch):
    """Real trials; the GPUs are only Ray's, so the trials compute on the CPU."""
    monkeypatch.setenv("CELLSKEW_SIMULATED_GPUS", "1")
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=2, num_gpus=1, include_dashboard=False)
        cluster.wait_for_nodes()
        outcome, gpus = run_on(cluster.address, tmp_path)
    finally:
        cluster.shutdown()
    assert outcome.finished == outcome.wanted == 8, outcome.failed
    assert gpus == {0.5}


def run_on(address: str, storage: Path):
    import ray
    from fake_trials import Silent

    from sweeps.drive.converge import Request, converge

    spec = config.parse(SWEEP, Path("sweep.yaml"))
    outcome = converge(spec, Request(storage=storage, address=address), Silent())
    assert not ray.is_initialized(), "the cluster is left, and left running"
    shares = {resources.of_trial(trial, [{"CPU": 2, "GPU": 1}])["gpu"] for trial in spec.trials()} - {0}
    return outcome, shares


@pytest.mark.cluster
def test_a_node_that_lacks_something_is_named(tmp_path, monkeypatch, ray_here):
    from sweeps.cluster import nodes as cluster

    cluster.check_nodes(tmp_path / "runs")
    assert list((tmp_path / "runs").iterdir()) == []
    monkeypatch.setattr(cluster, "version", lambda package: "99.0")
    with pytest.raises(RequestError, match=r"node [\d.]+: has torch .* instead of torch 99.0; install the same"):
        cluster.check_nodes(tmp_path / "runs")
