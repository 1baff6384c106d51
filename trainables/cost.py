"""What a trial costs, over all its legs: seconds, and the most memory it held, of the GPU or of the process."""

import contextlib
import resource
import sys
import time
from pathlib import Path

GIB = 1 << 30
CONTEXT = 0.6 * GIB  # what CUDA takes for a process beside torch's own: measured on an H100, benchmarks/gpu.py


class Cost:
    """The seconds and the peak memory of a trial: of this leg, and of those before it that it goes on from."""

    def __init__(self, on_gpu: bool) -> None:
        self.on_gpu, self.start = on_gpu, time.perf_counter()
        self.earlier = {"trial_seconds": 0.0, "peak_memory_gb": 0.0}

    def add(self, earlier: dict[str, float]) -> None:
        """Count what `so_far` said when the state was saved from which this leg goes on."""
        self.earlier = earlier

    def so_far(self) -> dict[str, float]:
        """Return trial_seconds and peak_memory_gb."""
        seconds = self.earlier["trial_seconds"] + time.perf_counter() - self.start
        return {"trial_seconds": seconds, "peak_memory_gb": max(self.earlier["peak_memory_gb"], peak_gb(self.on_gpu))}


def begin(on_gpu: bool, share: float) -> None:
    """Start counting anew, so that a trial isn't charged for the one before it in the same process.

    On a GPU the process keeps to its share, so that a trial which grows hurts itself, not its neighbours.
    """
    if on_gpu:
        import torch  # the driver, which counts nothing, does without

        context = CONTEXT / torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(max(share - context, 0.01) if 0 < share < 1 else 1.0)
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # only Linux has it
        Path("/proc/self/clear_refs").write_text("5")


def peak_gb(on_gpu: bool) -> float:
    """Return the most memory held since `begin`, in GiB: of the GPU, or of the process."""
    if on_gpu:
        import torch

        return torch.cuda.max_memory_allocated() / GIB
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024 / GIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB
