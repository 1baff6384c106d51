"""One small grid driven three ways: by cellskew, by Ray Tune with MLflow's stock callback, by one process per trial.

    python benchmarks/driving/ways.py

The same real trials, encoded beforehand, on two slots. Overhead per trial = (wall x slots - sum of trial_seconds) /
trials.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from parts import Screen, known  # noqa: E402

from sweeps.drive.converge import converge  # noqa: E402
from sweeps.drive.request import Request, real_parts  # noqa: E402
from sweeps.file.config import SweepSpec  # noqa: E402

CALLS = ("create", "delete", "get", "log", "record", "search", "set", "update")  # of MLflow's store
GRID = """
name: compare
datasets: [pbmc68k_reduced]
genes: {select: hvg, n: 200}
splits: {seeds: [0, 1]}
skews: [natural, {kind: exponential, ratio: 20}]
strategies: [none, oversample]
models: {scgpt: {size: tiny, epochs: 3}, geneformer: {size: tiny, epochs: 3}, logistic_regression: {}, majority: {}}
"""


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
        command = [sys.executable, __file__, "--one", "--storage", str(storage)]
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--storage", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.storage)
        return
    with tempfile.TemporaryDirectory(prefix="cellskew-ways-") as folder:
        compare(Path(folder))


if __name__ == "__main__":
    main()
