"""One trial, trained again in this process, beside the sweep: its record, its folder and its run stay as they are."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_pipeline.errors import RequestError
from data_pipeline.shared.store import Shared
from sweeps.drive.launching.log import epoch_line
from sweeps.drive.launching.worker import TOLD
from trainables.training.device import choose_device


def rerun(folder: Path, keep: Path | None, from_scratch: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Train the trial of a folder again and return its final metrics; whatever it raises comes through.

    It goes on from a copy of the trial's newest whole checkpoint, if it has one and `from_scratch` doesn't forbid it.
    keep: a new folder for what it leaves behind; None: nothing stays. RequestError if no worker has ever had it.
    """
    from trainables.training.checkpoint import newest
    from trainables.trial.trial import run_trial

    told = told_of(folder)
    with _place(keep) as place:
        if not from_scratch:
            _copy_checkpoints(folder, place)
        start = newest(place)
        say("from the start" if start is None else f"from a copy of its checkpoint {start.name}")
        return run_trial(told | _here(told, place, say), lambda numbers, saved: _tell(numbers, say), start)


def told_of(folder: Path) -> dict[str, Any]:
    """Return what run_trial was told when a worker last had a trial's folder, with paths as the storage lies now."""
    try:
        told = json.loads((folder / TOLD).read_text(encoding="utf-8"))
        return Shared("", Path(told["directory"]).parents[1], folder.absolute().parents[1]).translated(told)
    except (OSError, ValueError):
        raise RequestError(
            f"{folder} doesn't say how the trial is run: no worker of this machine's storage has had it yet. `cellskew "
            "run` prepares and starts it; --storage names another folder"
        ) from None


@contextmanager
def _place(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="cellskew-") as name:
            yield Path(name)
        return
    if keep.exists():
        raise RequestError(f"--keep {keep} is there already; name a new folder")
    keep.mkdir(parents=True)
    yield keep


def _copy_checkpoints(folder: Path, place: Path) -> None:
    for path in folder.glob("epoch-*"):
        try:
            shutil.copytree(path, place / path.name)
        except (OSError, shutil.Error):  # replaced by a newer one while we read it: a torn copy isn't taken
            shutil.rmtree(place / path.name, ignore_errors=True)


def _here(told: dict[str, Any], place: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Return what differs from the trial on its worker: folder, device, nobody who may stop it."""
    found = {"directory": str(place.absolute()), "stop_file": None, "gpu_share": 1.0}
    if told.get("device") == "cuda" and choose_device("auto").type != "cuda":
        say("on the CPU of this machine, which has no GPU: numbers differ a little, and it takes its time")
        found["device"] = "cpu"
    return found


def _tell(numbers: dict[str, Any], say: Callable[[str], None]) -> None:
    if not numbers.get("final"):
        say(epoch_line(numbers))
