"""Seeded rounds of fake sweeps: of a hostile MLflow, and of two drivers, each with its own storage.

Each round ends with a run that nothing disturbs, and with `check_round`. As a program, this file is one driver.
"""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fake_trials
from conftest import PATHS
from fake_trials import Silent, parts, spec
from servers import Hostile, MlflowServer, free_port, stop, wait_for_port

from data_pipeline.errors import RequestError
from sweeps.answers import summary
from sweeps.answers.runs import results
from sweeps.drive.converge import Request, converge
from sweeps.file.config import SweepSpec
from sweeps.tracking import outbox, store
from sweeps.tracking.kept.runs import OURS

EPOCHS, SHOWN = 3, ["test_macro_f1", "test_balanced_accuracy", "test_recall_tail"]
HERE = Path(__file__).resolve()


def small(name: str) -> SweepSpec:
    """Return a sweep of four trials."""
    return spec(name=name, splits="[0]")


@contextmanager
def hurried() -> Iterator[None]:
    """Have pauses that are meant for hours of training pass in fractions of a second."""
    before = {name: getattr(outbox, name) for name in ("FIRST_PAUSE", "LONGEST_PAUSE")}, store.Lease
    outbox.FIRST_PAUSE, outbox.LONGEST_PAUSE = 0.02, 0.3
    store.Lease = functools.partial(store.Lease, beat=0.3, timeout=3.0)
    try:
        yield
    finally:
        vars(outbox).update(before[0])
        store.Lease = before[1]


def drive(sweep: SweepSpec, storage: Path, uri: str, **options: Any) -> tuple[bool, str]:
    """Run a sweep of fake trials; returns whether it is complete, and what was said or refused."""
    screen = Silent()
    try:
        outcome = converge(sweep, Request(storage, uri, **options), screen, parts())
    except RequestError as error:
        return False, str(error)
    return outcome.is_complete, f"{outcome}\n" + "\n".join(screen.said)


# an MLflow that answers strangely


def hostile_round(seed: str, folder: Path, server: MlflowServer) -> Counter[str]:
    """Run a sweep up to three times through a hostile proxy, then once straight; returns what the proxy did."""
    name, rng, proxy = f"hostile-{seed}", random.Random(seed), Hostile(server.port, seed)
    sweep, storage = small(name), folder / name
    try:
        with hurried():
            for _ in range(rng.choice((1, 2, 3))):
                drive(sweep, storage, proxy.uri)
                check_finished(server.uri, name)
            proxy.mode = "pass"
            done, said = drive(sweep, storage, proxy.uri, retry_failed=True)
    finally:
        proxy.close()
    assert done, said
    check_round(server.uri, sweep)
    return proxy.fates


