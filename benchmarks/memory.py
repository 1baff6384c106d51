"""Memory of the preparation and of trials, at sizes that must not matter.

    python benchmarks/memory.py [--cells 1000000] [--genes 2000] [--nonzero 600] [--model scgpt] [--trials 8]
    python benchmarks/memory.py --shards-alone --cells 10000000 --nonzero 200 [--rows 1000000]

Writes made-up counts as an h5ad, opens it (validated in one pass), encodes it into shards through Ray Data, then
starts so many trial processes at once that map these shards and read batches of all over them. Prints as JSON lines:
the peak resident memory of this process and of Ray workers (/proc/PID/status), and what each trial process adds over
its network, as its proportional share (/proc/PID/smaps_rollup: mapped pages are divided by those who map them).

--shards-alone: encoded cells are made up instead, values of a few bits; then how long it takes to open them the first
time (all is hashed) and again, to take batches and many cells, and what memory a logistic regression of so many rows
needs, from its shards to its metrics (with few iterations, which take time and no memory).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import anndata
import h5py
import numpy as np
import pandas as pd
import ray

from data_pipeline.hashes import identity_hash
from data_pipeline.reading.cells import Cells
from data_pipeline.reading.h5ad import Source, open_cells
from data_pipeline.shards.encoded import Encoded
from data_pipeline.shards.shards import Shards
from data_pipeline.shards.writing import Job, write_here, write_shards
from trainables.spec import get

CLASSES, BLOCK = 12, 20_000
ROWS = 20_000  # read by each trial


def write_counts(path: Path, num_cells: int, num_genes: int, nonzero: int) -> None:
    """Write an h5ad of `nonzero` counts per cell, block by block."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        shape = {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [num_cells, num_genes]}
        group.attrs.update(shape)
        data = group.create_dataset("data", (num_cells * nonzero,), "f4")
        indices = group.create_dataset("indices", (num_cells * nonzero,), "i4")
        group["indptr"] = np.arange(num_cells + 1, dtype=np.int64) * nonzero
        for start in range(0, num_cells, BLOCK):
            count = min(BLOCK, num_cells - start)
            inside = slice(start * nonzero, (start + count) * nonzero)
            data[inside] = rng.geometric(0.4, count * nonzero)
            first = rng.integers(0, num_genes // nonzero, (count, nonzero))  # one gene of each stretch, so none twice
            indices[inside] = (first + np.arange(nonzero) * (num_genes // nonzero)).ravel()
        types = pd.Categorical(rng.integers(0, CLASSES, num_cells).astype(str))
        anndata.io.write_elem(file, "obs", pd.DataFrame({"celltype": types}, index=[f"c{i}" for i in range(num_cells)]))
        anndata.io.write_elem(file, "var", pd.DataFrame(index=[f"G{i}" for i in range(num_genes)]))


def memory(pid: int | str, *fields: str, file: str = "status") -> list[float] | None:
    """Return fields of /proc/PID/`file` in MB, None if the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return None
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    return [int(found[field].split()[0]) / 1024 for field in fields] if all(f in found for f in fields) else None


def workers() -> dict[int, str]:
    """Return our Ray's workers: process id -> name."""
    found, parents = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            found[int(path.name)] = (path / "cmdline").read_text().split("\0")[0]
        except OSError:
            continue
    return {pid: name for pid, name in found.items() if name.startswith("ray::") and _is_ours(pid, parents)}


def _is_ours(pid: int, parents: dict[int, int]) -> bool:
    while pid in parents and pid != os.getpid():
        pid = parents[pid]
    return pid == os.getpid()


@contextmanager
def watching_workers():
    """Yield a dict that comes to hold each worker's peaks in MB: all that is resident, and without shared memory."""
    peaks: dict[int, dict] = {}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            for pid, name in workers().items():
                now = memory(pid, "VmHWM", "RssAnon")
                if now is not None:
                    peak = peaks.setdefault(pid, {"worker": name, "resident": 0.0, "own": 0.0})
                    peak |= {"resident": max(peak["resident"], now[0]), "own": max(peak["own"], now[1])}

    thread = threading.Thread(target=watch)
    thread.start()
    yield peaks
    over.set()
    thread.join()


def prepare(path: Path, folder: Path, model: str) -> Path:
    """Open and encode; prints times and peaks, returns the folder of the shards."""
    begin = time.perf_counter()
    cells = open_cells(Source(name="made-up", paths=(str(path),), label="celltype"), folder / "cache")
    opened = time.perf_counter() - begin
    spec = get(model)
    learned = spec.fit_encoder(_few(cells), cells.genes) if spec.fit_encoder else {}
    job = Job(cells, spec.encoder(cells.genes, None, **(spec.options().model_dump() | learned)), folder / "shards")
    ray.init(num_cpus=len(os.sched_getaffinity(0)), include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    begin = time.perf_counter()
    with watching_workers() as peaks:
        write_shards([job])
    encoded = time.perf_counter() - begin
    ray.shutdown()
    busy = [peak for peak in peaks.values() if "Autoscaling" not in peak["worker"] and "Stats" not in peak["worker"]]
    show(stage="open", seconds=opened, driver_peak_mb=memory("self", "VmHWM")[0])
    if busy:  # else the shards were there
        show(
            stage="encode",
            seconds=encoded,
            cells_per_second=cells.num_cells / encoded,
            worker_peak_mb=max(peak["resident"] for peak in busy),
            worker_peak_mb_without_shared_memory=max(peak["own"] for peak in busy),
            workers=len(busy),
            driver_peak_mb=memory("self", "VmHWM")[0],
            shards_mb=sum(file.stat().st_size for file in job.folder.iterdir()) / 1e6,
        )
    return job.folder


def _few(cells: Cells) -> list[tuple]:
    return [(cells.read(0, 2048), cells.totals[:2048])]


def show(**numbers: object) -> None:
    print(json.dumps({key: round(n, 1) if isinstance(n, float) else n for key, n in numbers.items()}), flush=True)


def trials(folder: Path, model: str, number: int) -> None:
    """Run `number` trial processes in step; prints what they add over their network, each."""
    command = [sys.executable, __file__, "--trial", str(folder), "--model", model]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(number)
    ]
    shares = []
    for _ in ("network built", "an epoch read"):
        for process in processes:
            assert process.stdout.readline().strip() == "ready"
        shares.append([memory(process.pid, "Pss", "Pss_Anon", file="smaps_rollup") for process in processes])
        for process in processes:
            process.stdin.write("on\n")
            process.stdin.flush()
    for process in processes:
        process.wait()
    added = np.array(shares[1]) - np.array(shares[0])
    show(
        stage="trials",
        trials=number,
        added_mb_each=float(added[:, 0].mean()),
        most_added_mb=float(added[:, 0].max()),
        of_it_own_mb=float(added[:, 1].mean()),
        of_it_share_of_mapped_pages_mb=float((added[:, 0] - added[:, 1]).mean()),
        network_mb=float(np.array(shares[0])[:, 0].mean()),
    )


def one_trial(folder: Path, model: str) -> None:
    """Build the network, wait, map the shards and read rows of everywhere in a trial's batches, wait."""
    import torch

    from data_pipeline.shards.feed import Feed

    torch.set_num_threads(1)
    spec, options = get(model), json.loads((folder / "manifest.json").read_text())["network_options"]
    network = spec.build(CLASSES, **(spec.options().model_dump() | options))
    kept = SimpleNamespace(network=network)
    print("ready", flush=True)
    sys.stdin.readline()
    kept.shards = Shards(folder)
    feed = Feed(kept.shards, kept.shards.labels, spec.collate, 32)
    rows = np.random.default_rng(0).permutation(len(kept.shards))[:ROWS]
    for batch in feed.batches(feed.order(rows, 0, 0)):
        kept.batch = batch
    print("ready", flush=True)
    sys.stdin.readline()


class MadeUp:
    """Cells without counts: `read` gives their number, and the encoder below makes up the rest."""

    def __init__(self, num_cells: int, classes: int) -> None:
        self.digest, self.num_cells = identity_hash("made-up", num_cells), num_cells
        self.labels = np.random.default_rng(0).integers(0, classes, num_cells)
        self.classes = [f"type {n:02d}" for n in range(classes)]
        self.donors = self.fixed_test = self.twins = None
        self.counts, self.totals = None, np.ones(num_cells)

    @property
    def cell_ids(self) -> list[str]:
        return [f"cell-{number}" for number in range(self.num_cells)]

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.labels[start:stop]


class Made:
    """An encoder of made-up tokens: genes without order, values of a few bits, markers of each type among them."""

    def __init__(self, num_genes: int, nonzero: int) -> None:
        self.num_genes, self.nonzero, self.coverage = num_genes, nonzero, {}
        self.network_options = {"num_genes": num_genes}
        self.identity = {"encoder": "made-up", "genes": num_genes, "nonzero": nonzero}

    def __call__(self, labels: np.ndarray, rng: np.random.Generator, totals: np.ndarray) -> Encoded:
        shape = (len(labels), self.nonzero)
        stretch = self.num_genes // self.nonzero
        ids = rng.integers(0, stretch, shape, dtype=np.uint16) + np.arange(self.nonzero, dtype=np.uint16) * stretch
        values = rng.integers(1, 8, shape, dtype=np.uint8)
        values[np.arange(len(labels)), labels] = 12
        return Encoded(ids.ravel(), values.ravel(), np.arange(len(labels) + 1) * self.nonzero)


def at_scale(folder: Path, asked: argparse.Namespace) -> dict[str, float]:
    """Make shards, open and read them, run one trial in a process of its own; prints and returns what that took."""
    job, numbers = Job(MadeUp(asked.cells, CLASSES), Made(asked.genes, asked.nonzero), folder / "shards"), {}
    numbers["write_seconds"] = timed(lambda: None if job.is_complete() else write_here(job))
    files = [file for file in job.folder.iterdir() if file.suffix == ".arrow"]
    numbers |= {"parts": len(files), "shards_gb": sum(file.stat().st_size for file in files) / 1e9}
    numbers["first_open_seconds"] = timed(lambda: Shards(job.folder))
    numbers["open_seconds"] = timed(lambda: Shards(job.folder))
    shards, rows = Shards(job.folder), np.random.default_rng(0).permutation(asked.cells)
    batches = rows[: 32 * 100].reshape(100, 32)
    numbers["ms_per_batch_of_32"] = 10 * timed(lambda: [shards.take(batch) for batch in batches])
    many = np.sort(rows[: asked.rows])
    numbers["us_per_cell_of_many"] = 1e6 * timed(lambda: shards.take(many, np.int32)) / len(many)
    command = [sys.executable, __file__, "--baseline", str(job.folder), "--rows", str(asked.rows)]
    numbers |= json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    show(stage="shards alone", cells=asked.cells, tokens_per_cell=asked.nonzero, rows=asked.rows, **numbers)
    return numbers


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def baseline(folder: Path, rows: int) -> None:
    """Run one logistic regression on so many training rows; prints its peak memory and time."""
    from trainables.trial import run_trial

    with tempfile.TemporaryDirectory() as directory:
        config = {"key": "baseline", "directory": directory, "shards": str(folder), "model": "logistic_regression"}
        config |= {"split": {"seed": 0, "test": 0.02, "validation": 0.02}, "strategy": {"kind": "none"}}
        config |= {"skew": {"kind": "exponential", "ratio": 3.0, "total": rows}}
        config |= {"options": {"strengths": [1.0], "max_iterations": 3}}
        final = run_trial(config, lambda metrics, path: None, None)
    peak = memory("self", "VmHWM")[0] / 1024
    show(baseline_peak_gb=peak, baseline_seconds=final["trial_seconds"], baseline_rows=int(final["train_rows"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--nonzero", type=int, default=600)
    parser.add_argument("--model", default="scgpt")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--keep", type=Path, help="folder for the file and the shards, used again if they are there")
    parser.add_argument("--shards-alone", action="store_true", help="made-up encoded cells: open, take, one baseline")
    parser.add_argument("--rows", type=int, default=1_000_000, help="training rows of that baseline")
    parser.add_argument("--trial", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--baseline", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.trial is not None:
        one_trial(asked.trial, asked.model)
        return
    if asked.baseline is not None:
        baseline(asked.baseline, asked.rows)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if asked.shards_alone:
            at_scale(folder, asked)
            return
        path = folder / f"{asked.cells}x{asked.genes}x{asked.nonzero}.h5ad"
        if not path.exists():
            write_counts(path.with_suffix(".part"), asked.cells, asked.genes, asked.nonzero)
            path.with_suffix(".part").replace(path)
        trials(prepare(path, folder, asked.model), asked.model, asked.trials)


if __name__ == "__main__":
    main()
