"""What starts clusters: cluster.yaml, and Dockerfile, slurm.sbatch, rayjob.yaml, mlflow-server.sh in cluster/."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PINS = (ROOT / "pyproject.toml").read_text()
IMAGE = (ROOT / "cluster/Dockerfile").read_text()
RAY = re.search(r"ray\[tune,data\]==([\d.]+)", PINS)[1]


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster/slurm.sbatch", "cluster/rayjob.yaml"])
def test_what_a_lab_must_edit_stands_at_the_top(name):
    edit, _, fixed = (ROOT / name).read_text().partition("---- as it is ---")
    assert "---- edit" in edit
    for blank in ("REGISTRY", "ami-0", "fs-0", "us-west", "LAB", "--nodes=", "--time="):
        assert blank not in fixed
    assert any(blank in edit for blank in ("REGISTRY", "--nodes="))


def test_the_image_has_the_pinned_versions_and_files_that_are_there():
    assert f"ARG RAY={RAY}-" in IMAGE and f"'ray[default]=={RAY}'" in IMAGE
    torch = re.search(r"torch==[\d.]+", PINS)[0]
    assert torch in IMAGE.split("RUN pip install")[1]
    for words in re.findall(r"^COPY --chown=ray (.*) \S+$", IMAGE, re.MULTILINE):
        assert all((ROOT / path).exists() for path in words.split())


# cluster.yaml: AWS


def launcher() -> dict:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_the_launcher_file_passes_rays_own_check():
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(launcher())
    validate_config(prepared)
    assert prepared["available_node_types"]["a100"]["resources"]["GPU"] == 8


def test_rays_check_would_notice_a_mistake():
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(ValidationError, match="max_wrokers"):
        validate_config(prepare_config(launcher()) | {"max_wrokers": 3})


def test_nodes_come_and_go_run_a_pinned_image_and_none_builds_anything():
    found = launcher()
    kinds = found["available_node_types"]
    assert kinds["a100"]["resources"]["GPU"] == 8 and "GPU" not in kinds["cpu"]["resources"]
    assert kinds["head"]["resources"]["CPU"] == 0
    workers = [kinds["a100"], kinds["cpu"]]
    assert all(kind["min_workers"] == 0 < kind["max_workers"] for kind in workers)
    assert sum(kind["max_workers"] for kind in workers) <= found["max_workers"]
    assert all(kind["node_config"]["ImageId"].startswith("ami-") for kind in kinds.values())
    assert "pip install" not in json.dumps(found)
    assert "torch sees" in kinds["a100"]["worker_setup_commands"][0]


def test_mounts_end_and_the_database_is_on_no_network_disk():
    found = launcher()
    mount = next(command for command in found["initialization_commands"] if "mount -t nfs4" in command)
    assert "timeout 120 mount" in mount and "noresvport" in mount
    server = next(command for command in found["head_start_ray_commands"] if "mlflow-server.sh" in command)
    assert "mlflow-server.sh /mlflow /shared/mlflow" in server


# rayjob.yaml: KubeRay. What its schema of RayJob (ray.io/v1) lets stand where, of what the file uses.

SCHEMA = {
    "": {"apiVersion": str, "kind": str, "metadata": dict, "spec": dict},
    "spec": {
        "entrypoint": str,
        "submissionMode": str,
        "backoffLimit": int,
        "shutdownAfterJobFinishes": bool,
        "rayClusterSpec": dict,
        "activeDeadlineSeconds": int,
        "ttlSecondsAfterFinished": int,
    },
    "spec.rayClusterSpec": {
        "rayVersion": str,
        "authOptions": dict,
        "enableInTreeAutoscaling": bool,
        "autoscalerOptions": dict,
        "headGroupSpec": dict,
        "workerGroupSpecs": list,
    },
    "spec.rayClusterSpec.authOptions": {"mode": str, "secretName": str},
    "spec.rayClusterSpec.autoscalerOptions": {"idleTimeoutSeconds": int, "upscalingMode": str, "version": str},
    "spec.rayClusterSpec.headGroupSpec": {"rayStartParams": dict, "template": dict, "serviceType": str},
    "group": {"groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int, "rayStartParams": dict}
    | {"template": dict, "idleTimeoutSeconds": int},
    "pod": {"containers": list, "volumes": list},
    "container": {"name": str, "image": str, "env": list, "envFrom": list, "volumeMounts": list, "resources": dict},
}


def ray_job() -> dict:
    return yaml.safe_load((ROOT / "cluster/rayjob.yaml").read_text())


def checked(found: dict, place: str) -> None:
    allowed = SCHEMA[place]
    for name, value in found.items():
        assert name in allowed, f"{place}: KubeRay has no {name}"
        assert type(value) is allowed[name], f"{place}.{name}: {value!r}"


def pods(found: dict) -> Iterator[dict]:
    cluster = found["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]["spec"]


def test_the_ray_job_has_only_fields_that_kuberay_knows():
    found = ray_job()
    for place in SCHEMA:
        if place not in ("group", "pod", "container"):
            inner = found
            for name in place.split(".") if place else []:
                inner = inner[name]
            checked(inner, place)
    for group in found["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        checked(group, "group")
    for pod in pods(found):
        checked(pod, "pod")
        (container,) = pod["containers"]
        checked(container, "container")
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
    assert all(isinstance(value, str) for value in found["metadata"]["annotations"].values())


def test_the_ray_jobs_image_pins_ray_and_its_head_trains_nothing():
    cluster = ray_job()["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == RAY
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}


def test_the_head_is_told_what_its_autoscaler_may_bring():
    from sweeps.cluster.kinds import TOLD, _told

    cluster = ray_job()["spec"]["rayClusterSpec"]
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    told = {one["name"]: one["value"] for one in head["env"]}[TOLD]
    names = {"cpu": "CPU", "nvidia.com/gpu": "GPU"}
    limits = [
        group["template"]["spec"]["containers"][0]["resources"]["limits"] for group in cluster["workerGroupSpecs"]
    ]
    assert _told(told) == [{names[key]: float(one[key]) for key in names if key in one} for one in limits]


# slurm.sbatch: two nodes that are stubs

STUBS = {
    "scontrol": 'if [ "$1" = show ]; then echo localhost; echo other; else echo "$@" >> "$SEEN/scontrol"; fi',
    # every node runs the command, as srun has it; the step ends with the first one's code
    "srun": 'shift; NODE=0 "$@" & first=$!; NODE=1 "$@" & wait $first; code=$?; touch "$SEEN/over"; wait; exit $code',
    "ray": """echo "$NODE $*" >> "$SEEN/ray"
