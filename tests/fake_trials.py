"""Trials that train nothing, in no time, and fail where a test wants them to: what the sweep system runs in its tests.

<storage>/fault.json: {"epochs": 3, "seconds": 0.0, "save_every": 1, "faults": [{"run": part of a trial's name, "epoch":
2, "kind": "raise" | "memory" | "disk" | "shard" | "kill" | "request" | "retreat" | "poison", "times": 1}]}.
"""

import errno
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray import cloudpickle

from data_pipeline.errors import RequestError
from data_pipeline.shards.shards import ShardError
from sweeps.drive.converge import Parts, Request, converge
from sweeps.drive.launching import worker
from sweeps.drive.outcome import Outcome
from sweeps.file.config import SweepSpec, parse
from sweeps.file.trials import Contents

DIGEST = "d0"
SWEEP = """
name: {name}
datasets: [pbmc68k_reduced]
splits: {{seeds: {splits}}}
skews: [natural, {{kind: exponential, ratio: 20}}]
strategies: {strategies}
models: {{scgpt: {{size: tiny, epochs: 3}}, majority: {{}}}}
seeds: {seeds}
max_failures: {max_failures}
"""


def spec(**given: Any) -> SweepSpec:
    """Return a sweep of 2 skews x 2 models x splits x seeds x strategies; `given`: other values for its keys.

    Its trials have the keys that they get with the data of `parts()`.
    """
    values = {"name": "small", "splits": "[0, 1]", "seeds": "[0]", "strategies": "[none]", "max_failures": 3}
    more = "".join(f"{key}: {given[key]}\n" for key in given if key not in values)
    parsed = parse(SWEEP.format(**(values | given)) + more, Path("small.yaml"))
    return parsed.model_copy(update={"contents": Contents(dict.fromkeys(parsed.dataset_names, DIGEST))})


def parts(digest: str = DIGEST) -> Parts:
    """Return made-up data and the trial below."""

    def open_datasets(spec: SweepSpec, storage: Path) -> dict[str, Any]:
        return {name: cells(digest) for name in spec.dataset_names}

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers can't import what lies among the tests
    return Parts(open_datasets, nothing_to_prepare, fake_trial, lambda config: {})


def cells(digest: str) -> Any:
    labels = np.repeat(np.arange(4), [100, 60, 40, 20])
    known = {"classes": ["a", "b", "c", "d"], "donors": None, "fixed_test": None, "twins": None, "num_genes": 5000}
    return SimpleNamespace(digest=digest, labels=labels, **known)


def nothing_to_prepare(configs: list, cells: dict, storage: Path, *more: Any) -> list[dict[str, Any]]:
    return [{"shards": "none", "generated": None, "rows": None} for _ in configs]


def plan_of(directory: Path) -> dict[str, Any]:
    file = directory.parent.parent / "fault.json"
    return {"epochs": 3, "seconds": 0.0, "save_every": 1, "faults": []} | (
        json.loads(file.read_text()) if file.exists() else {}
    )


def fake_trial(config: dict[str, Any], report: Any, checkpoint: Path | None) -> dict[str, Any]:
    """Report epochs whose numbers follow from the key; go on from history.json, as real trials do from checkpoints."""
    worker.TRAIN_PAUSES, worker.UPLOAD_PAUSES = (0.05, 0.05, 0.05), (0.05, 0.05)
    directory = Path(config["directory"])
    plan, history = plan_of(directory), []
    file = directory / "history.json"
    if file.exists():
        history = json.loads(file.read_text())
    for numbers in history:
        report(numbers | {"replayed": 1}, None)
    while len(history) < plan["epochs"]:
        epoch = len(history) + 1
        time.sleep(plan["seconds"])
        with (directory / "trained.txt").open("a") as trained:
            trained.write(f"{epoch}\n")
        for fault in plan["faults"]:
            if fault["run"] in config["name"] and fault["epoch"] == epoch:
                fail(fault, directory)
        history.append(numbers_of(config["key"], epoch, plan["epochs"]))
        if (directory / "fault-retreat-1").exists():
            history[-1]["micro_batch"] = 4
        asked = Path(config["stop_file"]).exists() or (directory / ".leave").exists()
        is_saved = epoch % plan["save_every"] == 0 or epoch == plan["epochs"] or asked
        if is_saved:
            temporary = directory / ".history.part"
            temporary.write_text(json.dumps(history))
            temporary.replace(file)
        report(history[-1], directory if is_saved else None)
    (directory / "per_class.csv").write_text("class,f1\n")
    final = {"epoch": plan["epochs"], "final": 1, "trial_seconds": plan["seconds"]}
    final["validation_macro_f1"] = score(config["key"], "validation")
    final |= {f"test_{name}": score(config["key"], name) for name in ("macro_f1", "balanced_accuracy", "recall_tail")}
    report(final, None)
    return final


