"""What driving a sweep costs: thousands of one-second trials, and one small grid driven three ways.

    python benchmarks/sweep.py size --trials 2000 --slots 8
    python benchmarks/sweep.py compare
    python benchmarks/sweep.py mixed

size: trials that sleep for a second run through the real driver, Ray Tune and the embedded MLflow; `slots` at once, so
many that the driver and not the sleeping is the bound. Overhead per trial = (seconds - trials x 1 s / slots) / trials,
with seconds from the call to its return, registration and Ray's start included. Then MLflow is checked, the commands
are timed as processes, and ten trials are taken back and run again by a new process.
compare: the same real trials, encoded beforehand, on two slots: cellskew; Ray Tune with the stock MLflowLoggerCallback;
one process per trial. Overhead per trial = (wall x slots - sum of trial_seconds) / trials.
mixed: 120 trials that sleep, on 4 simulated nodes of 1 GPU and 6 CPUs, 24 each of a whole GPU, half, a quarter, and 48
without; GPUs given = share x seconds of all trials that had one, over the seconds until the last of them started.
"""

import argparse
import dataclasses
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sweeps.drive import contents  # noqa: E402
from sweeps.drive.converge import converge  # noqa: E402
from sweeps.drive.request import Parts, Request, real_parts  # noqa: E402
from sweeps.file.config import SweepSpec, parse  # noqa: E402

SECOND = 1.0  # what a trial of `size` takes
RESUMED = 10  # trials taken back
SIZE = """
name: size
datasets: [pbmc68k_reduced]
genes: {{select: hvg, n: 200}}
splits: {{seeds: [0, 1, 2, 3, 4]}}
skews: [natural, {{kind: exponential, ratio: 20}}]
strategies: [none, oversample, undersample, square_root, class_balanced_batches]
models: {{scgpt: {{}}, scbert: {{}}, geneformer: {{}}, logistic_regression: {{}}}}
seeds: {seeds}
"""
GRID = """
name: compare
datasets: [pbmc68k_reduced]
genes: {select: hvg, n: 200}
splits: {seeds: [0, 1]}
skews: [natural, {kind: exponential, ratio: 20}]
strategies: [none, oversample]
models: {scgpt: {size: tiny, epochs: 3}, geneformer: {size: tiny, epochs: 3}, logistic_regression: {}, majority: {}}
"""

NODES, GPUS, CPUS = 4, 1, 6
SECONDS = {"scbert": 40.0, "geneformer": 30.0, "scgpt": 30.0, "logistic_regression": 6.0, "majority": 3.0}
SHARES = {"scbert": 1.0, "geneformer": 0.5, "scgpt": 0.25}
MIXED = """
name: mixed
datasets: [pbmc68k_reduced]
splits: {seeds: [0, 1, 2, 3, 4, 5]}
skews: [natural, {kind: exponential, ratio: 20}]
strategies: [none, oversample]
models: {scbert: {}, geneformer: {}, scgpt: {}, logistic_regression: {}, majority: {}}
resources: {scbert: {gpu: 1}, geneformer: {gpu: 0.5}, scgpt: {gpu: 0.25}}
"""


def known(text: str, file: Path) -> SweepSpec:
    """Return a sweep whose trials are known by what their data hold, as the driver knows them."""
    spec = parse(text, file)
    return contents.known(spec, real_parts().open_datasets(spec, file.parent), file.parent)


