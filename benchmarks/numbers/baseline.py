"""Is the logistic regression as good as scikit-learn's own at its best C? The same cells, genes and validation cells.

python benchmarks/numbers/baseline.py NAME_OR_FILE:LABEL... [--splits 3] [--genes 2000]
A name of the catalog, or an h5ad file and its column of types. C is chosen on validation cells, by us among our four,
for scikit-learn among nine from 0.001 to 10, by the same measure; scikit-learn once as it stops by itself, and, as it
stops far from the least of the sum that both lower, once to the end. The genes: the most variable of training cells.
"""

import argparse
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
from scipy import sparse

from data_pipeline.reading.h5ad import open_cells
from data_pipeline.reading.known.catalog import resolve
from data_pipeline.rows.split import split
from trainables.fitting.choosing import score
from trainables.metrics import evaluate
from trainables.models.gradient_boosting import most_variable
from trainables.models.logistic_regression.model import matrix
from trainables.spec import Encoded, get

STRENGTHS = np.logspace(-3, 1, 9)
TO_THE_END = {"tol": 1e-7, "max_iter": 5000}
Part = tuple[Encoded, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--storage", type=Path, default=Path("cellskew-runs"))
    asked = parser.parse_args()
    for data in asked.data:
        for seed in range(asked.splits):
            compare(data, seed, asked.genes, asked.storage)


def compare(data: str, seed: int, num_genes: int, storage: Path) -> None:
    path, _, label = data.partition(":")
    cells = open_cells(resolve({"path": path, "label": label} if label else path, storage), storage / "datasets")
    rows = split(cells.labels, seed=seed, test=0.2, validation=0.1, classes=cells.classes)
    encode = get("logistic_regression").encoder(cells.genes)
    encoded = encode(cells.counts.take(np.arange(cells.num_cells)), np.random.default_rng(0), cells.totals)
    genes = most_variable(matrix(encoded.take(rows.train), len(cells.genes)), num_genes)
    chosen = _of(matrix(encoded, len(cells.genes))[:, genes])
    parts = [(chosen.take(part), cells.labels[part]) for part in (rows.train, rows.validation, rows.test)]
    for name, fit in (("cellskew", ours), ("scikit-learn", theirs), ("to the end", partial(theirs, **TO_THE_END))):
        start = time.process_time()
        probabilities, strength = fit(*parts, len(cells.classes), len(genes))
        found = evaluate(probabilities, parts[2][1], np.bincount(parts[0][1], minlength=len(cells.classes)))
        seconds = time.process_time() - start
        said = f"macro F1 {found['macro_f1']:.4f}, C {strength:g}, {seconds:.0f} s of CPU"
        print(f"{Path(path).stem} split {seed} {name:12} {said}", flush=True)


def _of(cells: sparse.csr_matrix) -> Encoded:
    return Encoded(cells.indices.astype(np.int32), cells.data.astype(np.float32), cells.indptr.astype(np.int64))


def ours(train: Part, held: Part, test: Part, num_classes: int, num_genes: int) -> tuple[np.ndarray, float]:
    rng, fit = np.random.default_rng(0), get("logistic_regression").fit
    fitted = fit(*train, num_classes, rng, validation=held, num_genes=num_genes)
    return fitted.predict_proba(test[0]), fitted.strength


def theirs(
    train: Part, held: Part, test: Part, num_classes: int, num_genes: int, tol: float = 1e-4, max_iter: int = 500
) -> tuple[np.ndarray, float]:
    """Return the test cells' probabilities and the C of best macro F1, then log-likelihood, on validation cells."""
    from sklearn.linear_model import LogisticRegression

    best, kept = (-np.inf, -np.inf), None
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, tol=tol, max_iter=max_iter)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of types with one cell, and of iterations
            model.fit(matrix(train[0], num_genes), train[1])
        found = score(_spread(model, held[0], num_classes, num_genes), held[1])
        if found > best:
            best, kept = found, (model, strength)
    return _spread(kept[0], test[0], num_classes, num_genes), kept[1]


def _spread(model: object, encoded: Encoded, num_classes: int, num_genes: int) -> np.ndarray:
    probabilities = np.zeros((len(encoded), num_classes))
    probabilities[:, model.classes_] = model.predict_proba(matrix(encoded, num_genes))
    return probabilities


if __name__ == "__main__":
    main()
