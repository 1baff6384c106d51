"""MLflow -> a tidy table of the runs that a sweep wants."""

import re
from collections.abc import Callable, Iterator
from typing import Any, Self

import pandas as pd

from data_pipeline.errors import RequestError
from sweeps.answers.runs import controls, tuning
from sweeps.answers.runs.tuning import LABELS
from sweeps.file.plugins import unknown
from sweeps.file.trials import AXES
from sweeps.tracking.kept import wanted
from sweeps.tracking.kept.database import NoSuchSweep, StoredRun
from sweeps.tracking.kept.runs import params_of, runs_of, tags_of
from sweeps.tracking.locks.lease import holder_in
from sweeps.tracking.uris import shown_uri

SEEDS = ["split", "seed"]
ALIASES = {"rare_type_recall": "recall_tail"}  # what people type -> what it is called
ALL_METRICS = "`cellskew results NAME --metric list`; docs/metrics.md says what they are"
SHOWN = ("test_macro_f1", "test_balanced_accuracy", "test_recall_tail")
NOTES = [
    "architecture",
    "tuned",
    "tuned_over",
    "control",
    "on",
    "reason",
    "cause",
    "trouble",
    "lacking",
    "superseded",
    "defects",
    "protocol",
    "genes_fit",
    "precision",
    "cpu",
]
NOTES += ["machine", "gpu", "gpus", "digest", "code", "packages"]
MADE_WITH = ("code", "packages", "digest", "machine", "cpu", "gpu", "precision")  # of NOTES: what a redo needs
FIXED = ["run_id", "status", "key", "name", "started", "ended", "artifact_uri", *AXES, *NOTES]
FIXED += ["test_per_train", "wanted", "settings", "tuned_among", "tuned_seconds", "looks"]


class _AsItIs:
    """What pandas, which copies all that a frame is told (attrs) at every step, hands on as it is."""

    def __deepcopy__(self, memo: dict) -> Self:
        return self


class Keys(_AsItIs, frozenset):
    """Keys of trials."""


class Rows(_AsItIs, tuple):
    """Rows of another table."""


def fetch(uri: str, sweep: str) -> pd.DataFrame:
    """Return one row per trial ever registered in a sweep, in the order of its file, what it no longer has at the end.

    Columns: FIXED (started and ended in ms; test_per_train: test cells per training cell of the split; superseded: when
    another run took its place, since the trial was trained anew; wanted: whether the sweep's file has the trial and no
    other run took its place; settings: see `tell_apart`; looks: see looks.looks_at), then the last value of every
    metric. attrs: keys, those wanted, None if MLflow was never told; questions, of the file; until, see wanted.until;
    driver, see lease.holder_in; uri. RequestError if there is no such sweep, naming the nearest. The embedded database
    is read directly, which takes a tenth of the time.
    """
    try:
        rows = [_row(run) for run in runs_of(uri, sweep)]
    except NoSuchSweep as missing:
        raise _no_sweep(sweep, list(missing.args), uri) from None
    frame = pd.DataFrame(rows, columns=None if rows else FIXED)
    tags = tags_of(uri, sweep)
    keys = wanted.read(tags)
    is_wanted = frame["key"].isin(keys) if keys is not None else True
    until = wanted.read_until(tags)
    frame = frame.assign(wanted=is_wanted & (frame["superseded"] == ""), settings="")
    frame["looks"] = 1 if until is None else len(until["looks"])
    frame.attrs |= {"keys": None if keys is None else Keys(keys), "uri": uri, "questions": wanted.read_questions(tags)}
    frame.attrs["driver"], frame.attrs["until"] = holder_in(tags), until
    place = {key: at for at, key in enumerate(wanted.listed(tags) or ())}
    frame["place"] = frame["key"].map(place).fillna(len(place))
    return frame.sort_values(["place", "started", "run_id"], ignore_index=True).drop(columns="place")


def choose(uri: str, runs: pd.DataFrame, every: bool, all_settings: bool = False) -> tuple[pd.DataFrame, str | None]:
    """Return the runs that the sweep's file wants, or every run; and a sentence on those left out, or None.

    Where a model is tuned, those of its best setting on validation cells, see tuning.best, unless all_settings.
    Controls are no choices: attrs["controls"] has those that the file wants, see runs.controls.
    """
    _, found = controls.apart(runs[runs["wanted"]])
    runs, _ = controls.apart(runs)
    runs.attrs["controls"] = Rows(found)
    if every:
        return _tell_superseded(tell_apart(runs, lambda run_ids: params_of(uri, run_ids))), None
    wanted = runs[runs["wanted"]]
    chosen = wanted if all_settings else tuning.best(wanted)
    counting = chosen if all_settings else chosen[~tuning.is_open(chosen)]
    told = tell_apart(counting, lambda run_ids: params_of(uri, run_ids))["settings"]
    chosen = chosen.assign(settings=told.reindex(chosen.index, fill_value=""))
    return chosen, _left_out(runs[~runs["wanted"]])


