"""How many splits are wanted: from finished trials alone, at looks that intervals allow for."""

import numpy as np
import pandas as pd
import pytest
from fake_trials import spec
from test_summary import METRIC

from sweeps.answers import comparison, differences, sure
from sweeps.answers.designs import Designs
from sweeps.answers.runs import choices, results
from sweeps.file.config import SweepSpec
from sweeps.file.questions import Until, looks
from sweeps.statistics import intervals

MOST = 12


def sweep(half_width: float, **asked) -> SweepSpec:
    """Return a sweep of two models and two skews that adds splits until their difference at each skew is sure."""
    until = Until(half_width=half_width, between="model", **asked)
    splits = [{"seed": seed, "test": 0.2, "validation": 0.1} for seed in range(MOST)]
    return spec().model_copy(update={"until": until, "splits": splits})


def finished(asked: SweepSpec, splits: int, gain: float = 0.0, noise: float = 0.1) -> pd.DataFrame:
    """Return finished runs of a sweep's first splits, scgpt so much better than majority."""
    rows = []
    for trial in asked.first(splits).trials():
        rng = np.random.default_rng([int(trial.labels["split"]), len(trial.labels["skew"]), len(trial.labels["model"])])
        score = 0.5 + gain * (trial.labels["model"] == "scgpt") + noise * rng.normal()
        row = trial.labels | {"run_id": trial.key, "key": trial.key, "status": "FINISHED", METRIC: score}
        row |= {
            "defects": "",
            "protocol": "corrected",
            "superseded": "",
            "settings": "",
            "test_cells": 20.0,
            "natural_cells": 80.0,
        }
        rows.append(row | {"trial_seconds": 60.0, "artifact_uri": "", "fixed_test": 0.0, "wanted": False})
    return pd.DataFrame(rows, columns=list(rows[0]) if rows else ["key", "status", "superseded"])


@pytest.fixture
def look(monkeypatch):
    """Return a look at runs as if MLflow had them."""

    def at(asked: SweepSpec, runs: pd.DataFrame, allowed: int = 3) -> sure.Wanted:
        monkeypatch.setattr(results, "fetch", lambda uri, name: runs)
        return sure.wanted(asked, "nowhere", allowed)

    return at


def test_few_splits_first_and_more_while_it_is_not_sure(look):
    asked = sweep(0.1)
    assert look(asked, finished(asked, 0)) == sure.Wanted(5)
    assert look(asked, finished(asked, 5).iloc[1:]) == sure.Wanted(5), "a trial is missing yet"
    assert look(asked, finished(asked, 5, gain=0.2)) == sure.Wanted(8)
    assert look(asked, finished(asked, 8, gain=0.2)) == sure.Wanted(12)
    ended = look(asked, finished(asked, 12, gain=0.2))
    assert (ended.splits, ended.said[:49]) == (12, "0 of 2 differences are sure after all 12 splits; ")


def test_what_is_wanted_does_not_depend_on_how_far_it_went_before(look):
    """Killed later, or run under an earlier file: the look after five splits sees these alone."""
    asked = sweep(0.1)
    runs = finished(asked, 12, gain=0.8)
    assert look(asked, runs).splits == 5 == look(asked, finished(asked, 5, gain=0.8)).splits
    failed = runs.assign(status=runs["status"].where(runs["split"] != "3", "FAILED"))
    assert look(asked, failed) == sure.Wanted(5)
    doubled = pd.concat([failed, failed[failed["split"] == "2"]], ignore_index=True)
    assert look(asked, doubled) == sure.Wanted(5), "a trial that ran twice stands for no other"


def test_sure_is_narrow_or_beyond_the_tie_and_it_is_said_what_that_saved(look):
    asked = sweep(0.1)
    for runs in (finished(asked, 5, gain=0.8), finished(asked, 5, noise=0.01)):
        found = look(asked, runs)
        said = "all 2 differences are sure after 5 splits; 7 more were not needed (28 trials, about 28 min of trials)"
        assert found == sure.Wanted(5, said)


def test_rows_without_hope_end_it_early(look):
    asked = sweep(0.001)
    found = look(asked, finished(asked, 8, noise=0.3))
    assert found.splits == 5 and "0 of 2 differences are sure, the others not by 12 splits either" in found.said
    assert "scgpt - majority (natural)" in found.said or "majority - scgpt (natural)" in found.said


def test_the_same_predictions_ask_nothing(look):
    asked = sweep(0.001)
    runs = finished(asked, 5).assign(**{METRIC: 0.5})
    assert look(asked, runs).splits == 8, "the same number by chance, so far"
    same = dict.fromkeys(choices.OF_PREDICTIONS, 0.4)
    assert look(asked, runs.assign(**same)).splits == 5


def test_a_question_without_an_answer_ends_it_in_words(look):
    asked = sweep(0.1, metric="recall_tail")
    found = look(asked, finished(asked, 5))
    assert found.splits == 5 and "it can't be told, and no more are added: unknown metric" in found.said


def test_every_table_allows_for_the_looks_and_says_so(capsys):
    asked = sweep(0.1)
    plain = finished(asked, 8)
    tables = [comparison.compare(runs, "model", ["skew"], METRIC) for runs in (plain, plain.assign(looks=3))]
    for one, more in zip(tables[0].table.itertuples(), tables[1].table.itertuples(), strict=True):
        error = intervals.redrawn(tables[1].estimates[more.Index].by_split.to_numpy(), 0.25)
        assert more.high - more.difference == pytest.approx(-error.size * intervals.stdtrit(7, 0.025 / 3))
        assert more.high > one.high and more.p == pytest.approx(min(1, 3 * one.p))
    differences.show([tables[1]], "table", None)
    said = " ".join(capsys.readouterr().out.split())
    assert "hold however often was looked (3 looks at most; 5 % / 3 for each, Jennison & Turnbull 1989)" in said
    one, more = (Designs(runs).estimate(runs, METRIC).interval((0.0, 1.0)) for runs in (plain, plain.assign(looks=3)))
    assert more[0] < one[0] and more[1] > one[1]


def test_looks_pass_through_every_way_to_combine_errors():
    error = intervals.Error(0.1, 4.0, looks=4)
    values = np.array([0.1, 0.2, 0.4])
    for found in (
        intervals.pooled([error, intervals.Error(0.1, 4.0)]),
        intervals.resampled(values, error),
        intervals.wider(error, intervals.redrawn(values, 0.2, 4)),
    ):
        assert found.looks == 4
    assert intervals.p_value(0.1, error) == pytest.approx(min(1, 4 * intervals.p_value(0.1, intervals.Error(0.1, 4.0))))
    assert len(looks(MOST)) == 3


def test_what_chance_does_holds_nothing_up(look):
    """majority says the same at every split: its differences have no spread, and no interval, for ever."""
    asked = sweep(0.1).model_copy(update={"until": Until(half_width=0.1, between="strategy")})
    plain = finished(asked, 5, noise=0.01)
    runs = pd.concat([plain, plain.assign(strategy="oversample", run_id=plain["run_id"] + "o")], ignore_index=True)
    majority = runs["model"] == "majority"
    runs.loc[majority, METRIC] = np.where(runs.loc[majority, "strategy"] == "none", 0.05, 0.03)
    runs.loc[~majority, METRIC] += np.random.default_rng(0).normal(0, 0.01, (~majority).sum())
    assert look(asked, runs).said.startswith("all 2 differences are sure after 5 splits")
