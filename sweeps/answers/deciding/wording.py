"""The answer in words: what is best at each skew, what ties with it, what would make it surer, what can't be said."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from sweeps.answers import celltypes
from sweeps.answers.celltypes import few_to_most
from sweeps.answers.deciding import cost, surer
from sweeps.answers.deciding.ranking import Difference, Ranking, left_out_score, to_plain_throughout
from sweeps.answers.designs import Designs
from sweeps.answers.runs import choices
from sweeps.answers.runs.choices import BASELINE, CHANCE, NETWORK
from sweeps.answers.summary import plural, title
from sweeps.statistics.families import DATASETS
from sweeps.statistics.intervals import FEW, LEAST, sign

NAMED = 4  # of a list
ONLY_CHANCE = "all of these trials are of chance (majority), which looks at no gene"
TIE = 0.005  # a difference that nobody needs to know


def sentences(
    runs: pd.DataFrame, metric: str, ranked: list[Ranking], designs: Designs, kind: str | None
) -> Iterator[str]:
    """Yield the answer's sentences. runs: the finished ones that were ranked, kind: the type that the metric is of."""
    told = [one for one in ranked if one.best is not None]
    yield _question(runs, metric, ranked, kind)
    yield f"answer: {_headline(told, runs)}"
    if len(told) == 1 and told[0].tied and told[0].splits >= LEAST:
        yield f"ties with it: {named(told[0].tied, 12)}"
    yield from _throughout(told)
    yield from (_of_skew(one, designs, kind) for one in told)
    yield from of_dropped(told)
    yield from celltypes.rare(runs, designs.stored, [metric])
    yield from _flattery(told)
    yield from _cost(told)
    yield from _surer(told, kind)
    yield from _unsayable(ranked, told, runs)


def named(labels: Sequence[str], most: int = NAMED) -> str:
    """Return a list in words, its first few and how many more."""
    more = len(labels) - most
    return ", ".join(labels[:most]) + (f" and {more} more" if more > 0 else "")


def many(number: int, thing: str) -> str:
    """Return 1 split, 2 splits, 2 strategies."""
    return f"{number} {thing if number == 1 else plural(thing)}"


def _question(runs: pd.DataFrame, metric: str, ranked: list[Ranking], kind: str | None) -> str:
    cells = list(celltypes.tested(runs, [metric]))
    if kind is not None and len(tested := runs.get(f"test_cells:{kind}", pd.Series(dtype=float)).dropna()):
        points = few_to_most(100 / tested.clip(lower=1.0))
        cells.append(f"one of them more or less is {points} point{'' if points == '1' else 's'} of its recall")
    if not cells and "test_cells" in runs:
        cells = [f"{few_to_most(runs['test_cells'])} test cells in a split"]
    splits = few_to_most(np.array([one.splits for one in ranked if len(one.blocks)]))
    said = [
        many(runs["run_id"].nunique(), "trial"),
        *([f"{splits} split{'' if splits == '1' else 's'}"] if splits else []),
        *cells,
    ]
    chance = [one.best_of(CHANCE)["mean"] for one in ranked if one.best_of(CHANCE) is not None]
    said += [f"by chance (majority): {np.mean(chance):.3f}"] if chance else []
    least = " (the less the better; differences say by how much)" if sign(metric) < 0 else ""
    return f"question: which choice has the best {title(metric)}{least}? {'; '.join(said)}"


def _headline(told: list[Ranking], runs: pd.DataFrame) -> str:
    """Say what is best, over all skews: what is best or ties with the best at each of them."""
    if not told and len(runs) and (runs["defects"] != "").all():
        return "can't tell; all that is finished was made with defects on purpose"
    if not told and set(choices.kinds(runs).values()) == {CHANCE}:
        return f"nothing to choose from; {ONLY_CHANCE}"
    if not told:
        return "can't tell; no split has a finished trial of every choice"
    if (few := min(one.splits for one in told)) < LEAST:
        return f"can't tell; {many(few, 'split')} finished, and under {LEAST} there is no interval"
    return _one_skew(told[0]) if len(told) == 1 else _all_skews(told)


def _one_skew(ranking: Ranking) -> str:
    best, tied = ranking.best["label"], ranking.tied
    worse = [label for label in ranking.candidates["label"][1:] if label not in tied]
    if not tied and not worse:
        return f"{best} is the only choice"
    if not tied:
        return f"{best}; it is better than {worse[0] if len(worse) == 1 else f'each of the other {len(worse)}'}"
    ties = f"{tied[0]} ties" if len(tied) == 1 else f"all {len(tied)} others tie"
    if not worse:
        return f"can't tell; {best} comes first, and {ties} with it"
    others = f"{worse[0]} is" if len(worse) == 1 else f"the other {len(worse)} are"
    rest = f"{tied[0]}, which" if len(tied) == 1 else f"one of the {len(tied)} that"
    return f"{best}, or {rest} can't be told from it; {others} worse"


