"""Training steps at official size, ours beside upstream's: cells per second, shares of the peak, memory."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from gpu_parts.props import cells, upstream
from gpu_parts.scene import (
    GIB,
    Record,
    Scene,
    Wrong,
    begin_memory,
    forget,
    memory,
    peak_flops,
    rounded,
    seconds_of,
    wait,
)

ATTENTION = ("flash", "fmha", "attention", "attn", "sdpa", "_efficient_")
MATRIX = (
    "gemm",
    "gemv",
    "splitk",
    "nvjet",
    "xmma",
    "cutlass",
    "cublas",
    "aten::mm",
    "aten::addmm",
    "aten::bmm",
    "aten::linear",
)
NOT_KERNELS = ("ProfilerStep", "Optimizer", "Activity Buffer", "## ")
TARGETS = {"cells_per_second": 840.0, "matrix_share_of_peak": 0.4}  # scGPT 51M, 1,024 tokens, on an H100


def run(scene: Scene) -> Iterator[Record]:
    """Ours first, the cheap and telling ones before the others; then upstream's."""
    for name, make in CASES.items():
        yield from scene.check(f"{name} ours", lambda m=make: ours(scene, m(scene)), seconds=3)
    yield from scene.check("scgpt-1024 kernels", lambda: kernels(scene, CASES["scgpt-1024"](scene)), seconds=4)
    yield from scene.check("scgpt-1024 largest batch", lambda: largest(scene, CASES["scgpt-1024"](scene)), seconds=6)
    for name in WITH_UPSTREAM:
        yield from scene.check(f"{name} upstream", lambda n=name: theirs(scene, CASES[n](scene)), seconds=5)
    for name in ("geneformer-V2-104M", "scbert-3000"):
        yield from scene.check(f"{name} kernels", lambda n=name: kernels(scene, CASES[n](scene)), seconds=5)


CASES: dict[str, Callable[[Scene], cells.Case]] = {
    "scgpt-1024": lambda scene: cells.scgpt(scene, 256),
    "geneformer-V1-10M": lambda scene: cells.geneformer(scene, "V1-10M", 96),
    "geneformer-V2-104M": lambda scene: cells.geneformer(scene, "V2-104M", 48),
    "scbert-3000": lambda scene: cells.scbert(scene, 3000, 60),
    "scbert-3000-batch20": lambda scene: cells.scbert(scene, 3000, 60, 20, 3),
    "scbert-16906": lambda scene: cells.scbert(scene, 16906, 12, 1, 12),
    "scbert-16906-batch4": lambda scene: cells.scbert(scene, 16906, 12, 4, 3),
}
WITH_UPSTREAM = ("scgpt-1024", "geneformer-V1-10M", "geneformer-V2-104M", "scbert-3000", "scbert-16906")


@functools.cache
def peak(scene_device: torch.device, size: int) -> float:
    """Return the measured bf16 peak, operations per second."""
    return peak_flops(scene_device, torch.bfloat16, size)


def peak_of(scene: Scene) -> float:
    return peak(scene.device, scene.pick(8192, 256))


def ours(scene: Scene, case: cells.Case) -> Record:
    """Train through the product's own loop; a pass over the cells is timed with their gathering and copying."""
    begin_memory(scene.device)
    trainer = cells.trainer_of(case, scene)
    rows, lengths = np.arange(len(case.encoded)), case.encoded.lengths
    epochs = iter(range(1000))
    seconds = seconds_of(lambda: trainer.train(rows, next(epochs)), scene.device, scene.pick(3, 1), warm_up=1)
    flops = case.flops
    record = {"batch": case.batch_size, "micro_batch": trainer.micro_batch, "cells_per_second": len(rows) / seconds}
    record |= {"tokens_per_second": float(lengths.sum()) / seconds, "mean_tokens": float(lengths.mean())}
    record |= {"share_of_peak": (flops.matrix(lengths) + flops.attention(lengths)) / seconds / peak_of(scene)}
    record |= {"matrix_flops_share": flops.matrix(lengths) / seconds / peak_of(scene)}
    record |= {"attention_flops_share": flops.attention(lengths) / seconds / peak_of(scene)}
    record |= {"by_parameters_share": flops.by_parameters(lengths) / seconds / peak_of(scene)}
    if case.model == "scbert":
        single = peak_flops(scene.device, torch.float32, scene.pick(8192, 256))
        record["share_of_float32_peak"] = flops.matrix(lengths) / seconds / single
    record |= {"weights": sum(p.numel() for p in trainer.network.parameters())} | memory(scene.device)
    if trainer.micro_batch < case.batch_size:
        raise Wrong(f"only micro-batches of {trainer.micro_batch} fit", rounded(record))
    return rounded(record | target(case, "cells_per_second", record["cells_per_second"]))


def target(case: cells.Case, what: str, found: float) -> Record:
    """Return the target and whether it is met, for scGPT."""
    return {"target": TARGETS[what], "met": found >= TARGETS[what]} if case.name == "scgpt-1024" else {}


