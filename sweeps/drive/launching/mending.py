"""Files of finished trials that couldn't be made or uploaded: made later, without training."""

import json
from collections.abc import Callable
from pathlib import Path

from data_pipeline.shared.store import Shared
from data_pipeline.shared.turns import fetched
from sweeps.drive.launching.worker import TOLD, UPLOAD, describe, try_upload
from sweeps.tracking.artifacts import Upload

GIVES_UP = 3  # uploads refused in a row, after which the others wait for the next run
Lacking = dict[str, dict[str, str]]  # key of a trial -> file, or UPLOAD -> why


def mend(
    lacking: Lacking,
    trials: Path,
    to: Callable[[str], Upload],
    done: Callable[[str, dict[str, str]], None],
    shared: Shared | None = None,
) -> Lacking:
    """Make and upload what finished trials lack; returns what they lack now.

    trials: the folder of all trials; to(key): where a trial's files go; done(key, lacking): told of each that changed;
    shared: where machines that share no folder have put the trials'.
    """
    left, refused = {}, 0
    for key, before in lacking.items():
        now = _mended(trials / key, to(key), shared) if refused < GIVES_UP else before
        refused = refused + 1 if UPLOAD in now else 0
        left |= {key: now} if now else {}
        if now != before:
            done(key, now)
    return left


def _mended(directory: Path, to: Upload, shared: Shared | None) -> dict[str, str]:
    try:
        fetched(shared, directory)
    except OSError as error:
        return {UPLOAD: describe(error)}
    if not (directory / TOLD).exists():
        return {"files": f"{directory} is gone; the numbers are good"}
    return _made(directory) | try_upload(directory, to)


def _made(directory: Path) -> dict[str, str]:
    from trainables import config
    from trainables.trial.files import make_missing, missing

    lacking = missing(directory)
    if not lacking:
        return {}
    try:
        return make_missing(config.read(json.loads((directory / TOLD).read_text(encoding="utf-8"))))
    except Exception as error:  # shards that are gone, a disk that is full: as little a reason to stop as before
        return dict.fromkeys(lacking, describe(error))
