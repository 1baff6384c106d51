"""`cellskew leaderboard`: ranks are as sure as differences are; wins and costs are counted by hand."""

import json

import numpy as np
import pandas as pd
import pytest
from made_runs import METRIC, numbered, run, runs

from data_pipeline.errors import RequestError
from sweeps.answers import bundle
from sweeps.answers.deciding import leaderboard
from sweeps.answers.designs import Designs
from sweeps.answers.runs.stored import Stored
from sweeps.commands import deciding

LR = "logistic_regression"
CLEAR = {("scgpt", "none"): 0.5, (LR, "none"): 0.7, (LR, "oversample"): 0.701, ("majority", "none"): 0.1}


def boards(frame: pd.DataFrame, metric: str = METRIC) -> list[leaderboard.Board]:
    return leaderboard.boards(frame, metric, Designs(frame))


def ranks(board: leaderboard.Board) -> dict[str, tuple[float, float]]:
    return {row.label: (row.rank_low, row.rank_high) for row in board.table.itertuples()}


def test_what_can_not_be_told_apart_may_have_each_others_rank():
    (board,) = boards(runs(CLEAR))
    assert ranks(board) == {f"{LR} · oversample": (1, 2), f"{LR} · none": (1, 2), "scgpt · none": (3, 3)}
    assert sorted(board.table["rank"]) == [1, 2, 3], "chance is no rival"


def test_equal_means_share_a_rank_and_nothing_is_told():
    (board,) = boards(runs({("scgpt", "none"): 0.5, ("scgpt", "smote"): 0.5}, noise=0.0))
    assert board.table["rank"].tolist() == [1.5, 1.5] and set(ranks(board).values()) == {(1, 2)}
    assert board.wins.loc["scgpt · none", "scgpt · smote"] == 0.5


@pytest.mark.parametrize("splits", [1, 2])
def test_under_three_splits_a_rank_has_no_interval(splits, capsys):
    frame = runs(CLEAR, splits=splits)
    found = boards(frame)
    assert found[0].table["rank_low"].isna().all()
    leaderboard.show(found, frame, Designs(frame), "text", None)
    assert "under 3 splits a rank has no interval" in capsys.readouterr().out


def test_wins_are_shares_of_splits_trial_seeds_averaged_first():
    values = {"none": [0.5, 0.6, 0.7, 0.4], "smote": [0.6, 0.6, 0.6, 0.3]}
    rows = [
        run("scgpt", name, split, value + luck, seed=seed)
        for name, listed in values.items()
        for split, value in enumerate(listed)
        for seed, luck in (("0", 0.25), ("1", -0.25))
    ]
    (board,) = boards(numbered(pd.DataFrame(rows)))
    assert board.wins.loc["scgpt · smote", "scgpt · none"] == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    assert board.wins.loc["scgpt · none", "scgpt · smote"] == pytest.approx((0 + 0.5 + 1 + 1) / 4)
    assert board.table.set_index("label")["wins"]["scgpt · none"] == pytest.approx(0.625)


def test_less_is_better_of_some_metrics():
    (board,) = boards(runs(CLEAR).assign(test_brier=lambda frame: 1 - frame[METRIC]), "test_brier")
    assert ranks(board)["scgpt · none"] == (3, 3) and board.wins.loc[f"{LR} · none", "scgpt · none"] == 1


def test_pareto_is_what_nothing_matches_for_less():
    """smote is the best and dear, none the cheapest; oversample costs more than none and is worse."""
    frame = runs({("scgpt", "none"): 0.6, ("scgpt", "oversample"): 0.5, ("scgpt", "smote"): 0.8}, noise=0.0)
    frame["trial_seconds"] = frame["strategy"].map({"none": 10.0, "oversample": 12.0, "smote": 99.0})
    frame[["gpu", "gpus"]] = ["NVIDIA H100", "0.5"]
    (board,) = boards(frame)
    assert dict(zip(board.table["strategy"], board.table["pareto"], strict=True)) == {
        "smote": True,
        "none": True,
        "oversample": False,
    }
    assert board.table["gpu_hours"][0] == pytest.approx(99 / 3600 / 2)
    unknown = boards(frame.assign(trial_seconds=np.nan))[0]
    assert not unknown.table["pareto"].any(), "what isn't known is no cost of 0"


def test_each_dataset_and_skew_has_a_board_of_its_own(capsys):
    other = runs({**CLEAR, ("scgpt", "none"): 0.9}, dataset="e")
    frame = numbered(pd.concat([runs(CLEAR), other, runs(CLEAR, skew="step-10")]))
    found = boards(frame)
    assert [(one.dataset, one.ranking.skew) for one in found] == [("d", "natural"), ("d", "step-10"), ("e", "natural")]
    assert found[2].table["label"][0] == "scgpt · none" and found[0].table["label"][0] != "scgpt · none"
    leaderboard.show(found, frame, Designs(frame), "text", None)
    assert "nothing is averaged over datasets" in capsys.readouterr().out


def test_the_true_rank_is_in_the_interval_where_all_are_alike():
    """Four choices of one truth: each of the ranks 1 to 4 is as true; 15 studies, of which 0.95 hold on average."""
    held = 0
    for seed in range(15):
        rng = np.random.default_rng(seed)
        rows = [
            run("scgpt", f"s{choice}", split, 0.6 + rng.normal(0, 0.03)) for split in range(5) for choice in range(4)
        ]
        (board,) = boards(numbered(pd.DataFrame(rows)))
        held += ranks(board)["scgpt · s0"] == (1, 4)
    assert held >= 12


def test_an_unknown_metric_is_refused_and_nothing_finished_said(capsys):
    with pytest.raises(RequestError, match="unknown metric 'test_nothing'"):
        boards(runs(CLEAR), "test_nothing")
    frame = runs(CLEAR).assign(status="RUNNING")
    leaderboard.show(boards(frame), frame, Designs(frame), "text", None)
    assert capsys.readouterr().out.startswith("nothing to rank yet")
    chance = runs({("majority", "none"): 0.1})
    leaderboard.show(boards(chance), chance, Designs(chance), "text", None)
    assert capsys.readouterr().out.startswith("nothing to rank: all of these trials are of chance")


def test_the_command_prints_a_board_or_json(tmp_path, capsys):
    frame = runs(CLEAR).assign(code="", digest="d0", superseded="", reason="")
    bundle.write(tmp_path / "made.zip", "made", frame, Stored(None), None, None)
    deciding.leaderboard(str(tmp_path / "made.zip"))
    printed = capsys.readouterr().out
    assert "d, skew natural, 5 splits" in printed and "1 [1, 2]" in printed and "Mogstad" in printed
    deciding.leaderboard(str(tmp_path / "made.zip"), as_json=True)
    (one,) = json.loads(capsys.readouterr().out)["boards"]
    assert one["choices"][2]["rank_low"] == 3 and one["wins"][f"{LR} · none"]["scgpt · none"] == 1
    assert one["chance"] == pytest.approx(0.1, abs=0.05)
