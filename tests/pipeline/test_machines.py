"""Machines that are namespaces joined by a bridge: one that nothing reaches for a minute, one without others' files."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fake_trials
import h5ad_files
import pytest
from scgpt_folder import write_folder
from servers import s3_endpoint

from data_pipeline.shared.store import OWN
from sweeps.drive.converge import Request, converge
from sweeps.file import config

HERE = "10.77.0.1"  # this machine's address in their network
EPOCHS, SECONDS, MINUTE, CPUS = 3, 8.0, 60.0, 2
STORE = "s3://partition/cellskew"
SWEEP = """
name: apart
datasets: [{path: cells.h5ad, label: celltype}]
splits: {seeds: [0]}
strategies: [none]
models: {majority: {}, scgpt: {weights: scGPT, epochs: 1}}
"""


def _ip(*words: str, check: bool = True) -> str:
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True).stdout


class Machine:
    """A namespace with an address, and a Ray node in it that ends with it."""

    def __init__(self, network: str, number: int) -> None:
        self.name, self.link, self.address = f"{network}-{number}", f"{network}v{number}", f"10.77.0.{number + 1}"
        self.node: subprocess.Popen | None = None
        inside = f"{network}i{number}"
        _ip("netns", "add", self.name)
        _ip("link", "add", self.link, "type", "veth", "peer", "name", inside)
        _ip("link", "set", inside, "netns", self.name)
        _ip("link", "set", self.link, "master", network)
        _ip("link", "set", self.link, "up")
        for words in (["addr", "add", f"{self.address}/24", "dev", inside], *(["link", "set", "lo", "up"],)):
            _ip("-n", self.name, *words)
        _ip("-n", self.name, "link", "set", inside, "up")

    def join(self, head: str, cpus: int, log: Path, hidden: Path | None = None, **env: str) -> None:
        """Start a Ray node that joins the cluster at `head`. hidden: a folder that it doesn't have."""
        node = ["ray.scripts.scripts", "start", f"--address={head}", f"--node-ip-address={self.address}", "--block"]
        node += [f"--num-cpus={cpus}", "--num-gpus=0", "--object-store-memory=80000000", "--disable-usage-stats"]
        alone = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(hidden)]
        words = ["ip", "netns", "exec", self.name, *(alone if hidden else []), sys.executable, "-m", *node]
        with log.open("w") as out:
            self.node = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, env=os.environ | env)

    def pids(self) -> set[int]:
        """Return the processes in it."""
        return set(map(int, _ip("netns", "pids", self.name, check=False).split()))

    def cut_off(self, is_cut_off: bool) -> None:
        """Have nothing come from it or to it, or have it back."""
        _ip("link", "set", self.link, "down" if is_cut_off else "up")

    def end(self) -> None:
        """End all that runs in it, and it."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.node is not None:
            self.node.wait(30)
        _ip("netns", "del", self.name, check=False)
        _ip("link", "del", self.link, check=False)


@contextmanager
def network(number: int) -> Iterator[list[Machine]]:
    """Have so many machines in a network with this one; skips where this user may make none."""
    name, machines = f"cs{os.getpid() % 100_000}", []
    try:
        _ip("link", "add", name, "type", "bridge")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no network of namespaces can be made here")
    try:
        _ip("addr", "add", f"{HERE}/24", "dev", name)
        _ip("link", "set", name, "up")
        for one in range(1, number + 1):
            machines.append(Machine(name, one))
        yield machines
    finally:
        for machine in machines:
            machine.end()
        _ip("link", "del", name, check=False)


@pytest.fixture
def machines(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with network(2) as found:
        yield found


@pytest.fixture
def cluster(machines):
    """A head without CPUs on this machine."""
    from ray.cluster_utils import Cluster

    told = {"num_cpus": 0, "include_dashboard": False, "node_ip_address": HERE}
    found = Cluster(initialize_head=True, head_node_args=told)
    try:
        yield found
    finally:
        found.shutdown()


@pytest.fixture
def bucket(machines, tmp_path, monkeypatch):
    """An S3 store that all machines reach."""
    import boto3

    with s3_endpoint(tmp_path / "moto.log", HERE) as url:
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "nobody-may-read-this", "AWS_REGION": "us-east-1"}
        for name, value in (keys | {"AWS_ENDPOINT_URL": url}).items():
            monkeypatch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="partition")
        yield STORE


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "fault.json").write_text(json.dumps({"epochs": EPOCHS, "seconds": SECONDS}))
    return path


def has_an_epoch(machine: Machine, storage: Path) -> bool:
    """Tell whether one of the machine's processes trains a trial that has an epoch to lose."""
    logs = [path for path in storage.glob("trials/*/log.txt") if (path.parent / "history.json").exists()]
    pids = {int(pid) for log in logs for pid in re.findall(r", pid (\d+)", log.read_text())}
    return bool(pids & machine.pids())


