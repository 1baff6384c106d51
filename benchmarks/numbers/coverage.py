"""How often 95 % intervals hold the truth, and how often tests find a difference where there is none.

    python benchmarks/numbers/coverage.py --simulations 600

Made-up studies, whose truth is known: cells of six types, the rarest 2 %, are drawn; split; a classifier by nearest
mean and prior is fitted; macro F1 is taken of the test cells. Trial seeds move the means a little, as an
initialisation does. Two models see two sets of features of the same law, so that they differ by nothing but chance.
coverage: intervals of `cellskew results` that hold the mean over all studies (on a fixed test set: what these trained
models have on other cells of the same types). false positives: p < 0.05 of `cellskew compare` between the two models
(fixed: intervals of the difference that miss what it is on other cells). naive: Student's t over (split, seed) pairs,
uncorrected. Designs: splits that draw their test cells anew; one rare type of few cells in them; a fixed test set;
whole donors. --luck: sd of what trial seeds add to a mean, 0 being a model without any.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

if __name__ == "coverage":  # numba, imported beside this file, asks for the package of that name
    raise ImportError("this is a benchmark")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from sweeps.answers.designs import FEW_SPLITS  # noqa: E402
from sweeps.statistics import intervals, resampling  # noqa: E402
from sweeps.statistics.intervals import Error  # noqa: E402
from sweeps.statistics.resampling import Draws, Predictions  # noqa: E402

TYPES, FEATURES = 6, 6
SHARES = np.array([0.5, 0.25, 0.12, 0.07, 0.04, 0.02])
CELLS, LUCK = 300, 0.2  # of a study; sd of what trial seeds add to a mean
SPLITS, SEEDS = (3, 5, 10, 20), (1, 3, 10)
PARTS = ((0.1, 0.1), (0.2, 0.1), (0.4, 0.1))  # test, validation
SPAN = (0.0, 1.0)
CENTRES = np.random.default_rng(5).normal(size=(TYPES, FEATURES))
CLASSES = [str(kind) for kind in range(TYPES)]


@dataclass(frozen=True)
class Rates:
    """Of many studies: intervals that held, false positives, and false positives of the uncorrected test."""

    coverage: float
    false_positives: float
    naive: float


def labels(cells: int, least: int) -> np.ndarray:
    """Return the types of so many cells, int64, in the usual shares, at least `least` of each."""
    return np.repeat(np.arange(TYPES), np.maximum(least, np.round(SHARES * cells)).astype(int))


def part(kinds: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return a share of each type's cells, at least one, bool [n]."""
    found = np.zeros(len(kinds), dtype=bool)
    for kind in range(TYPES):
        rows = rng.permutation(np.flatnonzero(kinds == kind))
        found[rows[: max(1, round(share * len(rows)))]] = True
    return found


def predict(
    cells: np.ndarray, kinds: np.ndarray, train: np.ndarray, others: np.ndarray, seeds: int, rng: np.random.Generator
) -> np.ndarray:
    """Return predicted types of the rows `others`, int64 [splits, seeds, n], after training on bool [splits, n]."""
    one = np.eye(TYPES)[kinds]
    weights = np.einsum("sn,nc->scn", train.astype(float), one)
    counts = weights.sum(2)
    means = (weights @ cells) / np.maximum(counts, 1)[..., None]
    means = np.where(counts[..., None] > 0, means, 1e6)[:, None]
    means = means + LUCK * rng.normal(size=(len(train), seeds, TYPES, FEATURES))
    prior = np.log(np.maximum(counts, 1e-9) / counts.sum(1, keepdims=True))[:, None, None]
    scores = np.einsum("nd,skcd->sknc", cells[others], means) - 0.5 * (means**2).sum(-1)[:, :, None] + 0.5 * prior
    return scores.argmax(-1)


def f1(kinds: np.ndarray, predicted: np.ndarray, kept: np.ndarray | None = None) -> np.ndarray:
    """Return F1 of predictions int64 [..., n] of cells of types int64 [n], float [...]; mean over types, or `kept`."""
    flat = predicted.reshape(-1, len(kinds))
    pairs = np.arange(len(flat))[:, None] * TYPES**2 + kinds * TYPES + flat
    tables = np.bincount(pairs.ravel(), minlength=len(flat) * TYPES**2).reshape(-1, TYPES, TYPES)
    return resampling.score(tables, "macro_f1" if kept is None else "f1", kept).reshape(predicted.shape[:-1])


