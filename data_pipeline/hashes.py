"""What stands for contents: hashes of plain values and of files."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_pipeline.atomic import publish


def identity_hash(*parts: Any) -> str:
    """Return 16 hex digits that stand for `parts` (JSON-able)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def of_names(names: Iterable[str]) -> set[str]:
    """Return what stands for names, 16 hex digits each."""
    return {hashlib.blake2b(name.encode(), digest_size=8).hexdigest() for name in names}


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, 64 hex digits; no more than a piece of it is held in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Hashes:
    """The sha256 of files, computed once each and remembered in the file `kept` by path, size and time of change."""

    def __init__(self, kept: Path) -> None:
        self.kept = kept
        try:
            self._known: dict[str, list] = json.loads(kept.read_text())
        except (OSError, ValueError):
            self._known = {}

    def of(self, path: Path) -> str:
        """Return the sha256 of a file's bytes, 64 hex digits."""
        state, name = path.stat(), str(path.absolute())
        stamp = [state.st_size, state.st_mtime_ns]
        if self._known.get(name, [])[:2] != stamp:
            self._known[name] = [*stamp, file_sha256(path)]
        return self._known[name][2]

    def keep(self) -> None:
        """Remember what has been computed."""
        publish(self.kept, json.dumps(self._known).encode())