def be_cut_off(machine: Machine, storage: Path, happened: list[float]) -> None:
    """Cut a machine off for a minute, once it has an epoch to lose."""
    while not has_an_epoch(machine, storage):
        time.sleep(0.2)
    for is_cut_off in (True, False):
        machine.cut_off(is_cut_off)
        happened.append(time.monotonic())
        time.sleep(MINUTE if is_cut_off else 0.0)


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("is_apart", [False, True])
def test_a_minute_without_the_network_loses_and_doubles_nothing(tmp_path, machines, cluster, request, is_apart):
    """With a shared folder the node that is cut off goes on writing there; apart it reaches the store no more."""
    store = request.getfixturevalue("bucket") if is_apart else None
    storage, happened = folder(tmp_path / "storage"), []
    own = [folder(tmp_path / one.name) if is_apart else storage for one in machines]
    for number, (one, mine) in enumerate(zip(machines, own, strict=True), 2):
        one.join(cluster.address, CPUS, tmp_path / f"{one.name}.log", **({OWN: str(mine)} if is_apart else {}))
        wait_for_nodes(cluster, number)  # two that start at once would take the same names of sockets, in one /tmp
    cutting = threading.Thread(target=be_cut_off, args=(machines[0], own[0], happened), daemon=True)
    cutting.start()
    sweep, screen, begin = fake_trials.spec(), fake_trials.Silent(), time.monotonic()
    asked = Request(storage=storage, address=cluster.address, shared=store)
    outcome = converge(sweep, asked, screen, fake_trials.parts())
    print(f"{time.monotonic() - begin:.0f} s;", *screen.said, *screen.events, sep="\n")
    assert len(happened) == 2, "it was over before"
    assert outcome.is_complete and not outcome.failed, outcome
    fake_trials.check_whole(storage, sweep, EPOCHS)


@pytest.mark.cluster
@pytest.mark.slow
def test_data_and_weights_of_the_drivers_machine_alone_reach_a_node_through_the_store(
    tmp_path, machines, cluster, bucket
):
    data, node = tmp_path / "data", tmp_path / "node"
    data.mkdir()
    h5ad_files.write(data / "cells.h5ad")
    write_folder(data, h5ad_files.GENES)
    machines[0].join(cluster.address, CPUS, tmp_path / "node.log", data, **{OWN: str(node)})
    wait_for_nodes(cluster, 2)
    asked = Request(storage=tmp_path / "storage", address=cluster.address, shared=bucket)
    outcome = converge(config.parse(SWEEP, data / "sweep.yaml"), asked, fake_trials.Silent())
    assert outcome.is_complete and not outcome.failed, outcome
    assert {path.name for path in node.glob("inputs/*/*")} == {"cells.h5ad", "scGPT"}


def wait_for_nodes(cluster, number: int) -> None:
    deadline = time.monotonic() + 180
    while len(cluster.global_state._live_node_ids()) < number:
        assert time.monotonic() < deadline, "a node doesn't come"
        time.sleep(0.5)