def redrawn(studies: int, test: float, validation: float, seed: int = 0) -> np.ndarray:
    """Return macro F1, float [studies, 2 models, splits, seeds], of studies whose splits draw their test cells anew."""
    rng, kinds = np.random.default_rng(seed), labels(CELLS, 4)
    found = np.empty((studies, 2, max(SPLITS), max(SEEDS)))
    for study in range(studies):
        tested = np.array([part(kinds, test, rng) for _ in range(max(SPLITS))])
        held = np.array([~out & part(kinds, validation, rng) for out in tested])
        for model in range(2):
            cells = CENTRES[kinds] + rng.normal(size=(len(kinds), FEATURES))
            said = predict(cells, kinds, ~tested & ~held, np.arange(len(kinds)), max(SEEDS), rng)
            found[study, model] = [f1(kinds[rows], each[:, rows]) for rows, each in zip(tested, said, strict=True)]
    return found


def ratio(test: float, validation: float) -> float:
    """Return what the tables take for test cells per training cell of macro F1."""
    rng, kinds = np.random.default_rng(0), labels(CELLS, 4)
    tested = part(kinds, test, rng)
    trained = ~tested & ~part(kinds, validation, rng)
    return intervals.ratio_of_types(*(np.bincount(kinds[rows], minlength=TYPES) for rows in (tested, trained)))


def one_type(studies: int, test: float, splits: int, kind: int, seed: int = 0) -> Rates:
    """Return the rates of F1 of one rare type, of the studies whose splits don't all agree.

    By the rule of the tables: of few test cells and splits the cells are drawn again; naive: false positives of t.
    """
    rng, kinds, kept = np.random.default_rng(seed), labels(CELLS, 4), np.arange(TYPES) == kind
    values, errors = np.empty((studies, 2, splits)), []
    for study in range(studies):
        tested = np.array([part(kinds, test, rng) for _ in range(splits)])
        train = np.array([~out & ~part(kinds, 0.1, rng) for out in tested])
        models = [_split_by_split(kinds, tested, train, rng) for _ in range(2)]
        draws = Draws(models[0], 300)
        drawn = [[resampling.score(draws.tables(one), "f1", kept) for one in model] for model in models]
        mine, other = (np.nanmean(model, axis=0) for model in drawn)
        values[study] = [[f1(one.truth, one.predicted, kept) for one in model] for model in models]
        errors.append((draws.error(mine), draws.error(mine - other)))
    counts = [np.array([(kinds[rows] == kind).sum()]) for rows in (tested[0], train[0])]
    return _of_type(values, errors, intervals.ratio_of_types(*counts), few=splits < FEW_SPLITS)


def _split_by_split(kinds: np.ndarray, tested: np.ndarray, train: np.ndarray, rng: np.random.Generator) -> list:
    """Return what one model says of each split's test cells, Predictions per split."""
    cells, names = CENTRES[kinds] + rng.normal(size=(len(kinds), FEATURES)), np.arange(len(kinds)).astype(str)
    said = predict(cells, kinds, train, np.arange(len(kinds)), 1, rng)[:, 0]
    return [Predictions(names[rows], kinds[rows], one[rows], CLASSES) for rows, one in zip(tested, said, strict=True)]


def _of_type(values: np.ndarray, errors: list[tuple[Error, Error]], ratio: float, few: bool) -> Rates:
    truth, held, found, naive = values[:, 0].mean(), [], [], []
    for (mine, other), (of_mean, of_difference) in zip(values, errors, strict=True):
        difference, anew = mine - other, intervals.redrawn(mine - other, ratio)
        error = intervals.resampled(mine, of_mean) if few else intervals.redrawn(mine, ratio)
        low, high = intervals.interval(mine.mean(), error, SPAN)
        held.append(np.nan if np.isnan(low) else low <= truth <= high)
        error = intervals.resampled(difference, of_difference) if few else anew
        found.append(_is_found(difference.mean(), error))
        naive.append(_is_found(difference.mean(), anew))
    return Rates(*(float(np.nanmean(rate)) for rate in (held, found, naive)))


def _is_found(difference: float, error: Error) -> float:
    """Return whether a test says that there is a difference, 0 or 1; NaN where there is none to test."""
    p = intervals.p_value(difference, error)
    return np.nan if np.isnan(p) else float(p < 0.05)


