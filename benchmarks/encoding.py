"""Cells encoded per second of one core, ours beside what people run today: one process, the same cells, in turn.

    python benchmarks/encoding.py CELLS.h5ad --label celltype [--cells 2000] [--genes 3000] [--repeats 3]

scGPT: the scgpt wheel's Preprocessor and tokenize_and_pad_batch. Ranks: a per-row pandas ranking, as in the published
notebook, and per-cell numpy argsort. scBERT has no peer that is installed: ours alone. Prints medians of the repeats.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import logging
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from data_pipeline.genes import select_hvg
from data_pipeline.h5ad import open_cells
from data_pipeline.source import Source
from trainables.spec import get


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


def numpy_ranks(counts: sparse.csr_matrix, medians: np.ndarray) -> Callable[[], object]:
    """Return a ranking cell by cell through numpy's argsort of the non-zero values."""
    totals = np.asarray(counts.sum(1)).ravel()

    def run() -> object:
        ranked = []
        for row in range(counts.shape[0]):
            part = slice(counts.indptr[row], counts.indptr[row + 1])
            values = counts.data[part] / totals[row] * 1e4 / medians[counts.indices[part]]
            ranked.append(counts.indices[part][np.argsort(-values)][:2048])
        return ranked

    return run


def ours(model: str, counts: sparse.csr_matrix, genes: list[str], **options: object) -> Callable[[], object]:
    """Return our encoder of a model on the same counts."""
    spec = get(model)
    totals = np.asarray(counts.sum(1)).ravel()
    learned = spec.fit_encoder([(counts, totals)], genes) if spec.fit_encoder else {}
    encoder = spec.encoder(genes, None, **(spec.options(**options).model_dump() | learned))
    return lambda: encoder(counts, np.random.default_rng(0), totals=totals)


def speed(run: Callable[[], object], num_cells: int, repeats: int) -> float:
    """Return cells per second of processor time (one core), the median of the repeats after one that isn't counted."""
    seconds = []
    for _ in range(repeats + 1):
        begin = time.process_time()
        run()
        seconds.append(time.process_time() - begin)
    return num_cells / statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--label", default="celltype")
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--genes", type=int, default=3000, help="highly variable genes for ranks and scBERT")
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    cells = open_cells(Source(name="benchmark", paths=(str(Path(chosen.data).absolute()),), label=chosen.label))
    rows = np.sort(np.random.default_rng(0).permutation(cells.num_cells)[: chosen.cells])
    counts = cells.take(rows)
    columns = select_hvg(lambda: (counts,), cells.num_genes, chosen.genes)
    few, names = sparse.csr_matrix(counts[:, columns]), [cells.genes[column] for column in columns]
    medians = np.ones(len(names))
    cases = {
        "scgpt wheel, all genes": upstream_scgpt(counts, cells.genes),
        "scgpt ours, all genes": ours("scgpt", counts, cells.genes),
        f"ranks pandas, {chosen.genes} genes": pandas_ranks(few),
        f"ranks numpy per cell, {chosen.genes} genes": numpy_ranks(few, medians),
        f"ranks ours, {chosen.genes} genes": ours("geneformer", few, names, size="official", model_version="V1"),
        f"scbert ours, {chosen.genes} genes": ours("scbert", few, names),
    }
    for name, run in cases.items():
        print(json.dumps({"case": name, "cells_per_second": round(speed(run, len(rows), chosen.repeats))}), flush=True)


if __name__ == "__main__":
    main()
