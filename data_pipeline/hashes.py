"""What stands for contents: hashes of plain values and of files."""

import hashlib
import json
from pathlib import Path
from typing import Any


def identity_hash(*parts: Any) -> str:
    """Return 16 hex digits that stand for `parts` (JSON-able)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, 64 hex digits; no more than a piece of it is held in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