class Screen:
    """Notes when each stage was reached."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self.finished = 0

    def say(self, text: str) -> None:
        self.at.setdefault(text.split(":")[0].split(" ")[0], time.monotonic())

    def count(self, what: str, done: int, total: int) -> None:
        self.at[what] = time.monotonic()

    def begin(self, *about: Any) -> None:
        self.at["begin"] = time.monotonic()

    def event(self, what: str, key: str, numbers: dict[str, Any]) -> None:
        self.finished += what == "finished"

    def end(self) -> None:
        self.at["end"] = time.monotonic()


# size


def sleeping_trial(config: dict[str, Any], report: Callable, checkpoint: Path | None) -> dict[str, Any]:
    """Sleep for a second; report one epoch and as many final metrics as a real trial has."""
    directory = Path(config["directory"])
    (directory / "began.txt").write_text(repr(time.time()))
    time.sleep(SECOND)
    names = ("train_loss", "val_loss", "val_accuracy", "val_macro_f1", "seconds_per_epoch", "cells_per_second")
    report({"epoch": 1, "epochs": 1} | dict.fromkeys(names, 0.5), directory)
    (directory / "per_class.csv").write_text("class,f1\n")
    score = int(config["key"], 16) / 16**16
    final = {"epoch": 1, "final": 1, "trial_seconds": SECOND} | {f"test_number_{n}": score for n in range(20)}
    final |= dict.fromkeys(("test_macro_f1", "test_balanced_accuracy", "test_recall_tail"), score)
    report(final, None)
    return final


def sleeping_parts() -> Parts:
    """Return the real data with trials that need no shards and only sleep."""
    return dataclasses.replace(real_parts(), prepare=nothing_to_prepare, run_trial=sleeping_trial)


def nothing_to_prepare(configs: list, cells: dict, storage: Path, count: Any) -> list[dict[str, Any]]:
    return [{"shards": "none", "generated": None, "rows": None} for _ in configs]


@contextmanager
def memory_of_driver(screen: Screen, every: float = 1.0) -> Iterator[list[tuple[int, float]]]:
    """Collect (trials finished, resident MB of this process) while it lasts."""
    seen: list[tuple[int, float]] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(every):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            seen.append((screen.finished, pages * resource.getpagesize() / 1e6))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    yield seen
    over.set()
    watcher.join()


def size(num_trials: int, slots: int, storage: Path) -> None:
    """Run the sleeping sweep and print what it cost."""
    text = SIZE.format(seeds=list(range(num_trials // 200)))
    file = storage / "size.yaml"
    file.write_text(text)
    spec, screen = known(text, file), Screen()
    begin, cpu = time.monotonic(), time.process_time()
    with memory_of_driver(screen) as memory:
        outcome = converge(spec, Request(storage=storage, num_cpus=slots), screen, sleeping_parts())
    seconds, cpu = time.monotonic() - begin, time.process_time() - cpu
    assert outcome.finished == outcome.wanted == num_trials, outcome
    ideal = num_trials * SECOND / slots
    registering = screen.at["registering"] - screen.at["tracking"]
    launch = screen.at["end"] - screen.at["begin"]
    print(f"{num_trials} trials of {SECOND:.0f} s on {slots} slots: {seconds:.0f} s, at best {ideal:.0f} s")
    print(f"overhead per trial {(seconds - ideal) / num_trials:.3f} s, CPU of the driver {cpu / num_trials:.3f} s")
    print(f"  registration {registering / num_trials:.4f} s per run, training {(launch - ideal) / num_trials:.3f} s")
    for share in (0.1, 0.25, 0.5, 0.75, 1.0):
        finished, megabytes = next((one for one in memory if one[0] >= share * num_trials), memory[-1])
        print(f"  resident memory of the driver with {finished} finished: {megabytes:.0f} MB")
    check_whole(storage, spec)
    time_commands(storage, file)
    time_resumption(storage, spec)


def check_whole(storage: Path, spec: SweepSpec) -> None:
    """Assert that MLflow has one FINISHED run per trial, and every metric's history has its one point."""
    with closing(sqlite3.connect(storage / "mlflow.db")) as database:
        runs = dict(database.execute("SELECT run_uuid, status FROM runs WHERE lifecycle_stage = 'active'"))
        keys = [key for (key,) in database.execute("SELECT value FROM tags WHERE key = 'cellskew.trial'")]
        points = database.execute("SELECT run_uuid, key, COUNT(*) FROM metrics GROUP BY run_uuid, key").fetchall()
    assert Counter(runs.values()) == {"FINISHED": len(runs)}
    assert sorted(keys) == sorted(trial.key for trial in spec.trials()), "not one run per trial"
    assert {count for *_, count in points} == {1}, "a gap or a duplicate"
    per_run = Counter(run for run, *_ in points)
    assert len(per_run) == len(runs) and len(set(per_run.values())) == 1
    print(f"MLflow: {len(runs)} runs, all FINISHED, one per trial, {len(points)} metrics with one point each")


