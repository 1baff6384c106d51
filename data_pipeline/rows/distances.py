"""How far made cells are from real ones, as a model sees both: a wrong scale, or a missing gene, shows here."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from data_pipeline.normalise import components_of

COLUMNS = ["class", "real", "made", "mean_correlation"]
COLUMNS += ["real_library", "made_library", "real_genes", "made_genes", "auc"]
FEWEST_FOR_AUC = 10  # cells of each kind


@dataclass(frozen=True)
class Measured:
    """Cells to compare: labels int64 [n]; totals float64 [n], counts per cell over all genes measured; genes int64 [n],
    detected in each; features CSR [n, F]: the model's input as numbers (`ModelSpec.features`)."""

    labels: np.ndarray
    totals: np.ndarray
    genes: np.ndarray
    features: sparse.csr_matrix

    def of(self, code: int) -> "Measured":
        """Return the cells of one class."""
        mine = self.labels == code
        return Measured(self.labels[mine], self.totals[mine], self.genes[mine], self.features[mine])

    def __len__(self) -> int:
        return len(self.labels)


def distance_report(real: Measured, made: Measured, classes: Sequence[str], rng: np.random.Generator) -> pd.DataFrame:
    """Return, for each class with made cells, how these compare with the real cells of the class.

    Columns: class, real, made (cells), mean_correlation (Pearson, of mean features), real_library, made_library (median
    counts per cell), real_genes, made_genes (median detected genes), auc (of a classifier that tells real from made by
    their features, cross-validated: 0.5 = can't, 1 = always; NaN where there are fewer than FEWEST_FOR_AUC real or made
    cells). No row where no cell was made.
    """
    rows = []
    for code in np.unique(made.labels):
        pair = [part.of(code) for part in (real, made)]
        libraries = [float(np.median(part.totals)) for part in pair]
        genes = [float(np.median(part.genes)) for part in pair]
        features = _of_one_width([part.features for part in pair])
        numbers = (*libraries, *genes, _real_or_made(*features, rng))
        rows.append((classes[code], *map(len, pair), _mean_correlation(*features), *numbers))
    return pd.DataFrame(rows, columns=COLUMNS)


def _of_one_width(parts: list[sparse.csr_matrix]) -> list[sparse.csr_matrix]:
    width = max(part.shape[1] for part in parts)
    return [sparse.csr_matrix((p.data, p.indices, p.indptr), shape=(p.shape[0], width)) for p in parts]


def _mean_correlation(real: sparse.csr_matrix, made: sparse.csr_matrix) -> float:
    means = [np.asarray(part.mean(axis=0), dtype=np.float64).ravel() for part in (real, made)]
    return float(np.corrcoef(*means)[0, 1]) if all(np.ptp(mean) > 0 for mean in means) else float("nan")


def _real_or_made(real: sparse.csr_matrix, made: sparse.csr_matrix, rng: np.random.Generator) -> float:
    """Return the cross-validated AUC of logistic regression on 20 principal components and the sum of each cell's
    features, equally many cells of both."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    number = min(real.shape[0], made.shape[0])
    if number < FEWEST_FOR_AUC:
        return float("nan")
    chosen = [part[np.sort(rng.choice(part.shape[0], number, replace=False))] for part in (real, made)]
    cells, truth = sparse.vstack(chosen, format="csr", dtype=np.float64), np.repeat([0, 1], number)
    seen = np.column_stack([components_of(cells, 20, rng), np.asarray(cells.sum(axis=1))])
    folds = StratifiedKFold(5, shuffle=True, random_state=int(rng.integers(2**31)))
    teller = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    scores = cross_val_predict(teller, seen, truth, cv=folds, method="predict_proba")[:, 1]
    return float(roc_auc_score(truth, scores))
