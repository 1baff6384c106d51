"""What a trial costs by what of its network is trained: all, adapters, the head on stored vectors, a probe on them.

    python benchmarks/economy.py --data zheng11.h5ad --splits 5

One grid of splits x 4 skews x 3 strategies x 2 losses, on all genes, for scGPT of 128 dimensions and 4 layers and for
Geneformer of 6 layers, through the real driver and the embedded MLflow, on as many cores as Ray is given. Heads and
probes are run whole, in one storage folder whose vectors are made first, by a sweep of a trial; what that took is in
the figures of both. Of full fine-tuning and LoRA two trials take `--steps` steps each, beside each other, with few
cells to evaluate, and the recipe's number is extrapolated to: steps, an evaluation per round, the test. The weights
have the official files' layout, but are random, so that macro F1 is that of vectors by a network which has learnt
nothing.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

import pandas as pd  # noqa: E402
from installed import cells_of  # noqa: E402
from official_folders import write_geneformer  # noqa: E402
from scgpt_folder import folder_args, write_folder  # noqa: E402

import sweeps  # noqa: E402
from data_pipeline.reading.cells import Cells  # noqa: E402
from sweeps.drive.forecast import estimate  # noqa: E402
from sweeps.drive.forecast.shapes import shapes  # noqa: E402
from sweeps.file.config import load  # noqa: E402

GRID: dict[str, Any] = {
    "genes": {"select": "all"},
    "skews": [
        "natural",
        *({"kind": "exponential", "ratio": ratio} for ratio in (10, 50)),
        {"kind": "step", "ratio": 20},
    ],
    "strategies": ["none", "oversample", "undersample"],
    "losses": ["cross_entropy", "weighted"],
    "resources": {"m": {"cpu": 1, "gpu": 0}},
}
FEW = {"seeds": [0], "test": 0.05, "validation": 0.02}
TWO: dict[str, Any] = {"splits": FEW, "skews": ["natural"], "strategies": ["none"]}  # trials, one of each loss
ONE = {"splits": {"seeds": [0]}, "skews": ["natural"], "strategies": ["none"], "losses": ["cross_entropy"]}
SAMPLED = {"full": "all", "LoRA": {"lora": {"rank": 8}}}
SIZES = {
    "scgpt": folder_args(embsize=128, nheads=4, d_hid=128, nlayers=4),
    "geneformer": {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 512},
}


class Run(NamedTuple):
    """A sweep that has been run: seconds from the call to its return, of how much CPU, its trials, its weights' bytes.

    load: of the machine, when it ended.
    """

    seconds: float
    cpu_seconds: float
    trials: pd.DataFrame
    bytes_kept: float
    load: float


@contextmanager
def cpu_of_all(every: float = 0.5) -> Iterator[dict[int, float]]:
    """Collect CPU seconds by process, of this one and all that it starts, Ray's workers among them, while it lasts."""
    seen: dict[int, float] = {}
    before, over = _cpu_seconds()[os.getpid()], threading.Event()

    def look() -> None:
        while not over.wait(every):
            seen.update(_cpu_seconds())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield seen
    over.set()
    thread.join()
    seen[os.getpid()] = _cpu_seconds()[os.getpid()] - before


