"""Feature extraction: cells per second of predict, forward only, in evaluation."""

from collections.abc import Callable, Iterator

import numpy as np

from gpu_parts.props import cells
from gpu_parts.scene import Record, Scene, Wrong, begin_memory, memory, rounded, seconds_of


def run(scene: Scene) -> Iterator[Record]:
    for name, make in CASES.items():
        yield from scene.check(name, lambda m=make: extract(scene, m(scene)), seconds=2)


CASES: dict[str, Callable[[Scene], cells.Case]] = {
    "scgpt-1024": lambda scene: cells.scgpt(scene, 512).with_batch(scene.pick(64, 4)),
    "geneformer-V1-10M": lambda scene: cells.geneformer(scene, "V1-10M", 192).with_batch(scene.pick(32, 4)),
    "geneformer-V2-104M": lambda scene: cells.geneformer(scene, "V2-104M", 96).with_batch(scene.pick(32, 4)),
    "scbert-3000": lambda scene: cells.scbert(scene, 3000, 64, 16, 1),
    "scbert-16906": lambda scene: cells.scbert(scene, 16906, 12, 4, 1),
}


def extract(scene: Scene, case: cells.Case) -> Record:
    """Predict all cells, their gathering and copying included."""
    begin_memory(scene.device)
    trainer = cells.trainer_of(case, scene)
    rows = np.arange(len(case.encoded))
    found = trainer.predict(rows)
    seconds = seconds_of(lambda: trainer.predict(rows), scene.device, scene.pick(3, 1), warm_up=0)
    record = {"batch": case.batch_size, "cells_per_second": len(rows) / seconds} | memory(scene.device)
    if not np.isfinite(found).all():
        raise Wrong("logits are not finite", rounded(record))
    return rounded(record)
