"""The most memory that a trial takes of a GPU: two steps and a prediction on the longest cells of its dataset."""

from typing import Any

from trainables import spec as registry
from trainables.config import read
from trainables.material import open_material


def peak_memory(config: dict[str, Any]) -> dict[str, Any]:
    """Return {"peak", "total": bytes of the GPU, "gpu": its name}. config: what run_trial takes.

    The second step has everything at once: weights, gradients, the optimiser's moments, activations.
    """
    from trainables.training.training import rehearse
    from trainables.trial import memory

    meter = memory.GpuMeter()
    told = read(config)
    rehearse(registry.get(told.model), told, open_material(told))
    return {"peak": meter.peak(), "total": meter.total, "gpu": meter.name}
