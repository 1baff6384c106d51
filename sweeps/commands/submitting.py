"""`cellskew submit`: a sweep driven on a Ray cluster, from a machine that is no node of it."""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from shlex import join
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from data_pipeline.errors import RequestError
from data_pipeline.outside import VARIABLE, folders
from sweeps.commands.options import Budget, Concurrent, MaxFailed, OnEnd, Retry, Shared, Sweep, Uri

if TYPE_CHECKING:
    from sweeps.commands.jobs import Jobs

Dashboard = Annotated[str | None, typer.Option("--address", help="Ray's dashboard, http://HEAD:8265.")]
There = Annotated[Path, typer.Option(help="Folder on the cluster, from the root; every node must see it.")]
Code = Annotated[Path | None, typer.Option(help="Run this checkout there, in place of the cellskew installed there.")]
Stop = Annotated[bool, typer.Option("--stop", help="End the sweep: running trials save their epoch.")]
Detached = Annotated[bool, typer.Option("--detach", help="Don't follow what the sweep prints.")]


def submit(
    sweep: Sweep,
    storage: There,
    address: Dashboard = None,
    tracking_uri: Uri = None,
    max_concurrent: Concurrent = None,
    retry_failed: Retry = False,
    code: Code = None,
    stop: Stop = False,
    detach: Detached = False,
    shared: Shared = None,
    max_failed: MaxFailed = None,
    budget: Budget = None,
    on_end: OnEnd = None,
) -> None:
    """Run a sweep on a Ray cluster from a machine that is no node of it; the driver stays there as a Ray job.

    Example: `cellskew submit my.yaml --address http://HEAD:8265 --storage /shared/cellskew-runs`

    Paths in the file, and --on-end, are the cluster's. Ctrl-C stops following, not the sweep; run again, it follows on.
    """
    name, jobs = _asked(sweep, address)
    options = {"max-concurrent": max_concurrent, "tracking-uri": tracking_uri, "retry-failed": retry_failed}
    options |= {"shared": shared, "max-failed": max_failed, "budget": budget, "on-end": on_end}
    again = _again(sweep, {"address": jobs.address, "storage": storage} | options | {"code": code})
    job = jobs.running(name)
    if stop:
        _end(jobs, name, job)
    elif job is not None:
        print(f"{job} runs already, with the file as it was; to run another one, end it first: {again} --stop")
    job = job or _start(jobs, name, sweep, storage, options, code)
    if not detach:
        _follow(jobs, job, again)


def _asked(sweep: Path, address: str | None) -> tuple[str, "Jobs"]:
    """Return the sweep's name, its file read, and the cluster's jobs."""
    from sweeps.commands.jobs import Jobs, dashboard
    from sweeps.file import config

    return config.load(sweep, check_files=False).name, Jobs(dashboard(address))


def _again(sweep: Path, options: dict[str, Any]) -> str:
    """Return the command that finds the job again, or starts the same one; no password is in it."""
    from sweeps.tracking.uris import bare

    uri = options["tracking-uri"]
    options = options | {"tracking-uri": None if uri is None else bare(uri)}
    return join([*_with_plugins(folders()), "cellskew", "submit", str(sweep), *_words(options)])


def _with_plugins(plugins: Sequence[Path]) -> list[str]:
    return ["env", f"{VARIABLE}={os.pathsep.join(map(str, plugins))}"] if plugins else []


def _words(options: dict[str, Any]) -> list[str]:
    """Return options as words of a command; those without a value, or False, are left out."""
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    return [word for name, value in given.items() for word in (f"--{name}", *([] if value is True else [str(value)]))]


def _end(jobs: "Jobs", name: str, job: str | None) -> None:
    if job is None:
        raise RequestError(f"sweep {name} isn't being run at {jobs.address}")
    jobs.stop(job)
    print(f"{job} is asked to end; its trials save their epoch")