def rates(scores: np.ndarray, ratio: float, splits: int, seeds: int) -> Rates:
    """Return what the tables would say of studies that had the first so many splits and seeds only."""
    truth, few = scores[:, 0].mean(), scores[:, :, :splits, :seeds].mean(3)
    held, found, naive = [], [], []
    for study, (mine, other) in enumerate(few):
        low, high = intervals.interval(mine.mean(), intervals.redrawn(mine, ratio), SPAN)
        held.append(low <= truth <= high)
        difference = mine - other
        found.append(intervals.p_value(difference.mean(), intervals.redrawn(difference, ratio)) < 0.05)
        pairs = scores[study, 0, :splits, :seeds].ravel()
        naive.append(abs(pairs.mean() - truth) > stdtrit(len(pairs) - 1, 0.975) * pairs.std(ddof=1) / len(pairs) ** 0.5)
    return Rates(float(np.mean(held)), float(np.mean(found)), 1 - float(np.mean(naive)))


def fixed(studies: int, cells: int, splits: int, seeds: int, seed: int = 0, others: int = 40) -> Rates:
    """Return the rates of studies whose splits share one test set; `others`: how many other ones the truth is of."""
    rng, kinds, tested = np.random.default_rng(seed), labels(CELLS, 4), labels(cells, 3)
    every = np.concatenate([kinds, np.tile(tested, others + 1)])
    held, missed, naive = [], [], []
    for _ in range(studies):
        train = np.zeros((splits, len(every)), dtype=bool)
        train[:, : len(kinds)] = [~part(kinds, 0.1, rng) for _ in range(splits)]
        said = [_on_test_sets(every, train, len(kinds), seeds, len(tested), rng) for _ in range(2)]
        scores = [f1(tested, one) for one in said]  # [splits, seeds, test sets]
        truth = [one[..., 1:].mean() for one in scores]
        values = [one[..., 0].mean(1) for one in scores]
        drawn = _drawn(tested, [one[:, :, 0] for one in said])
        low, high = intervals.interval(values[0].mean(), intervals.resampled(values[0], drawn[0]), SPAN)
        held.append(low <= truth[0] <= high)
        difference = values[0] - values[1]
        low, high = intervals.interval(difference.mean(), intervals.resampled(difference, drawn[1]))
        missed.append(not low <= truth[0] - truth[1] <= high)
        naive.append(intervals.p_value(difference.mean(), intervals.redrawn(difference, 0.29)) < 0.05)
    return Rates(float(np.mean(held)), float(np.mean(missed)), float(np.mean(naive)))


def _on_test_sets(
    every: np.ndarray, train: np.ndarray, first: int, seeds: int, size: int, rng: np.random.Generator
) -> np.ndarray:
    """Return predictions on test sets that begin at row `first`, int64 [splits, seeds, test sets, size]."""
    cells = CENTRES[every] + rng.normal(size=(len(every), FEATURES))
    said = predict(cells, every, train, np.arange(first, len(every)), seeds, rng)
    return said.reshape(*said.shape[:2], -1, size)


def _drawn(kinds: np.ndarray, said: list[np.ndarray], donors: np.ndarray | None = None) -> tuple[Error, Error]:
    """Return the errors of model 0's mean and of the difference; said: predictions [splits, seeds, n] of each."""
    names = np.array([f"cell {n}" for n in range(len(kinds))])
    trials = [
        [Predictions(names, kinds, one, CLASSES, donors) for one in each.reshape(-1, len(kinds))] for each in said
    ]
    draws = Draws(trials[0][:1], 400)
    scores = [np.mean([resampling.score(draws.tables(one), "macro_f1") for one in each], axis=0) for each in trials]
    return draws.error(scores[0]), draws.error(scores[0] - scores[1])


def by_donor(studies: int, donors: int, share: float, splits: int, spread: float = 1.0, seed: int = 0) -> Rates:
    """Return the rates of studies whose splits hold out whole donors, 40 cells each, who differ by `spread`."""
    rng, who = np.random.default_rng(seed), np.repeat(np.arange(donors), 40)
    number = max(1, round(share * donors))
    values, errors = np.empty((studies, 2, splits)), []
    for study in range(studies):
        kinds = rng.choice(TYPES, len(who), p=SHARES)
        tested = np.array([np.isin(who, rng.choice(donors, number, replace=False)) for _ in range(splits)])
        said = []
        for model in range(2):
            shift = spread * rng.normal(size=(donors, TYPES, FEATURES))
            cells = CENTRES[kinds] + shift[who, kinds] + rng.normal(size=(len(who), FEATURES))
            each = predict(cells, kinds, ~tested, np.arange(len(who)), 1, rng)[:, 0]
            said.append(each)
            values[study, model] = [f1(kinds[rows], one[rows]) for rows, one in zip(tested, each, strict=True)]
        errors.append(_donors_drawn(kinds, who, tested, said))
    return _donor_rates(values, errors, number / (donors - number))


