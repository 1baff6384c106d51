"""`cellskew leaderboard`: ranks of choices with what can't be excluded of them, who beats whom, score against cost.

A board per dataset and skew: nothing is averaged over either. Over enough datasets their ranks are, see critical.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sweeps import tables
from sweeps.answers import celltypes
from sweeps.answers.deciding import critical
from sweeps.answers.deciding.ranking import Board, Ranking, rankings
from sweeps.answers.deciding.wording import ONLY_CHANCE, many, named, of_dropped
from sweeps.answers.designs import Designs
from sweeps.answers.runs import choices, results
from sweeps.answers.runs.choices import CHANCE
from sweeps.answers.runs.looks import looks_at
from sweeps.answers.summary import explained_intervals, title
from sweeps.statistics.intervals import LEAST, sign

WIDE = 12  # choices that a matrix on a screen has room for
PARETO = "*"


def boards(runs: pd.DataFrame, metric: str, designs: Designs) -> list[Board]:
    """Return a board per dataset and skew of the finished runs that have a metric; RequestError if none knows it."""
    results.check_columns(runs, [], [metric])
    results.check_alone(runs)
    finished = choices.unfolded(runs[runs["status"] == "FINISHED"])
    ranked = [
        (dataset, ranking)
        for dataset, part in finished.groupby("dataset", sort=False)
        for ranking in rankings(part, metric, designs)
    ]
    return [_board(dataset, ranking) for dataset, ranking in ranked if len(ranking.candidates)]


def _board(dataset: str, ranking: Ranking) -> Board:
    table, wins = ranking.candidates.reset_index(drop=True), _wins(ranking)
    rank, low, high = _ranks(ranking)
    others = max(1, len(table) - 1)
    table = table.assign(rank=rank, rank_low=low, rank_high=high, wins=(wins.sum(axis=1).to_numpy()) / others)
    table["gpu_hours"] = table["seconds"] / 3600 * table["gpus"]
    return Board(dataset, ranking, table.assign(pareto=_pareto(table, ranking.metric)), wins)


def _ranks(ranking: Ranking) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each candidate's rank by its mean, and the lowest and highest that can't be excluded, float [m].

    Those are 1 + the choices that are better beyond chance, and m - those that are worse: differences on the same
    cells, by the design of the splits, good for a choice's m - 1 differences at once. 95 % for each choice. Source:
    Mogstad, Romano, Shaikh, Wilhelm 2024, Review of Economic Studies 91, 476-518, with Bonferroni's correction; ranks
    drawn again by a bootstrap, they show, are too sure where choices nearly tie. NaN under three splits.
    """
    labels = list(ranking.candidates["label"])
    means = ranking.candidates["mean"].to_numpy() * sign(ranking.metric)
    rank = np.array([(means > mean).sum() + ((means == mean).sum() + 1) / 2 for mean in means])
    if ranking.splits < LEAST:
        return rank, np.full(len(labels), np.nan), np.full(len(labels), np.nan)
    tests = max(1, ranking.distinct(labels) - 1)
    better = np.zeros((len(labels), len(labels)), dtype=bool)  # the row than the column
    for one in range(len(labels)):
        for other in range(one + 1, len(labels)):
            found = ranking.difference(labels[one], labels[other], tests)
            better[one, other], better[other, one] = found.low > 0, found.high < 0
    return rank, 1.0 + better.sum(axis=0), len(labels) - better.sum(axis=1).astype(float)


def _wins(ranking: Ranking) -> pd.DataFrame:
    labels = list(ranking.candidates["label"])
    scores = np.array([ranking.estimates[label].by_split.to_numpy() for label in labels]) * sign(ranking.metric)
    apart = scores[:, None] - scores[None]
    shares = ((apart > 0) + (apart == 0) / 2).mean(axis=2)
    np.fill_diagonal(shares, 0.0)
    return pd.DataFrame(shares, index=labels, columns=labels)


def _pareto(table: pd.DataFrame, metric: str) -> list[bool]:
    """Tell which choices no other matches in mean, GPU-hours and seconds and betters in one of them."""
    parts = np.column_stack([table["mean"] * sign(metric), -table["gpu_hours"], -table["seconds"]])
    return [
        bool(np.isfinite(mine).all() and not ((parts >= mine).all(axis=1) & (parts > mine).any(axis=1)).any())
        for mine in parts
    ]


