"""Which trained models are meant: by run, by folder, by registered name, or as the best choice of a sweep."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from data_pipeline.errors import RequestError
from data_pipeline.names import did_you_mean
from sweeps.answers.deciding import wording
from sweeps.answers.deciding.answer import answer
from sweeps.answers.deciding.ranking import Ranking
from sweeps.answers.designs import Designs
from sweeps.answers.networks import promote
from sweeps.answers.runs import choices
from sweeps.answers.summary import title
from sweeps.tracking.uris import shown_uri, stores

if TYPE_CHECKING:
    from sweeps.tracking.kept.registry import Registry
    from sweeps.tracking.kept.runs import RunState

PLAIN = "none"
NATURAL = "natural"
VERSIONED = "models:/"


@dataclass(frozen=True)
class Meant:
    """A model: its folder `checkpoint`, what people call it, and the adjustment that it is used with."""

    folder: Path
    name: str
    adjustment: str = PLAIN


@dataclass(frozen=True)
class Best:
    """The best choice of a sweep. runs: ids of its finished trials, the lowest split and seed first; said: how sure."""

    adjustment: str
    runs: list[str]
    said: list[str]


def best(runs: pd.DataFrame, designs: Designs, metric: str, kind: str | None = None) -> Best:
    """Return the best choice of finished runs by a metric, see answer.answer; RequestError if there is no single one.

    kind: a type; metric is then of it. Where a sweep has several skews, that of the natural mix is meant. An adjustment
    that is made of all test cells together (prior_shift), or is from outside, is none that other cells can be given,
    and left out.
    """
    from trainables.trial.annotator import ADJUSTMENTS

    unfolded = choices.unfolded(runs)
    usable = unfolded[unfolded["posthoc"].isin(ADJUSTMENTS)]
    usable.attrs |= runs.attrs
    ranking = _one(answer(usable, metric, designs, kind).rankings)
    chosen = ranking.best
    if chosen is None:
        raise RequestError("only chance is left of the finished trials: nothing that could be called best")
    mine = ranking.runs[chosen["label"]].sort_values(["split", "seed"], kind="stable", key=pd.to_numeric)
    if mine["dataset"].nunique() > 1:
        named = ", ".join(sorted(set(mine["dataset"])))
        raise RequestError(f"the best choice was trained on {named}: say which, --where 'dataset == \"...\"'")
    left_out = sorted(set(unfolded["posthoc"]) - set(usable["posthoc"]))
    return Best(chosen["posthoc"], list(mine["run_id"]), [_said(ranking), *map(_is_left_out, left_out)])


def _one(rankings: list[Ranking]) -> Ranking:
    """Return the ranking that is meant; RequestError without one, or if it can't be told which."""
    natural = [one for one in rankings if one.skew == NATURAL]
    if len(rankings) == 1 or natural:
        return (natural or rankings)[0]
    if not rankings:
        raise RequestError("no trial is finished whose choice could be best")
    named = ", ".join(one.skew for one in rankings)
    raise RequestError(
        f"the best depends on the skew, of which there are {named}: say which, --where 'skew == \"...\"'"
    )


def _said(ranking: Ranking) -> str:
    chosen, tied = ranking.best, ranking.tied
    number = f"{chosen['mean']:.3f}" + (
        "" if pd.isna(chosen["low"]) else f" [{chosen['low']:.3f}, {chosen['high']:.3f}]"
    )
    where = f"best by {title(ranking.metric)}, skew {ranking.skew}"
    said = f"{where}: {chosen['label']}, {number}, {wording.many(ranking.splits, 'split')}"
    return said + (f"; it can't be told from {wording.named(tied)}" if tied else "")


def _is_left_out(adjustment: str) -> str:
    from trainables.posthoc import OWN

    why = "is made of all test cells together" if adjustment in OWN else "is from outside, and no checkpoint holds it"
    return f"{adjustment} {why}, so no choice for other cells: left out"