def _donors_drawn(
    kinds: np.ndarray, who: np.ndarray, tested: np.ndarray, said: list[np.ndarray]
) -> tuple[Error, Error]:
    names, donors = np.array([f"cell {n}" for n in range(len(kinds))]), np.array([f"donor {n:02}" for n in who])
    trials = [
        [
            Predictions(names[rows], kinds[rows], one[rows], CLASSES, donors[rows])
            for rows, one in zip(tested, each, strict=True)
        ]
        for each in said
    ]
    draws = Draws(trials[0], 400)
    scores = [np.array([resampling.score(draws.tables(one), "macro_f1") for one in each]) for each in trials]
    means = [np.nanmean(one, axis=0) for one in (scores[0], scores[0] - scores[1])]
    return draws.error(means[0]), draws.error(means[1])


def _donor_rates(values: np.ndarray, errors: list[tuple[Error, Error]], ratio: float) -> Rates:
    truth, held, found, naive = values[:, 0].mean(), [], [], []
    for (mine, other), (of_mean, of_difference) in zip(values, errors, strict=True):
        error = intervals.wider(intervals.resampled(mine, of_mean), intervals.redrawn(mine, ratio))
        low, high = intervals.interval(mine.mean(), error, SPAN)
        held.append(low <= truth <= high)
        difference = mine - other
        error = intervals.wider(intervals.resampled(difference, of_difference), intervals.redrawn(difference, ratio))
        found.append(intervals.p_value(difference.mean(), error) < 0.05)
        naive.append(intervals.p_value(difference.mean(), intervals.redrawn(difference, 0.0)) < 0.05)
    return Rates(float(np.mean(held)), float(np.mean(found)), float(np.mean(naive)))


def _line(*cells: object) -> None:
    print("| " + " | ".join(f"{one:.3f}" if isinstance(one, float) else str(one) for one in cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=600, help="studies per row")
    parser.add_argument("--luck", type=float, default=LUCK, help="sd of what trial seeds add to a mean")
    given = parser.parse_args()
    studies, globals()["LUCK"] = given.simulations, given.luck
    print(f"{studies} studies a row: a rate of 0.95 is right to {1.96 * np.sqrt(0.95 * 0.05 / studies):.3f}\n")
    _line("test / training", "splits", "seeds", "coverage", "false positives", "coverage of naive t")
    _line(*["---"] * 6)
    for test, validation in PARTS:
        scores, shared = redrawn(studies, test, validation), ratio(test, validation)
        for splits in SPLITS:
            for seeds in SEEDS:
                found = rates(scores, shared, splits, seeds)
                _line(f"{shared:.2f}", splits, seeds, found.coverage, found.false_positives, found.naive)
    print()
    _line("design", "splits", "seeds", "coverage", "false positives", "false positives, corrected t or plain t")
    _line(*["---"] * 6)
    for test, _ in PARTS:
        for splits in (3, 5, 10):
            found = one_type(studies // 2, test, splits, TYPES - 1)
            name = f"F1 of a type of {labels(CELLS, 4).tolist().count(TYPES - 1)} cells, {test:.0%} tested"
            _line(name, splits, 1, found.coverage, found.false_positives, found.naive)
    for cells, splits, seeds in ((60, 3, 1), (60, 5, 3), (150, 5, 1), (150, 10, 1)):
        found = fixed(studies // 2, cells, splits, seeds)
        _line(f"fixed, {cells} test cells", splits, seeds, found.coverage, found.false_positives, found.naive)
    for donors, share, splits in ((8, 0.25, 3), (8, 0.25, 5), (8, 0.25, 10), (20, 0.2, 5), (20, 0.2, 10)):
        found = by_donor(studies // 2, donors, share, splits)
        _line(f"{donors} donors, {share:.0%} tested", splits, 1, found.coverage, found.false_positives, found.naive)


if __name__ == "__main__":
    main()
