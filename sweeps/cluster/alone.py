"""What a Ray of our own needs: a folder whose sockets have short names, and a token that leaves no trace."""

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

from data_pipeline.errors import RequestError

LONGEST = 107  # bytes of a socket's path on Linux (AF_UNIX), 103 on macOS
INSIDE = "/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store.0"  # what Ray adds


def folder() -> str:
    """Return the folder for Ray's sockets and logs: RAY_TMPDIR's or TMPDIR's where the names fit, else one in /tmp.

    RequestError if none of these can be written to.
    """
    asked = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    tried = [Path(asked, "ray"), Path("/tmp/ray"), Path("/tmp", f"ray-{os.getuid()}"), Path("/dev/shm/ray")]
    for place in tried:
        if len(os.fsencode(f"{place.absolute()}{INSIDE}")) <= LONGEST and _is_ours(place):
            return str(place.absolute())
    raise RequestError(
        f"Ray finds no folder for its sockets: {', '.join(map(str, dict.fromkeys(tried)))} are longer than "
        f"{LONGEST - len(INSIDE)} letters or can't be written to. Name one with RAY_TMPDIR"
    )


def _is_ours(place: Path) -> bool:
    with contextlib.suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            address = place / "ray_current_cluster"  # which Ray writes, whoever wrote it before
            return not address.exists() or os.access(address, os.W_OK)
    return False


def token() -> None:
    """Give a Ray of our own a token, unless the user has said how it is to be, or has one.

    Ray would write one into the home folder, which may not be there, and from then on ask for it elsewhere.
    """
    given = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ)
    if not given and not (Path.home() / ".ray" / "auth_token").exists():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