def _left_out(others: pd.DataFrame) -> str | None:
    """Return a sentence on the runs that the sweep's file doesn't want, None where there is none."""
    if others.empty:
        return None
    finished, replaced = int((others["status"] == "FINISHED").sum()), _is_superseded(others).any()
    of_them = "none of them is finished" if not finished else f"--all shows the {finished} finished ones too"
    shown = "--all shows them too" if finished == len(others) else of_them
    trained = " or that trained anew" if replaced else ""
    return f"{len(others)} runs of trials that the sweep's file no longer has{trained} are left out ({shown})"


def tell_apart(runs: pd.DataFrame, params: Callable[[list[str]], dict[str, dict[str, str]]]) -> pd.DataFrame:
    """Return the runs with `settings`: "" unless some share all labels, so that tables would take them for seeds.

    Then settings names what differs between such runs: `recipe.epochs=2`, for all runs of a model that has it in more
    than one value. params(run ids): all parameters of each run.
    """
    alike = runs[runs.duplicated(LABELS, keep=False)]
    if alike.empty:
        return runs
    known = params(list(runs["run_id"]))
    differing: set[str] = set()
    for _, group in alike.groupby(LABELS, sort=False):
        described = [known[run_id] for run_id in group["run_id"]]
        differing |= {name for one in described for name in one if len({other.get(name) for other in described}) > 1}
    told = pd.Series("", index=runs.index)
    for _, group in runs.groupby("model", sort=False):
        table = pd.DataFrame([known[run_id] for run_id in group["run_id"]], index=group.index)
        table = table.reindex(columns=sorted(differing)).fillna("not set")
        several = [name for name in table if table[name].nunique() > 1]
        told[group.index] = [
            ", ".join(f"{name}={str(value)[:60]}" for name, value in zip(several, row, strict=True))
            for row in table[several].to_numpy()
        ]
    return runs.assign(settings=told)


