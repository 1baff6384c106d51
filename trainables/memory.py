"""Peak memory of a trial: of the GPU where there is one, else of the process."""

import contextlib
import resource
import sys
from pathlib import Path

import torch

GIB = 1 << 30


def reset_peak() -> None:
    """Start counting anew, so that a trial isn't charged for the one before it in the same process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # only Linux has it
        Path("/proc/self/clear_refs").write_text("5")


def peak_gb() -> float:
    """Return the most memory held since `reset_peak`, in GiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / GIB
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024 / GIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB
