"""What the page shows of one dataset and skew at a time: types, mistakes, confidence, the course of training."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from data_pipeline.names import short
from sweeps.answers.deciding.cost import seconds
from sweeps.answers.designs import Designs
from sweeps.answers.page.figures import Heat, heat, share
from sweeps.answers.page.svg import Axis, Panel, bar, decades, dot, line, ticks
from sweeps.answers.runs import choices
from sweeps.answers.runs.choices import CHANCE, remedy
from sweeps.answers.runs.stored import Stored
from sweeps.answers.summary import title
from trainables.metrics import TAIL
from trainables.trial import confidence

RARE, NAMED, LEAST = 12, 2, 0.05  # rare types shown; mistakes named, and the least share of one
COVERAGES = np.linspace(0.05, 1, 20)
Told = dict[str, dict[str, list[np.ndarray]]]  # model -> remedy -> of each trial (confidence, right)


@dataclass
class Condition:
    """heat: F1 of each type, in parts. mistakes: columns, and per rare type what each choice takes it for.

    panels: by name, see report.HEADINGS; remedies: those that are in them.
    """

    heat: list[Heat] = field(default_factory=list)
    mistakes: tuple[list[str], list[tuple[str, list[str]]]] | None = None
    panels: dict[str, list[str]] = field(default_factory=dict)
    remedies: frozenset[str] = frozenset()


def conditions(
    finished: pd.DataFrame, types: pd.DataFrame, designs: Designs, colours: dict[str, str], metric: str
) -> dict[str, Condition]:
    """Return what there is to show, by dataset and skew. finished: runs; adjustments after training aren't shown."""
    found = {name: Condition(heat=one) for name, one in (heat(types, colours) if len(types) else {}).items()}
    for (dataset, skew), group in choices.before_adjustment(finished).groupby(["dataset", "skew"], sort=False):
        one = found.setdefault(f"{dataset}, {skew}", Condition())
        told, tables = _read(group, designs.stored)
        one.mistakes = _mistakes(tables, _shown(group, metric, colours), types, dataset, skew)
        drawn = {"calibration": reliability(told, colours), "coverage": risk_coverage(told, colours)}
        drawn["learning"] = learning(group, designs.stored, colours)
        drawn["cost"] = cost(group, metric, colours)
        one.remedies = frozenset(remedy(run) for _, run in group.iterrows())
        one.panels = {name: panels for name, panels in drawn.items() if panels}
    return {name: one for name, one in found.items() if one != Condition()}


def _read(group: pd.DataFrame, stored: Stored) -> tuple[Told, dict[str, pd.DataFrame]]:
    """Return how sure each trial was and whether rightly, and per choice its cells by true and given type."""
    told: Told = {}
    tables: dict[str, pd.DataFrame] = {}
    kinds = choices.kinds(group)
    for _, run in group.iterrows():
        scores = stored.scores(run)
        if scores is None or kinds[run["model"]] == CHANCE:
            continue
        sure = np.stack([scores.highest.astype(float), scores.given == scores.truth])
        told.setdefault(run["model"], {}).setdefault(remedy(run), []).append(sure)
        counts = np.zeros((len(scores.classes),) * 2)
        np.add.at(counts, (scores.truth, scores.given), 1)
        table = pd.DataFrame(counts, scores.classes, scores.classes)
        label = choices.label(run)
        tables[label] = tables[label].add(table, fill_value=0) if label in tables else table
    return told, tables


def _shown(group: pd.DataFrame, metric: str, colours: dict[str, str]) -> list[str]:
    """Return the choices whose mistakes are shown: each model as it is, then the best of it by the mean."""
    told = group[group["model"].map(choices.kinds(group)) != CHANCE].assign(label=choices.labels)
    best = told.groupby(["model", "label"], sort=False)[metric].mean() if metric in told else pd.Series(dtype=float)
    names = [mine.idxmax()[1] for _, mine in best.dropna().groupby(level="model", sort=False)]
    models = dict.fromkeys(told["model"])
    plain = [f"{model} · none" for model in models]
    order = [f"{model} · {name}" for model in models for name in colours]
    return [label for label in order if label in {*names, *plain} & set(told["label"])]


