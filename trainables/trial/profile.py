"""The most memory that a trial takes of a GPU: two steps and a prediction on the longest cells of its dataset."""

from typing import Any

from trainables import spec as registry
from trainables.material import open_material
from trainables.trial.trial import DEFAULTS


def peak_memory(config: dict[str, Any]) -> dict[str, Any]:
    """Return {"peak", "total": bytes of the GPU, "gpu": its name}. config: what run_trial takes.

    The second step has everything at once: weights, gradients, the optimiser's moments, activations.
    """
    from trainables.training.training import rehearse
    from trainables.trial import memory

    config = DEFAULTS | config
    meter = memory.GpuMeter()
    rehearse(registry.get(config["model"]), config, open_material(config))
    return {"peak": meter.peak(), "total": meter.total, "gpu": meter.name}
