"""A sweep on four nodes on which everything happens: is anything lost, and how much of the cluster do trials have?

    python benchmarks/driving/nodes.py --trials 200 --seconds 3

Trials that sleep three epochs, half of them with a quarter of a GPU, on four simulated nodes of 3 CPUs and 1 GPU, with
an MLflow server (SQLite; --users: with passwords, `pip install "mlflow[auth]"`). Meanwhile a fifth node is added, one
gets a quarter of its time, one is killed, the server is away for 90 s, and one is drained and then killed. Then MLflow
must have one FINISHED run per trial, with every point of every epoch once, of the value that the trial's key decides.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

import fake_trials  # noqa: E402
from conftest import PATHS  # noqa: E402
from fault_tools import descendants  # noqa: E402
from servers import MlflowServer  # noqa: E402

from data_pipeline.atomic import publish  # noqa: E402
from sweeps.drive.converge import converge  # noqa: E402
from sweeps.drive.request import Request  # noqa: E402
from sweeps.file.config import SweepSpec  # noqa: E402

NODES, CPUS, GPUS, EPOCHS, AWAY, NOTICE = 4, 3, 1, 3, 90.0, 30.0
USER, PASSWORD = "cellskew", "made-up-for-a-benchmark"
METRICS, FINISHED = ("train_loss", "val_macro_f1"), "finished"


class Screen(fake_trials.Silent):
    """Counts what finished, for the other process to see, and says what is said with the time."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.count_file, self.finished, self.begin_at = folder / FINISHED, 0, time.monotonic()
        self.troubles: Counter[str] = Counter()

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.begin_at:5.0f} s  {text}", flush=True)

    def event(self, what: str, key: str, numbers: dict[str, Any]) -> None:
        self.finished += what == "finished"
        publish(self.count_file, str(self.finished).encode(), durable=False)
        if what == "trouble":
            self.troubles[numbers["reason"][:60]] += 1


class Trouble:
    """What happens to the cluster, each once a share of the trials is finished."""

    def __init__(self, cluster: Any, nodes: list[Any], server: MlflowServer, driver: subprocess.Popen) -> None:
        self.cluster, self.nodes, self.server, self.driver = cluster, nodes, server, driver
        self.over = threading.Event()

    def happen(self, trials: int, count: Path) -> None:
        """Have it all happen, in its order, until the driver is over."""
        for share, act in ((0.1, self.add), (0.15, self.slow), (0.25, self.kill), (0.4, self.away), (0.6, self.drain)):
            while self.driver.poll() is None and finished(count) < share * trials:
                time.sleep(0.2)
            if self.driver.poll() is None:
                act()
        assert self.driver.wait() == 0
        self.over.set()

    def add(self) -> None:
        say("a fifth node is added")
        add_node(self.cluster)

    def slow(self) -> None:
        say("node 1 gets a quarter of its time from now on")
        threading.Thread(target=self._slow, args=(raylet_of(self.nodes[0]),), daemon=True).start()

    def kill(self) -> None:
        say("node 2 is killed")
        self.cluster.remove_node(self.nodes[1], allow_graceful=False)

    def away(self) -> None:
        say(f"MLflow's server is stopped for {AWAY:.0f} s")
        self.server.stop()
        time.sleep(AWAY)
        self.server.start()
        say("MLflow's server is there again")

    def drain(self) -> None:
        say(f"node 3 is to go in {NOTICE:.0f} s")
        drain(self.cluster.gcs_address, self.nodes[2].node_id)
        time.sleep(NOTICE)
        say("node 3 is killed")
        self.cluster.remove_node(self.nodes[2], allow_graceful=False)

    def _slow(self, raylet: int) -> None:
        """Stop a node's workers three quarters of every two seconds."""
        while not self.over.is_set():
            workers = descendants(raylet)
            for number, seconds in ((signal.SIGSTOP, 1.5), (signal.SIGCONT, 0.5)):
                for pid in workers:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                self.over.wait(seconds if number == signal.SIGSTOP else 0.5)


def say(text: str) -> None:
    print(f"         -- {text}", flush=True)


def finished(count: Path) -> int:
    return int(count.read_text()) if count.exists() else 0


def raylet_of(node: Any) -> int:
    return node.all_processes["raylet"][0].process.pid


def drain(address: str, node: str) -> None:
    """Tell Ray that a node is about to be taken away, as a cloud's notice does."""
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline = int((time.time() + NOTICE) * 1000)
    accepted, why = GcsClient(address=address).drain_node(node, reason, "the benchmark takes it", deadline)
    assert accepted, why


def add_node(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=CPUS, num_gpus=GPUS, include_dashboard=False, object_store_memory=80_000_000)


