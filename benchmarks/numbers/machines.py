"""How far apart do other CPUs, threads and kernels put the same trials? Beside what trial seeds and splits do.

    python benchmarks/numbers/machines.py

One small sweep of the quickstart's networks is run again and again into storage folders of its own, each time with
other instructions of the CPU (those that torch, oneDNN and MKL can be told to do without) or another number of threads.
Printed per network: test macro F1 of every way; of the differences between two ways of the same trial the mean size and
the largest; the same between trial seeds; and how far apart the ways' means over splits are.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from sweeps.answers.runs import results  # noqa: E402
from sweeps.tracking.uris import of_sweep  # noqa: E402

SWEEP = """
name: machines
datasets: [pbmc68k_reduced]
genes: {{select: hvg, n: 200}}
splits: {{seeds: [0, 1, 2, 3, 4], test: 0.25, validation: 0.1}}
skews: [{{kind: exponential, ratio: 100, total: 250}}]
models:
  scgpt: {{steps: 500, batch_size: 8, dropout: 0.0, threads: {threads}}}
  scbert: {{steps: 500, batch_size: 8, learning_rate: 0.001, threads: {threads}}}
  geneformer: {{steps: 500, batch_size: 8, dropout: 0.0, threads: {threads}}}
seeds: {seeds}
"""
OLD = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"}
SEEDS = [0, 1, 2]
WAYS = {  # beside this machine as it is: name -> (environment, threads)
    "AVX2": (AVX2, 1),
    "no AVX": (OLD, 1),
    "two threads": ({}, 2),
    "no AVX, two threads": (OLD, 2),
}


def run(storage: Path, environment: dict[str, str], threads: int, seeds: list[int]) -> pd.DataFrame:
    """Run the sweep in processes of their own; returns its finished runs."""
    file = storage.with_suffix(".yaml")
    file.write_text(SWEEP.format(threads=threads, seeds=seeds))
    command = [sys.executable, "-m", "sweeps.cli", "run", str(file), "--storage", str(storage)]
    paths = {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        command, env=os.environ | environment | paths, cwd=storage.parent, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-2000:])
    uri = of_sweep(storage, None, "machines")
    return results.fetch(uri, "machines").query('status == "FINISHED"')


def scores(runs: pd.DataFrame) -> pd.Series:
    """Return test macro F1 by (model, split, seed)."""
    return runs.set_index(["model", "split", "seed"])["test_macro_f1"].sort_index()


def apart(columns: list[pd.Series]) -> pd.DataFrame:
    """Return the differences between any two columns of the same trials, absolute: rows are trials of a model."""
    pairs = [(one - other).abs() for one, other in itertools.combinations(columns, 2)]
    return pd.concat(pairs, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        here = scores(run(Path(folder) / "here", {}, 1, SEEDS)).unstack("seed")
        found = {"as it is": here[str(SEEDS[0])]}
        for name in given.ways:
            environment, threads = WAYS[name]
            found[name] = scores(run(Path(folder) / f"way{len(found)}", environment, threads, SEEDS[:1]))
            found[name] = found[name].droplevel("seed")
            print(f"{name}: {len(found[name])} trials", flush=True)
    for model in here.index.unique("model"):
        ways = apart([one[model] for one in found.values()])
        luck = apart([here.loc[model, str(seed)] for seed in SEEDS])
        print(f"\n{model}: macro F1, mean over splits")
        for name, one in found.items():
            print(f"  {name:22} {one[model].mean():.4f}")
        means = [one[model].mean() for one in found.values()]
        print(f"  between ways, of one trial: mean {np.nanmean(ways):.4f}, largest {np.nanmax(ways):.4f}")
        print(f"  between seeds, of one split: mean {np.nanmean(luck):.4f}, largest {np.nanmax(luck):.4f}")
        print(f"  means over splits: {max(means) - min(means):.4f} between ways", end="")
        sd = found["as it is"][model].std(ddof=1)
        print(f", {np.ptp(here.loc[model].mean()):.4f} between seeds; sd over splits {sd:.4f}")


if __name__ == "__main__":
    main()
