"""Small forms of benchmarks: intervals hold the truth, tests find nothing that isn't there, metrics agree."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from trainables import metrics

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks" / "numbers"


def benchmark(name: str) -> ModuleType:
    """Return a script of benchmarks/ as a module; one named coverage would be taken for the package of that name."""
    spec = importlib.util.spec_from_file_location(f"benchmark_of_{name}", BENCHMARKS / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


coverage, recompute, stopping = benchmark("coverage"), benchmark("recompute"), benchmark("stopping")
STUDIES = 120  # a rate of 0.95 is right to 0.04 (95 %)


def test_intervals_over_splits_hold_the_mean_and_seeds_buy_nothing(monkeypatch):
    monkeypatch.setattr(coverage, "SPLITS", (3, 5))
    monkeypatch.setattr(coverage, "SEEDS", (1, 3))
    scores = coverage.redrawn(STUDIES, 0.2, 0.1)
    shared = coverage.ratio(0.2, 0.1)
    assert shared == pytest.approx(0.246, abs=0.001), "a fifth of six cells is one: not 0.2 / 0.7"
    found = [coverage.rates(scores, shared, splits, seeds) for splits in (3, 5) for seeds in (1, 3)]
    assert min(rates.coverage for rates in found) > 0.90
    assert max(rates.false_positives for rates in found) < 0.10
    assert found[3].naive < 0.80, "the premise: pairs of split and seed as replicates are far too sure"


def test_a_type_of_few_test_cells_is_no_sure_thing():
    found = coverage.one_type(60, 0.4, splits=5, kind=5)
    assert found.coverage > 0.86 and found.false_positives < 0.14, "60 studies: 0.05 is right to 0.055"


def test_a_fixed_test_set_is_no_sure_thing():
    found = coverage.fixed(100, 60, splits=5, seeds=2, others=10)
    assert found.coverage > 0.86 and found.false_positives < 0.14, "100 studies: 0.05 is right to 0.043"
    assert found.naive > found.false_positives, "the premise: splits of one test set are no replicates"


def test_whole_donors_are_drawn_again():
    found = coverage.by_donor(60, 8, 0.25, splits=5)
    assert found.coverage > 0.86 and found.false_positives < 0.14
    assert found.naive > 0.1, "the premise: donors that splits share"


def test_looking_again_and_again_until_it_is_sure_is_no_sure_thing():
    """Splits without cells in common, where the corrected t is exact: looks that aren't allowed for find what isn't."""
    values = np.random.default_rng(0).normal(0, 0.1, (400, 18))
    kept, naive = (stopping.ends(values, 0.0, 0.001, 0.0, allowed) for allowed in (True, False))
    assert kept.coverage > 0.93 and kept.found < 0.07, "400 studies: 0.95 is right to 0.021"
    assert naive.found > 0.09, "the premise"
    strong = stopping.ends(values[:100], 0.0, 0.001, 0.2)
    assert strong.found > 0.9 and strong.coverage > 0.89 and strong.splits < 12, "and what is there is found early"


def test_the_made_up_studies_are_what_they_should_be():
    kinds = coverage.labels(300, 4)
    assert np.bincount(kinds).tolist() == [150, 75, 36, 21, 12, 6]
    assert np.bincount(kinds[coverage.part(kinds, 0.2, np.random.default_rng(0))]).tolist() == [30, 15, 7, 4, 2, 1]


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_recomputed_metrics_are_those_of_trials():
    rng = np.random.default_rng(0)
    scores, truth = rng.dirichlet(np.ones(4), 80), np.arange(80) % 3  # the last type has no test cells
    names = np.array(["a", "b", "c", "d"])
    table = pd.DataFrame({"truth": names[truth], "prediction": names[scores.argmax(1)]})
    theirs = recompute.of_predictions(table.join(pd.DataFrame(scores, columns=[f"p_{name}" for name in names])))
    ours = metrics.evaluate(scores, truth, np.full(4, 9))
    assert len(theirs) == 13 and {name: ours[name] for name in theirs} == pytest.approx(theirs, abs=1e-12)
