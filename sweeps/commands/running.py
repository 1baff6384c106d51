"""`cellskew plan`, `run`, `resume`, `status`: what a sweep does."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from data_pipeline.errors import RequestError
from sweeps.commands.ending import telling
from sweeps.commands.options import (
    STORAGE,
    Address,
    AsJson,
    Budget,
    Concurrent,
    Cpus,
    GpuMemory,
    Gpus,
    MaxFailed,
    Move,
    Name,
    Nodes,
    OnEnd,
    Price,
    Retry,
    Scratch,
    Shared,
    Storage,
    Sweep,
    Uri,
    refuse_idle,
)

if TYPE_CHECKING:
    from sweeps.drive.outcome import Outcome
    from sweeps.file.config import SweepSpec
    from sweeps.tracking.about import Summary


GIGABYTES = 80.0  # of a GPU, where the plan isn't told
AGAIN = "run the same command again to go on"


def plan(
    sweep: Sweep,
    as_json: AsJson = False,
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
    nodes: Nodes = 1,
    gpus: Gpus = None,
    gpu_memory: GpuMemory = GIGABYTES,
    cpus: Cpus = None,
    price: Price = None,
) -> None:
    """What a sweep would do: trials, class counts per skew and strategy, disk, time that is left. Touches nothing.

    With --gpus: how long and how dear what isn't finished would be on a cluster.

    Example: `cellskew plan sweeps/configs/paper.yaml --nodes 4 --gpus 8 --price 3.2`
    """
    from sweeps.drive.forecast import fleet, planning
    from sweeps.file import config

    spec = config.load(sweep, check_files=False)
    _check_fleet(gpus)
    found = planning.plan(spec, storage)
    if gpus is None:
        planning.show(found, _known(spec.name, storage, tracking_uri), as_json)
        return
    done = _done(spec.name, storage, tracking_uri)
    given = fleet.Fleet(nodes, gpus, gpu_memory, cpus, price)
    told = fleet.forecast(found.trials, found.works, done, given, found.disk_gb)
    if not as_json:
        planning.show(found, done, as_json=False)
    fleet.show(told, as_json, given)


def _check_fleet(gpus: int | None) -> None:
    if gpus is None:
        why = "--nodes, --gpu-memory, --cpus and --price tell of a cluster: say --gpus as well"
        refuse_idle(why, "nodes", "gpu_memory", "cpus", "price")
    elif not gpus:
        refuse_idle("--gpu-memory and --price are of GPUs, of which --gpus 0 has none", "gpu_memory", "price")


def _known(name: str, storage: Path, tracking_uri: str | None) -> dict[str, Any]:
    """Return what `_done` does; nothing, and a word of it, where MLflow doesn't answer that nobody asked about."""
    try:
        return _done(name, storage, tracking_uri)
    except RequestError as error:
        if tracking_uri is not None:
            raise
        print(f"cellskew: what is finished already isn't known: {error}", file=sys.stderr)
        return {}


def _done(name: str, storage: Path, tracking_uri: str | None) -> dict[str, Any]:
    """Return what the finished trials of a sweep took, by key; nothing where it never ran in this folder.

    RequestError if MLflow doesn't answer, or the one that was named has no such sweep.
    """
    from sweeps.answers.runs import results
    from sweeps.drive.forecast.fleet import Done
    from sweeps.tracking.uris import of_sweep

    if tracking_uri is None and not (storage / "sweeps" / f"{name}.yaml").exists():
        return {}
    runs = results.fetch(of_sweep(storage, tracking_uri, name), name)
    runs = runs[(runs["status"] == "FINISHED") & (runs["superseded"] == "")]
    if "trial_seconds" not in runs:
        return {}
    seen = zip(runs["key"], runs["trial_seconds"], runs["gpu"], strict=True)
    return {key: Done(float(seconds), "" if "not seen" in gpu else gpu) for key, seconds, gpu in seen if seconds > 0}


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
    budget: Budget = None,
    on_end: OnEnd = None,
    shared: Shared = None,
) -> None:
    """Run a sweep, or go on with it: what is finished stays, what is missing is trained.

    Example: `cellskew run sweeps/configs/quickstart.yaml`
    """
    from sweeps.file import config

    given = _given(address, max_concurrent, retry_failed, from_scratch, move_tracking, max_failed, budget, shared)
    with telling(on_end) as said:
        _converge(config.load(sweep), storage, tracking_uri, given, said)


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
    budget: Budget = None,
    on_end: OnEnd = None,
    shared: Shared = None,
) -> None:
    """Go on with a sweep by its name, as its file was when it last ran.

    Example: `cellskew resume quickstart --retry-failed`
    """
    from sweeps.file import config

    given = _given(address, max_concurrent, retry_failed, from_scratch, move_tracking, max_failed, budget, shared)
    with telling(on_end) as said:
        _converge(config.load(_stored(storage, name)), storage, tracking_uri, given, said)


