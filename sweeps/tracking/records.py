"""Records about runs as lines of files: an outbox's own, and beside it the news that MLflow refused."""

import contextlib
import json
from pathlib import Path
from typing import Any

from data_pipeline.atomic import publish

Record = dict[str, Any]
Refused = dict[str, str]  # run -> why nothing, or not all, of its news was taken


def refused_path(path: Path) -> Path:
    """Return the file beside an outbox for the records of runs whose news MLflow refused time and again."""
    return path.with_name(path.name.removesuffix(".outbox.jsonl") + ".refused.jsonl")


def waiting(path: Path) -> tuple[int, Refused]:
    """Return (records that wait in an outbox's file, runs set aside beside it and why)."""
    return len(_left(path)), {record.get("run", ""): record.get("refused", "") for record in _lines(refused_path(path))}


def clean(what: Any) -> Any:
    """Return a record without what no database and no network takes: NUL characters and halves of surrogate pairs."""
    if isinstance(what, str):
        return what.encode("utf-8", "replace").decode().replace("\0", "")
    if isinstance(what, dict):
        return {clean(name): clean(value) for name, value in what.items()}
    return what


def taken_up(path: Path) -> list[Record]:
    """Return the records that earlier processes left, refused ones first: their runs' later news follow them.

    The file then holds these alone, numbered from 0.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    refused = refused_path(path)
    records = [clean(record) for record in [*_lines(refused), *_left(path)]]
    for record in records:
        record.pop("refused", None)
    if refused.exists() or path.exists():
        publish(path, "".join(line_of(number, record) for number, record in enumerate(records)).encode())
        refused.unlink(missing_ok=True)
    return records


def line_of(number: int, record: Record) -> str:
    """Return the line of a record, by its number in the queue."""
    return json.dumps({"number": number} | record) + "\n"


def _left(path: Path) -> list[Record]:
    """Return the records of a file that no later line of it calls delivered."""
    left: dict[int, Record] = {}
    for line in _lines(path):
        if "delivered" in line:
            last, waits = line["delivered"], set(line["but"])
            left = {number: record for number, record in left.items() if number > last or number in waits}
        else:
            left[line.pop("number", max(left, default=-1) + 1)] = line
    return list(left.values())


def _lines(path: Path) -> list[Record]:
    """Return the records of a file; lines that a crash or a full disk has torn, or that are none, are left out."""
    records = []
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else ():
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            records += [record] if _is_ours(record) else []
    return records


def _is_ours(line: Any) -> bool:
    """Tell whether a line says what we write: news of a run, or what was delivered."""
    if not isinstance(line, dict):
        return False
    if "delivered" in line:
        numbers = [line["delivered"], *line["but"]] if isinstance(line.get("but"), list) else [None]
        return all(isinstance(number, int) for number in numbers)
    return isinstance(line.get("run"), str) and isinstance(line.get("number", 0), int)
