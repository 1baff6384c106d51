"""Several sweeps' runs as one table: what is the same is counted once, what only has the same name is refused."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from data_pipeline.errors import RequestError
from sweeps.answers.runs import results
from sweeps.answers.runs.stored import Stored
from sweeps.file.trials import AXES
from sweeps.tracking.kept.runs import params_of

SHARED = ("genes.", "split.test", "split.validation")  # parameters that are no model's, no axis and no data's
OF_MODEL = ("options.", "recipe.", "weights", "architecture")
RENAME = (
    "change the name in one sweep's file and run that again, which trains nothing, or ask about one sweep at a time"
)
Params = Callable[[list[str]], dict[str, dict[str, str]]]


@dataclass(frozen=True)
class Part:
    """One sweep's runs, see results.choose, and what they left."""

    name: str
    runs: pd.DataFrame
    stored: Stored


class Together(Stored):
    """What the runs of several sweeps left, each where its sweep is tracked."""

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__(None)
        self._of = {run_id: part.stored for part in parts for run_id in part.runs["run_id"]}

    def _fetch(self, run_id: str, artifact_uri: str, name: str) -> bytes | None:
        return self._of[run_id].file(run_id, artifact_uri, name)


def join(parts: Sequence[Part]) -> tuple[pd.DataFrame, Together, list[str]]:
    """Return all runs with `sweep`, what they left, and what must be said of them.

    A trial that several sweeps have (one key: everything resolved is the same, data included) counts once, the finished
    one first; what a tuned model chose counts beside the same setting under another label. Runs that share all labels
    but aren't the same trial are told apart by `settings`. RequestError where one name stands for other cells (datasets
    with other contents, splits of other sizes) or other tuning, and where two names stand for the same trials.
    """
    runs = pd.concat([part.runs.assign(sweep=part.name) for part in parts], ignore_index=True)
    problems = [*_other_data(runs), *_other_splits(runs), *_other_tuning(runs), *_other_names(runs)]
    if problems:
        raise RequestError(*problems)
    first = runs.assign(late=runs["status"] != "FINISHED").sort_values("late", kind="stable")
    once = runs.loc[sorted(first.drop_duplicates(["key", "model"]).index)].reset_index(drop=True)
    params = _params(parts)
    told = results.tell_apart(once, params)
    told.attrs |= {"keys": None, "uri": None, "driver": None, "questions": []}
    told.attrs["controls"] = results.Rows(_controls(parts))
    names = ", ".join(part.name for part in parts)
    said = [f"{len(runs) - len(once)} trials that several of {names} have count once"] if len(once) < len(runs) else []
    return told, Together(parts), [*said, *_differences(parts, params)]


