"""`cellskew needs`: how many training cells of a type give a recall, for each choice, and what would do instead.

From skews that leave different numbers of the type's cells. Within a dataset alone; the split is the unit, and only
splits that have every size of every choice count.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtri

from data_pipeline.errors import RequestError
from sweeps.answers.designs import Designs, Estimate
from sweeps.answers.runs import choices, results
from sweeps.answers.runs.choices import CHANCE, CHOICE
from sweeps.answers.runs.looks import looks_at
from sweeps.statistics import curves, intervals
from sweeps.statistics.curves import BEYOND, SIZES, Curves
from trainables.metrics import wilson

OFF = 0.05  # recall that a curve may miss a measured mean by, whatever its interval


@dataclass(frozen=True)
class Need:
    """What a choice needs for a recall. measured: mean recall, low, high by size, float [K, 3].

    curve: None where too few sizes find anything. why: why nothing can be told, "" if it can. draws: cells needed when
    splits are drawn again, float [DRAWS]; None under three splits.
    """

    choice: dict[str, str]
    label: str
    measured: np.ndarray
    recall: float
    why: str
    curve: Curves | None = None
    draws: np.ndarray | None = None

    @property
    def cells(self) -> float:
        """About so many cells; inf: the curve never gets there; NaN: that can't be told."""
        return np.nan if self.why else float(self.curve.needed(self.recall))

    @property
    def ends(self) -> tuple[float, float]:
        """Between so many cells in 95 % of the draws; NaN where there are none."""
        return (np.nan, np.nan) if self.why or self.draws is None else curves.ends(self.draws)

    def times(self, other: "Need", within: tuple[float, float], tests: int) -> tuple[float, float, float] | None:
        """Return how many times the cells that another choice needs, and 95 % ends good for so many such at once.

        within: numbers below and above which nothing is known are taken for these. None where that can't be told.
        """
        if self.why or other.why or self.draws is None or other.draws is None:
            return None
        mine, theirs = np.clip(self.draws, *within), np.clip(other.draws, *within)
        about = np.clip(self.cells, *within) / np.clip(other.cells, *within)
        return float(about), *curves.ends(mine / theirs, tests)


@dataclass(frozen=True)
class Needs:
    """What the choices need in one dataset, the least first.

    left: training cells of the type that `skews` leave, float [splits, K], by their means ascending. have: those before
    any skew, test: test cells of the type, float [splits] each; splits by donors have different numbers. alone: these
    skews leave all other types whole. left_out: choices without enough runs.
    """

    dataset: str
    kind: str
    recall: float
    left: np.ndarray
    skews: list[str]
    alone: bool
    have: np.ndarray
    test: np.ndarray
    splits: int
    trials: int
    found: list[Need]
    left_out: list[str]

    @property
    def sizes(self) -> np.ndarray:
        """The cells that curves go by, means over splits, float [K]."""
        return self.left.mean(axis=0)

    @property
    def within(self) -> tuple[float, float]:
        """The fewest and the most cells of which a curve says anything."""
        return float(self.sizes[0]), float(BEYOND * self.sizes[-1])

    def of_model(self, model: str) -> tuple[Need | None, list[Need]]:
        """Return what a model needs as it is, and with each remedy, the least first."""
        mine = [one for one in self.found if one.choice["model"] == model]
        plain = next((one for one in mine if one.label == f"{model} · none"), None)
        return plain, [one for one in mine if one is not plain]

    def times(self, remedy: Need, plain: Need) -> tuple[float, float, float] | None:
        """Return how many times a model's cells a remedy needs; ends good for all its remedies at once."""
        return remedy.times(plain, self.within, max(1, len(self.of_model(plain.choice["model"])[1])))


def needs(runs: pd.DataFrame, kind: str, recall: float, designs: Designs) -> list[Needs]:
    """Return what the choices need, for each dataset with the type. runs: with the type's numbers, see celltypes.

    RequestError if the recall is none, or all datasets have too few sizes; designs notes which have.
    """
    if not 0 < recall < 1:
        raise RequestError(f"--recall {recall:g} is not between 0 and 1; 0.8: four of five cells of the type are found")
    results.check_alone(runs)
    metric, usable = f"test_recall:{kind}", (runs["status"] == "FINISHED") & (runs["defects"] == "")
    finished = choices.unfolded(runs[usable])
    finished = finished[finished[metric].notna() & (finished["model"].map(choices.kinds(finished)) != CHANCE)]
    if finished.empty:
        raise RequestError(
            f"no finished trial of a model has test cells of {kind}; `cellskew status` says what there is"
        )
    finished = finished.assign(label=choices.labels(finished))
    found, problems = [], []
    for name, part in finished.groupby("dataset", sort=False):
        try:
            found.append(_of_dataset(name, part, kind, recall, designs))
        except RequestError as error:
            problems += error.problems
    if not found:
        raise RequestError(*problems)
    designs.notes += problems
    return found