# two drivers


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """A Ray of two CPUs that drivers join, which spares each the start of one of its own; gives its address."""
    port = free_port()
    given = {"PYTHONPATH": PATHS, "RAY_AUTH_MODE": "disabled"}
    os.environ |= given
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--num-cpus=2"]
    command += [f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false"]
    command += ["--object-store-memory=100000000"]
    with (folder / "ray.log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for_port(port, process)
        yield f"127.0.0.1:{port}"
    finally:
        stop(process, signal.SIGTERM)


def drivers_round(seed: str, folder: Path, server: MlflowServer, address: str) -> Counter[str]:
    """Let two drivers with storages of their own have the same sweep, kill and stop them; returns what was done."""
    name, rng = f"drivers-{seed}", random.Random(seed)
    slow_down(folder / name, rng)
    done = disturb_two(folder / name, rng, server.uri, server, address)
    for whom in "ab":  # each takes over from whoever was killed; the second finds nothing left to do
        last = start(folder / name / whom, server.uri, name, address)
        assert last.wait(900) == 0, (folder / name / f"{whom}.log").read_text()[-3000:]
        check_round(server.uri, small(name))
    return done


def poisoned_round(seed: str, folder: Path, server: MlflowServer, address: str) -> Counter[str]:
    """As `drivers_round`, through a hostile proxy; trials fail once in each storage, for reasons that no text holds.

    Returns what was done, by the drivers' enemies and by the proxy.
    """
    name, rng, proxy = f"poisoned-{seed}", random.Random(seed), Hostile(server.port, seed)
    fault = {"run": "scgpt", "epoch": 2, "kind": "poison", "times": 1}
    slow_down(folder / name, rng, fault)
    try:
        done = disturb_two(folder / name, rng, proxy.uri, server, address)
        proxy.mode = "pass"
        for whom in "aabb":  # what fails once is well at the second try
            last = start(folder / name / whom, proxy.uri, name, address)
            code, said = last.wait(900), (folder / name / f"{whom}.log").read_text()[-3000:]
            assert code in (0, 1), said
        assert code == 0, said
    finally:
        proxy.close()
    check_round(server.uri, small(name))
    check_files(server.uri, name)
    done["poison"] = len(list((folder / name).glob("*/trials/*/fault-poison-2")))
    return done + proxy.fates


def disturb_two(folder: Path, rng: random.Random, uri: str, server: MlflowServer, address: str) -> Counter[str]:
    """Start, kill and stop drivers "a" and "b" at random, and end both; returns what was done."""
    live, done, name = {}, Counter(), folder.name
    try:
        for _ in range(rng.randint(4, 8)):
            whom = rng.choice("ab")
            what = disturb(live.get(whom), rng)
            if what == "start":
                live[whom] = start(folder / whom, uri, name, address)
            done[what] += 1
            time.sleep(rng.uniform(0.2, 4.0))
            check_finished(server.uri, name)
    finally:
        for process in live.values():
            process.send_signal(signal.SIGCONT)
            done["SIGKILL"] += process.poll() is None
            process.kill()
            process.wait()
    return done


def slow_down(folder: Path, rng: random.Random, *faults: dict[str, Any]) -> None:
    for whom in "ab":
        (folder / whom).mkdir(parents=True)
        plan = {"seconds": rng.choice((0.1, 0.3, 0.6)), "save_every": rng.choice((1, 2)), "faults": faults}
        (folder / whom / "fault.json").write_text(json.dumps(plan))


def disturb(process: subprocess.Popen | None, rng: random.Random) -> str:
    """Do something to a driver: "start" is the caller's to do, if it doesn't run."""
    if process is None or process.poll() is not None:
        return "start"
    what = rng.choice(("SIGKILL", "SIGTERM", "SIGSTOP", "SIGCONT", "nothing"))
    if what != "nothing":
        process.send_signal(getattr(signal, what))
    if what == "SIGKILL":
        process.wait()
    return what


def start(storage: Path, uri: str, name: str, address: str) -> subprocess.Popen:
    command = [sys.executable, str(HERE), str(storage), uri, name, address]
    with (storage.parent / f"{storage.name}.log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def main() -> None:
    storage, uri, name, address = sys.argv[1:]
    with hurried():
        done, said = drive(small(name), Path(storage), uri, address=address, retry_failed=True)
    print(said, flush=True)
    sys.exit(0 if done else 1)


# what must be true


def check_finished(uri: str, name: str) -> None:
    """At any moment: no run is FINISHED without its numbers."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    for run in [] if experiment is None else client.search_runs([experiment.experiment_id], OURS):
        if run.info.status == "FINISHED":
            assert set(SHOWN) <= set(run.data.metrics), f"{run.info.run_name} is FINISHED without its numbers"


def check_round(uri: str, sweep: SweepSpec) -> None:
    """At the end: one run per trial, FINISHED, each point once and none missing, the table of an undisturbed sweep."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(sweep.name).experiment_id
    runs = [run for run in client.search_runs([experiment], OURS) if "cellskew.superseded" not in run.data.tags]
    assert Counter(run.data.tags["cellskew.trial"] for run in runs) == Counter(trial.key for trial in sweep.trials())
    trials = {trial.key: trial for trial in sweep.trials()}
    for run in runs:
        key = run.data.tags["cellskew.trial"]
        assert run.info.status == "FINISHED", f"{run.info.run_name} is {run.info.status}"
        assert run.data.params == trials[key].params(), run.info.run_name
        for epoch_metric in ("train_loss", "val_macro_f1"):
            history = client.get_metric_history(run.info.run_id, epoch_metric)
            wanted = [(n, fake_trials.numbers_of(key, n, EPOCHS)[epoch_metric]) for n in range(1, EPOCHS + 1)]
            assert sorted((point.step, point.value) for point in history) == wanted, run.info.run_name
        for final in SHOWN:
            (point,) = client.get_metric_history(run.info.run_id, final)
            assert point.value == fake_trials.score(key, final.removeprefix("test_"))
    check_table(uri, sweep)


def check_files(uri: str, name: str) -> None:
    """Every trial's table is where the server keeps files."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    for run in client.search_runs([client.get_experiment_by_name(name).experiment_id], OURS):
        if "cellskew.superseded" not in run.data.tags:
            assert "per_class.csv" in {file.path for file in client.list_artifacts(run.info.run_id)}, run.info.run_name


def check_table(uri: str, sweep: SweepSpec) -> None:
    chosen, _ = results.choose(uri, results.fetch(uri, sweep.name), every=False)
    table = summary.summarise(chosen[chosen["status"] == "FINISHED"], ["skew", "model"], SHOWN[:1])
    names = {(trial.labels["skew"], trial.labels["model"]): trial.key for trial in sweep.trials()}
    found = {(row.skew, row.model): round(row.test_macro_f1, 9) for row in table.itertuples()}
    assert found == {axes: round(fake_trials.score(key, "macro_f1"), 9) for axes, key in names.items()}


if __name__ == "__main__":
    main()
