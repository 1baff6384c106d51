"""A sweep on four nodes on which everything happens: is anything lost, and how much of the cluster do trials have?

    python benchmarks/driving/nodes.py --trials 200 --seconds 2

Trials that sleep three epochs, half of them with a quarter of a GPU, on four simulated nodes of 3 CPUs and 1 GPU, with
an MLflow server on PostgreSQL that wants a password (it needs `mlflow[auth]`; `--open`: SQLite and none). Meanwhile the
driver is killed and started elsewhere, the head is lost and another cluster comes, a fifth node is added, one gets a
quarter of its time, one is killed, the server is away for 90 s, and one is drained and then killed. Then MLflow must
have one FINISHED run per trial, with every point of every epoch once, of the value that the trial's key decides. With
`--apart` each node has a folder of its own, and they find one another's files in an S3 store.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT), str(Path(__file__).parent)]

import fake_trials  # noqa: E402
from conftest import PATHS  # noqa: E402
from servers import MlflowServer, postgres, s3_endpoint  # noqa: E402
from simulated import NOTICE, Nodes  # noqa: E402

from data_pipeline.atomic import publish  # noqa: E402
from sweeps.drive.converge import converge  # noqa: E402
from sweeps.drive.request import Request  # noqa: E402
from sweeps.file.config import SweepSpec  # noqa: E402

NODES, CPUS, GPUS, EPOCHS, AWAY = 4, 3, 1, 3, 90.0
WITHOUT_HEAD = 3  # the driver's exit code
USER, PASSWORD = "cellskew", "made-up-for-a-benchmark"
STORE = "s3://nodes/cellskew"
METRICS, FINISHED = ("train_loss", "val_macro_f1"), "finished"
BEGIN = float(os.environ.setdefault("NODES_BEGIN", str(time.monotonic())))  # of all its processes


class Screen(fake_trials.Silent):
    """Counts what finished, for the other process to see, and says what is said with the time."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.count_file = folder / FINISHED
        self.finished, self.troubles = finished(self.count_file), Counter[str]()

    def say(self, text: str) -> None:
        said(text)

    def event(self, what: str, key: str, numbers: dict[str, Any]) -> None:
        self.finished += what == "finished"
        publish(self.count_file, str(self.finished).encode(), durable=False)
        if what == "trouble":
            self.troubles[numbers["reason"][:60]] += 1


def said(text: str) -> None:
    print(f"{time.monotonic() - BEGIN:5.0f} s  {text}", flush=True)


def finished(count: Path) -> int:
    return int(count.read_text()) if count.exists() else 0


class Driver:
    """The process that drives the sweep, started again with the same words where it is lost."""

    def __init__(self, folder: Path, uri: str, words: list[str]) -> None:
        self.folder, self.uri, self.words = folder, uri, words
        self.process: subprocess.Popen | None = None

    def start(self, address: str) -> None:
        words = [sys.executable, __file__, *self.words, "--drive", str(self.folder), self.uri, address]
        self.process = subprocess.Popen(words, env=os.environ | {"PYTHONPATH": PATHS})

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Trouble:
    """What happens to the cluster, each once a share of the trials is finished."""

    def __init__(self, nodes: Nodes, server: MlflowServer, driver: Driver) -> None:
        self.nodes, self.server, self.driver = nodes, server, driver

    def happen(self, trials: int) -> None:
        """Have it all happen, in its order, until the driver is over."""
        listed = ((0.03, self.move), (0.1, self.lose), (0.15, self.add), (0.2, self.slow), (0.3, self.kill))
        for share, act in (*listed, (0.4, self.away), (0.65, self.drain)):
            while self.driver.is_alive() and finished(self.driver.folder / FINISHED) < share * trials:
                time.sleep(0.2)
            assert self.driver.is_alive(), f"the driver ended before: {act.__doc__}"
            said(f"-- {act.__doc__}")
            act()
        code = self.driver.process.wait()
        assert code == 0, f"the driver ended with {code}"

    def move(self) -> None:
        """the driver is killed, and started elsewhere at once"""
        self.driver.kill()
        self.driver.start(self.nodes.address)

    def lose(self) -> None:
        """the head is lost"""
        self.nodes.lose_head()
        code = self.driver.process.wait(120)
        assert code == WITHOUT_HEAD, f"the driver ended with {code}"
        self.nodes.come_back()
        said("-- another head and nodes are there; the same command")
        self.driver.start(self.nodes.address)

    def add(self) -> None:
        """a fifth node is added"""
        self.nodes.add()

    def slow(self) -> None:
        """node 1 gets a quarter of its time from now on"""
        self.nodes.slow(0)

    def kill(self) -> None:
        """node 2 is killed"""
        self.nodes.kill(1)

    def away(self) -> None:
        """MLflow's server is stopped for a minute and a half"""
        self.server.stop()
        time.sleep(AWAY)
        self.server.start()
        said("-- MLflow's server is there again")

    def drain(self) -> None:
        """node 3 is to go in half a minute"""
        self.nodes.drain(2)
        time.sleep(NOTICE)
        said("-- node 3 is killed")
        self.nodes.kill(2)