def _of_dataset(dataset: str, runs: pd.DataFrame, kind: str, recall: float, designs: Designs) -> Needs:
    cells = _cells(runs, kind, designs)
    skews, _ = _ladder(cells, kind, dataset)
    used, left_out = _complete(runs[runs["skew"].isin(skews)], skews)
    if used.empty:
        raise RequestError(
            f"{dataset}: no split has a finished trial of every choice at every number of cells of {kind}"
        )
    cells = cells[cells["skew"].isin(skews) & cells["split"].isin(used["split"])]  # other splits have other cells
    skews, alone = _ladder(cells, kind, dataset)
    used = used[used["skew"].isin(skews)]
    left = cells.pivot(index="split", columns="skew", values="train")[skews].to_numpy()
    found = [
        _need([part[part["skew"] == skew] for skew in skews], left.mean(axis=0), kind, recall, designs)
        for _, part in used.groupby("label", sort=False)
    ]
    order = sorted(found, key=lambda one: (np.isnan(one.cells), one.cells, -one.measured[-1, 0]))
    test = used.drop_duplicates("split")[f"test_cells:{kind}"].to_numpy()
    counted = used["split"].nunique(), used["run_id"].nunique()
    have = cells.drop_duplicates("split")["natural"].to_numpy()
    return Needs(dataset, kind, recall, left, skews, alone, have, test, *counted, order, left_out)


def _cells(runs: pd.DataFrame, kind: str, designs: Designs) -> pd.DataFrame:
    """Return the type's training cells: skew, split, train, natural, others (all other types are whole)."""
    rows = []
    for _, run in runs.drop_duplicates(["skew", "split"]).iterrows():
        table = designs.stored.per_class(run)
        mine = table["class"].astype(str) == kind
        others = bool((mine | (table["train"] == table["natural"])).all())
        rows.append((run["skew"], run["split"], *table.loc[mine, ["train", "natural"]].iloc[0].astype(float), others))
    return pd.DataFrame(rows, columns=["skew", "split", "train", "natural", "others"])


def _ladder(cells: pd.DataFrame, kind: str, dataset: str) -> tuple[list[str], bool]:
    """Return the skews that curves go through, those with the fewest cells of the type first, and if others are whole.

    Skews that thin no other type, if they come to enough sizes; else all that thin the type, and those that thin none.
    """
    mean = cells.groupby("skew", sort=False).agg({"train": "mean", "natural": "mean", "others": "all"})
    mean = mean[mean["train"] > 0].sort_values("train", kind="stable")
    wider = mean[mean["others"] | (mean["train"] < mean["natural"])]
    for listed, alone in ((mean[mean["others"]], True), (wider, False)):
        if listed["train"].round().nunique() >= SIZES:
            return list(listed.index), alone
    sizes = ", ".join(f"{number:.0f}" for number in sorted(set(wider["train"].round())))
    raise RequestError(
        f"{dataset}: a curve needs {SIZES} different numbers of training cells of {kind}, the finished trials have "
        f"{sizes or 'none'}; add to the sweep's skews: {{kind: rarefy, class: {kind!r}, cells: [5, 10, 20, 40]}}"
    )


def _complete(runs: pd.DataFrame, skews: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """Return the runs of splits that have every skew of every choice, and the choices that lack too many.

    A choice that has all skews in under half of the splits isn't asked about.
    """
    has = runs.groupby(["label", "split"], sort=False)["skew"].nunique().unstack(fill_value=0) == len(skews)
    asked = has[has.sum(axis=1) * 2 >= has.shape[1]]
    whole = asked.columns[asked.all()] if len(asked) else asked.columns[:0]
    kept = runs[runs["label"].isin(asked.index) & runs["split"].isin(whole)]
    return kept, [label for label in has.index if label not in asked.index]


def _need(groups: list[pd.DataFrame], sizes: np.ndarray, kind: str, recall: float, designs: Designs) -> Need:
    """Return what a choice needs, from its runs at each size."""
    first, metric = groups[0].iloc[0], f"test_recall:{kind}"
    estimates = [designs.estimate(group, metric) for group in groups]
    measured = np.array([(one.mean, *one.interval((0.0, 1.0))) for one in estimates])
    choice = {name: first[name] for name in CHOICE} | {"kind": choices.kinds(groups[0])[first["model"]]}
    about = choice, first["label"], measured, recall
    on = curves.begun(measured[:, 0])
    if (number := len(set(sizes[on].round()))) < SIZES:
        nothing = f"next to nothing is found up to {sizes[~on][-1]:.0f} cells"
        return Need(*about, f"{nothing}; sizes left: {number}, of the {SIZES} that a curve needs")
    curve = curves.fit(sizes[on], measured[on, 0])
    tested = [group[f"test_cells:{kind}"].mean() for group in groups]
    looks = max(map(looks_at, groups))
    reaches = np.array([_reach(*pair, looks) for pair in zip(estimates, tested, strict=True)])[on]
    off = np.abs(curve.at(sizes[on]) - measured[on, 0])
    if (off > np.maximum(OFF, reaches)).any():
        at = sizes[on][(off - reaches).argmax()]
        return Need(*about, f"no power law fits: at {at:.0f} cells it is {off.max():.2f} off", curve)
    if min(one.n for one in estimates) < intervals.LEAST:
        return Need(*about, "", curve)
    by_split = np.array([one.by_split.sort_index().to_numpy() for one in estimates]).T[:, on]
    return Need(
        *about, "", curve, curves.fit(sizes[on], curves.again(by_split, reaches, first["label"])).needed(recall)
    )


def _reach(estimate: Estimate, tested: float, looks: int) -> float:
    """Return half of a mean's 95 % interval; where splits agree, or are few, what a split's test cells leave open.

    Either allows for the looks after which splits were added.
    """
    if np.isfinite(known := intervals.reach(estimate.error)):
        return known
    low, high = (float(end) for end in wilson(estimate.mean * tested, tested, float(ndtri(1 - 0.025 / looks))))
    return max(estimate.mean - low, high - estimate.mean)
