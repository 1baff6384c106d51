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
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from sweeps.answers.runs import results  # noqa: E402
from sweeps.tracking.uris import of_sweep  # noqa: E402

NETWORKS = {
    "scgpt": {"steps": 500, "batch_size": 8, "dropout": 0.0},
    "scbert": {"steps": 500, "batch_size": 8, "learning_rate": 0.001},
    "geneformer": {"steps": 500, "batch_size": 8, "dropout": 0.0},
    "mlp": {"steps": 500},
}
BASELINES = ["logistic_regression", "knn", "gradient_boosting"]
SEEDS, HERE = [0, 1, 2], "as it is"


def sweep(models: list[str], splits: int, seeds: list[int], threads: int) -> dict[str, Any]:
    """Return the sweep file of so many splits; baselines, which have no luck to speak of, with the first seed alone."""
    once = [name for name in models if name in BASELINES]
    rules = [{"model": once, "seed": seeds[1:]}] if once and len(seeds) > 1 else []
    recipes = {name: NETWORKS[name] | {"threads": threads} if name in NETWORKS else {} for name in models}
    return {
        "name": "machines",
        "datasets": ["pbmc68k_reduced"],
        "genes": {"select": "hvg", "n": 200},
        "splits": {"seeds": list(range(splits)), "test": 0.25, "validation": 0.1},
        "skews": [{"kind": "exponential", "ratio": 100, "total": 250}],
        "models": recipes,
        "seeds": seeds,
        "exclude": rules,
    }


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


def run(storage: Path, environment: dict[str, str], told: dict[str, Any]) -> pd.DataFrame:
    """Run the sweep in processes of their own, or what of it isn't finished; returns its finished runs."""
    file = storage.with_suffix(".yaml")
    file.write_text(json.dumps(told))  # which is YAML too
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
    known = here.dropna(axis=1)
    luck = apart([known[seed] for seed in known]) if known.shape[1] > 1 else None
    between = "one" if luck is None else f"{np.nanmean(luck):.3f}, {np.nanmax(luck):.3f}"
    sd = found[HERE][model].std(ddof=1)
    return f"| {model} | {means} | {np.nanmean(ways):.3f}, {np.nanmax(ways):.3f} | {between} | {sd:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--models", nargs="+", choices=[*NETWORKS, *BASELINES], default=[*NETWORKS, *BASELINES])
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3, help="trial seeds of networks, on this machine as it is")
    parser.add_argument("--storage", type=Path)
    given = parser.parse_args()
    asked = given.models, given.splits
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if given.storage is None else given.storage.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        here = scores(run(folder / "here", {}, sweep(*asked, SEEDS[: given.seeds], 1))).unstack("seed")
        found = {HERE: here[str(SEEDS[0])]}
        for name in given.ways:
            environment, threads = WAYS[name]
            runs = run(
                folder / name.replace(", ", "-").replace(" ", "-"), environment, sweep(*asked, SEEDS[:1], threads)
            )
            found[name] = scores(runs).droplevel("seed")
            print(f"{name}: {len(found[name])} trials", flush=True)
    print(f"\n| model | {', '.join(found)}: mean over splits | between ways | between seeds | sd over splits |")
    print("|---|---|---|---|---|")
    for model in here.index.unique("model"):
        print(row(model, here.loc[model], found))


if __name__ == "__main__":
    main()