while [ "$1" != -- ]; do shift; done; shift
if [ "$NODE" = 0 ]; then "$@"; else while [ ! -e "$SEEN/over" ]; do sleep 0.1; done; fi""",
    "cellskew": """echo "$*" > "$SEEN/cellskew"
trap 'echo saved > "$SEEN/saved"; exit 1' TERM
[ -n "$LONG" ] || exit ${CODE:-0}
touch "$SEEN/training"; while true; do sleep 0.1; done""",
}


@pytest.fixture
def slurm(tmp_path):
    """Return a function that starts the batch script in an allocation of two nodes."""
    stubs = tmp_path / "bin"
    stubs.mkdir()
    for name, text in STUBS.items():
        (stubs / name).write_text(f"#!/bin/bash\n{text}\n")
        (stubs / name).chmod(0o755)
    (tmp_path / "my.yaml").write_text("name: my\n")
    here = {
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "n[0-1]",
        "SEEN": str(tmp_path),
    }
    here |= {"SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "32", "SLURM_GPUS_ON_NODE": "4"}

    def start(*words: str, **more: str) -> subprocess.Popen:
        env = os.environ | here | {"PATH": f"{stubs}:{os.environ['PATH']}", "LONG": ""} | more
        command = ["bash", str(ROOT / "cluster/slurm.sbatch"), *words]
        with (tmp_path / "said").open("w") as said:
            return subprocess.Popen(command, cwd=tmp_path, env=env, stdout=said, stderr=subprocess.STDOUT)

    return start


def test_slurms_own_lines_come_before_any_command():
    lines = (ROOT / "cluster/slurm.sbatch").read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    asked = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert len(asked) == 10 and max(asked) < first, "sbatch reads none of them behind a command"


@pytest.mark.parametrize("code", ["0", "1"])
def test_a_batch_job_starts_ray_on_both_nodes_and_ends_with_the_drivers_code(slurm, tmp_path, code):
    job = slurm("my.yaml", CODE=code, TRACKING="http://mlflow:5000")
    assert job.wait(timeout=30) == int(code), (tmp_path / "said").read_text()
    started = sorted((tmp_path / "ray").read_text().splitlines())
    assert [line[0] for line in started] == ["0", "1"]
    assert "symmetric-run --address 127.0.0.1:6379 --min-nodes 2 --num-cpus 32 --num-gpus 4 -- " in started[0]
    asked = f"run my.yaml --address auto --storage {tmp_path}/cellskew-runs --tracking-uri http://mlflow:5000"
    assert (tmp_path / "cellskew").read_text().strip() == asked
    assert not (tmp_path / "scontrol").exists()
    assert list((tmp_path / "cellskew-runs").iterdir()) == [], "the secret is gone"


@pytest.mark.parametrize("sent", [signal.SIGUSR1, signal.SIGTERM])
def test_before_time_is_up_the_driver_saves_and_the_job_is_queued_again(slurm, tmp_path, sent):
    job = slurm("my.yaml", LONG="1")
    deadline = time.monotonic() + 30
    while not (tmp_path / "training").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    job.send_signal(sent)
    assert job.wait(timeout=30) == 1
    assert (tmp_path / "saved").read_text() == "saved\n"
    assert (tmp_path / "scontrol").read_text() == "requeue 7\n"


def test_a_batch_job_without_a_sweep_file_says_so(slurm, tmp_path):
    assert slurm().wait(timeout=30) and "give the sweep file" in (tmp_path / "said").read_text()
    assert slurm("your.yaml").wait(timeout=30) == 2
    assert "your.yaml: no such file" in (tmp_path / "said").read_text()


# mlflow-server.sh, with a server that only makes its database


def test_the_servers_database_is_copied_to_the_shared_folder_and_taken_from_there(tmp_path):
    made = "import sqlite3; d = sqlite3.connect('$LOCAL/mlflow.db'); d.execute('create table if not exists t (x)');"
    made += " d.execute('insert into t values (1)'); d.commit()"
    (tmp_path / "mlflow").write_text(f'#!/bin/bash\necho "$@" > $LOCAL/words\npython -c "{made}"\nexec sleep 60\n')
    (tmp_path / "mlflow").chmod(0o755)
    shared = tmp_path / "shared"
    for times in (1, 2):
        local = tmp_path / f"local{times}"
        found = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        env = os.environ | {"PATH": found, "LOCAL": str(local), "COPY_EVERY": "60"}
        command = ["bash", str(ROOT / "cluster/mlflow-server.sh"), str(local), str(shared), "5999"]
        server = subprocess.Popen(command, env=env)
        deadline = time.monotonic() + 30
        while rows(local / "mlflow.db") != times:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        server.terminate()
        assert server.wait(timeout=30) == 0
        assert rows(shared / "mlflow.db") == times, "the second server, on another disk, went on with the first one's"
    words = (local / "words").read_text()
    assert f"--backend-store-uri sqlite:///{local}/mlflow.db" in words and "--allowed-hosts localhost:5999" in words


def rows(path: Path) -> int:
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path)) as database:
        try:
            return database.execute("select count(*) from t").fetchone()[0]
        except sqlite3.OperationalError:  # being made
            return 0
