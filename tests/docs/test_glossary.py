"""docs/metrics.md names every metric that a trial reports, and no other."""

import re

import numpy as np
from documents import ROOT

from sweeps.answers.runs import results
from trainables import metrics
from trainables.posthoc import POSTHOC

PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")


def named() -> set[str]:
    found = set(re.findall(r"`([a-z0-9_]+)`", PAGE))
    if "`<adjustment>_applied`" in PAGE:
        found |= {f"{name}_applied" for name in POSTHOC}
    for first, rest in re.findall(r"`(test_recall_)head`, ((?:`_\w+`(?:, )?)+)", PAGE):
        found |= {first + end.removeprefix("_") for end in re.findall(r"`(\w+)`", rest)}
    for first, rest in re.findall(r"`(test_recall_)head_after_skew`, ((?:`\.\.\._\w+`(?:, )?)+)", PAGE):
        found |= {first + end for end in re.findall(r"`\.\.\._(\w+)`", rest)}
    return found


def test_every_metric_of_a_finished_sweep_is_explained(finished_sweep):
    runs = results.fetch(f"sqlite:///{finished_sweep}/cellskew-runs/mlflow.db", "my-sweep")
    reported = {name.partition(".")[0] for name in results.metric_names(runs)}
    assert reported - named() == set()


def test_every_metric_of_the_evaluation_is_explained():
    rng = np.random.default_rng(0)
    probabilities, truth = rng.dirichlet(np.ones(3), 60), np.arange(60) % 3
    found = metrics.evaluate(probabilities, truth, np.array([600, 100, 10]))
    assert {f"test_{name}" for name in found} - named() == set()
