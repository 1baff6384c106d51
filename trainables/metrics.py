"""Predictions -> every number and table that is reported, over the fixed class list of the dataset.

Which classes count: an average over classes (macro_*, balanced accuracy, gmean, recall_*) runs over the classes that
have test cells; it is the same set for every trial of a split, whatever a model predicts. A class without test cells
has no recall and no F1; a cell wrongly given to it lowers the recall of its true class. A class that is never
predicted has precision 0. A number that can't be defined (say, recall_tail where no tail class has test cells) is
absent from the answer rather than NaN or a made-up 0.

Head, middle and tail are told apart by training cells, counted twice: `natural`, of the split's training part before
any skew, so that the same types are rare in every trial of a split (recall_head, recall_middle, recall_tail); and
`train`, what the skew left of them, which is another set of types at every skew (recall_tail_after_skew, ...).
"""

import numpy as np
import pandas as pd

HEAD, TAIL = 500, 50  # training cells: head > 500, middle 51-500, tail <= 50
ECE_BINS = 15
Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


def evaluate(
    probabilities: np.ndarray, truth: np.ndarray, natural: np.ndarray, train: np.ndarray | None = None
) -> dict[str, float]:
    """Return every metric of probabilities [n, C] against truth int64 [n]; undefined ones are absent (all, if n = 0).

    natural, train: int [C], training cells per class before and after the skew (both before any strategy); train None:
    there was no skew. Ties between classes go to the first in the list.
    """
    probabilities, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(truth, dtype=np.int64)
    if not len(truth):
        return {}
    table = confusion_counts(truth, probabilities.argmax(axis=1), probabilities.shape[1])
    return {
        **_averages(table),
        **_agreement(table),
        **_recall_by_size(table, np.asarray(natural), ""),
        **_recall_by_size(table, np.asarray(natural if train is None else train), "_after_skew"),
        **_of_probabilities(probabilities, truth),
        **_rankings(probabilities, truth),
    }


def per_class(
    probabilities: np.ndarray, truth: np.ndarray, classes: list[str], cells: dict[str, np.ndarray]
) -> pd.DataFrame:
    """Return one row per class: class, *`cells`, test and predicted (cells), precision, recall, f1 and intervals.

    cells: name -> int [C], such as natural, train and validation. Intervals: precision_low, precision_high, recall_low,
    ..., f1_high, see `intervals`. Without test cells recall and f1 are NaN, and precision too unless the class was
    predicted (then 0); the interval of a share of no cells is NaN.
    """
    counts = confusion_counts(np.asarray(truth), np.asarray(probabilities).argmax(axis=1), len(classes))
    return per_class_of(counts, classes, cells)


def per_class_of(table: np.ndarray, classes: list[str], cells: dict[str, np.ndarray]) -> pd.DataFrame:
    """Return what `per_class` does, of counts [C, C] by true and predicted class."""
    precision, recall, f1 = _precision_recall_f1(table)
    hits, test, predicted = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    tested = test > 0
    shares = {
        "precision": np.where(tested | (predicted > 0), precision, np.nan),
        "recall": np.where(tested, recall, np.nan),
        "f1": np.where(tested, f1, np.nan),
    }
    ends = intervals(hits, test, predicted)
    counts = {name: np.asarray(numbers, dtype=np.int64) for name, numbers in cells.items()}
    counts |= {"test": test, "predicted": predicted}
    columns = [{name: values, **{end: ends[end] for end in ends_of(name)}} for name, values in shares.items()]
    return pd.DataFrame({"class": classes} | counts | columns[0] | columns[1] | columns[2])


def ends_of(name: str) -> tuple[str, str]:
    """Return what the ends of a number's interval are called."""
    return f"{name}_low", f"{name}_high"


def of_class(probabilities: np.ndarray, truth: np.ndarray, index: int) -> dict[str, float]:
    """Return what `per_class` says of one class: its test cells (cells), precision, recall, f1 and intervals.

    Without test cells nothing is said, and nothing of the interval of a precision if it was never predicted.
    """
    if not (np.asarray(truth) == index).any():
        return {}
    row = per_class(probabilities, truth, list(range(np.shape(probabilities)[1])), {}).iloc[index]
    numbers = {"cells": row["test"]} | row.drop(["class", "test", "predicted"]).dropna().to_dict()
    return {name: float(value) for name, value in numbers.items()}


