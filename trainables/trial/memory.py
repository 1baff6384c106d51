"""The memory of a GPU that one process takes, measured."""

import torch


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