@contextmanager
def folder_of_run(run_id: str, storage: Path, given_uri: str | None) -> Iterator[Path]:
    """Give the folder `checkpoint` of a finished run while `with` lasts: where it lies, or a copy."""
    registry, run = promote.find(run_id, storage, given_uri)
    with _folder(registry, run, promote.MODEL_FOLDER, storage) as folder:
        yield folder


@contextmanager
def of_version(name: str, storage: Path, given_uri: str | None) -> Iterator[Meant]:
    """Give what is registered as NAME, the newest version, or NAME/VERSION; RequestError if nothing is."""
    from sweeps.tracking.kept.registry import Registry

    called, _, number = name.removeprefix(VERSIONED).partition("/")
    promote.check_name(called, "--model")
    uris = stores(storage, given_uri)
    for registry in (Registry(uri, storage) for uri in uris):
        version = registry.version(called, number or None)
        run = None if version is None else registry.run(version.run_id)
        if run is not None:
            with _folder(registry, run, version.folder, storage) as folder:
                yield Meant(folder, f"{called}/{version.number}", version.tags.get(promote.ADJUSTMENT, PLAIN))
            return
    raise RequestError(
        f"MLflow at {', '.join(map(shown_uri, uris))} has no registered model {called!r}"
        f"{f' of version {number}' if number else ''}; `cellskew promote` registers one; look elsewhere with --storage "
        "or --tracking-uri"
    )


@contextmanager
def _folder(registry: "Registry", run: "RunState", name: str, storage: Path) -> Iterator[Path]:
    link = promote.linked(run, storage)
    if link is not None and name == promote.MODEL_FOLDER:
        yield link
        return
    if not registry.has_artifact(run, name):
        raise RequestError(
            f"{run.name} has no checkpoint among its artifacts: {promote.WHY_NONE}. Where its trial was run it may lie "
            f"in STORAGE/trials/{run.key}/{promote.MODEL_FOLDER}: give that with --checkpoint"
        )
    with tempfile.TemporaryDirectory(prefix="cellskew-") as scratch:
        yield registry.fetch_artifact(run, name, Path(scratch))


@contextmanager
def models(
    run_ids: Sequence[str],
    folders: Sequence[Path],
    versions: Sequence[str],
    adjustment: str | None,
    storage: Path,
    given_uri: str | None,
) -> Iterator[list[Meant]]:
    """Give the models that are named in one way or another; RequestError if none is, or one twice.

    adjustment: what all of them are used with; None: a registered one with its own, the others plain.
    """
    if not run_ids and not folders and not versions:
        raise RequestError(
            "say which model: --run RUN_ID, --checkpoint FOLDER, --model NAME that was promoted, --best SWEEP, or "
            "--ensemble SWEEP; several are an ensemble"
        )
    check_once([*run_ids, *map(str, folders), *versions])
    with ExitStack() as places:
        found = [Meant(places.enter_context(folder_of_run(one, storage, given_uri)), one) for one in run_ids]
        found += [Meant(folder, str(folder)) for folder in folders]
        found += [places.enter_context(of_version(one, storage, given_uri)) for one in versions]
        yield [one if adjustment is None else Meant(one.folder, one.name, adjustment) for one in found]


def check_once(names: Sequence[str]) -> None:
    """RequestError if a model is named twice."""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RequestError(f"named twice: {', '.join(twice)}; a model that votes twice makes no ensemble surer")


def check_adjustment(name: str | None) -> None:
    """RequestError for an adjustment that there isn't, or that other cells can't be given, see `best`."""
    from trainables.posthoc import POSTHOC
    from trainables.trial.annotator import ADJUSTMENTS

    if name is None or name in ADJUSTMENTS:
        return
    known = f"known: {', '.join(ADJUSTMENTS)}"
    raise RequestError(
        f"--posthoc {name}: {_is_left_out(name)}; {known}"
        if name in POSTHOC
        else f"--posthoc {name}: there is no such adjustment; {did_you_mean(name, ADJUSTMENTS)}{known}"
    )