def _all_skews(told: list[Ranking]) -> str:
    every = dict.fromkeys(label for one in told for label in one.candidates["label"])
    order = _robust(told)
    worse = [label for label in every if label not in order]
    if not order:
        return f"no choice is best, or ties with the best, at all skews ({len(told)})"
    if not worse:
        return f"can't tell; at no skew ({len(told)}) is a choice worse than another beyond chance"
    ties = f"; {named(order[1:], 3)} can't be told from it" if len(order) > 1 else ""
    always = f"{order[0]}, best or tied with the best at all skews ({len(told)})"
    return f"{always}{ties}; worse at some skew: {named(worse, 3)}"


def _robust(told: list[Ranking]) -> list[str]:
    """Return the choices that are best, or tie with the best, at every skew, the first by the mean over skews first."""
    every = dict.fromkeys(label for one in told for label in one.candidates["label"])
    robust = [label for label in every if all(label in (one.best["label"], *one.tied) for one in told)]
    return sorted(robust, key=lambda label: (-sign(told[0].metric) * _over_skews(told, label), _words(label)))


def _throughout(told: list[Ranking]) -> Iterator[str]:
    """Say what the choice that is best or tied at all skews is worth over all of them, against doing nothing."""
    if len(told) < 2 or min(one.splits for one in told) < LEAST or not (order := _robust(told)):
        return
    if (plain := to_plain_throughout(told, order[0])) is not None:
        mean = f"{order[0]} {_over_skews(told, order[0]):.3f}"
        yield f"on average over skews: {mean}; against {plain.other} {_in_words(plain)}"


def _words(label: str) -> int:
    """Return of how many words a choice is made: of equals the plainest comes first."""
    return label.count(" · ")


def _over_skews(told: list[Ranking], label: str) -> float:
    return float(np.mean([one.estimates[label].mean for one in told if label in one.estimates]))


def _of_skew(ranking: Ranking, designs: Designs, kind: str | None) -> str:
    """Say what is best at one skew, how many tie with it, and how it compares with doing nothing and with rivals."""
    best, plain, rival = ranking.best, ranking.to_plain(), ranking.to_rival()
    ends = "" if pd.isna(best["low"]) else f" [{best['low']:.3f}, {best['high']:.3f}]"
    said = [f"{best['label']} {best['mean']:.3f}{ends}"]
    if ranking.splits >= LEAST and len(ranking.candidates) > 1:
        said.append(f"{len(ranking.tied)} of {len(ranking.candidates) - 1} tie with it")
    if plain is not None:
        said.append(f"against {plain.other} {_in_words(plain)}")
    if rival is not None:
        word = NETWORK if best["kind"] == BASELINE else BASELINE
        said.append(f"against the best {word}, {rival.other}, {_in_words(rival)}")
    return f"{ranking.skew}{_trained_on(ranking, designs, kind)}: {'; '.join(said)}"


def of_dropped(told: Sequence[Ranking]) -> Iterator[str]:
    """Say which datasets and splits don't count, as some choice has no number there; at which skews, if not at all."""
    lost: dict[str, dict[str, None]] = {}
    for one in told:
        for where in one.dropped:
            lost.setdefault(where, {})[one.skew] = None
    skews = {one.skew for one in told}
    if places := [where if set(at) == skews else f"{where} at {named(list(at))}" for where, at in lost.items()]:
        yield f"left out, as not every choice has a number there: {named(places, 6)}"


def _trained_on(ranking: Ranking, designs: Designs, kind: str | None) -> str:
    """Say how many training cells of a type the skew leaves, in brackets; nothing where that isn't known."""
    if kind is None:
        return ""
    part = next(iter(ranking.runs.values())).drop_duplicates(["dataset", "split"])
    listed = designs.stored.tables(part)
    cells = [float(one.loc[one["class"].astype(str) == kind, "train"].sum()) for one in listed if one is not None]
    return f" ({few_to_most(np.array(cells))} training cells)" if cells else ""


def _in_words(difference: Difference) -> str:
    if pd.isna(difference.low):
        return f"{difference.mean:+.3f}, no interval"
    word = "better" if difference.is_sure else "can't tell"
    return f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}] {word}"


def _flattery(told: list[Ranking]) -> Iterator[str]:
    """Say how much a number that was picked as the best is worth, and what intervals of differences allow for."""
    scores = [(one.best["mean"], left_out_score(one)) for one in told]
    known = [(own, *score) for own, score in scores if score is not None]
    if known:
        own, left, same, of = np.array(known, dtype=float).T
        where = " on average over skews" if len(known) > 1 else ""
        worth, shown = f"{left.mean():.3f}", f"{own.mean():.3f}"
        is_less = f"not the {shown} that it shows here{where}" if worth != shown else f"as it shows here{where}"
        yield (
            f"beyond luck: picked on all splits but one, the best has {worth} on that one, {is_less}, and is the same "
            f"choice {same.sum():.0f} of {of.sum():.0f} times; intervals of differences hold for all that the best was "
            "picked from"
        )