def _stored(storage: Path, name: str) -> Path:
    from sweeps.file.plugins import unknown

    path = storage / "sweeps" / f"{name}.yaml"
    if "/" in name or not path.exists():
        known = sorted(found.stem for found in (storage / "sweeps").glob("*.yaml"))
        said = f"{unknown('sweep', name, known)} in {storage}" if known else f"no sweep has been run in {storage}"
        raise RequestError(f"{said}; choose another folder with --storage")
    return path


def _given(
    address: str | None,
    most: int | None,
    retry: bool,
    scratch: bool,
    move: bool,
    max_failed: int | None,
    budget: str | None,
    shared: str | None,
) -> dict[str, Any]:
    """Return the options that `run` and `resume` share, as converge.Request calls them."""
    from sweeps.drive.allowance import Allowance

    given = {"address": address, "max_concurrent": most, "retry_failed": retry, "from_scratch": scratch}
    allowance = None if budget is None else Allowance.of(budget)
    return given | {"move_tracking": move, "max_failed": max_failed, "allowance": allowance, "shared": shared}


def _converge(spec: "SweepSpec", storage: Path, uri: str | None, given: dict[str, Any], said: dict[str, str]) -> None:
    _check_storage(storage)
    said["CELLSKEW_SWEEP"] = spec.name
    from sweeps import pace
    from sweeps.answers import sure
    from sweeps.drive.converge import Request, converge
    from sweeps.drive.outcome import first_compared
    from sweeps.drive.progress import Progress, apart, console

    request = Request(storage=storage.absolute(), tracking_uri=uri, **given)
    left = pace.place(request.storage, spec.name)
    try:
        with apart(left.with_name(f"{spec.name}.native.log")):
            screen = Progress(console(), left)
            outcome = converge(spec, request, screen, look=sure.wanted)
    except KeyboardInterrupt:  # where converge heeds none; typer would end without a word
        print(f"cellskew: interrupted; {AGAIN}", file=sys.stderr)
        raise typer.Exit(130) from None
    said["CELLSKEW_SAID"], outcome.compared = outcome.in_short(), first_compared(spec.trials())
    if outcome.has_begun:
        try:
            _conclude(spec.name, storage, uri, outcome, Progress(console()))
        except KeyboardInterrupt:  # the sweep is what it is
            print(f"cellskew: no table now; cellskew results {spec.name}", file=sys.stderr)
    else:
        print(f"cellskew: {outcome.stopped}; {AGAIN}", file=sys.stderr)
    if not outcome.is_complete:
        raise typer.Exit(3 if outcome.is_broken else 1)


def _check_storage(storage: Path) -> None:
    if re.match(r"[a-z][a-z0-9+.-]*:/", str(storage)):
        given = str(storage).replace(":/", "://", 1)  # a path drops one
        raise RequestError(f"--storage {given}: give a folder, not a URI; a bucket is for --shared")
    if storage.exists() and not storage.is_dir():
        raise RequestError(f"--storage {storage} is a file; give a folder")


def _conclude(name: str, storage: Path, uri: str | None, outcome: "Outcome", screen: Any) -> None:
    from sweeps import tables
    from sweeps.answers import above
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
            page = _describe(store, name, storage, said, above.summaries(runs, designs))
        except RequestError as error:  # MLflow went away since the last trial; the sweep is what it is
            screen.say(f"no table now: {error}")
    tell(name, storage, uri, store, outcome, screen.say)
    if page is not None:
        screen.say(f"        then its runs are at {page}" if store.startswith("sqlite") else f"MLflow: {page}")


def _describe(store: str, name: str, storage: Path, said: list[str], found: "list[Summary]") -> str:
    """Note with the sweep in MLflow what came out, of each choice too, and its file; return the page of its runs."""
    from sweeps.tracking.about import describe, summarise

    file = storage / "sweeps" / f"{name}.yaml"
    texts = {f"{name}.yaml": file.read_text(encoding="utf-8")} if file.exists() else {}
    summarise(store, name, found)
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
