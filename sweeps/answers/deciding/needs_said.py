"""What `cellskew needs` says: sentences, a table of choices and sizes, JSON."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from data_pipeline.names import short
from sweeps import tables
from sweeps.answers.celltypes import few_to_most
from sweeps.answers.deciding.needs import Need, Needs
from sweeps.answers.deciding.unseen import Unseen
from sweeps.answers.deciding.wording import many, named
from sweeps.answers.designs import Designs, Estimate
from sweeps.answers.runs.choices import remedy
from sweeps.answers.summary import explained_intervals
from sweeps.statistics.curves import BEGUN, BEYOND, DRAWS
from sweeps.statistics.intervals import LEAST

LAW = (
    "curve: 1 - recall = floor + scale x cells^-bend by least squares over the sizes from which on recall is "
    f"{BEGUN:g} or more (power law: Hestness et al. 2017, arXiv 1712.00409); nothing is said of more than "
    f"{BEYOND:g} times the largest size, or of less than the smallest"
)
AGAIN = (
    f"[95 %]: splits drawn again ({DRAWS} times; the same for all choices), spread until they vary as much as splits "
    "that share cells do: {how}"
)
UNSEEN = (
    "auroc: how often a cell of a known type has a higher highest probability than one of the unseen type (0.5: can't "
    "tell); passed: share of the unseen type's cells above the probability that 95 % of the known types' cells exceed; "
    "without adjustments"
)


def sentences(found: Needs) -> Iterator[str]:
    """Yield the answer's sentences for one dataset."""
    yield (
        f"question: how many training cells of {found.kind} give a recall of {found.recall:g}? {found.dataset}: "
        f"{many(found.trials, 'trial')}; {many(found.splits, 'split')}; {few_to_most(found.test)} test cells of it "
        f"in a split, and {few_to_most(found.have)} training cells before any skew"
    )
    yield f"answer: {_headline(found)}"
    for model in dict.fromkeys(one.choice["model"] for one in found.found):
        yield f"{model}: {_of_model(found, *found.of_model(model))}"
    if (found.left.min(axis=0).round() != found.left.max(axis=0).round()).any():
        yield f"splits differ in their cells of it: curves go by the means, {_means(found)} cells"
    if not found.alone:
        yield "these skews thin other types too: what their cells change is in the numbers"
    if found.left_out:
        yield f"left out, with all sizes finished in under half of the splits: {named(found.left_out)}"


def _headline(found: Needs) -> str:
    known = [one for one in found.found if not _is_open(one, found)]
    if not known:
        open_ends = "no choice gets there for sure within what was tried, or every interval spans all of it"
        return f"can't tell; {open_ends}"
    best, others = known[0], [one for one in found.found if one is not known[0]]
    return f"{best.label} needs the fewest: {_cells(best, found)}{_more(best, found)}{_tied(best, others, found)}"


def _means(found: Needs) -> str:
    return ", ".join(f"{size:.0f}" for size in found.sizes)


def _tied(best: Need, others: list[Need], found: Needs) -> str:
    """Say how many others, of those that have a curve, can't be told from the one that needs the fewest cells."""
    times = [one for one in (best.times(one, found.within, len(others)) for one in others) if one is not None]
    ties = sum(one[2] >= 1 for one in times)
    return f"; {ties} of {many(len(times), 'other')} with a curve can't be told from it" if ties else ""


def _is_open(need: Need, found: Needs) -> bool:
    """Tell whether nothing is known: no curve, or out of reach, or the interval spans all that was tried."""
    (least, most), (low, high) = found.within, need.ends
    return bool(need.why) or need.cells > most or (low <= least and high > most)


def _cells(need: Need, found: Needs) -> str:
    """Return about how many cells in words: about 14 [9, 31]."""
    if need.why:
        return f"can't tell ({need.why})"
    (least, most), ends = found.within, ""
    if not np.isnan(need.ends[0]):
        ends = f" [{', '.join(_number(end, least, most) for end in need.ends)}]"
    if need.cells > most:
        level = 1 - float(need.curve.floor)
        why = f", as the curve levels off at {level:.2f}" if level < need.recall else ""
        return f"more than {most:.0f}{ends}, beyond which nothing is known{why}"
    wide = "can't tell; " if _is_open(need, found) else ""
    return f"{wide}{'' if need.cells <= least else 'about '}{_number(need.cells, least, most)}{ends}"