def _controls(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Return the controls of all sweeps, each trial once."""
    found = {one["key"]: one for part in reversed(parts) for one in part.runs.attrs.get("controls", ())}
    return list(found.values())


def _other_data(runs: pd.DataFrame) -> Iterator[str]:
    """Yield the datasets that hold other cells in another sweep, a sentence each."""
    told = runs[runs.get("digest", "") != ""]
    for dataset, group in told.groupby("dataset", sort=False):
        digests = group.groupby("sweep", sort=False)["digest"].agg(set)
        if not set.intersection(*digests) or any(len(one) > 1 for one in digests):
            named = "; ".join(f"{sweep}: {', '.join(sorted(one))}" for sweep, one in digests.items())
            yield f"dataset {dataset} doesn't hold the same cells in these sweeps ({named}); ask about one at a time"


def _other_splits(runs: pd.DataFrame) -> Iterator[str]:
    """Yield the datasets whose splits are of other sizes in another sweep: split 0 of one isn't that of the other."""
    for dataset, group in runs.groupby("dataset", sort=False):
        sizes = group.groupby("sweep", sort=False)["test_per_train"].agg(lambda one: frozenset(one.dropna().round(9)))
        known = [one for one in sizes if one]
        if len(set(known)) > 1:
            named = "; ".join(f"{sweep}: {', '.join(f'{x:.3g}' for x in one)}" for sweep, one in sizes.items())
            yield (
                f"the splits of {dataset} are not the same in these sweeps (test cells per training cell: {named}), so "
                "that their trials saw other cells; ask about one at a time"
            )


def _other_tuning(runs: pd.DataFrame) -> Iterator[str]:
    """Yield the models that are tuned otherwise in another sweep: their rows would mix choices with what wasn't one."""
    if "tuned" not in runs:
        return
    over = runs["tuned_over"].where(runs["tuned"] != "", "").fillna("")
    for model, mine in over.groupby(runs["model"], sort=False):
        by_sweep = mine.groupby(runs["sweep"], sort=False).first()
        if by_sweep.nunique() > 1:
            named = "; ".join(
                f"{sweep}: {f'over {number} settings' if number else 'not tuned'}" for sweep, number in by_sweep.items()
            )
            yield f"{model} isn't tuned alike in these sweeps ({named}); {RENAME}"


def _other_names(runs: pd.DataFrame) -> Iterator[str]:
    """Yield the names that mean the same trials in another sweep, which would count twice, or be missing of one."""
    plain = runs[runs.get("tuned", pd.Series("", index=runs.index)) == ""]
    for axis in AXES:
        several = plain[plain.groupby("key")[axis].transform("nunique") > 1]
        named = several.groupby("key", sort=False)[axis].agg(lambda names: tuple(dict.fromkeys(names)))
        for names, number in named.value_counts().items():
            yield f"{axis} {' and '.join(names)} are the same {number} trials in these sweeps; {RENAME}"


def _params(parts: Sequence[Part]) -> Params:
    """Return a function that gives runs' parameters, their sweep's name among them; of a bundle that name alone.

    Without what was tuned: values that validation cells chose, split by split, are one model's.
    """
    chosen = {run_id: names for part in parts for run_id, names in _tuned(part.runs)}
    sweep_of = {run_id: place for place, part in enumerate(parts) for run_id in part.runs["run_id"]}

    def params(run_ids: list[str]) -> dict[str, dict[str, str]]:
        found = {run_id: {"sweep": parts[sweep_of[run_id]].name} for run_id in run_ids}
        for place in set(map(sweep_of.get, run_ids)):
            uri = parts[place].runs.attrs.get("uri")
            mine = [run_id for run_id in run_ids if sweep_of[run_id] == place]
            for run_id, one in (params_of(uri, mine) if uri is not None else {}).items():
                own = chosen.get(run_id, ())
                found[run_id] |= {name: value for name, value in one.items() if name.rpartition(".")[2] not in own}
        return found

    return params


def _tuned(runs: pd.DataFrame) -> Iterator[tuple[str, list[str]]]:
    """Yield the runs that tuning chose, and the names of the settings that it chose."""
    if "tuned_among" in runs:
        found = runs[runs["tuned_among"].notna()]
        yield from zip(found["run_id"], found["tuned"].str.findall(r"(?:^|, )(\w+)="), strict=True)


def _differences(parts: Sequence[Part], params: Params) -> Iterator[str]:
    """Yield in what the sweeps' trials differ that no label tells, by the first trial of each model."""
    yield from _unlike("these sweeps", {part.name: part.runs for part in parts}, SHARED, params)
    for model in dict.fromkeys(model for part in parts for model in part.runs["model"]):
        of_model = {part.name: part.runs[part.runs["model"] == model] for part in parts}
        yield from _unlike(f"trials of {model}", of_model, OF_MODEL, params)


def _unlike(what: str, runs: dict[str, pd.DataFrame], keys: tuple[str, ...], params: Params) -> Iterator[str]:
    firsts = {name: mine["run_id"].iloc[0] for name, mine in runs.items() if len(mine)}
    described = {name: params([first])[first] for name, first in firsts.items()}
    known = {name: one for name, one in described.items() if len(one) > 1}  # a bundle has no parameters
    for key in dict.fromkeys(key for one in known.values() for key in one if key.startswith(keys)):
        values = {name: one.get(key, "not set") for name, one in known.items()}
        if len(set(values.values())) > 1:
            listed = "; ".join(f"{name}: {value}" for name, value in values.items())
            yield f"WARNING: {what} differ in {key} ({listed})"