def _cost(told: list[Ranking]) -> Iterator[str]:
    """Say what the choice for all skews costs, then the best of each, then the rival of the first; means over skews."""
    rivals = [one.best_of(NETWORK if one.best["kind"] == BASELINE else BASELINE) for one in told[:1]]
    labels = [*(_robust(told)[:1] if told else []), *(one.best["label"] for one in told)]
    labels += [one["label"] for one in rivals if one is not None]
    if labels:
        tuned = any((one.get("tuned_over", pd.Series("")) != "").any() for rank in told for one in rank.runs.values())
        said = [cost.in_words(_costing(told, label)) for label in dict.fromkeys(labels)]
        of_all = ", of what is tuned of all its settings" if tuned else ""
        yield f"cost of one training{of_all}: {'; '.join(said[:NAMED])}"


def _costing(told: list[Ranking], label: str) -> pd.Series:
    """Return a choice's row, its seconds and share of a GPU as means over skews."""
    rows = pd.concat([one.table[one.table["label"] == label] for one in told])
    return pd.concat([rows.iloc[0].drop(["seconds", "gpus"]), rows[["seconds", "gpus"]].mean()])


def _surer(told: list[Ranking], kind: str | None) -> Iterator[str]:
    """Say what would tell the best from doing nothing, else from its rival, else from the next."""
    if told and (few := min(one.splits for one in told)) < LEAST:
        yield f"surer: {LEAST} splits are needed for an interval, {FEW} or more are worth their time (now {few})"
        return
    for which in (Ranking.to_plain, Ranking.to_rival, Ranking.to_next):
        found = [(one, which(one)) for one in told]
        unsure = [(one, difference) for one, difference in found if difference is not None and not difference.is_sure]
        if unsure:
            yield f"surer: {_need(*max(unsure, key=lambda pair: _closeness(pair[1])), kind)}"
            return


def _closeness(difference: Difference) -> float:
    reach = difference.mean - difference.low
    return difference.mean / reach if reach > 0 else -1.0


def _need(ranking: Ranking, difference: Difference, kind: str | None) -> str:
    what = f"at {ranking.skew}, {difference.one} from {difference.other}"
    if difference.mean < TIE:
        return f"{what}: they differ by {difference.mean:.3f}, which needs no telling apart"
    need = surer.needed(difference)
    if need.splits is not None:
        needs = f"about {need.splits} splits instead of {ranking.splits}"
    elif need.cells is not None:
        of = "" if kind is None else f" of {kind}"
        needs = f"about {need.cells:.1f} times the cells{of}, as more splits would share those there are"
    else:
        needs = f"neither {surer.MOST} splits nor {surer.FARTHEST:.0f} times the cells would do"
    return f"to tell, {what}: {needs}, if the difference is the {difference.mean:.3f} that it seems"


def _unsayable(ranked: list[Ranking], told: list[Ranking], runs: pd.DataFrame) -> Iterator[str]:
    """Say which claims can't be made."""
    said = [*_of_ties(told), *_of_kinds(told, runs), *_of_unranked(ranked), *_of_datasets(told)]
    if said:
        yield f"can't be said: {'; '.join(said)}"


def _of_ties(told: list[Ranking]) -> Iterator[str]:
    tied = [one.skew for one in told if one.tied and one.splits >= LEAST]
    if tied:
        where = "" if len(told) == 1 else f" (at {'any skew' if len(tied) == len(told) else named(tied, 2)})"
        yield f"that the best is better than what ties with it{where}"


def _of_kinds(told: list[Ranking], runs: pd.DataFrame) -> Iterator[str]:
    kinds = set(choices.kinds(runs).values())
    if told and NETWORK not in kinds:
        yield "anything of foundation models, as none is here"
    if told and BASELINE not in kinds:
        yield "whether a network is needed, as no baseline is here"
    if told and CHANCE not in kinds:
        yield "how far from chance this is, as the model majority is not here"


def _of_unranked(ranked: list[Ranking]) -> Iterator[str]:
    lacking = dict.fromkeys(label for one in ranked for label in one.unranked)
    if lacking:
        yield f"anything of {named(list(lacking))}: under half of the splits are finished"


def _of_datasets(told: list[Ranking]) -> Iterator[str]:
    datasets = {name for one in told for name in one.blocks["dataset"]}
    if told and len(datasets) < DATASETS:
        yield f"anything of other datasets than {', '.join(sorted(datasets))}"