def time_commands(storage: Path, file: Path) -> None:
    for words in (["plan", str(file)], ["status", "size"], ["results", "size"]):
        command = [sys.executable, "-m", "sweeps.cli", *words, "--storage", str(storage)]
        begin = time.monotonic()
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        print(f"cellskew {words[0]}: {time.monotonic() - begin:.2f} s")


def time_resumption(storage: Path, spec: SweepSpec) -> None:
    """Take ten trials back, resume in a new process, print how long its first training step was in coming."""
    from mlflow import MlflowClient

    taken = [trial.key for trial in spec.trials()[:: len(spec.trials()) // RESUMED]][:RESUMED]
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    for key in taken:
        experiment = client.get_experiment_by_name(spec.name).experiment_id
        (run,) = client.search_runs([experiment], f"tags.`cellskew.trial` = '{key}'")
        client.set_terminated(run.info.run_id, "KILLED")
        shutil.rmtree(storage / "trials" / key)
    begin = time.time()
    subprocess.run([sys.executable, __file__, "again", "--storage", str(storage)], check=True, cwd=ROOT)
    first = min(float((storage / "trials" / key / "began.txt").read_text()) for key in taken)
    done = len(spec.trials()) - RESUMED
    print(f"resumed with {done} finished: first training step after {first - begin:.1f} s, all after ", end="")
    print(f"{time.time() - begin:.1f} s")


def again(storage: Path) -> None:
    file = storage / "size.yaml"
    outcome = converge(parse(file.read_text(), file), Request(storage=storage), Screen(), sleeping_parts())
    assert (outcome.finished, outcome.is_complete) == (RESUMED, True), outcome


# compare


@contextmanager
def counted_calls() -> Iterator[Counter]:
    """Count this process's calls of MLflow's store, those it makes of itself left out."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    calls: Counter = Counter()
    inside = threading.local()
    names = [name for name in dir(SqlAlchemyStore) if name.split("_")[0] in CALLS]
    originals = {name: getattr(SqlAlchemyStore, name) for name in names}

    def counting(name: str, original: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            outermost = not getattr(inside, "it", False)
            calls[name] += outermost
            inside.it = True
            try:
                return original(*args, **kwargs)
            finally:
                inside.it = not outermost

        return call

    for name, original in originals.items():
        setattr(SqlAlchemyStore, name, counting(name, original))
    try:
        yield calls
    finally:
        for name, original in originals.items():
            setattr(SqlAlchemyStore, name, original)


CALLS = ("create", "delete", "get", "log", "record", "search", "set", "update")


def prepared(storage: Path, spec: SweepSpec) -> list[dict[str, Any]]:
    """Return the grid's trial configurations, their shards made in `storage`."""
    from sweeps.cluster.nodes import running_ray

    parts, trials = real_parts(), spec.trials()
    cells = parts.open_datasets(spec, storage)
    with running_ray(None, 2):
        paths = parts.prepare([trial.config() for trial in trials], cells, storage)
    return [trial.config() | made | {"device": "cpu"} for trial, made in zip(trials, paths, strict=True)]


def through_cellskew(storage: Path, spec: SweepSpec, configs: list) -> tuple[float, int]:
    """Return (seconds of training, MLflow calls)."""
    with counted_calls() as calls:
        outcome = converge(spec, Request(storage=storage, num_cpus=2), Screen())
    assert outcome.is_complete
    return trained_seconds(storage, configs), calls.total()


def through_plain_tune(storage: Path, spec: SweepSpec, configs: list) -> tuple[float, int]:
    """The grid as Ray's documentation has it: a function trainable, a grid search, the stock callback."""
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    from trainables.trial.trial import run_trial

    def trainable(config: dict[str, Any]) -> None:
        run_trial(config["trial"], lambda metrics, checkpoint: tune.report(metrics), None)

    given = [config | {"directory": str(storage / "trials" / config["key"])} for config in configs]
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with counted_calls() as calls:
            callback = MLflowLoggerCallback(tracking_uri=f"sqlite:///{storage}/mlflow.db", experiment_name=spec.name)
            run_config = tune.RunConfig(storage_path=str(storage / "ray"), callbacks=[callback], verbose=0)
            space = {"trial": tune.grid_search(given)}
            tuned = tune.Tuner(tune.with_resources(trainable, {"cpu": 1}), param_space=space, run_config=run_config)
            assert not tuned.fit().errors
    finally:
        ray.shutdown()
    return trained_seconds(storage, configs), calls.total()


def through_processes(storage: Path, spec: SweepSpec, configs: list) -> tuple[float, int]:
    """One process per trial, one after the other, each with its own MLflow run."""
    calls = 0
    for config in configs:
        given = json.dumps(config | {"directory": str(storage / "trials" / config["key"])})
        command = [sys.executable, __file__, "one", "--storage", str(storage)]
        asked = subprocess.run(command, input=given, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        calls += int(asked.stdout.splitlines()[-1])
    return trained_seconds(storage, configs), calls


def one(storage: Path) -> None:
    """Run the trial on standard input, logging as a script would; print the calls made."""
    import mlflow

    from trainables.trial.trial import run_trial

    config = json.load(sys.stdin)
    with counted_calls() as calls:
        mlflow.set_tracking_uri(f"sqlite:///{storage}/mlflow.db")
        mlflow.set_experiment("compare")
        with mlflow.start_run(run_name=config["name"]):
            mlflow.log_params({name: str(value)[:500] for name, value in config.items()})
            run_trial(config, lambda metrics, checkpoint: mlflow.log_metrics(metrics, metrics["epoch"]), None)
            mlflow.log_artifacts(config["directory"])
    print(calls.total())


def trained_seconds(storage: Path, configs: list[dict[str, Any]]) -> float:
    results = [json.loads((storage / "trials" / config["key"] / "result.json").read_text()) for config in configs]
    return sum(result["final"]["trial_seconds"] for result in results)


def compare(root: Path) -> None:
    """Print the table."""
    spec = known(GRID, root / "compare.yaml")
    first = root / "cellskew"
    configs = prepared(first, spec)
    ways = {
        "cellskew": (through_cellskew, first, 2),
        "Ray Tune, MLflowLoggerCallback": (through_plain_tune, root / "tune", 2),
        "sequential processes": (through_processes, root / "processes", 1),
    }
    print(f"{len(configs)} trials\n| way | slots | wall, s | overhead per trial, s | MLflow calls |")
    print("|---|---|---|---|---|")
    for name, (way, storage, slots) in ways.items():
        storage.mkdir(exist_ok=True)
        begin = time.monotonic()
        trained, calls = way(storage, spec, configs)
        wall = time.monotonic() - begin
        overhead = (wall * slots - trained) / len(configs)
        print(f"| {name} | {slots} | {wall:.1f} | {overhead:.2f} | {calls} |", flush=True)


# mixed


class Clock:
    """A screen that notes when each trial held its share of a GPU."""

    def __init__(self, models: dict[str, str]) -> None:
        self.models, self.began, self.ended, self.said = models, {}, {}, []
        self.cpu_first: float | None = None

    def say(self, text: str) -> None:
        print(text, flush=True)

    def count(self, what: str, done: int, total: int) -> None:
        """Nothing to show."""

    def begin(self, *about: Any) -> None:
        self.at = time.monotonic()

    def event(self, what: str, key: str, numbers: dict[str, Any]) -> None:
        if what == "started":
            self.began[key] = time.monotonic()
        elif what in ("finished", "failed", "interrupted"):
            self.ended[key] = time.monotonic()

    def end(self) -> None:
        """Nothing to show."""

    def given(self, begin: float, end: float) -> float:
        """Return how many GPUs trials had on average between two times."""
        total = 0.0
        for key, began in self.began.items():
            share = SHARES.get(self.models[key], 0.0)
            total += share * max(0.0, min(self.ended[key], end) - max(began, begin))
        return total / (end - begin)


def sleeping_as_told(config: dict[str, Any], report: Callable, checkpoint: Path | None) -> dict[str, Any]:
    time.sleep(float(os.environ["STRETCH"]) * SECONDS[config["model"]])
    report({"epoch": 1, "epochs": 1, "train_loss": 0.5}, Path(config["directory"]))
    report({"epoch": 1, "final": 1, "test_macro_f1": 0.5}, None)
    return {}


def mixed(storage: Path, stretch: float) -> None:
    """Run the mixed sweep on simulated nodes and print how much of the GPUs trials had."""
    from ray.cluster_utils import Cluster

    os.environ |= {"CELLSKEW_SIMULATED_GPUS": "1", "STRETCH": str(stretch)}
    spec = known(MIXED, storage / "mixed.yaml")
    cluster = Cluster()
    try:
        for _ in range(NODES):
            cluster.add_node(num_cpus=CPUS, num_gpus=GPUS, include_dashboard=False, object_store_memory=80_000_000)
        cluster.wait_for_nodes()
        told_of_mixed(spec, storage, cluster.address, stretch)
    finally:
        cluster.shutdown()


def told_of_mixed(spec: SweepSpec, storage: Path, address: str, stretch: float) -> None:
    clock = Clock({trial.key: trial.model for trial in spec.trials()})
    parts: Parts = dataclasses.replace(real_parts(), prepare=nothing_to_prepare, run_trial=sleeping_as_told)
    outcome = converge(spec, Request(storage=storage, address=address), clock, parts)
    assert outcome.finished == outcome.wanted, outcome
    on_gpus = [clock.began[key] for key, model in clock.models.items() if model in SHARES]
    first, last, over = min(on_gpus), max(on_gpus), max(clock.ended.values())
    ideal = sum(SECONDS[model] * SHARES.get(model, 0.0) for model in clock.models.values()) * stretch / (NODES * GPUS)
    baseline = min(clock.began[key] for key, model in clock.models.items() if model not in SHARES)
    print(f"{outcome.wanted} trials on {NODES} nodes of {GPUS} GPU and {CPUS} CPUs: {over - clock.at:.0f} s,", end=" ")
    print(f"at best {ideal:.0f}; the first baseline started {baseline - first:.0f} s after the first network")
    print(f"GPUs given until the last wave: {clock.given(first, last):.2f} of {NODES * GPUS}", end=" ")
    print(f"({last - first:.0f} s); with start and end {clock.given(clock.at, over):.2f}")
    print("; ".join(f"{name}s given {given:.2f} of {had:.2f}" for name, (given, had) in outcome.given.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["size", "compare", "mixed", "again", "one"])
    parser.add_argument("--trials", type=int, default=2000, help="a multiple of 200")
    parser.add_argument("--stretch", type=float, default=1.0, help="mixed: times the seconds of each trial")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--storage", type=Path, help="default: a temporary folder")
    given = parser.parse_args()
    storage = given.storage or Path(tempfile.mkdtemp(prefix="cellskew-sweep-"))
    storage.mkdir(parents=True, exist_ok=True)
    run = {"size": lambda: size(given.trials, given.slots, storage), "compare": lambda: compare(storage)}
    run["mixed"] = lambda: mixed(storage, given.stretch)
    (run | {"again": lambda: again(storage), "one": lambda: one(storage)})[given.what]()
    if given.storage is None:
        shutil.rmtree(storage)


if __name__ == "__main__":
    main()
