"""`cellskew trial`: one trial of a sweep, shown, or trained again in this process."""

import sys
import traceback
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from data_pipeline.errors import RequestError
from sweeps.commands.options import STORAGE, AsJson, Storage, Uri, refuse_idle

if TYPE_CHECKING:
    from sweeps.answers.onetrial import Found


def trial(
    key: Annotated[str, typer.Argument(help="Beginning of the trial's key, or its name.", show_default=False)],
    rerun: Annotated[bool, typer.Option("--rerun", help="Train it again; say --here too.")] = False,
    here: Annotated[bool, typer.Option("--here", help="In this process; its record isn't touched.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Open Python's debugger where it fails.")] = False,
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="Not from its checkpoint.")] = False,
    keep: Annotated[Path | None, typer.Option(help="New folder for what the rerun leaves; default: nothing.")] = None,
    log: Annotated[int, typer.Option(min=0, help="Lines of its log.")] = 20,
    as_json: AsJson = False,
    storage: Storage = STORAGE,
    tracking_uri: Uri = None,
) -> None:
    """One trial: what it is, how it went, the last lines of its log, its traceback, and how to run it alone.

    Example: `cellskew trial 3fa9c1 --rerun --here --debug`

    Exit code 1 if a rerun fails.
    """
    from sweeps.answers import onetrial
    from sweeps.tracking.uris import bare

    _check(rerun, here, debug, from_scratch, keep)
    if rerun:
        refuse_idle("--log and --json show a trial: leave them out with --rerun", "log", "as_json")
    found = onetrial.find(key, storage, tracking_uri)
    if rerun:
        _rerun(found, debug, from_scratch, keep)
        return
    where = "" if storage == STORAGE else f" --storage {quote(str(storage))}"
    where += "" if tracking_uri is None else f" --tracking-uri {quote(bare(tracking_uri))}"
    onetrial.show(onetrial.described(found, log), f"cellskew trial {found.key} --rerun --here{where}", as_json)


def _check(rerun: bool, here: bool, debug: bool, from_scratch: bool, keep: Path | None) -> None:
    if rerun and not here:
        raise RequestError(
            "--rerun trains in this process, so say --rerun --here; `cellskew resume SWEEP --retry-failed` has the "
            "sweep try its failed trials again"
        )
    if not rerun and (here or debug or from_scratch or keep is not None):
        raise RequestError("--here, --debug, --from-scratch and --keep belong to --rerun")


def _rerun(found: "Found", debug: bool, from_scratch: bool, keep: Path | None) -> None:
    from sweeps.answers.onetrial import compare
    from sweeps.drive.launching.rerun import rerun, told_of
    from sweeps.tracking.uris import without_secrets

    told_of(found.folder)
    print(f"{found.key} {found.run.name}: again, here; its record isn't touched", file=sys.stderr)
    try:
        final = rerun(found.folder, keep, from_scratch, lambda said: print(said, file=sys.stderr))
    except RequestError:
        if debug:
            _look_into_it()
        raise
    except Exception:
        print(without_secrets(traceback.format_exc()), file=sys.stderr)
        if debug:
            _look_into_it()
        raise typer.Exit(1) from None
    for line in compare(final, found.run.metrics):
        print(line)


def _look_into_it() -> None:
    """Open the debugger where the last error was raised."""
    import pdb

    pdb.post_mortem(sys.exc_info()[2])