def _cpu_seconds() -> dict[int, float]:
    """Return the CPU seconds so far of this process and of those below it, by number; Linux's /proc."""
    found, parents = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            number, parents[int(stat.parent.name)] = int(stat.parent.name), int(fields[1])
            found[number] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    mine = {os.getpid()}
    while more := {number for number, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return {number: seconds for number, seconds in found.items() if number in mine}


class Bench:
    """Sweeps over the same cells."""

    def __init__(self, folder: Path, data: Path, label: str, splits: int) -> None:
        self.folder, self.data, self.label, self.splits = folder, data, label, splits

    def file(self, name: str, model: dict[str, Any], **other: Any) -> Path:
        """Write a sweep's file, in the part of YAML that is JSON."""
        path = self.folder / f"{name}.yaml"
        datasets = [{"path": str(self.data), "label": self.label, "name": "cells"}]
        grid = GRID | {"splits": {"seeds": list(range(self.splits))}} | other
        path.write_text(json.dumps(grid | {"name": name, "datasets": datasets, "models": {"m": model}}))
        return path

    def run(self, file: Path, storage: Path) -> Run:
        begin = time.monotonic()
        with cpu_of_all() as cpu:
            outcome = sweeps.run(file, storage)
        assert outcome.is_complete, outcome.failed
        seconds, trials = time.monotonic() - begin, sweeps.load(file.stem, storage)[0]
        kept = [storage / "trials" / key / "checkpoint" / "model.safetensors" for key in trials["key"]]
        sizes = [path.stat().st_size for path in kept]
        return Run(seconds, sum(cpu.values()), trials, sum(sizes) / len(sizes), os.getloadavg()[1])

    def whole(self, name: str, model: dict[str, Any], storage: Path) -> dict[str, Any]:
        """Make vectors, unless they are there, then run the whole grid; both in what a trial is said to take."""
        spent = storage / "vectors.json"
        if not spent.exists():
            first = self.run(self.file(f"{name}-vectors", model, **ONE), storage)
            spent.write_text(json.dumps([first.seconds, first.cpu_seconds]))
        made, run = json.loads(spent.read_text()), self.run(self.file(name, model), storage)
        number, f1 = len(run.trials), run.trials["test_macro_f1"].mean()
        seconds, cpu_seconds = made[0] + run.seconds, made[1] + run.cpu_seconds
        told = {"vectors, CPU s": made[1], "vectors aside": run.cpu_seconds / number}
        return _told(run, seconds / number, cpu_seconds / number, f1) | told

    def sampled(self, name: str, model: dict[str, Any], steps: int) -> dict[str, Any]:
        """Run two trials of `steps` steps beside each other, and say what the grid's would take on average."""
        file = self.file(name, model | {"steps": steps, "epochs": 1}, **TWO)
        run = self.run(file, self.folder / name)
        seconds = self.extrapolated(run, file, self.file(f"{name}-grid", model), steps)
        each = seconds / len(run.trials)
        told = {"vectors, CPU s": None, "vectors aside": None}
        return _told(run, each, each * run.cpu_seconds / run.seconds, None) | told

    def extrapolated(self, run: Run, sample: Path, grid: Path, steps: int) -> float:
        """Return the mean seconds of the grid's trials, at the sampled trials' seconds per step and per cell."""
        spec, cells = load(grid), {"cells": cells_of(str(self.data), self.label)}
        trials, per = spec.trials(), run.trials[["seconds_per_epoch", "predict_seconds"]].mean()
        found = shapes(trials, cells, spec.places)
        few = next(iter(shapes(load(sample).trials(), cells, spec.places).values()))
        per_cell = per["predict_seconds"] / int(few.validation.sum() + few.test.sum())
        shape, rounds = found[trials[0].key], trials[0].described["recipe"]["epochs"]
        predicted = (rounds + 1) * int(shape.validation.sum()) + int(shape.test.sum())
        number = pd.Series([estimate.steps(trial, found[trial.key]) for trial in trials]).mean()
        return per["seconds_per_epoch"] / steps * number + per_cell * predicted


def _told(run: Run, seconds: float, cpu_seconds: float, f1: float | None) -> dict[str, Any]:
    """Return the row of a sweep whose trials take so long each, one after the other on all cores together."""
    return {
        "trials run": len(run.trials),
        "s": run.seconds,
        "load": run.load,
        "trials per hour": 3600 / seconds,
        "CPU s per trial": cpu_seconds,
        "peak memory, GB": run.trials["peak_memory_gb"].max(),
        "checkpoint, KB": run.bytes_kept / 1e3,
        "macro F1": f1,
    }


def weights(folder: Path, cells: Cells, model: str) -> Path:
    """Return a folder of random weights in the official layout."""
    if model == "scgpt":
        return write_folder(folder, cells.genes, args=SIZES[model])
    return write_geneformer(folder, cells.genes, "V1", max_position_embeddings=2048, **SIZES[model])


def rows_of(bench: Bench, model: str, place: Path, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    own, full = {"model": model, "weights": str(place)}, None
    for how in given.trained:
        if how in SAMPLED:
            row = bench.sampled(f"{model}-{how}", own | {"train": SAMPLED[how]}, given.steps)
        elif how == "head":
            row = bench.whole(f"{model}-head", own | {"train": "head", "learning_rate": 0.001}, bench.folder / model)
        else:
            row = bench.whole(f"{model}-probe", {"model": "logistic_regression", "on": own}, bench.folder / model)
        full = row if how == "full" else full
        yield {"model": model, "trained": how} | row | _against(full, row)


def _against(full: dict[str, Any] | None, row: dict[str, Any]) -> dict[str, float | None]:
    """Return how much more CPU full fine-tuning takes, None unless it was run before."""
    return {"full / it, CPU s": None if full is None else full["CPU s per trial"] / row["CPU s per trial"]}


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_shown(cell) for cell in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(cell: Any) -> str:
    return "" if cell is None else f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--data", help="an h5ad file of counts; default: the catalog's baron_pancreas")
    asked.add_argument("--label", default="celltype")
    asked.add_argument("--splits", type=int, default=5)
    asked.add_argument("--steps", type=int, default=20, help="optimiser steps of a sampled trial")
    asked.add_argument("--folder", help="where sweeps lie, to go on from; default: a temporary one")
    asked.add_argument("--models", nargs="+", default=list(SIZES), choices=list(SIZES))
    ways = [*SAMPLED, "head", "probe"]
    asked.add_argument("--trained", nargs="+", default=ways, choices=ways)
    given = asked.parse_args()
    cells = cells_of(given.data, given.label)
    with tempfile.TemporaryDirectory(prefix="cellskew-economy-") as temporary:
        place = Path(given.folder or temporary)
        place.mkdir(parents=True, exist_ok=True)
        bench = Bench(place, Path(cells.source.paths[0]), cells.source.label, given.splits)
        rows = []
        for model in given.models:
            for row in rows_of(bench, model, weights(place, cells, model), given):
                rows.append(row)
                print(f"{cells.num_cells:,} cells, {cells.num_genes:,} genes\n{markdown(rows)}", flush=True)


if __name__ == "__main__":
    main()
