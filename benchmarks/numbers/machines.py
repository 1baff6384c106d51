"""How far apart do other CPUs, threads and kernels put the same trials? Beside what trial seeds and splits do.

    python benchmarks/numbers/machines.py

One small sweep of the quickstart's networks and of baselines is run again and again into storage folders of its own,
each time with other instructions of the CPU (those that torch, oneDNN, MKL, OpenBLAS and numpy can be told to do
without) or another number of threads, which only networks have. Printed per model: test macro F1 of every way; of the
differences between two ways of the same trial the mean size and the largest; the same between trial seeds, of the
networks; and sd over splits. --storage: a folder to keep, in which what an interrupted call has finished counts.
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
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

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
  mlp: {{steps: 500, threads: {threads}}}
  logistic_regression: {{}}
  knn: {{}}
  gradient_boosting: {{}}
seeds: {seeds}
exclude: {exclude}
"""
SEEDS, HERE = [0, 1, 2], "as it is"
ONCE = "[{model: [logistic_regression, knn, gradient_boosting], seed: [1, 2]}]"  # what has no luck to speak of


def less(torchs: str, onednns: str, mkls: str, blas: str, numpys: tuple[str, ...]) -> dict[str, str]:
    """Return what tells these libraries to do without newer instructions; numpys: words in the names of those."""
    names = [name for name in __cpu_dispatch__ if __cpu_features__[name] and any(word in name for word in numpys)]
    told = {"ATEN_CPU_CAPABILITY": torchs, "ONEDNN_MAX_CPU_ISA": onednns, "MKL_CBWR": mkls, "OPENBLAS_CORETYPE": blas}
    return told | {"NPY_DISABLE_CPU_FEATURES": " ".join(names)}


AVX2 = less("avx2", "AVX2", "AVX2", "Haswell", ("AVX512", "V4"))
SSE = less("default", "SSE41", "COMPATIBLE", "Nehalem", ("AVX", "FMA", "F16C", "V3", "V4"))
WAYS = {  # beside this machine as it is: name -> (environment, threads)
    "AVX2": (AVX2, 1),
    "SSE": (SSE, 1),
    "two threads": ({"OMP_WAIT_POLICY": "PASSIVE"}, 2),
    "SSE, two threads": (SSE | {"OMP_WAIT_POLICY": "PASSIVE"}, 2),
}


def run(storage: Path, environment: dict[str, str], threads: int, seeds: list[int]) -> pd.DataFrame:
    """Run the sweep in processes of their own, or what of it isn't finished; returns its finished runs."""
    file = storage.with_suffix(".yaml")
    file.write_text(SWEEP.format(threads=threads, seeds=seeds, exclude=ONCE if len(seeds) > 1 else []))
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


def row(model: str, here: pd.DataFrame, found: dict[str, pd.Series]) -> str:
    """Return a line of the table: here [split, seed], found: macro F1 of this machine's trials, of all ways'."""
    ways = apart([one[model] for one in found.values()])
    means = ", ".join(f"{one[model].mean():.3f}" for one in found.values())
    luck = apart([here[seed] for seed in here.dropna(axis=1)]) if here.notna().all(axis=None) else None
    between = "one" if luck is None else f"{np.nanmean(luck):.3f}, {np.nanmax(luck):.3f}"
    sd = found[HERE][model].std(ddof=1)
    return f"| {model} | {means} | {np.nanmean(ways):.3f}, {np.nanmax(ways):.3f} | {between} | {sd:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--storage", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if given.storage is None else given.storage.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        here = scores(run(folder / "here", {}, 1, SEEDS)).unstack("seed")
        found = {HERE: here[str(SEEDS[0])]}
        for name in given.ways:
            found[name] = scores(run(folder / name.replace(", ", "-").replace(" ", "-"), *WAYS[name], SEEDS[:1]))
            found[name] = found[name].droplevel("seed")
            print(f"{name}: {len(found[name])} trials", flush=True)
    print(f"\n| model | {', '.join(found)}: mean over splits | between ways | between seeds | sd over splits |")
    print("|---|---|---|---|---|")
    for model in here.index.unique("model"):
        print(row(model, here.loc[model], found))


if __name__ == "__main__":
    main()