def _number(cells: float, least: float, most: float) -> str:
    if cells <= least:
        return f"{least:.0f} or fewer"
    return f"more than {most:.0f}" if cells > most else f"{np.ceil(cells):.0f}"


def _more(need: Need, found: Needs) -> str:
    """Say how these cells compare with those that there are, in every split."""
    (low, high), have = need.ends, few_to_most(found.have)
    fewest, most = found.have.min(), found.have.max()
    if np.isnan(low):
        return f", of {have} that there are; no interval under {LEAST} splits"
    if high <= fewest:
        return f", which the {have} that there are cover"
    if low > most:
        is_known = need.cells <= found.within[1] and fewest == most
        about = f"about {np.ceil(need.cells) - most:.0f} more than" if is_known else "more than"
        return f", {about} the {have} that there are"
    return f"; whether the {have} that there are do can't be told"


def _of_model(found: Needs, plain: Need | None, remedies: list[Need]) -> str:
    """Say what a model needs as it is, and what does instead."""
    said = []
    if plain is not None:
        more = "" if _is_open(plain, found) else _more(plain, found)
        said.append(f"as it is {_cells(plain, found)}{more}")
    best = next((one for one in remedies if not _is_open(one, found)), None)
    if best is None:
        return "; ".join([*said, "no remedy is known to get there" if remedies else "no remedy was tried"])
    name = remedy(best.choice)
    times = None if plain is None else found.times(best, plain)
    if times is None or times[2] >= 1:
        sure = "" if plain is None else "; that it needs fewer can't be told"
        return "; ".join([*said, f"with {name} {_cells(best, found)}{sure}"])
    about, low, high = times
    return "; ".join(
        [*said, f"instead, {name}: {_cells(best, found)}, {about:.2f} [{low:.2f}, {high:.2f}] times as many"]
    )


def as_text(found: Needs, intervals: bool = True) -> pd.DataFrame:
    """Return a row per choice: recall at each size, with its interval if that is asked for, and the cells needed."""
    rows = []
    for one in found.found:
        row = {"choice": one.label}
        for size, (mean, low, high) in zip(_sizes(found), one.measured, strict=True):
            ends = "" if np.isnan(low) or not intervals else f" [{low:.2f}, {high:.2f}]"
            row[f"{size} cells" if intervals else size] = f"{mean:.2f}{ends}"
        rows.append(row | {f"cells for {found.recall:g}": _cell(one, found)})
    return pd.DataFrame(rows)


def _sizes(found: Needs) -> list[str]:
    """Return the cells that each skew leaves in a split; with the skew, where two leave as many."""
    named = {skew: few_to_most(left) for skew, left in zip(found.skews, found.left.T, strict=True)}
    as_many = Counter(named.values())
    return [cells if as_many[cells] == 1 else f"{cells} ({skew})" for skew, cells in named.items()]


def _cell(need: Need, found: Needs) -> str:
    if need.why:
        return "-"
    about, *ends = (_short(cells, *found.within) for cells in (need.cells, *need.ends))
    return about + ("" if np.isnan(need.ends[0]) else f" [{', '.join(ends)}]")


def _short(cells: float, least: float, most: float) -> str:
    if np.isnan(cells):
        return ""
    return f"<{least:.0f}" if cells < least else f">{most:.0f}" if cells > most else f"{np.ceil(cells):.0f}"


def show(found: Sequence[Needs], unseen: Sequence[Unseen], designs: Designs, form: str, warning: str | None) -> None:
    """Print answers as sentences and tables, or as JSON."""
    if form == "json":
        tables.print_json({"warning": warning, "needs": [_for_programs(one, _about(one, unseen)) for one in found]})
        return
    tables.warn(warning)
    for place, one in enumerate(found):
        print("\n" * (place > 0), end="")
        tables.say(*sentences(one))
        text = as_text(one) if tables.fits(as_text(one)) else as_text(one, intervals=False)
        tables.draw(text, title=f"recall of {one.kind} by its training cells, {one.dataset}")
        _show_unseen(one, _about(one, unseen))
    tables.say(LAW, *_how(found, designs), *designs.notes)