@contextmanager
def served(folder: Path, is_open: bool) -> Iterator[MlflowServer]:
    """Run an MLflow server; one that asks for a password has this process's environment hold it."""
    if is_open:
        with _started(
            MlflowServer(f"sqlite:///{folder}/mlflow.db", str(folder / "files"), folder / "mlflow.log")
        ) as one:
            yield one
        return
    told = folder / "auth.ini"
    told.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/auth.db\n"
        f"admin_username = {USER}\nadmin_password = {PASSWORD}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    given = {"MLFLOW_AUTH_CONFIG_PATH": str(told), "MLFLOW_FLASK_SERVER_SECRET_KEY": "made-up-too"}
    os.environ |= {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": PASSWORD}
    with postgres("made-up", folder / "postgres.log") as store:
        place = store, str(folder / "files"), folder / "mlflow.log"
        with _started(MlflowServer(*place, given, ("--app-name", "basic-auth"))) as one:
            yield one


@contextmanager
def _started(server: MlflowServer) -> Iterator[MlflowServer]:
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def stored(folder: Path) -> Iterator[None]:
    """Run an S3 store with an empty bucket, which this process's environment has the credentials of."""
    import boto3

    with s3_endpoint(folder / "s3.log") as url:
        os.environ |= {"AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": PASSWORD, "AWS_ENDPOINT_URL": url}
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="nodes")
        yield


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


def drive(folder: Path, uri: str, address: str, trials: int, is_apart: bool) -> None:
    """Run the sweep: the driver's process."""
    screen = Screen(folder)
    told = {"storage": folder / "storage", "shared": STORE if is_apart else None}
    asked = Request(tracking_uri=uri, address=address, **told)
    outcome = converge(sweep_of(trials), asked, screen, fake_trials.parts())
    assert outcome.is_complete and not outcome.failed, outcome
    print(f"this launch finished {outcome.finished} of {outcome.wanted} in {outcome.seconds:.0f} s:", end=" ")
    print("; ".join(f"{name}s given {given:.2f} of {had:.2f}" for name, (given, had) in outcome.given.items()))
    for reason, times in screen.troubles.most_common():
        print(f"  {times} x {reason}")


def measure(folder: Path, trials: int, seconds: float, is_open: bool, is_apart: bool) -> None:
    """Start server, nodes and driver, have all of it happen, and print what came of it."""
    count = itertools.count(1)

    def own(name: str = "") -> Path:
        made = folder / (name or f"node-{next(count)}")
        made.mkdir()
        (made / "fault.json").write_text(f'{{"epochs": {EPOCHS}, "seconds": {seconds}}}')
        return made

    own("storage")
    with (
        stored(folder) if is_apart else nullcontext(),
        served(folder, is_open) as server,
        Nodes(NODES, CPUS, GPUS, own if is_apart else None) as nodes,
    ):
        words = ["--trials", str(trials), *(["--apart"] if is_apart else [])]
        driver, begin = Driver(folder, server.uri, words), time.monotonic()
        try:
            driver.start(nodes.address)
            Trouble(nodes, server, driver).happen(trials)
        finally:
            driver.kill()
        wall, points = time.monotonic() - begin, check(server.uri, sweep_of(trials))
    ideal = trials * EPOCHS * seconds / (NODES * CPUS)
    print(f"nothing lost, nothing twice: {trials} runs, {points} points of {len(METRICS)} metrics per epoch")
    print(f"{wall:.0f} s; {ideal:.0f} s on {NODES} nodes left alone")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=200, help="a multiple of 20")
    parser.add_argument("--seconds", type=float, default=2.0, help="that an epoch sleeps")
    parser.add_argument("--open", action="store_true", help="a server on SQLite that asks for no password")
    parser.add_argument("--apart", action="store_true", help="nodes that share no folder, but a bucket")
    parser.add_argument("--storage", type=Path, help="default: a temporary folder")
    parser.add_argument("--drive", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.drive:
        folder, uri, address = given.drive
        drive(Path(folder), uri, address, given.trials, given.apart)
        return
    with tempfile.TemporaryDirectory(prefix="cellskew-nodes-") as folder:
        where = given.storage or Path(folder)
        where.mkdir(parents=True, exist_ok=True)
        measure(where, given.trials, given.seconds, given.open, given.apart)


if __name__ == "__main__":
    main()