def theirs(scene: Scene, case: cells.Case) -> Record:
    """Upstream's step on the same cells, in an order of its own; where it doesn't fit, with half the cells."""
    step = upstream.step_of(case, scene)
    order = np.random.default_rng(2).permutation(len(case.encoded))
    batch = case.batch_size
    while True:
        batches = [order[start : start + batch] for start in range(0, len(order), batch)][: scene.pick(4, 2)]
        begin_memory(scene.device)
        try:
            seconds = seconds_of(lambda b=batches: [step(rows) for rows in b], scene.device, scene.pick(3, 1), 1)
            break
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            batch //= 2
        forget()
    num_cells = sum(map(len, batches))
    record = {
        "batch": batch,
        "wanted_batch": case.batch_size,
        "numbers": upstream.NUMBERS[case.model],
        "cells_per_second": num_cells / seconds,
    }
    return rounded(record | memory(scene.device))


def largest(scene: Scene, case: cells.Case) -> Record:
    """Train with the largest batch that fits, found from the memory that batches of 8 and 32 take."""
    if scene.rehearse:
        return ours(scene, case)
    used = {}
    for batch in (8, 32):
        begin_memory(scene.device)
        small = case.with_batch(batch)
        trainer = cells.trainer_of(small, scene)
        for epoch in range(2):
            trainer.train(np.arange(2 * batch), epoch)
        used[batch] = torch.cuda.max_memory_allocated()
        del trainer
        forget()
    each = (used[32] - used[8]) / 24
    fixed, free = used[8] - 8 * each, torch.cuda.mem_get_info()[0]
    for share in (0.94, 0.86):
        batch = max(8, int((free * share - fixed) / each) // 8 * 8)
        try:
            found = ours(scene, cells.scgpt(scene, 2 * batch).with_batch(batch))
            return found | {"gib_per_cell": round(each / GIB, 4), "gib_fixed": round(fixed / GIB, 3)}
        except Wrong:
            forget()
    raise Wrong("the batches foreseen to fit don't", {"batch": batch, "gib_per_cell": round(each / GIB, 4)})


def kernels(scene: Scene, case: cells.Case) -> Record:
    """Where the device's time goes in training steps, and the speed of matrix products while they run."""
    trainer = cells.trainer_of(case, scene)
    step = case.batch_size * case.recipe.get("accumulate", 1)
    rows = np.arange(min(len(case.encoded), scene.pick(3, 1) * step))
    trainer.train(rows, 0)
    wall = seconds_of(lambda: trainer.train(rows, 1), scene.device, 1, 0)
    activity = torch.profiler.ProfilerActivity.CPU if scene.rehearse else torch.profiler.ProfilerActivity.CUDA
    with torch.profiler.profile(activities=[activity]) as profile:
        trainer.train(rows, 2)
        wait(scene.device)
    times = kernel_seconds(profile, scene)
    kinds = {"matrix": 0.0, "attention": 0.0, "other": 0.0}
    for name, seconds in times.items():
        kinds[kind_of(name)] += seconds
    lengths = case.encoded.lengths[rows]
    record: Record = {f"{kind}_ms": seconds * 1e3 for kind, seconds in kinds.items()}
    record |= {"wall_ms": wall * 1e3, "busy": sum(kinds.values()) / wall, "steps": len(rows) / step}
    if kinds["matrix"]:
        record["matrix_share_of_peak"] = case.flops.matrix(lengths) / kinds["matrix"] / peak_of(scene)
        record |= target(case, "matrix_share_of_peak", record["matrix_share_of_peak"])
    if kinds["attention"]:
        record["attention_share_of_peak"] = case.flops.attention(lengths) / kinds["attention"] / peak_of(scene)
    return rounded(record) | {"longest": longest(times)}


def kernel_seconds(profile: Any, scene: Scene) -> dict[str, float]:
    """Return device time by kernel (on a CPU by operator)."""
    field = "self_cpu_time_total" if scene.rehearse else "self_device_time_total"
    wanted = torch.autograd.DeviceType.CPU if scene.rehearse else torch.autograd.DeviceType.CUDA
    found = {e.key: getattr(e, field) / 1e6 for e in profile.key_averages() if e.device_type == wanted}
    return {name: seconds for name, seconds in found.items() if not name.startswith(NOT_KERNELS)}


def kind_of(name: str) -> str:
    lower = name.lower()
    if any(part in lower for part in ATTENTION):
        return "attention"
    return "matrix" if any(part in lower for part in MATRIX) else "other"


def longest(times: dict[str, float], number: int = 14) -> list[str]:
    """Return the kernels that take most, with their milliseconds."""
    ranked = sorted(times.items(), key=lambda item: -item[1])[:number]
    return [f"{seconds * 1e3:.2f} ms {kind_of(name)}: {name[:90]}" for name, seconds in ranked]