def _tell_superseded(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with `settings` that also tell those apart whose trial was trained anew in another run."""
    words = pd.Series([f"{told}, superseded".removeprefix(", ") for told in runs["settings"]], index=runs.index)
    return runs.assign(settings=runs["settings"].where(~_is_superseded(runs), words))


def _is_superseded(runs: pd.DataFrame) -> pd.Series:
    return runs.get("superseded", pd.Series("", index=runs.index)) != ""


def check_alone(runs: pd.DataFrame) -> None:
    """RequestError if runs share all labels but not their settings: no table may take them for seeds of one another."""
    finished = runs[runs["status"] == "FINISHED"]
    labels = [name for name in [*LABELS, "posthoc"] if name in finished]
    twice = finished[finished.duplicated(labels, keep=False)]
    if twice.empty:
        return
    found = list(dict.fromkeys(twice["settings"])) if "settings" in twice else []
    if len(found) < 2:
        raise RequestError(f"{len(twice)} finished runs share all labels: {', '.join(twice['run_id'].head(4))}, ...")
    raise RequestError(
        f"{len(twice)} finished runs share all labels but not their settings, so they can't stand for one another: "
        f"{'; '.join(found)}. Choose with --where 'settings == \"{found[-1]}\"'{_other_way(twice)}"
    )


def _other_way(twice: pd.DataFrame) -> str:
    """Return what else parts such runs, as the end of a sentence: "" if nothing does."""
    if "wanted" in twice and not twice["wanted"].all():
        return ", or leave out --all"
    is_of_several = "sweep" in twice and twice["sweep"].nunique() > 1
    return ", or ask about one sweep at a time" if is_of_several else ""


def _no_sweep(sweep: str, names: list[str], uri: str) -> RequestError:
    known = [name for name in names if name != "Default"]
    said = unknown("sweep", sweep, known) if known else f"MLflow at {shown_uri(uri)} has no sweep yet"
    return RequestError(f"{said}; `cellskew run SWEEP.yaml` makes one")


def _row(run: StoredRun) -> dict[str, Any]:
    """Return a row of `fetch`."""
    row = {"run_id": run.run_id, "status": run.status, "key": run.tags["cellskew.trial"], "name": run.name}
    row |= {"started": run.started, "ended": run.ended, "artifact_uri": run.artifact_uri}
    row |= {name: run.tags.get(f"cellskew.{name}", "") for name in (*AXES, *NOTES)}
    row["architecture"] = row["architecture"] or row["model"]  # earlier versions had no labels
    test, validation = (float(run.params.get(f"split.{part}", "nan")) for part in ("test", "validation"))
    return row | {"test_per_train": test / (1 - test - validation)} | run.metrics


def check_columns(runs: pd.DataFrame, by: list[str], metrics: list[str]) -> None:
    """RequestError naming all columns to group by and metrics that the runs don't have."""
    numbers = metric_names(runs)
    problems = [
        unknown("column", name, [*AXES, "posthoc", "protocol", "defects"]) for name in by if name not in runs.columns
    ]
    problems += [unknown("metric", name, numbers, ALL_METRICS) for name in metrics if name not in numbers]
    if problems:
        raise RequestError(*problems)


def full_name(metric: str, runs: pd.DataFrame, kind: str | None = None) -> str:
    """Return a metric as runs name it: recall of a type -> test_recall:TYPE, macro_f1, "macro F1" -> test_macro_f1."""
    plain = re.sub(r"[\s-]+", "_", metric.strip()).lower()
    plain = ALIASES.get(plain, plain)
    of = "" if kind is None else f":{kind}"
    names = [f"{name}{of}" for name in (metric, f"test_{metric}", plain, f"test_{plain}")]
    return next((name for name in names if name in runs.columns), metric)


def metric_names(runs: pd.DataFrame) -> list[str]:
    """Return the metrics that some run has, final ones first."""
    return sorted((name for name in runs.columns if name not in FIXED), key=lambda name: (name[:5] != "test_", name))


def warning(runs: pd.DataFrame) -> str | None:
    """Return what must stand above any table of these runs, or None: known defects, precisions mixed under one name."""
    said = [
        *_of_controls(runs),
        *_of_defects(runs),
        *tuning.told(runs),
        *_of_vectors(runs),
        *_of_genes(runs),
        *_of_precision(runs[runs["status"] == "FINISHED"]),
    ]
    return "\n".join(said) if said else None


def _of_controls(runs: pd.DataFrame) -> Iterator[str]:
    if (said := controls.leak(runs)) is not None:
        yield said


def _of_defects(runs: pd.DataFrame) -> Iterator[str]:
    if "defects" in runs.columns and (tagged := runs[runs["defects"] != ""]).size:
        names = sorted({name for listed in tagged["defects"] for name in listed.split(",")})
        yield f"WARNING: {len(tagged)} of {len(runs)} runs were made with known defects on purpose: {', '.join(names)}"


def _of_vectors(runs: pd.DataFrame) -> Iterator[str]:
    if "on" in runs.columns and (given := runs[runs["on"].str.startswith(("obsm ", "embeddings "))]).size:
        named = "; ".join(
            f"{model} on {on}" for model, on in sorted(set(zip(given["model"], given["on"], strict=True)))
        )
        yield (
            f"Vectors of cells that come from elsewhere ({named}) may have been fitted on test cells, or on their "
            "types, which can't be seen from here"
        )


def _of_genes(runs: pd.DataFrame) -> Iterator[str]:
    if "genes_fit" in runs.columns and (tagged := runs[runs["genes_fit"] == "natural"]).size:
        yield (
            f"Genes and medians of {len(tagged)} of {len(runs)} runs were fitted on all training cells of the split, "
            "those included that the skew takes away (genes: {fit: natural})"
        )


def _of_precision(finished: pd.DataFrame) -> Iterator[str]:
    for model, group in finished.groupby("model", sort=False) if "precision" in finished else ():
        counts = group.loc[group["precision"] != "", "precision"].value_counts()
        if len(counts) > 1:
            each = ", ".join(f"{name} in {number}" for name, number in counts.items())
            yield f"WARNING: runs of {model} were computed in different precisions ({each}): they are not alike"


def of_processors(runs: pd.DataFrame) -> str | None:
    """Return what must be said of comparisons across kinds of CPU or GPU, or None."""
    finished = runs[runs["status"] == "FINISHED"]
    said = []
    for name, column in (("CPU", "cpu" if "cpu" in finished and finished["cpu"].any() else "machine"), ("GPU", "gpu")):
        kinds = finished[column].map(_kind).replace("", None).dropna().unique() if column in finished else ()
        if len(kinds) > 1:
            said.append(f"{len(kinds)} kinds of {name} ({'; '.join(sorted(kinds))})")
    if not said:
        return None
    return (
        f"WARNING: runs were computed on {' and '.join(said)}, whose rounding can move a network as much as a seed does"
    )


def _kind(machine: str) -> str:
    """Return the processor of the tag `machine`: Linux x86_64, NAME, 8 cores -> NAME."""
    parts = str(machine).split(", ")
    return ", ".join(parts[1:-1]) if len(parts) > 2 and parts[-1].endswith("cores") else str(machine)