def _mistakes(
    tables: dict[str, pd.DataFrame], shown: list[str], types: pd.DataFrame, dataset: str, skew: str
) -> tuple[list[str], list[tuple[str, list[str]]]] | None:
    """Return what the rarest types are taken for, all splits together; None where none is, or nothing is known."""
    listed = [label for label in shown if label in tables]
    if not listed or types.empty:
        return None
    mine = types[(types["dataset"] == dataset) & (types["skew"] == skew) & (types["test"] > 0)]
    cells = mine.groupby("class")[["train", "test"]].mean().sort_values("train", kind="stable")
    rare = cells[cells["train"] <= TAIL].head(RARE)
    rows = [
        (f"{kind} ({row.train:.0f}, {row.test:.0f})", [_taken(tables[label], kind) for label in listed])
        for kind, row in rare.iterrows()
    ]
    return (listed, rows) if rows else None


def _taken(table: pd.DataFrame, kind: str) -> str:
    """Return which share of a type's cells is found, and what most of the others are taken for."""
    if kind not in table.index or not table.loc[kind].sum():
        return "-"
    shares = table.loc[kind] / table.loc[kind].sum()
    others = shares.drop(kind).sort_values(ascending=False, kind="stable").head(NAMED)
    said = [f"{short(name, 24)} {share:.0%}" for name, share in others.items() if share >= LEAST]
    return "; ".join([f"found {shares[kind]:.0%}", *said])


def reliability(told: Told, colours: dict[str, str]) -> list[str]:
    """Return a panel per model: the share that is right against the highest probability, all splits' cells together."""
    x = Axis(0, 1, ticks(0, 1), "highest probability of a cell")
    found = []
    for model, remedies in told.items():
        panel, marks, said = Panel(model, x, share("share that is right")), [], []
        marks.append(bar(panel.at(0, 0), panel.at(1, 1), "zero"))
        for name, trials in remedies.items():
            sure, right = np.concatenate(trials, axis=1)
            bins, css = confidence.reliability(sure, right), colours[name]
            marks.append(line([panel.at(*one[:2]) for one in bins], css))
            marks += [_bin(panel, one, css, f"{model}, {name}", len(sure)) for one in bins]
            said.append(f"{name}: right {right.mean():.2f}, mean highest probability {sure.mean():.2f}")
        found.append(panel.draw(marks, f"{model}, share right by highest probability; {'; '.join(said)}"))
    return found


def _bin(panel: Panel, one: np.ndarray, css: str, name: str, cells: int) -> str:
    tip = f"{name}: {one[1]:.2f} right where the highest probability is {one[0]:.2f}, {one[2]:,.0f} cells"
    return dot(panel.at(*one[:2]), css, tip, round(2 + 3 * float(np.sqrt(one[2] / cells)), 1))


def risk_coverage(told: Told, colours: dict[str, str]) -> list[str]:
    """Return a panel per model: mistakes among the surest cells against their share, mean over trials."""
    curves = {model: {name: _risks(trials) for name, trials in remedies.items()} for model, remedies in told.items()}
    most = max((curve.max() for remedies in curves.values() for curve in remedies.values()), default=0.0)
    x, top = Axis(0, 1, ticks(0, 1), "share of cells that are named, the surest first"), max(0.05, most * 1.05)
    y = Axis(0, top, ticks(0, top), "share of mistakes")
    found = []
    for model, remedies in curves.items():
        panel, marks, said = Panel(model, x, y), [], []
        for name, curve in remedies.items():
            places = [panel.at(*pair) for pair in zip(COVERAGES, curve, strict=True)]
            area = float(np.mean([confidence.aurc(*trial) for trial in told[model][name]]))
            tip = f"{model}, {name}: {curve[-1]:.2f} mistakes if all are named, AURC {area:.3f}"
            marks += [line(places, colours[name]), dot(places[-1], colours[name], tip)]
            said.append(f"{name}: AURC {area:.3f}")
        found.append(
            panel.draw(marks, f"{model}, mistakes against the share of cells that are named; {'; '.join(said)}")
        )
    return found