def numbers_of(key: str, epoch: int, epochs: int) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "epochs": epochs,
        "train_loss": score(key, f"loss{epoch}"),
        "val_macro_f1": score(key, str(epoch)),
    }


def score(key: str, what: str) -> float:
    """Return a number in [0, 1) that only depends on its arguments."""
    return np.random.default_rng(list(f"{key}{what}".encode())).random()


def fail(fault: dict[str, Any], directory: Path) -> None:
    marks = directory / f"fault-{fault['kind']}-{fault['epoch']}"
    done = int(marks.read_text()) if marks.exists() else 0
    if done >= fault.get("times", 1_000_000):
        return
    marks.write_text(str(done + 1))
    if fault["kind"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault["kind"] == "memory":
        raise MemoryError("cannot allocate 3 GB")
    if fault["kind"] == "disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "weights.safetensors")
    if fault["kind"] == "shard":
        raise ShardError("part-000000000.arrow: altered; run the sweep again to encode this part anew")
    if fault["kind"] == "retreat":
        return
    if fault["kind"] == "poison":
        raise ValueError("type \ud800 of cell \0 is no text")
    if fault["kind"] == "node":
        raise worker.NodeError("node n1 does not see weights /weights")
    if fault["kind"] == "request":
        raise RequestError("class b lacks 3 cells", "ask for fewer")
    raise ValueError(f"loss is not finite in epoch {fault['epoch']}")


class Silent:
    """A screen that remembers what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.events: list[tuple[str, str]] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def count(self, what: str, done: int, total: int) -> None:
        self.said.append(f"{what} {done}/{total}")

    def passed(self, what: str) -> None:
        self.said.append(f"{what} is over")

    def begin(self, *about: Any) -> None:
        self.said.append("begin")

    def event(self, what: str, key: str, numbers: dict[str, Any]) -> None:
        self.events.append((what, key))

    def end(self) -> None:
        self.said.append("end")


# outside: what a test does with a sweep of them


def drive(storage: Path, sweep=None, screen=None, work=None, **options) -> Outcome:
    request = Request(storage=storage, **options)
    return converge(sweep or spec(), request, screen or Silent(), work or parts())


def faults(storage: Path, *listed: dict, **more) -> None:
    storage.mkdir(exist_ok=True)
    (storage / "fault.json").write_text(json.dumps({"faults": listed, **more}))


def runs(storage: Path, name: str = "small") -> dict:
    """Return name -> (status, {metric: [(step, value)]}, tags) of every run that counts, duplicates refused."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    found = {}
    for run in client.search_runs([client.get_experiment_by_name(name).experiment_id], max_results=1000):
        if "cellskew.superseded" in run.data.tags:
            continue
        assert run.info.run_name not in found, "two runs of one trial"
        history = {
            key: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)]
            for key in run.data.metrics
        }
        found[run.info.run_name] = (run.info.status, history, run.data.tags)
    return found


def check_whole(storage: Path, sweep, epochs: int = 3) -> None:
    """Every wanted trial has one finished run, with each epoch once and the numbers an undisturbed trial gives."""
    found = runs(storage, sweep.name)
    for trial in sweep.trials():
        status, history, _ = found[trial.name]
        assert status == "FINISHED"
        expected = [numbers_of(trial.key, epoch, epochs) for epoch in range(1, epochs + 1)]
        assert sorted(history["train_loss"]) == [(one["epoch"], one["train_loss"]) for one in expected]
        assert sorted(history["val_macro_f1"]) == [(one["epoch"], one["val_macro_f1"]) for one in expected]
        assert history["test_macro_f1"] == [(epochs, score(trial.key, "macro_f1"))]


def trained(storage: Path, trial) -> list[int]:
    return [int(line) for line in (storage / "trials" / trial.key / "trained.txt").read_text().split()]
