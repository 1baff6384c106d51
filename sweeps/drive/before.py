"""What must be so before a sweep is driven: a storage folder that takes something, no news for another store."""

import contextlib
import re
import uuid
from collections.abc import Callable
from pathlib import Path

from data_pipeline.errors import RequestError, of_disk
from data_pipeline.shared import objects
from data_pipeline.shared.store import Shared
from sweeps.tracking.records import waiting
from sweeps.tracking.uris import default_uri, remembered, shown_uri

UNSAID = re.compile(r"[\ud800-\udfff]")  # bytes that are no text, as Python has them in a path


def check_writable(storage: Path, shared: Shared | None = None, say: Callable[[str], None] = print) -> None:
    """RequestError if nothing can be written to the storage folder or the store, NoRoomError if its disk is full.

    Makes nothing.
    """
    if shared is not None:
        objects.try_out(shared.uri)
        say(f"nodes find one another's files in {shared.uri}")
    if UNSAID.search(str(storage)):
        raise RequestError(
            f"the storage folder {str(storage)!r} has a name that isn't UTF-8, which Ray can't take; choose another "
            "folder with --storage"
        )
    there = next(folder for folder in (storage / "sweeps", storage, *storage.parents) if folder.exists())
    probe = there / f".cellskew-{uuid.uuid4().hex}"
    try:
        probe.write_bytes(bytes(4096))
        probe.unlink()
    except OSError as error:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
        raise of_disk(error)(
            f"the storage folder {storage} can't be written to: {error.strerror}. Make it writable, or make room on "
            "its disk, and run again; or choose another folder with --storage"
        ) from error


def check_nothing_waits(storage: Path, sweep: str) -> None:
    """RequestError if news of a sweep wait for the tracking store that it is about to leave."""
    waits, refused = waiting(storage / "sweeps" / f"{sweep}.outbox.jsonl")
    store = remembered(storage, sweep) or default_uri(storage)
    if waits or refused:
        raise RequestError(
            f"{waits} records and {len(refused)} refused runs of sweep {sweep} wait for MLflow at {shown_uri(store)}: "
            "run once without --move-tracking, so that they are delivered, then with it"
        )