def _about(one: Needs, unseen: Sequence[Unseen]) -> list[Unseen]:
    return [other for other in unseen if (other.dataset, other.kind) == (one.dataset, one.kind)]


def _how(found: Sequence[Needs], designs: Designs) -> Iterator[str]:
    """Yield how intervals came about, or why there are none."""
    datasets = {one.dataset for one in found if one.splits >= LEAST}
    if datasets:
        yield AGAIN.format(how=explained_intervals(designs, datasets))
    if any(one.splits < LEAST for one in found):
        yield f"under {LEAST} splits there is no interval: add splits: seeds"


def _show_unseen(one: Needs, unseen: Sequence[Unseen]) -> None:
    if not unseen:
        readable = "no finished trial whose probabilities can be read"
        tables.say(f"never seen: {readable} leaves 0 cells of {one.kind} in training (rarefy with cells: 0)")
        return
    rows = [
        {"choice": one.label, "skew": one.skew, "auroc": _interval(one.auroc), "passed": _interval(one.passed)}
        | {"taken for": ", ".join(f"{short(name, 24)} {share:.0%}" for name, share in list(one.taken.items())[:3])}
        for one in sorted(unseen, key=lambda one: -one.auroc.mean)
    ]
    tables.draw(pd.DataFrame(rows), title=f"{one.kind} without a training cell: is it noticed?", left=2)
    tables.say(UNSEEN)


def _interval(estimate: Estimate) -> str:
    low, high = estimate.interval((0.0, 1.0))
    return f"{estimate.mean:.2f}" + ("" if np.isnan(low) else f" [{low:.2f}, {high:.2f}]")


def _for_programs(found: Needs, unseen: Sequence[Unseen]) -> dict[str, Any]:
    """Return what was found for programs: null for what isn't known, or no finite number."""
    about = {"dataset": found.dataset, "type": found.kind, "recall": found.recall, "splits": found.splits}
    about |= {"training_cells": float(found.have.mean()), "training_cells_range": _ends(found.have)}
    about |= {"test_cells": float(found.test.mean()), "test_cells_range": _ends(found.test)}
    about |= {"within": list(found.within), "size_ranges": [_ends(left) for left in found.left.T]}
    about |= {"sizes": found.sizes.tolist(), "skews": found.skews, "others_whole": found.alone}
    about["choices"] = [_of_choice(one, found) for one in found.found]
    about["unseen"] = [_of_unseen(one) for one in unseen]
    return about | {"left_out": found.left_out, "sentences": list(sentences(found))}


def _of_choice(need: Need, found: Needs) -> dict[str, Any]:
    low, high = map(_finite, need.ends)
    curve = (
        {} if need.curve is None else {name: float(getattr(need.curve, name)) for name in ("floor", "scale", "bend")}
    )
    plain, _ = found.of_model(need.choice["model"])
    times = None if plain is None or plain is need else found.times(need, plain)
    row = need.choice | {"label": need.label}
    row |= {"recalls": [list(map(_finite, row)) for row in need.measured], "curve": curve or None}
    row |= {"cells": _finite(need.cells), "low": low, "high": high, "times_plain": times}
    return row | {"known": not _is_open(need, found), "why": need.why, "said": _cells(need, found)}


def _of_unseen(one: Unseen) -> dict[str, Any]:
    row = {"label": one.label, "skew": one.skew, "taken": one.taken}
    for name in ("auroc", "passed"):
        estimate = getattr(one, name)
        low, high = map(_finite, estimate.interval((0.0, 1.0)))
        row |= {name: estimate.mean, f"{name}_low": low, f"{name}_high": high}
    return row


def _ends(cells: np.ndarray) -> list[float]:
    return [float(cells.min()), float(cells.max())]


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None
