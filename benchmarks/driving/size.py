"""What driving a large sweep costs: thousands of trials that sleep for a second.

    python benchmarks/driving/size.py --trials 2000 --slots 8

They run through the real driver, Ray Tune and the embedded MLflow; `slots` at once, so many that the driver and not the
sleeping is the bound. Overhead per trial = (seconds - trials x 1 s / slots) / trials, with seconds from the call to its
return, registration and Ray's start included. Then MLflow is checked, the commands are timed as processes, and ten
trials are taken back and run again by a new process.
"""

import argparse
import dataclasses
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

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from parts import Screen, known, nothing_to_prepare  # noqa: E402

from sweeps.drive.converge import converge  # noqa: E402
from sweeps.drive.request import Parts, Request, real_parts  # noqa: E402
from sweeps.file.config import SweepSpec, parse  # noqa: E402

SECOND = 1.0  # what a trial takes
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
    subprocess.run([sys.executable, __file__, "--again", "--storage", str(storage)], check=True, cwd=ROOT)
    first = min(float((storage / "trials" / key / "began.txt").read_text()) for key in taken)
    done = len(spec.trials()) - RESUMED
    print(f"resumed with {done} finished: first training step after {first - begin:.1f} s, all after ", end="")
    print(f"{time.time() - begin:.1f} s")


def again(storage: Path) -> None:
    file = storage / "size.yaml"
    outcome = converge(parse(file.read_text(), file), Request(storage=storage), Screen(), sleeping_parts())
    assert (outcome.finished, outcome.is_complete) == (RESUMED, True), outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=2000, help="a multiple of 200")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--storage", type=Path, help="default: a temporary folder")
    parser.add_argument("--again", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.again:
        again(given.storage)
        return
    with tempfile.TemporaryDirectory(prefix="cellskew-size-") as folder:
        storage = given.storage or Path(folder)
        storage.mkdir(parents=True, exist_ok=True)
        size(given.trials, given.slots, storage)


if __name__ == "__main__":
    main()
