"""How long a large sweep takes to be registered on an MLflow server, and to be asked for: `status`, `results`.

    python benchmarks/driving/registration.py --trials 5000 --database sqlite
    python benchmarks/driving/registration.py --trials 5000 --database postgresql --workers 4  # where it is installed

Trials of ten splits that train nothing, each FINISHED with 60 metrics, on a server of this machine. Prints seconds by
the clock, each as it is known.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / part) for part in ("tests", ".")]

from fake_trials import score, spec  # noqa: E402
from servers import MlflowServer, postgres  # noqa: E402

METRICS = [f"test_f1:type {number}" for number in range(57)]
METRICS += ["test_macro_f1", "test_balanced_accuracy", "test_recall_tail"]


@contextmanager
def server(database: str, workers: int, folder: Path) -> Iterator[str]:
    """Give the address of an MLflow server of so many processes on an empty database."""
    with contextlib.ExitStack() as ends:
        store = f"sqlite:///{folder}/server.db"
        if database == "postgresql":
            store = ends.enter_context(postgres("not-a-secret", folder / "postgres.log"))
            store = store.replace("postgresql://", "postgresql+psycopg://")
        many = ("--workers", str(workers))
        made = MlflowServer(store, str(folder / "artifacts"), folder / "server.log", options=many)
        made.start()
        ends.callback(made.stop)
        yield made.uri


def measure(uri: str, storage: Path, number: int) -> Iterator[tuple[str, float]]:
    """Yield the seconds of each step."""
    from sweeps.answers.above import summaries
    from sweeps.answers.designs import Designs
    from sweeps.answers.runs import results
    from sweeps.tracking.about import summarise
    from sweeps.tracking.store import Tracker

    sweep = spec(name="large", splits=list(range(10)), seeds=list(range(number // 40)))
    trials = sweep.trials()
    tracker = Tracker(uri, sweep.name, storage)
    begin = time.monotonic()
    tracker.want([trial.key for trial in trials])
    runs = tracker.register(trials, {}, lambda done, total: None)
    yield "register", time.monotonic() - begin
    begin = time.monotonic()
    assert tracker.outbox.drain(3600)
    yield "parameters", time.monotonic() - begin
    for trial in trials:
        final = {"epoch": 1, "final": 1} | {name: score(trial.key, name) for name in METRICS}
        tracker.finish(runs[trial.key].run_id, "FINISHED", {}, final)
    begin = time.monotonic()
    assert tracker.close(3600)
    yield "deliver", time.monotonic() - begin
    for time_of in ("first", "second"):
        for command in ("status", "results"):
            yield f"{command}, {time_of} time", asked(command, uri, storage)
    runs = results.fetch(uri, sweep.name)
    for time_of in ("first", "second"):
        begin = time.monotonic()
        summarise(uri, sweep.name, summaries(runs, Designs(runs)))
        yield f"means, {time_of} time", time.monotonic() - begin


def asked(command: str, uri: str, storage: Path) -> float:
    begin = time.monotonic()
    line = [sys.executable, "-m", "sweeps.cli", command, "large", "--tracking-uri", uri, "--storage", str(storage)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--workers", type=int, default=1, help="processes of the MLflow server")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, server(given.database, given.workers, Path(folder)) as uri:
        for name, seconds in measure(uri, Path(folder) / "storage", given.trials):
            print(f"{name:22}{seconds:8.1f} s", flush=True)


if __name__ == "__main__":
    main()
