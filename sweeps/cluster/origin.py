"""What a trial ran on, for its tags: code, packages, machine."""

import functools
import json
import os
import platform
import socket
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from data_pipeline import sameness
from data_pipeline.atomic import publish

KEPT = ".origin.json"  # in a trial's folder: what it runs on, or ran
OF_CODE = ("cellskew.code", "cellskew.code_hash", "cellskew.packages", "mlflow.source.git.commit")
UNKNOWN = "not known: the trial's folder doesn't say"
PACKAGES = ("cellskew", "torch", "transformers", "ray", "mlflow", "scikit-learn", "imbalanced-learn", "numpy", "scipy")


@functools.cache
def code(folder: Path = Path(__file__).parent) -> dict[str, str]:
    """Return tags that say which code this is: the package's version, its files' hash, its commit in a checkout."""
    release, here = version("cellskew"), {"cellskew.code_hash": sameness.fingerprint()}
    if _git(folder, "ls-files", "--error-unmatch", ".") is None:  # installed, perhaps inside another repository
        return here | {"cellskew.code": release}
    commit, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "-uno")
    said = f"{release}, commit {commit}" + (", with local changes" if changes else "")
    return here | {"cellskew.code": said, "mlflow.source.git.commit": str(commit)}


def _git(folder: Path, *words: str) -> str | None:
    """Return what git says in a folder, None if it refuses or isn't there."""
    try:
        asked = subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip() if asked.returncode == 0 else None


@functools.cache
def packages() -> dict[str, str]:
    """Return the tag that says which versions of the packages are installed."""
    return {"cellskew.packages": ", ".join(f"{package} {version(package)}" for package in PACKAGES)}


def machine() -> dict[str, str]:
    """Return the machine a trial runs on, and what of it the trial has: host, machine, cpus, gpu."""
    found = {"host": socket.gethostname(), "cpus": os.environ.get("OMP_NUM_THREADS", "")}
    found["machine"] = f"{platform.system()} {platform.machine()}, {_processor()}, {os.cpu_count()} cores"
    if os.environ.get("CUDA_VISIBLE_DEVICES"):
        import torch

        found["gpu"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "given, but not seen by torch"
    return found


def of_trial(directory: Path, tags: dict[str, str], is_finished: bool) -> dict[str, str]:
    """Return the machine and the code that train a trial, or did if it is finished; names as `machine` has them.

    It is kept in the trial's folder: another sweep or store registers it from there, later and by other code.
    tags: the job's, see code and packages.
    """
    names = {name: name.removeprefix("cellskew.") for name in OF_CODE}
    if not is_finished:
        now = machine() | {names[name]: tags[name] for name in OF_CODE if name in tags}
        publish(directory / KEPT, json.dumps(now).encode(), durable=False)
        return now
    filled = dict.fromkeys(names.values(), UNKNOWN) | {"filled": datetime.now(UTC).isoformat(timespec="seconds")}
    try:
        return filled | json.loads((directory / KEPT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return filled


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown processor")
