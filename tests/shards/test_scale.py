"""Memory grows with the cells that a trial asks for, and with nothing else: `benchmarks/memory.py` at a small size."""

import tracemalloc
from pathlib import Path

import pytest

from benchmarks.memory import Made, MadeUp
from data_pipeline.shards.writing import Job, write_here
from trainables.trial import run_trial

QUICK = {"logistic_regression": {"strengths": [1.0], "max_iterations": 3}, "majority": {}}


def run(folder: Path, model: str, num_cells: int) -> None:
    """Run a trial that trains on 80 % of so many made-up cells of 100 tokens."""
    job = Job(MadeUp(num_cells, 6), Made(1000, 100), folder / "shards")
    write_here(job)
    config = {"key": "baseline", "directory": str(folder / f"{num_cells}"), "shards": str(job.folder), "model": model}
    config |= {"split": {"seed": 0, "test": 0.1, "validation": 0.1}, "skew": {"kind": "natural"}}
    config |= {"strategy": {"kind": "none"}, "options": QUICK[model]}
    final = run_trial(config, lambda metrics, path: None, None)
    assert final["train_rows"] == 0.8 * num_cells


@pytest.mark.parametrize("model", ["logistic_regression", "majority"])
def test_a_baseline_holds_a_few_bytes_per_token(tmp_path, model):
    """8 bytes for a gene and its value, as scipy keeps them, and about as much for all else; it was 37 a token."""
    run(tmp_path, model, 500)  # what is imported is no cell's
    tracemalloc.start()
    run(tmp_path, model, 20_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 100 * 17_000
