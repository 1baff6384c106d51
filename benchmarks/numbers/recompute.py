"""Are the numbers in MLflow those of the predictions? Twenty trials of a finished sweep, computed anew.

    python benchmarks/numbers/recompute.py quickstart --storage cellskew-runs

Of random finished trials predictions.parquet is read and every metric that scikit-learn has is computed by it, on the
stored probabilities (float32), and compared with what tables go by. Prints the largest difference per metric, and exits
with 1 if one is above 1e-6 (of rankings and calibration, where float32 makes ties, above 1e-4).
"""

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn import metrics as theirs

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from sweeps.answers.runs import results  # noqa: E402
from sweeps.tracking.uris import of_sweep  # noqa: E402

EXACT, ROUNDED = 1e-6, 1e-4
SCORES = ("macro_auroc", "macro_auprc", "brier", "ece", "top2_accuracy")  # of probabilities, not of predicted types


def of_predictions(table: pd.DataFrame) -> dict[str, float]:
    """Return metrics by name of a table of predictions, by scikit-learn; averages are over types with test cells."""
    truth, predicted = table["truth"].to_numpy(), table["prediction"].to_numpy()
    there = np.unique(truth)
    found = {
        "accuracy": theirs.accuracy_score(truth, predicted),
        "balanced_accuracy": theirs.balanced_accuracy_score(truth, predicted),
        "mcc": theirs.matthews_corrcoef(truth, predicted),
        "kappa": theirs.cohen_kappa_score(truth, predicted),
    }
    for kind, name in (("macro", "macro"), ("weighted", "weighted")):
        parts = theirs.precision_recall_fscore_support(truth, predicted, labels=there, average=kind, zero_division=0.0)
        found |= {f"{name}_{part}": value for part, value in zip(("precision", "recall", "f1"), parts, strict=False)}
    return found | _of_scores(table, truth, there)


def _of_scores(table: pd.DataFrame, truth: np.ndarray, there: np.ndarray) -> dict[str, float]:
    classes = [name.removeprefix("p_") for name in table.columns if name.startswith("p_")]
    scores = table[[f"p_{name}" for name in classes]].to_numpy(dtype=float)
    one = (truth[:, None] == np.array(classes)).astype(float)
    found = {"brier": float(((scores - one) ** 2).sum(1).mean())}
    ranked = [kind for kind in there if 0 < (truth == kind).sum() < len(truth)]
    column = {kind: scores[:, classes.index(kind)] for kind in ranked}
    found["macro_auroc"] = float(np.mean([theirs.roc_auc_score(truth == kind, column[kind]) for kind in ranked]))
    areas = [theirs.average_precision_score(truth == kind, column[kind]) for kind in ranked]
    return found | {"macro_auprc": float(np.mean(areas))}


def differences(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per run and metric: run_id, metric, recorded, recomputed, difference."""
    rows = []
    for _, run in runs.iterrows():
        table = pd.read_parquet(Path(run["artifact_uri"].removeprefix("file://")) / "predictions.parquet")
        for name, value in of_predictions(table).items():
            recorded = run.get(f"test_{name}", np.nan)
            rows.append({"run_id": run["run_id"], "metric": name, "recorded": recorded, "recomputed": value})
    return pd.DataFrame(rows).assign(difference=lambda each: (each["recorded"] - each["recomputed"]).abs())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", help="name of a sweep with finished trials")
    parser.add_argument("--storage", type=Path, default=Path("cellskew-runs"), help="where it was run")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    uri = of_sweep(given.storage, None, given.sweep)
    runs, _ = results.choose(uri, results.fetch(uri, given.sweep), every=False)
    finished = runs[runs["status"] == "FINISHED"]
    picked = finished.sample(min(given.trials, len(finished)), random_state=given.seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
        found = differences(picked)
    largest = found.groupby("metric", sort=False)["difference"].max()
    limits = pd.Series({name: ROUNDED if name in SCORES else EXACT for name in largest.index})
    print(f"{len(picked)} of {len(finished)} finished trials of {given.sweep}, largest differences:")
    print(largest.map(lambda value: f"{value:.1e}").to_string())
    if not (wrong := largest[~(largest <= limits)]).empty:
        sys.exit(f"differ by more than rounding: {', '.join(wrong.index)}")


if __name__ == "__main__":
    main()
