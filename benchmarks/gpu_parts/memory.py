"""A trial keeps to its share of the GPU's memory, and halves its micro-batch when that runs out."""

from collections.abc import Iterator

import numpy as np
import torch

from gpu_parts.faults import OUT_OF_MEMORY, Tight
from gpu_parts.props import cells
from gpu_parts.scene import GIB, Record, Scene, Skip, Wrong, begin_memory, forget, memory, rounded

APART = 0.08  # of the largest logit, as 16-bit logits may be from exact ones


def run(scene: Scene) -> Iterator[Record]:
    yield from scene.check("a share is kept", lambda: share_is_kept(scene))
    yield from scene.check("a step retreats", lambda: step_retreats(scene), seconds=4)
    yield from scene.check("a retreat changes no numbers", lambda: same_numbers(scene), seconds=3)
    yield from scene.check("predict retreats", lambda: predict_retreats(scene), seconds=3)
    yield from scene.check("the first optimiser step retreats", lambda: optimiser_retreats(scene), seconds=3)


def share_is_kept(scene: Scene, share: float = 0.25) -> Record:
    """Allocate GiB by GiB under the product's own setting until torch refuses."""
    if scene.rehearse:
        raise Skip("needs CUDA")
    from trainables.cost import begin

    begin(True, share)
    held: list[torch.Tensor] = []
    total = torch.cuda.get_device_properties(0).total_memory / GIB
    try:
        while len(held) < total:
            held.append(torch.empty(GIB, dtype=torch.uint8, device="cuda"))
        refused = False
    except torch.OutOfMemoryError:
        refused = True
    finally:
        got = len(held)
        held.clear()
        begin(True, 1.0)
    record = {"share": share, "total_gib": round(total, 1), "got_gib": got, "refused": refused}
    if not refused or got > share * total:
        raise Wrong("the share isn't kept", record)
    return record


def tight(scene: Scene, dropout: float = 0.2) -> cells.Case:
    """scGPT 51M, 128 cells of 1,024 tokens."""
    return cells.scgpt(scene, 128, dropout=dropout)


def limited(gib: float) -> None:
    """Let this process take so much of the GPU, and no more."""
    torch.cuda.set_per_process_memory_fraction(min(1.0, gib * GIB / torch.cuda.get_device_properties(0).total_memory))


def needs(scene: Scene, case: cells.Case) -> float:
    """Return the GiB that a batch takes in training."""
    begin_memory(scene.device)
    trainer = cells.trainer_of(case, scene)
    for epoch in range(2):
        trainer.train(np.arange(case.batch_size), epoch)
    found = torch.cuda.max_memory_allocated() / GIB
    del trainer
    forget()
    return found


def step_retreats(scene: Scene) -> Record:
    """Room for 12 cells of a batch of 32: the micro-batch must come down to 8, and training go on."""
    case = tight(scene)
    if scene.rehearse:
        network = Tight(case.build(), 2, OUT_OF_MEMORY["torch's allocator"], training=True)
        trainer = cells.trainer_of(case, scene, network)
        return {"loss": trainer.train(np.arange(8), 0).loss, "micro_batch": trainer.micro_batch}
    room = needs(scene, case.with_batch(12))
    try:
        limited(room * 1.08)
        begin_memory(scene.device)
        trainer = cells.trainer_of(case, scene)
        losses = [trainer.train(np.arange(64), epoch).loss for epoch in range(2)]
    finally:
        limited(1e6)
    record = {"room_gib": room * 1.08, "micro_batch": trainer.micro_batch, "losses": losses} | memory(scene.device)
    if not (trainer.micro_batch in (8, 4) and np.isfinite(losses).all()):
        raise Wrong("the micro-batch didn't come down as it should", rounded(record))
    return rounded(record)


def same_numbers(scene: Scene) -> Record:
    """Without dropout a step in pieces has the loss and the gradient of the whole one."""
    case = tight(scene, dropout=0.0)

    def trained(micro_batch: int) -> tuple[float, torch.Tensor]:
        trainer = cells.trainer_of(case, scene, precision="float32", epochs=1)
        trainer.micro_batch = micro_batch
        loss = trainer.train(np.arange(case.batch_size), 0).loss
        return loss, torch.cat([p.grad.flatten().cpu() for p in trainer.network.parameters() if p.grad is not None])

    (whole, grad), (pieces, other) = trained(case.batch_size), trained(case.batch_size // 4)
    record = {"loss_apart": abs(whole - pieces), "gradient_apart": float((grad - other).norm() / grad.norm())}
    if not (record["loss_apart"] < 1e-3 and record["gradient_apart"] < 1e-2):
        raise Wrong("pieces of a batch train otherwise than the batch", record)
    return record


def predict_retreats(scene: Scene) -> Record:
    """Room for training 4 cells, then predict with batches that need far more."""
    case = tight(scene)
    if scene.rehearse:
        network = Tight(case.build(), 2, OUT_OF_MEMORY["torch's allocator"], training=False)
        return {"finite": bool(np.isfinite(cells.trainer_of(case, scene, network).predict(np.arange(8))).all())}
    large = case.with_batch(128)
    trainer = cells.trainer_of(large, scene)
    begin_memory(scene.device)
    wanted = trainer.predict(np.arange(128))
    took = torch.cuda.max_memory_allocated() / GIB
    forget()
    held = torch.cuda.memory_allocated() / GIB
    try:
        limited(held + (took - held) * 0.5)
        found = trainer.predict(np.arange(128))
    finally:
        limited(1e6)
    apart = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    record = {"took_gib": took, "room_gib": held + (took - held) * 0.5, "apart": apart}
    record["micro_batch"] = trainer.micro_batch
    if not (apart < APART and trainer.micro_batch < 128):
        raise Wrong("it didn't come down, or the pieces are predicted otherwise", rounded(record))
    return rounded(record)


def optimiser_retreats(scene: Scene) -> Record:
    """Room for weights, gradients and short cells, but not for Adam's two moments: refused in words, if at all."""
    if scene.rehearse:
        raise Skip("needs CUDA")
    case = cells.scgpt(scene, 16, tokens=64).with_batch(4)
    trainer = cells.trainer_of(case, scene)
    weights = torch.cuda.memory_allocated() / GIB
    try:
        limited(weights * 3.2)  # weights, gradients, 0.6 of the moments
        loss = trainer.train(np.arange(8), 0).loss
    except MemoryError as error:
        return {"weights_gib": round(weights, 3), "said": str(error)[:300]}
    finally:
        limited(1e6)
    return {"weights_gib": round(weights, 3), "loss": loss, "micro_batch": trainer.micro_batch}
