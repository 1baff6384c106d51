"""Ranks over datasets: Friedman's test and Nemenyi's difference, blocks being datasets, of which six are needed."""

import json
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from made_runs import METRIC, numbered, runs
from scipy import stats

from sweeps.answers.deciding import critical, leaderboard
from sweeps.answers.designs import Designs
from sweeps.answers.page import figures
from sweeps.statistics import families

LR = "logistic_regression"
MEANS = {("scgpt", "none"): 0.5, (LR, "none"): 0.7, (LR, "oversample"): 0.701, ("majority", "none"): 0.1}


def datasets(number: int, means=MEANS, noise: float = 0.01) -> pd.DataFrame:
    """Return finished runs of so many datasets, each with luck of its own, three splits in each."""
    rng = np.random.default_rng(1)
    parts = []
    for at in range(number):
        lucky = {choice: mean + rng.normal(0, noise) for choice, mean in means.items()}
        parts.append(runs(lucky, splits=3, noise=0.001).assign(dataset=f"d{at}"))
    return numbered(pd.concat(parts, ignore_index=True))


def boards(frame: pd.DataFrame) -> list[leaderboard.Board]:
    return leaderboard.boards(frame, METRIC, Designs(frame))


def test_numbers_are_those_of_the_sources():
    assert families.critical_difference(4, 14) == pytest.approx(1.25, abs=0.01), "Demšar 2006, page 13"
    assert families.critical_difference(10, 14) / np.sqrt(110 / 84) == pytest.approx(3.164, abs=0.001), "his table 5"
    values = np.round(np.random.default_rng(0).normal(size=(8, 5)) + 0.4 * np.arange(5), 1)
    ranks = np.array([families.ranks(one) for one in values])
    assert len(set(values[0])) < 5 or (ranks % 1 != 0).any(), "the premise: there are ties"
    np.testing.assert_array_equal(ranks, stats.rankdata(values, axis=1))
    chi_square = stats.friedmanchisquare(*values.T).statistic
    p = stats.f.sf(7 * chi_square / (8 * 4 - chi_square), 4, 28)
    assert families.friedman(ranks) == pytest.approx(p)
    assert families.friedman(np.full((6, 3), 2.0)) == 1.0
    assert families.friedman(np.tile([1.0, 2.0, 3.0], (6, 1))) == 0.0


def test_under_six_datasets_it_is_refused_whatever_the_splits(capsys):
    frame = datasets(5)
    found = boards(frame)
    assert critical.over_datasets(found) == []
    leaderboard.show(found, frame, Designs(frame), "text", None)
    said = " ".join(capsys.readouterr().out.split())
    assert "6 datasets are needed, here are 5; splits of one dataset share cells, and don't stand for others" in said


def test_choices_that_can_not_be_told_apart_stand_under_one_line(capsys):
    frame = datasets(8)
    found = boards(frame)
    (one,) = critical.over_datasets(found)
    assert one.labels[2] == "scgpt · none" and one.ranks[2] == 3 and "majority · none" not in one.labels
    assert one.differs and one.alike == [(0, 1)] and one.apart == pytest.approx(families.critical_difference(3, 8))
    leaderboard.show(found, frame, Designs(frame), "text", None)
    out = capsys.readouterr().out
    lines = out[out.index("mean rank ") :].splitlines()
    assert [line.count("|") for line in lines[1:4]] == [1, 1, 0]
    assert "Nemenyi" in out and "critical-difference diagram" not in out
    leaderboard.show(found, frame, Designs(frame), "json", None)
    (told,) = json.loads(capsys.readouterr().out)["over_datasets"]
    assert told["not_told_apart"] == [[one.labels[0], one.labels[1]]] and told["datasets"] == [
        f"d{n}" for n in range(8)
    ]


def test_without_friedmans_leave_nothing_is_told_apart():
    (one,) = critical.over_datasets(boards(datasets(6, {key: 0.5 for key in MEANS}, noise=0.05)))
    assert not one.differs and one.alike == [(0, len(one.labels) - 1)]
    assert "Friedman's test finds no difference" in str(one)
    (less,) = critical.over_datasets(boards(datasets(6)), looks=6)
    (more,) = critical.over_datasets(boards(datasets(6)))
    assert less.apart > more.apart and less.p == pytest.approx(6 * more.p)


def test_ties_share_a_rank_and_what_a_dataset_lacks_is_left_out():
    frame = datasets(6, noise=0.0)
    same = frame["model"] == LR
    frame.loc[same, METRIC] = 0.7
    frame = frame[(frame["dataset"] != "d3") | (frame["model"] != "scgpt")]
    more = frame[frame["model"] == "majority"].assign(model="knn", **{METRIC: 0.3})
    (one,) = critical.over_datasets(boards(numbered(pd.concat([frame, more], ignore_index=True))))
    assert one.left_out == ["scgpt · none"] and one.ranks.tolist() == [1.5, 1.5, 3.0]


def test_groups_are_the_largest_ones_alone():
    ranks = np.array([1.0, 1.8, 2.4, 4.8])
    one = critical.Ranks(METRIC, "natural", ["d"] * 6, list("abcd"), ranks, 0.01, 1.0, [])
    assert one.alike == [(0, 1), (1, 2)]
    picture = figures.ranks(one)
    assert ElementTree.fromstring(picture) is not None and picture.count("<circle") == 4
