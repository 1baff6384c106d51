"""Finished runs of a large sweep on a server, remembered on this machine: a second look asks for the others alone.

A run that is FINISHED, and lacks no file, changes no more. What may have become of runs since is asked for: those that
aren't FINISHED, those that weren't last time, those that were deleted or superseded. If the sweep's file wants other
trials than last time, or one that none of these has, everything is read again.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from data_pipeline.atomic import publish
from data_pipeline.hashes import identity_hash
from sweeps.tracking.kept.database import StoredRun

FORMAT, LEAST = 1, 500  # version of the file; runs of a sweep that is worth one
SUPERSEDED, LACKING = "cellskew.superseded", "cellskew.lacking"  # tags that a FINISHED run may yet get, or lose
AT_ONCE = 50  # runs asked for by id in one question
Read = Callable[..., Iterator[StoredRun]]  # read(filter, deleted=False): the trials' runs for which a filter holds


def runs_of(place: Path, read: Read, wanted: set[str] | None, renamed: str = "") -> list[StoredRun]:
    """Return every trial's run of a sweep that isn't deleted, the oldest first.

    place: the file to remember them in, see `place_of`. wanted: keys of the trials that the sweep's file has, if known.
    renamed: when runs were last called by other names; what was remembered before that is read again.
    """
    asked = identity_hash(sorted(wanted or ()), renamed)
    known = _load(place, asked)
    found = _since(known, read) if wanted else []
    if not found or not wanted <= {run.tags["cellskew.trial"] for run in found}:
        found = list(read(""))
    found = sorted(found, key=lambda run: (run.started, run.run_id))
    if len(found) >= LEAST and found != known:
        _keep(place, asked, found)
    return found


def place_of(uri: str, experiment_id: str, created: int) -> Path:
    """Return the file for a server's experiment; created: its time, which tells it from one of a database before."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return folder / "cellskew" / f"runs-{identity_hash(FORMAT, uri, experiment_id, created)}.json"


def _since(known: list[StoredRun], read: Read) -> list[StoredRun]:
    """Return the runs that were known, as they are now, and those that aren't FINISHED; none if none was known."""
    if not known:
        return []
    settled = {run.run_id: run for run in known if is_settled(run)}
    now = {run.run_id: run for run in read("attributes.status != 'FINISHED'")}
    gone = {run.run_id for run in read("", deleted=True)}
    now |= {run.run_id: run for run in read(f"attributes.status = 'FINISHED' and tags.`{SUPERSEDED}` != ''")}
    ended = {run.run_id for run in known} - set(settled) - set(now) - gone
    now |= {run.run_id: run for run in _by_id(sorted(ended), read)}
    return [run for run_id, run in (settled | now).items() if run_id not in gone]


def is_settled(run: StoredRun) -> bool:
    """Tell whether a run changes no more."""
    return run.status == "FINISHED" and not run.tags.get(LACKING)


def _by_id(run_ids: list[str], read: Read) -> Iterator[StoredRun]:
    for start in range(0, len(run_ids), AT_ONCE):
        listed = ", ".join(f"'{run_id}'" for run_id in run_ids[start : start + AT_ONCE])
        yield from read(f"attributes.run_id IN ({listed})")


def _load(place: Path, asked: str) -> list[StoredRun]:
    try:
        kept = json.loads(place.read_bytes())
        return [StoredRun(**one) for one in kept["runs"]] if kept["asked"] == asked else []
    except (OSError, ValueError, TypeError, KeyError):
        return []


def _keep(place: Path, asked: str, found: Iterable[StoredRun]) -> None:
    try:
        kept = {"asked": asked, "runs": [_slim(run) for run in found]}
        publish(place, json.dumps(kept).encode(), durable=False)
    except OSError:  # a home that can't be written, a full disk: the next look reads everything again
        return


def _slim(run: StoredRun) -> dict[str, Any]:
    """Return what is kept of a run: of its parameters those that tables go by."""
    kept = {name: value for name, value in run.params.items() if name.startswith("split.")}
    return vars(run) | {"params": kept}