def intervals(hits: np.ndarray, test: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Return the 95 % intervals of precision, recall and F1 of classes, float64 [C] each, by `ends_of`.

    hits, test, predicted: cells [C]. Wilson's, of the hits among the predicted cells, the test cells, and for F1 those
    that are either: F1 is 2 J / (1 + J) of the hits' share J among them. In simulations (2 to 100 test cells) that of
    F1 holds in 94 to 99 %. NaN where there are no such cells.
    """
    hits, test, predicted = (np.asarray(cells, dtype=np.float64) for cells in (hits, test, predicted))
    found = {"precision": wilson(hits, predicted), "recall": wilson(hits, test)}
    either = wilson(hits, np.where(test > 0, test + predicted - hits, 0))
    found["f1"] = tuple(2 * share / (1 + share) for share in either)
    return {end: values for name, pair in found.items() for end, values in zip(ends_of(name), pair, strict=True)}


def wilson(hits: np.ndarray, cells: np.ndarray, z: float = Z95) -> tuple[np.ndarray, np.ndarray]:
    """Return the interval (low, high) of a share of `hits` among `cells`, float64 [C]; NaN where cells = 0.

    z: quantile of the normal distribution, 95 % unless told. Of this test set's cells alone, as if each were drawn
    independently: what another split or donor would change comes on top. Source: Wilson 1927, J. Am. Stat. Assoc. 22,
    209-212.
    """
    hits, cells = np.asarray(hits, dtype=np.float64), np.asarray(cells, dtype=np.float64)
    n = np.where(cells > 0, cells, np.nan)
    centre = (hits + z**2 / 2) / (n + z**2)
    reach = z / (n + z**2) * np.sqrt(hits * (n - hits) / n + z**2 / 4)
    return np.maximum(centre - reach, 0.0), np.minimum(centre + reach, 1.0)


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: list[str]) -> pd.DataFrame:
    """Return the confusion matrix: cells by true class (rows) and predicted class (columns)."""
    table = confusion_counts(np.asarray(truth), np.asarray(predicted), len(classes))
    return pd.DataFrame(table, index=pd.Index(classes, name="truth"), columns=pd.Index(classes, name="predicted"))


def most_confused(confusion: pd.DataFrame, top: int = 10) -> pd.DataFrame:
    """Return the `top` commonest mistakes: truth, predicted, cells, share of the true class's cells."""
    table = confusion.to_numpy()
    wrong = table * (1 - np.eye(len(table), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:top]
    rows, columns = np.unravel_index(order[wrong.ravel()[order] > 0], wrong.shape)
    return pd.DataFrame(
        {
            "truth": confusion.index[rows],
            "predicted": confusion.columns[columns],
            "cells": wrong[rows, columns],
            "share": wrong[rows, columns] / table.sum(axis=1)[rows],
        }
    )


def confusion_counts(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Return int64 [C, C]: cells by true (row) and predicted (column) class."""
    return np.bincount(truth * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return numerator / denominator, 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros(np.shape(numerator)), where=denominator > 0)


def _precision_recall_f1(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return precision, recall and F1 by class [C], 0 where undefined."""
    hits, truth, predicted = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    return _divide(hits, predicted), _divide(hits, truth), _divide(2 * hits, truth + predicted)


def _averages(table: np.ndarray) -> dict[str, float]:
    """Accuracy, macro and weighted precision, recall, F1, balanced accuracy, geometric mean of recalls."""
    support = table.sum(axis=1)
    there = support > 0
    named = dict(zip(("precision", "recall", "f1"), _precision_recall_f1(table), strict=True))
    recall = named["recall"][there]
    return {
        "accuracy": float(np.trace(table) / support.sum()),
        **{f"macro_{name}": float(values[there].mean()) for name, values in named.items()},
        **{f"weighted_{name}": float(values @ support / support.sum()) for name, values in named.items()},
        "balanced_accuracy": float(recall.mean()),
        "gmean": float(np.exp(np.log(recall).mean())) if recall.min() > 0 else 0.0,
    }


def _agreement(table: np.ndarray) -> dict[str, float]:
    """Matthews correlation (0 if truth or prediction is constant, as in scikit-learn) and Cohen's kappa.

    Kappa is absent if truth and prediction are one and the same class throughout.
    Source: Gorodkin 2004 for Matthews with many classes; Cohen 1960.
    """
    total, hits = float(table.sum()), float(np.trace(table))
    truth, predicted = table.sum(axis=1).astype(float), table.sum(axis=0).astype(float)
    by_chance = float(truth @ predicted)
    spread = (total**2 - float(truth @ truth)) * (total**2 - float(predicted @ predicted))
    answer = {"mcc": float((hits * total - by_chance) / np.sqrt(spread)) if spread > 0 else 0.0}
    if by_chance < total**2:
        answer["kappa"] = (hits / total - by_chance / total**2) / (1 - by_chance / total**2)
    return answer


def _recall_by_size(table: np.ndarray, counts: np.ndarray, suffix: str) -> dict[str, float]:
    """Mean recall of the classes with > 500, 51-500 and <= 50 (none at all included) training cells."""
    recall, there = _precision_recall_f1(table)[1], table.sum(axis=1) > 0
    groups = {"head": counts > HEAD, "middle": (counts > TAIL) & (counts <= HEAD), "tail": counts <= TAIL}
    seen = {name: there & group for name, group in groups.items()}
    return {f"recall_{name}{suffix}": float(recall[group].mean()) for name, group in seen.items() if group.any()}


def _of_probabilities(probabilities: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Top-2 accuracy (absent for two classes, where it is always 1), Brier score (sum over classes, 0 to 2), ECE."""
    predicted, cells = probabilities.argmax(axis=1), np.arange(len(truth))
    answer = {"ece": _calibration_error(probabilities[cells, predicted], predicted == truth)}
    of_truth = probabilities[cells, truth]
    answer["brier"] = float(np.mean((probabilities**2).sum(axis=1) - 2 * of_truth + 1))
    if probabilities.shape[1] > 2:
        others = probabilities.copy()
        others[cells, predicted] = -np.inf
        answer["top2_accuracy"] = float(np.mean((predicted == truth) | (others.argmax(axis=1) == truth)))
    return answer


def _calibration_error(confidence: np.ndarray, hit: np.ndarray) -> float:
    """Expected calibration error of the predicted class: 15 bins of equal width (Guo et al. 2017, arXiv 1706.04599)."""
    gaps = np.bincount(bin_of(confidence, ECE_BINS), weights=confidence - hit, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(hit))


def bin_of(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Return which of so many bins of equal width, closed above, numbers from 0 to 1 are in, int64 [n]."""
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


def _rankings(probabilities: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Areas under the ROC and the precision-recall curve, class against rest, mean over the classes that have both."""
    cells = np.bincount(truth, minlength=probabilities.shape[1])
    found = [areas(probabilities[:, c], truth == c) for c in np.flatnonzero((cells > 0) & (cells < len(truth)))]
    if not found:
        return {}
    auroc, auprc = np.mean(found, axis=0)
    return {"macro_auroc": float(auroc), "macro_auprc": float(auprc)}


def areas(scores: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """Return (AUROC by the trapezoid rule, average precision); equal scores share one threshold."""
    order = np.argsort(-scores)
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(positive[order])[last].astype(float)
    false = last + 1 - hits
    auroc = np.trapezoid(np.append(0.0, hits), np.append(0.0, false)) / (hits[-1] * false[-1])
    return auroc, float(np.sum(np.diff(hits, prepend=0.0) * hits / (last + 1)) / hits[-1])


def macro_f1(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean F1 over the types that have cells, of probabilities [n, C] and labels int64 [n]."""
    table = confusion_counts(labels, probabilities.argmax(axis=1), probabilities.shape[1])
    return _averages(table)["macro_f1"]


def validation_numbers(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return loss (mean cross-entropy), accuracy and macro F1 over the classes that have cells here."""
    from scipy.special import log_softmax
    from sklearn.metrics import f1_score

    predicted = logits.argmax(1)
    present = np.unique(labels)
    return {
        "val_loss": float(-log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels].mean()),
        "val_accuracy": float((predicted == labels).mean()),
        "val_macro_f1": float(f1_score(labels, predicted, labels=present, average="macro", zero_division=0)),
    }
