"""Peak memory of a trial: of the GPU where it uses one, else of the process."""

import contextlib
import resource
import sys
from pathlib import Path

import torch

GIB = 1 << 30
CONTEXT = 0.6 * GIB  # what CUDA takes for a process, beside what torch allocates


def begin(on_gpu: bool, share: float) -> None:
    """Start counting anew, so that a trial isn't charged for the one before it in the same process.

    On a GPU the process keeps to its share, so that a trial which grows hurts itself, not its neighbours.
    """
    if on_gpu:
        context = CONTEXT / torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(max(share - context, 0.01) if 0 < share < 1 else 1.0)
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # only Linux has it
        Path("/proc/self/clear_refs").write_text("5")


def peak_gb(on_gpu: bool) -> float:
    """Return the most memory held since `begin`, in GiB: of the GPU, or of the process."""
    if on_gpu:
        return torch.cuda.max_memory_allocated() / GIB
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024 / GIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


class GpuMeter:
    """The memory of the GPU that this process alone uses, from now on: torch's and the CUDA context's, in bytes."""

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise RuntimeError("Ray gave a GPU, but torch sees none: is a CPU build of torch installed there?")
        self.name = torch.cuda.get_device_name(0)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        self.total = torch.cuda.mem_get_info()[1]

    def peak(self) -> int:
        """Return the most that was held since the meter was made."""
        free, total = torch.cuda.mem_get_info()
        beside = total - free - torch.cuda.memory_reserved()
        return torch.cuda.max_memory_reserved() + max(0, beside)