def _risks(trials: list[np.ndarray]) -> np.ndarray:
    curves = []
    for sure, right in trials:
        found = confidence.risks(sure, right)
        curves.append(np.interp(COVERAGES, np.arange(1, len(found) + 1) / len(found), found))
    return np.mean(curves, axis=0)


def cost(group: pd.DataFrame, metric: str, colours: dict[str, str]) -> list[str]:
    """Return a panel per model: the metric against the seconds of a trial, means over trials, without adjustments.

    Of what is tuned, the seconds of all settings.
    """
    spent = group.assign(trial_seconds=seconds(group), remedy=[remedy(run) for _, run in group.iterrows()])
    there = spent[spent["trial_seconds"] > 0]
    means = there.groupby(["model", "remedy"], sort=False)[["trial_seconds", metric]].mean().dropna().reset_index()
    if means.empty:
        return []
    least, most = np.log10(means["trial_seconds"].min()) - 0.1, np.log10(means["trial_seconds"].max()) + 0.1
    x = Axis(least, most, decades(10**least, 10**most), "seconds of a trial", log=True)
    low, high = means[metric].min() - 0.02, means[metric].max() + 0.02
    found = []
    for model, rows in means.groupby("model", sort=False):
        panel = Panel(model, x, Axis(low, high, ticks(low, high), title(metric)))
        said = [f"{row.remedy}: {row.value:.3f} in {row.trial_seconds:.3g} s" for row in _valued(rows, metric)]
        marks = [
            dot(panel.at(row.trial_seconds, row.value), colours[row.remedy], f"{model}, {one}", 4.5)
            for row, one in zip(_valued(rows, metric), said, strict=True)
        ]
        found.append(panel.draw(marks, f"{model}, {title(metric)} against seconds of a trial; {'; '.join(said)}"))
    return found


def _valued(rows: pd.DataFrame, metric: str) -> list[Any]:
    return list(rows.rename(columns={metric: "value"}).itertuples())


def learning(group: pd.DataFrame, stored: Stored, colours: dict[str, str]) -> list[str]:
    """Return a panel per network: macro F1 on validation cells by round, and the round whose weights were tested.

    A line is a mean over trials, as far as all of them trained; a dot the best round of a trial.
    """
    courses = [(run["model"], remedy(run), *one) for _, run in group.iterrows() for one in _course(run, stored)]
    most = max((len(course) for *_, course, _ in courses), default=0)
    if most < 2:
        return []
    x, found = Axis(1, most, [one for one in ticks(1, most) if one[0] == round(one[0])], "round of training"), []
    for model in dict.fromkeys(course[0] for course in courses):
        panel, marks, said = Panel(model, x, share("macro F1")), [], []
        for name in dict.fromkeys(course[1] for course in courses if course[0] == model):
            mine = [course[2:] for course in courses if course[:2] == (model, name)]
            marks += _lines(panel, mine, f"{model}, {name}", colours[name])
            best = [best for _, best in mine]
            said.append(f"{name}: best round {min(best)} to {max(best)} of {max(len(course) for course, _ in mine)}")
        found.append(panel.draw(marks, f"{model}, macro F1 on validation cells by round; {'; '.join(said)}"))
    return found


def _lines(panel: Panel, courses: list[tuple[np.ndarray, int]], name: str, css: str) -> list[str]:
    together = min(len(course) for course, _ in courses)
    mean = np.mean([course[:together] for course, _ in courses], axis=0)
    dots = [
        dot(panel.at(best, course[best - 1]), css, f"{name}: best round {best}, {course[best - 1]:.2f}", 2.5)
        for course, best in courses
    ]
    return [line([panel.at(at + 1, value) for at, value in enumerate(mean)], css), *dots]


def _course(run: pd.Series, stored: Stored) -> Iterator[tuple[np.ndarray, int]]:
    """Yield a trial's macro F1 on validation cells by round, and the round that was tested; nothing of baselines."""
    data, best = stored.file(run["run_id"], run.get("artifact_uri"), "result.json"), run.get("best_round", np.nan)
    if data is None or pd.isna(best):
        return
    course = np.array([one.get("val_macro_f1", np.nan) for one in json.loads(data)["history"]])
    if len(course) >= best >= 1 and not np.isnan(course).any():
        yield course, int(best)