def _start(jobs: "Jobs", name: str, sweep: Path, storage: Path, options: dict[str, Any], code: Path | None) -> str:
    from sweeps.commands.jobs import sent_alone
    from sweeps.drive.allowance import Allowance

    if options["budget"] is not None:
        Allowance.of(options["budget"])
    _check(sweep, storage, options, code)
    whole = nullcontext((code, folders())) if code is not None else sent_alone(sweep, folders())
    with whole as (folder, plugins):
        command = entrypoint(sweep, storage, options, code, [_inside(one, folder) for one in plugins])
        job = jobs.start(name, command, folder, {"sweep": name, "storage": str(storage)})
    print(f"{job} is submitted: {command}")
    return job


def entrypoint(
    sweep: Path, storage: Path, options: dict[str, Any], code: Path | None, plugins: Sequence[Path] = ()
) -> str:
    """Return the command that the cluster runs; plugins: folders of models in what is sent.

    In place of the shell, which Ray would end with it: in a container nobody buries a driver without a parent, and Ray
    goes on waiting for it.
    """
    inside = Path(sweep.name) if code is None else _inside(sweep, code)
    words = [*_with_plugins(plugins), *(["cellskew"] if code is None else ["python", "-m", "sweeps.cli"])]
    words += ["run", str(inside), "--address", "auto", "--storage", str(storage), *_words(options)]
    return f"exec {join(words)}"


def _check(sweep: Path, storage: Path, options: dict[str, Any], code: Path | None) -> None:
    """RequestError for what can't be as it is on the cluster, all at once."""
    from data_pipeline.shared import objects
    from sweeps.tracking import uris

    problems, tracking_uri = [] if code is not None else list(_relative(sweep)), options["tracking-uri"]
    if not storage.is_absolute():
        problems.append(f"--storage {storage}: give the folder as it is on the cluster, from the root")
    if tracking_uri is not None and urlsplit(tracking_uri).username is not None:
        problems.append(
            "--tracking-uri with a user or password: Ray shows the commands of its jobs to everybody. Leave them out, "
            "and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on the head node before `ray start`"
        )
    problems += _wrong(uris.checked, tracking_uri) + _wrong(objects.checked, options["shared"])
    needed = [] if code is None else [sweep, *folders()]
    problems += [f"--code {code}: {one} isn't in it; put it there" for one in needed if not _is_inside(one, code)]
    if problems:
        raise RequestError(*problems)


def _wrong(check: Callable[[str], Any], given: str | None) -> list[str]:
    """Return what is wrong with a URI, wherever it is used."""
    try:
        None if given is None else check(given)
    except RequestError as error:
        return list(error.problems)
    return []


def _is_inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _inside(path: Path, folder: Path) -> Path:
    return path.resolve().relative_to(folder.resolve())


def _relative(sweep: Path) -> list[str]:
    """Return what is wrong with paths in a file that is sent alone."""
    from sweeps.file import yaml_lines

    document = yaml_lines.read(sweep.read_text(encoding="utf-8")).value
    models = document["models"] if isinstance(document["models"], dict) else {}
    given = [
        entry.get(key)
        for entry in document["datasets"]
        if isinstance(entry, dict)
        for key in ("path", "test_path", "tree")
    ]
    given += [(entry.get("labels") or {}).get("map") for entry in document["datasets"] if isinstance(entry, dict)]
    settings = [one for one in models.values() if isinstance(one, dict)]
    settings += [one["on"] for one in settings if isinstance(one.get("on"), dict)]
    given += [one.get(key) for one in settings for key in ("weights", "embeddings")]
    paths = [path for one in given if one is not None for path in (one if isinstance(one, list) else [one])]
    return [
        f"{sweep}: {path} isn't on the cluster, where this file alone is sent: give the path there, from the root"
        for path in paths
        if not path.startswith(("/", "~")) and "://" not in path
    ]


def _follow(jobs: "Jobs", job: str, again: str) -> None:
    try:
        code = jobs.follow(job, lambda text: print(text, end="", flush=True))
    except (KeyboardInterrupt, RequestError) as end:
        said = "" if isinstance(end, KeyboardInterrupt) else f"cellskew: {end}"
        print(f"{said}\n{job} goes on without us; follow it again: {again}\n  end it: {again} --stop", file=sys.stderr)
        raise typer.Exit(3 if said else 130) from None
    if code:
        raise typer.Exit(code)