def show(found: Sequence[Board], runs: pd.DataFrame, designs: Designs, form: str, warning: str | None) -> None:
    """Print boards as tables, or as JSON."""
    over = critical.over_datasets(found, looks_at(runs))
    if form == "json":
        ranks = list(map(critical.for_programs, over))
        tables.print_json({"warning": warning, "boards": list(map(_for_programs, found)), "over_datasets": ranks})
        return
    tables.warn(warning)
    if not found:
        is_chance = set(choices.kinds(runs).values()) == {CHANCE}
        why = (
            ONLY_CHANCE if is_chance else "no split has a finished trial of every choice (chance and defects are none)"
        )
        print(f"nothing to rank{'' if is_chance else ' yet'}: {why}")
        return
    for board in found:
        where = f"{board.dataset}, skew {board.ranking.skew}, {many(board.ranking.splits, 'split')}"
        tables.draw(as_text(board), title=where, left=2)
        if len(board.table) > 1:
            who = matrix(board) if tables.fits(matrix(board)) else matrix(board, names=False)
            tables.draw(who, title="share of splits won, row against column, ties half", left=1)
    tables.say(*explained(found, runs, designs))
    critical.show(over)


def as_text(board: Board) -> pd.DataFrame:
    """Return a board as a table of text for people."""
    rows = []
    for _, row in board.table.iterrows():
        ends = "" if np.isnan(row["rank_low"]) else f" [{row['rank_low']:.0f}, {row['rank_high']:.0f}]"
        own = "" if np.isnan(row["low"]) else f" [{row['low']:.3f}, {row['high']:.3f}]"
        text = {"rank": f"{row['rank']:g}{ends}", "choice": row["label"]}
        text |= {title(board.ranking.metric): f"{row['mean']:.3f}{own}", "splits won": f"{row['wins']:.2f}"}
        text |= {"seconds": tables.number(row["seconds"]), "GPU-hours": tables.number(row["gpu_hours"])}
        rows.append(text | {"Pareto": PARETO if row["pareto"] else ""})
    return pd.DataFrame(rows)


def matrix(board: Board, names: bool = True) -> pd.DataFrame:
    """Return who beats whom as text, choices by their place in the table, and name; the first WIDE of them."""
    labels = list(board.wins.index[:WIDE])
    rows = []
    for at, one in enumerate(labels):
        cells = ["" if one == other else f"{board.wins.loc[one, other]:.2f}" for other in labels]
        rows.append(
            {"": f"{at + 1} {one}" if names else f"{at + 1}"}
            | {str(place + 1): cell for place, cell in enumerate(cells)}
        )
    return pd.DataFrame(rows)


def explained(found: Sequence[Board], runs: pd.DataFrame, designs: Designs) -> Iterator[str]:
    """Yield the sentences under the boards."""
    metrics = list(dict.fromkeys(board.ranking.metric for board in found))
    yield "rank: by the mean over splits, chance (majority) apart; ties share a rank"
    if any(board.ranking.splits >= LEAST for board in found):
        yield (
            "[95 %] of a rank: 1 + the choices that are better beyond chance, to all less those that are worse; of "
            "differences on the same cells, good for all of a choice's at once (Mogstad et al. 2024, Bonferroni): "
            f"{explained_intervals(designs, {board.dataset for board in found})}"
        )
    if any(board.ranking.splits < LEAST for board in found):
        yield f"under {LEAST} splits a rank has no interval: add splits: seeds"
    yield (
        f"Pareto {PARETO}: no other choice is as good by its mean, or better, for fewer seconds and GPU-hours "
        "(of what is tuned, those of all its settings)"
    )
    if len({board.dataset for board in found}) > 1:
        yield "each dataset has a board of its own; nothing is averaged over datasets"
    yield from celltypes.tested(runs[runs["status"] == "FINISHED"], metrics)
    yield from celltypes.rare(runs, designs.stored, metrics)
    if lacking := dict.fromkeys(label for board in found for label in board.ranking.unranked):
        yield f"left out, under half of the splits being finished: {named(list(lacking))}"
    yield from of_dropped([board.ranking for board in found])
    yield from critical.refusals(found)
    yield from designs.notes


def _for_programs(board: Board) -> dict[str, Any]:
    chance = board.ranking.best_of(CHANCE)
    return {
        "dataset": board.dataset,
        "skew": board.ranking.skew,
        "metric": board.ranking.metric,
        "splits": board.ranking.splits,
        "chance": None if chance is None else float(chance["mean"]),
        "choices": json.loads(board.table.to_json(orient="records")),
        "wins": json.loads(board.wins.to_json(orient="index")),
    }
