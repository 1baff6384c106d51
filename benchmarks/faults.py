"""Rounds of: run a tiny sweep, disturb it at random, run it again, compare with an undisturbed run.

    python benchmarks/faults.py --rounds 50 --out rounds.jsonl              # kills
    python benchmarks/faults.py --rounds 50 --kind hostile                  # an MLflow that answers strangely
    python benchmarks/faults.py --rounds 50 --kind drivers                  # two drivers, each with its own storage

hostile, drivers: rounds of trials that train nothing, see tests/drive/rounds.py. kills: real trials; a round kills
one to three times: the driver, a worker, the raylet or all processes together, at a moment drawn over the whole length
of a run; a round that was over before anything was killed is not counted. Then the sweep is run to its end, and
everything that does not measure time must equal the undisturbed run: one FINISHED run per trial, every point of every
metric, predictions, tables, the weights of the last checkpoint. Prints a line per round and the count at the end; exit
code 1 if a round differed.
"""

import argparse
import functools
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / part) for part in ("tests", "tests/drive", ".")]

from conftest import local_ray  # noqa: E402
from fault_tools import SWEEP, Driver, check_same, name_of, start, state  # noqa: E402
from rounds import cluster, drivers_round, hostile_round  # noqa: E402
from servers import MlflowServer  # noqa: E402

SHORT = SWEEP.replace("[0, 1]", "[0]")  # one scgpt, one majority
VICTIMS = ("driver", "worker", "raylet", "machine")


def converge(storage: Path) -> float:
    """Run the sweep to its end; returns the seconds that took."""
    begin, driver = time.monotonic(), start(storage, sweep=SHORT)
    try:
        assert driver.wait(600) == 0, driver.said()
    finally:
        driver.end()
    return time.monotonic() - begin


def disturb(storage: Path, rng: random.Random, length: float) -> tuple[str, float]:
    """Start the sweep and kill something after a random time; returns what and when."""
    whom, moment = rng.choice(VICTIMS), rng.uniform(0.05, 1.0) * length
    driver, begin = start(storage, sweep=SHORT), time.monotonic()
    try:
        while time.monotonic() - begin < moment and not driver.is_over():
            time.sleep(0.05)
        if driver.is_over():
            return "nothing", time.monotonic() - begin
        whom = kill(driver, whom)
        driver.wait(600)
    finally:
        driver.end()
    return whom, moment


def kill(driver: Driver, whom: str) -> str:
    """Kill `whom`, or the driver where there is no such process yet; returns who was killed."""
    workers = [pid for pid in driver.survivors() if name_of(pid).startswith("ray::Implicit")]
    raylets = [pid for pid in driver.survivors() if name_of(pid) == "raylet"]
    if (whom == "worker" and not workers) or (whom == "raylet" and not raylets):
        whom = "driver"
    driver.kill(whom, workers[0] if workers else None)
    return whom


def rounds(number: int, seed: int, out: Path | None) -> int:
    """Return how many rounds differed from the undisturbed run."""
    root = Path(tempfile.mkdtemp(prefix="cellskew-faults-"))
    converge(root / "undisturbed" / "storage")
    reference = root / "undisturbed" / "storage"
    expected, wrong, killed = state(reference), 0, Counter()
    length = timed_run(root / "timed" / "storage", reference)
    counted = tried = 0
    while counted < number:
        rng, storage = random.Random(f"{seed}-{tried}"), root / f"round-{tried}" / "storage"
        begin, tried = time.monotonic(), tried + 1
        seed_storage(reference, storage)
        deaths = [disturb(storage, rng, length) for _ in range(rng.choice((1, 1, 2, 3)))]
        problem = ended_otherwise(storage, expected)
        wrong += problem is not None
        counted += any(whom != "nothing" for whom, _ in deaths)
        killed.update(whom for whom, _ in deaths)
        seconds = round(time.monotonic() - begin, 1)
        line = {"seed": seed, "round": tried, "killed": deaths, "problem": problem, "seconds": seconds}
        told(line, out)
        if problem is None:
            shutil.rmtree(storage.parent)
    if not wrong:
        shutil.rmtree(root)
    print(f"{number} rounds, {wrong} differed; killed: {dict(killed)}; a run takes {length:.0f} s here")
    return wrong


def fake_rounds(kind: str, number: int, seed: int, out: Path | None) -> int:
    """Return how many rounds of tests/drive/rounds.py ended otherwise than an undisturbed sweep."""
    root, wrong, seen = Path(tempfile.mkdtemp(prefix="cellskew-rounds-")), 0, Counter()
    server = MlflowServer(f"sqlite:///{root}/server.db", str(root / "artifacts"), root / "server.log")
    server.start()
    try:
        with started(kind, root) as one_round:
            for tried in range(number):
                begin, problem, done = time.monotonic(), None, Counter()
                try:
                    done = one_round(f"{seed}-{tried}", root, server)
                except (AssertionError, ValueError, subprocess.SubprocessError) as error:
                    problem = str(error)[-4000:]
                wrong, seen = wrong + (problem is not None), seen + done
                line = {"kind": kind, "seed": f"{seed}-{tried}", "done": dict(done), "problem": problem}
                told(line | {"seconds": round(time.monotonic() - begin, 1)}, out)
    finally:
        server.stop()
    if not wrong:
        shutil.rmtree(root)
    print(f"{number} rounds of {kind}, {wrong} ended otherwise; done: {dict(seen)}")
    return wrong


@contextmanager
def started(kind: str, root: Path) -> Iterator[Callable[[str, Path, MlflowServer], Counter]]:
    """Give the function that runs a round, with the Ray that its sweeps run on."""
    if kind == "hostile":
        local_ray(CPU=2)
        yield hostile_round
    else:
        with cluster(root) as address:
            yield functools.partial(drivers_round, address=address)


def told(line: dict, out: Path | None) -> None:
    print(json.dumps(line), flush=True)
    if out is not None:
        with out.open("a") as file:
            file.write(json.dumps(line) + "\n")


def timed_run(storage: Path, reference: Path) -> float:
    seed_storage(reference, storage)
    return converge(storage)


def seed_storage(reference: Path, storage: Path) -> None:
    """Spare the encoding, which every round would repeat."""
    for folder in ("datasets", "genes", "shards"):
        shutil.copytree(reference / folder, storage / folder)


def ended_otherwise(storage: Path, expected: dict) -> str | None:
    """Run the sweep to its end; returns what differs from the undisturbed run, or None."""
    try:
        converge(storage)
        check_same(state(storage), expected)
    except AssertionError as error:
        return str(error)[-4000:]
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a file to which each round is appended as a line of JSON")
    parser.add_argument("--kind", choices=("kills", "hostile", "drivers"), default="kills")
    given = parser.parse_args()
    asked = (given.rounds, given.seed, given.out)
    sys.exit(1 if (rounds(*asked) if given.kind == "kills" else fake_rounds(given.kind, *asked)) else 0)


if __name__ == "__main__":
    main()