@contextmanager
def simulated() -> Iterator[tuple[Any, list[Any]]]:
    """Run a head that trains nothing and the nodes, while it lasts."""
    from ray.cluster_utils import Cluster

    os.environ |= {"CELLSKEW_SIMULATED_GPUS": "1", "RAY_AUTH_MODE": "disabled"}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [add_node(cluster) for _ in range(NODES)]
        cluster.wait_for_nodes()
        yield cluster, nodes
    finally:
        cluster.shutdown()


@contextmanager
def served(folder: Path, users: bool) -> Iterator[MlflowServer]:
    """Run an MLflow server; with users one that asks for a password, which this process's environment then holds."""
    told = folder / "auth.ini"
    told.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/auth.db\n"
        f"admin_username = {USER}\nadmin_password = {PASSWORD}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    given = {"MLFLOW_AUTH_CONFIG_PATH": str(told), "MLFLOW_FLASK_SERVER_SECRET_KEY": "made-up-too"}
    place = f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts"), folder / "mlflow.log"
    server = MlflowServer(*place, given, ("--app-name", "basic-auth") if users else ())
    os.environ |= {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": PASSWORD}
    server.start()
    try:
        yield server
    finally:
        server.stop()


def check(uri: str, sweep: SweepSpec) -> int:
    """Assert that nothing is lost, doubled or other than it was; returns the number of points looked at."""
    from mlflow import MlflowClient

    client, points = MlflowClient(uri), 0
    (experiment,) = client.search_experiments(filter_string=f"name = '{sweep.name}'")
    runs = client.search_runs([experiment.experiment_id], "tags.`cellskew.trial` != ''", max_results=10_000)
    assert Counter(run.data.tags["cellskew.trial"] for run in runs) == Counter(one.key for one in sweep.trials())
    for run in runs:
        key = run.data.tags["cellskew.trial"]
        assert run.info.status == "FINISHED", f"{run.info.run_name} is {run.info.status}"
        for metric in METRICS:
            found = [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, metric)]
            wanted = [(n, fake_trials.numbers_of(key, n, EPOCHS)[metric]) for n in range(1, EPOCHS + 1)]
            assert sorted(found) == wanted, f"{run.info.run_name}: {metric} {found}"
            points += len(found)
        assert run.data.metrics["test_macro_f1"] == fake_trials.score(key, "macro_f1"), run.info.run_name
    return points


def sweep_of(trials: int) -> SweepSpec:
    given = {"splits": list(range(trials // 20)), "seeds": "[0, 1, 2, 3, 4]", "resources": "{scgpt: {gpu: 0.25}}"}
    return fake_trials.spec(name="nodes", **given)


def drive(folder: Path, uri: str, address: str, trials: int, seconds: float) -> None:
    """Run the sweep: the driver's process."""
    screen, begin = Screen(folder), time.monotonic()
    asked = Request(storage=folder / "storage", tracking_uri=uri, address=address)
    outcome = converge(sweep_of(trials), asked, screen, fake_trials.parts())
    assert outcome.finished == outcome.wanted == trials, outcome
    told(outcome, screen, time.monotonic() - begin, trials * EPOCHS * seconds / (NODES * CPUS))


def measure(folder: Path, trials: int, seconds: float, users: bool) -> None:
    """Start server, nodes and driver, have all of it happen, and print what came of it."""
    (folder / "storage").mkdir()
    (folder / "storage" / "fault.json").write_text(f'{{"epochs": {EPOCHS}, "seconds": {seconds}}}')
    with served(folder, users) as server, simulated() as (cluster, nodes):
        words = [
            "--drive",
            str(folder),
            server.uri,
            cluster.address,
            "--trials",
            str(trials),
            "--seconds",
            str(seconds),
        ]
        driver = subprocess.Popen([sys.executable, __file__, *words], env=os.environ | {"PYTHONPATH": PATHS})
        try:
            Trouble(cluster, nodes, server, driver).happen(trials, folder / FINISHED)
        finally:
            driver.kill()
        points = check(server.uri, sweep_of(trials))
    print(f"nothing lost, nothing twice: {trials} runs, {points} points of {len(METRICS)} metrics per epoch")


def told(outcome: Any, screen: Screen, wall: float, ideal: float) -> None:
    print(f"{outcome.finished} of {outcome.wanted} finished in {wall:.0f} s; {ideal:.0f} s on 4 nodes left alone")
    print("; ".join(f"{name}s given {given:.2f} of {had:.2f}" for name, (given, had) in outcome.given.items()))
    for reason, times in screen.troubles.most_common():
        print(f"  {times} x {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=200, help="a multiple of 20")
    parser.add_argument("--seconds", type=float, default=3.0, help="that an epoch sleeps")
    parser.add_argument("--users", action="store_true", help="have the server ask for a password")
    parser.add_argument("--drive", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.drive:
        folder, uri, address = given.drive
        drive(Path(folder), uri, address, given.trials, given.seconds)
        return
    with tempfile.TemporaryDirectory(prefix="cellskew-nodes-") as folder:
        measure(Path(folder), given.trials, given.seconds, given.users)


if __name__ == "__main__":
    main()
