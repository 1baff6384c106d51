"""`cellskew plan`, `run`, `resume`, `status`: what a sweep does."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from data_pipeline.errors import RequestError
from sweeps.commands.options import (
    STORAGE,
    Address,
    AsJson,
    Concurrent,
    MaxFailed,
    Move,
    Name,
    Retry,
    Scratch,
    Storage,
    Sweep,
    Uri,
)

if TYPE_CHECKING:
    from sweeps.drive.outcome import Outcome
    from sweeps.file.config import SweepSpec


AGAIN = "run the same command again to go on"


def plan(sweep: Sweep, as_json: AsJson = False, storage: Storage = STORAGE) -> None:
    """What a sweep would do: trials, class counts per skew and strategy, disk, time. Touches nothing.

    Example: `cellskew plan sweeps/configs/quickstart.yaml`
    """
    from sweeps.drive.forecast import planning
    from sweeps.file import config

    planning.show(planning.plan(config.load(sweep, check_files=False), storage), as_json)


def run(
    sweep: Sweep,
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
    address: Address = None,
    max_concurrent: Concurrent = None,
    retry_failed: Retry = False,
    from_scratch: Scratch = False,
    move_tracking: Move = False,
    max_failed: MaxFailed = None,
) -> None:
    """Run a sweep, or go on with it: what is finished stays, what is missing is trained.

    Example: `cellskew run sweeps/configs/quickstart.yaml`
    """
    from sweeps.file import config

    given = _given(address, max_concurrent, retry_failed, from_scratch, move_tracking, max_failed)
    _converge(config.load(sweep), storage, tracking_uri, given)


def resume(
    name: Name,
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
    address: Address = None,
    max_concurrent: Concurrent = None,
    retry_failed: Retry = False,
    from_scratch: Scratch = False,
    move_tracking: Move = False,
    max_failed: MaxFailed = None,
) -> None:
    """Go on with a sweep by its name, as its file was when it last ran.

    Example: `cellskew resume quickstart --retry-failed`
    """
    from sweeps.file import config

    given = _given(address, max_concurrent, retry_failed, from_scratch, move_tracking, max_failed)
    _converge(config.load(_stored(storage, name)), storage, tracking_uri, given)


def _stored(storage: Path, name: str) -> Path:
    from sweeps.file.plugins import unknown

    path = storage / "sweeps" / f"{name}.yaml"
    if "/" in name or not path.exists():
        known = sorted(found.stem for found in (storage / "sweeps").glob("*.yaml"))
        raise RequestError(f"{unknown('sweep', name, known)} in {storage}; choose another folder with --storage")
    return path


def _given(
    address: str | None, most: int | None, retry: bool, scratch: bool, move: bool, max_failed: int | None
) -> dict[str, Any]:
    """Return the options that `run` and `resume` share, as converge.Request calls them."""
    given = {"address": address, "max_concurrent": most, "retry_failed": retry, "from_scratch": scratch}
    return given | {"move_tracking": move, "max_failed": max_failed}


def _converge(spec: "SweepSpec", storage: Path, uri: str | None, given: dict[str, Any]) -> None:
    _check_storage(storage)
    from sweeps.drive.converge import Request, converge
    from sweeps.drive.progress import Progress, console

    request, screen = Request(storage=storage.absolute(), tracking_uri=uri, **given), Progress(console())
    try:
        outcome = converge(spec, request, screen)
    except KeyboardInterrupt:  # where converge heeds none; typer would end without a word
        print(f"cellskew: interrupted; {AGAIN}", file=sys.stderr)
        raise typer.Exit(130) from None
    if outcome.has_begun:
        try:
            _conclude(spec.name, storage, uri, outcome, screen)
        except KeyboardInterrupt:  # the sweep is what it is
            print(f"cellskew: no table now; cellskew results {spec.name}", file=sys.stderr)
    else:
        print(f"cellskew: {outcome.stopped}; {AGAIN}", file=sys.stderr)
    if not outcome.is_complete:
        raise typer.Exit(3 if outcome.is_broken else 1)


def _check_storage(storage: Path) -> None:
    if re.match(r"[a-z][a-z0-9+.-]*:/", str(storage)):
        raise RequestError(f"--storage {storage}: give a folder that every node sees (a shared file system), not a URI")
    if storage.exists() and not storage.is_dir():
        raise RequestError(f"--storage {storage} is a file; give a folder")


def _conclude(name: str, storage: Path, uri: str | None, outcome: "Outcome", screen: Any) -> None:
    from sweeps import tables
    from sweeps.answers.deciding import answer, table
    from sweeps.answers.designs import Designs
    from sweeps.answers.runs import results
    from sweeps.answers.runs.stored import Stored
    from sweeps.drive.outcome import tell
    from sweeps.tracking.uris import of_sweep

    store, page = of_sweep(storage, uri, name), None
    if not outcome.undelivered and not outcome.refused:
        try:
            runs, left_out = results.choose(store, results.fetch(store, name), every=False)
            designs = Designs(runs, Stored(store))
            table.end(runs, designs)
            said = answer.closing(runs, designs)
            tables.say(*(["", *said] if said else []))
            if left_out is not None:
                screen.say(left_out)
            page = _describe(store, name, storage, said)
        except RequestError as error:  # MLflow went away since the last trial; the sweep is what it is
            screen.say(f"no table now: {error}")
    tell(name, storage, uri, store, outcome, screen.say)
    if page is not None:
        screen.say(f"        then its runs are at {page}" if store.startswith("sqlite") else f"MLflow: {page}")


def _describe(store: str, name: str, storage: Path, said: list[str]) -> str:
    """Note with the sweep in MLflow what came out and what its file was; return MLflow's page of its runs."""
    from sweeps.tracking.about import describe

    file = storage / "sweeps" / f"{name}.yaml"
    texts = {f"{name}.yaml": file.read_text(encoding="utf-8")} if file.exists() else {}
    return describe(store, name, said, texts | ({"answer.txt": "\n".join(said)} if said else {}))


def status(name: Name, as_json: AsJson = False, storage: Storage = STORAGE, tracking_uri: Uri = None) -> None:
    """How far a sweep is: scheduled, running, finished, failed, the last errors, the time left.

    Example: `cellskew status quickstart`
    """
    from sweeps.answers import state
    from sweeps.answers.runs import results
    from sweeps.tracking.uris import of_sweep

    runs = results.fetch(of_sweep(storage, tracking_uri, name), name)
    state.show(state.summary(name, storage, runs), as_json)
