"""Cells encoded per second, ours beside what people run today: the same cells, in turn.

    python benchmarks/encoding.py [CELLS.h5ad --label celltype] [--cells 2000] [--genes 3000] [--repeats 3]

scGPT: the scgpt wheel's Preprocessor and tokenize_and_pad_batch. Ranks: a per-row pandas ranking, as in the published
notebook, and per-cell numpy argsort: of the values alone, which leaves ties to chance and makes no tokens, and doing
all that we do (a stable order of double precision values, the genes' tokens). scBERT has no peer that is installed.
Prints medians of the repeats: cells per second of one core's time and, for ours, cells per second by the clock with one
process per core, which is how the preparation encodes (the peers are programs of one process).
"""

import argparse
import importlib.metadata
import importlib.util
import json
import logging
import multiprocessing
import os
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from installed import cells_of
from scipy import sparse

from data_pipeline.genes import select_hvg
from trainables.spec import Encoder, get


def wheel_module(name: str, file: str) -> types.ModuleType:
    """Load one file of the installed scgpt wheel by itself: the package as a whole needs torchtext."""
    for stub in ("torchtext", "torchtext.vocab"):
        sys.modules.setdefault(stub, types.ModuleType(stub))
    sys.modules["torchtext"].vocab = sys.modules["torchtext.vocab"]
    sys.modules["torchtext.vocab"].Vocab = dict
    root = Path(importlib.metadata.distribution("scgpt").locate_file("scgpt"))
    package = sys.modules.setdefault("scgpt", types.ModuleType("scgpt"))
    package.logger, package.__path__ = logging.getLogger("scgpt"), [str(root)]
    spec = importlib.util.spec_from_file_location(name, root / file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def upstream_scgpt(counts: sparse.csr_matrix, genes: list[str]) -> Callable[[], object]:
    """Return upstream's whole way: normalise, log, bin, tokenise, pad."""
    import anndata

    tokens = wheel_module("scgpt.tokenizer.gene_tokenizer", "tokenizer/gene_tokenizer.py")
    preprocess = wheel_module("scgpt.preprocess", "preprocess.py")
    vocabulary = {gene: number for number, gene in enumerate([*genes, "<pad>", "<cls>", "<eoc>"])}
    ids = np.arange(len(genes))

    def run() -> object:
        cells = anndata.AnnData(counts.copy())
        options = {"use_key": "X", "normalize_total": 1e4, "log1p": True, "binning": 51}
        preprocess.Preprocessor(**options, result_binned_key="X_binned")(cells)
        binned = cells.layers["X_binned"]
        return tokens.tokenize_and_pad_batch(
            binned, ids, max_len=3001, vocab=vocabulary, pad_token="<pad>", pad_value=-2, append_cls=True
        )

    return run


def pandas_ranks(counts: sparse.csr_matrix) -> Callable[[], object]:
    """Return a ranking row by row through pandas, as in the published notebook."""
    frame = pd.DataFrame(counts.toarray())
    return lambda: [row.sort_values(ascending=False).index[: int((row > 0).sum())] for _, row in frame.iterrows()]


def numpy_ranks(counts: sparse.csr_matrix, medians: np.ndarray, tokens: np.ndarray | None) -> Callable[[], object]:
    """Return a ranking cell by cell through numpy's argsort of the non-zero values; with `tokens`, all that we do."""
    totals = np.asarray(counts.sum(1), dtype=np.float32 if tokens is None else np.float64).ravel()
    medians = medians.astype(totals.dtype)

    def run() -> object:
        ranked = []
        for row in range(counts.shape[0]):
            part = slice(counts.indptr[row], counts.indptr[row + 1])
            values = counts.data[part] / totals[row] * 1e4 / medians[counts.indices[part]]
            if tokens is None:
                ranked.append(counts.indices[part][np.argsort(-values)][:2048])
            else:
                ranked.append(tokens[counts.indices[part][np.argsort(-values, kind="stable")]][:2048])
        return ranked if tokens is None else np.concatenate(ranked)

    return run


def ours(model: str, counts: sparse.csr_matrix, genes: list[str], **options: object) -> Encoder:
    """Return our encoder of a model, fitted on the same counts."""
    spec = get(model)
    learned = spec.fit_encoder([(counts, np.asarray(counts.sum(1)).ravel())], genes) if spec.fit_encoder else {}
    return spec.encoder(genes, None, **(spec.options(**options).model_dump() | learned))


def encoding(encoder: Encoder, counts: sparse.csr_matrix) -> Callable[[], object]:
    """Return one encoding of the counts, without what is fitted beforehand."""
    totals = np.asarray(counts.sum(1)).ravel()
    return lambda: encoder(counts, np.random.default_rng(0), totals=totals)


def learnt(encoder: Encoder) -> tuple[np.ndarray, np.ndarray]:
    """Return the medians and the tokens by column of a rank encoder that knows every gene."""
    return encoder.medians[encoder.places], encoder.tokens[encoder.places].astype(np.uint16)


def speed(run: Callable[[], object], num_cells: int, repeats: int) -> float:
    """Return cells per second of processor time (one core), the median of the repeats after one that isn't counted."""
    seconds = []
    for _ in range(repeats + 1):
        begin = time.process_time()
        run()
        seconds.append(time.process_time() - begin)
    return num_cells / statistics.median(seconds[1:])


def by_the_clock(run: Callable[[], object], num_cells: int, repeats: int, processes: int) -> float:
    """Return cells per second of so many processes at once, each with the same cells, the median of the repeats."""
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(processes), context.Queue()

    def work() -> None:
        for _ in range(repeats + 1):
            barrier.wait()
            begin = time.perf_counter()
            run()
            queue.put(time.perf_counter() - begin)

    workers = [context.Process(target=work) for _ in range(processes)]
    for worker in workers:
        worker.start()
    seconds = [max(queue.get() for _ in range(processes)) for _ in range(repeats + 1)]
    for worker in workers:
        worker.join()
    return processes * num_cells / statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="an h5ad file; default: baron_pancreas, which is installed")
    parser.add_argument("--label", default="celltype")
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--genes", type=int, default=3000, help="highly variable genes for ranks and scBERT")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    chosen = parser.parse_args()
    cells = cells_of(chosen.data, chosen.label)
    rows = np.sort(np.random.default_rng(0).permutation(cells.num_cells)[: chosen.cells])
    counts = cells.take(rows)
    columns = select_hvg(lambda: (counts,), cells.num_genes, chosen.genes)
    few, names = sparse.csr_matrix(counts[:, columns]), [cells.genes[column] for column in columns]
    ranks = ours("geneformer", few, names, size="official", model_version="V1")
    cases = {
        "scgpt wheel, all genes": upstream_scgpt(counts, cells.genes),
        "scgpt ours, all genes": encoding(ours("scgpt", counts, cells.genes), counts),
        f"ranks pandas, {chosen.genes} genes": pandas_ranks(few),
        f"ranks numpy per cell, {chosen.genes} genes": numpy_ranks(few, np.ones(len(names)), None),
        f"ranks numpy per cell, all that we do, {chosen.genes} genes": numpy_ranks(few, *learnt(ranks)),
        f"ranks ours, {chosen.genes} genes": encoding(ranks, few),
        f"scbert ours, {chosen.genes} genes": encoding(ours("scbert", few, names), few),
    }
    reference, same = (cases[name]() for name in cases if "all that we do" in name or "ranks ours" in name)
    assert np.array_equal(reference, same.ids), "ours and numpy's ranks differ"
    for name, run in cases.items():
        found = {"case": name, "cells_per_second_of_a_core": round(speed(run, len(rows), chosen.repeats))}
        if "ours" in name:
            clock = by_the_clock(run, len(rows), chosen.repeats, chosen.processes)
            found |= {"processes": chosen.processes, "cells_per_second": round(clock)}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
