"""Seconds to fit the logistic regression baseline, C chosen on validation, beside scikit-learn at the same Cs.

python benchmarks/logistic_regression.py [--cells 55000] [--genes 3000] [--penalty l1] [--peer]
Made-up cells with the class shares of Zheng68K, about a tenth of the genes detected; types differ by a factor of
exp(0.15 N(0, 1)) per gene, so that neighbours are mistaken for each other. On one core, as a trial of a baseline has.
"""

import argparse
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read as numpy and MKL are imported: threads that wait burn time

import numpy as np  # noqa: E402
from scipy import sparse  # noqa: E402

from trainables.metrics import evaluate  # noqa: E402
from trainables.models.logistic_regression.model import STRENGTHS, matrix  # noqa: E402
from trainables.spec import Encoded, get  # noqa: E402

SHARES = np.array([20757, 16645, 8775, 6185, 5877, 3059, 2847, 2095, 1871, 242, 97]) / 68450
BLOCK = 5000


def made_up_cells(num_cells: int, num_genes: int) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Return counts float32 CSR [n, G] and labels int64 [n]."""
    rng = np.random.default_rng(0)
    labels = rng.choice(len(SHARES), num_cells, p=SHARES)
    rates = rng.gamma(0.25, 1.0, num_genes) * np.exp(rng.normal(0, 0.15, (len(SHARES), num_genes)))
    rates /= rates.sum(axis=1, keepdims=True)
    depths = rng.lognormal(np.log(500), 0.4, (num_cells, 1))
    blocks = [
        sparse.csr_matrix(rng.poisson(rates[labels[at : at + BLOCK]] * depths[at : at + BLOCK]).astype(np.float32))
        for at in range(0, num_cells, BLOCK)
    ]
    return sparse.csr_matrix(sparse.vstack(blocks)), labels.astype(np.int64)


def show(name: str, wall: float, cpu: float, probabilities: np.ndarray, truth: np.ndarray, note: str) -> None:
    found = evaluate(probabilities, truth, np.bincount(truth, minlength=len(SHARES)))
    print(f"{name:14} {wall:7.1f} s wall {cpu:7.1f} s CPU   macro F1 {found['macro_f1']:.4f}   {note}", flush=True)


def ours(tokens: Encoded, labels: np.ndarray, train: np.ndarray, held: np.ndarray, penalty: str) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    validation = (tokens.take(held), labels[held])
    rng = np.random.default_rng(0)
    fitted = get("logistic_regression").fit(
        tokens.take(train), labels[train], len(SHARES), rng, validation=validation, penalty=penalty
    )
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    note = f"C {fitted.strength:g}, converged {fitted.converged}"
    show("cellskew", wall, cpu, fitted.predict_proba(validation[0]), validation[1], note)


def peer(
    tokens: Encoded, labels: np.ndarray, train: np.ndarray, held: np.ndarray, num_genes: int, penalty: str
) -> None:
    from sklearn.linear_model import LogisticRegression

    cells = matrix(tokens, num_genes)
    model = LogisticRegression(
        l1_ratio=float(penalty == "l1"), solver="saga" if penalty == "l1" else "lbfgs", max_iter=500, warm_start=True
    )
    wall, cpu = time.perf_counter(), time.process_time()
    for strength in STRENGTHS:
        model.set_params(C=strength).fit(cells[train], labels[train])
        note = f"C {strength:g}, {model.n_iter_.max()} iterations"
        probabilities = model.predict_proba(cells[held])
        show("scikit-learn", time.perf_counter() - wall, time.process_time() - cpu, probabilities, labels[held], note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=55_000)
    parser.add_argument("--genes", type=int, default=3_000)
    parser.add_argument("--penalty", choices=["l1", "l2"], default="l1")
    parser.add_argument("--peer", action="store_true", help="scikit-learn too (saga takes very long with l1)")
    asked = parser.parse_args()
    counts, labels = made_up_cells(asked.cells, asked.genes)
    tokens = get("logistic_regression").encoder([""] * asked.genes)(counts, np.random.default_rng(0))
    order = np.random.default_rng(1).permutation(asked.cells)
    held, train = np.sort(order[: asked.cells // 10]), np.sort(order[asked.cells // 10 :])
    print(
        f"{len(train)} training cells x {asked.genes} genes, {counts.nnz / counts.shape[0] / asked.genes:.0%} detected"
    )
    ours(tokens, labels, train, held, asked.penalty)
    if asked.peer:
        peer(tokens, labels, train, held, asked.genes, asked.penalty)


if __name__ == "__main__":
    main()
