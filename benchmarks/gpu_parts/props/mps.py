"""NVIDIA's multi-process service, started as this user in a private folder and always ended."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpu_parts.scene import Skip

CONTROL = "nvidia-cuda-mps-control"
MARK = "mps-folder"  # in the run's folder: where the service's own folder is


@contextmanager
def service(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the environment in which processes share the GPU through the service; Skip where it can't be had."""
    if shutil.which(CONTROL) is None:
        raise Skip(f"{CONTROL} isn't installed")
    private = Path(tempfile.mkdtemp(prefix="mps-"))  # short: a socket's path must be
    environment = {"CUDA_MPS_PIPE_DIRECTORY": str(private / "pipe"), "CUDA_MPS_LOG_DIRECTORY": str(private / "log")}
    for path in environment.values():
        Path(path).mkdir(mode=0o700)
    (folder / MARK).write_text(str(private))
    try:
        asked = _control(["-d"], environment)
        if asked.returncode:
            raise Skip(f"{CONTROL} -d: {(asked.stdout + asked.stderr).strip()[:300]}")
        time.sleep(1)
        yield environment
    finally:
        end(folder)


def _control(words: list[str], environment: dict[str, str], said: str = "") -> subprocess.CompletedProcess[str]:
    given = os.environ | environment
    return subprocess.run([CONTROL, *words], input=said, env=given, capture_output=True, text=True, timeout=15)


def end(folder: Path) -> None:
    """End the service that was started for this folder, if there is one: asked first, then killed by its own pid."""
    mark = folder / MARK
    if not mark.exists():
        return
    private = Path(mark.read_text())
    environment = {"CUDA_MPS_PIPE_DIRECTORY": str(private / "pipe"), "CUDA_MPS_LOG_DIRECTORY": str(private / "log")}
    note = private / "pipe" / f"{CONTROL}.pid"
    pid = int(note.read_text()) if note.exists() and note.read_text().strip().isdigit() else None
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        _control([], environment, "quit -t 3\n")
    if pid is not None:
        _wait_or_kill(pid)
    mark.unlink()


def _wait_or_kill(pid: int, seconds: float = 6.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and _is_control(pid):
        time.sleep(0.1)
    if _is_control(pid):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _is_control(pid: int) -> bool:
    """Tell whether the pid is still the service's: pids are used again."""
    try:
        return b"mps-control" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def logs(folder: Path) -> str:
    """Return the end of what the service wrote down."""
    mark = folder / MARK
    if not mark.exists():
        return ""
    files = sorted((Path(mark.read_text()) / "log").glob("*.log"))
    return "\n".join(path.read_text(errors="replace")[-400:] for path in files)
