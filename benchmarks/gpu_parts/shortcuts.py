"""What a recipe may switch on: TF32 products, and frozen blocks kept between epochs; and what a CUDA context takes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gpu_parts import training
from gpu_parts.props import cells
from gpu_parts.scene import GIB, Record, Scene, Skip, Wrong, begin_memory, forget, memory, rounded, seconds_of

ONE_CONTEXT = "import torch; torch.zeros(1, device='cuda'); print(flush=True); input()"
TF32_MOST = 1e-2  # of the root mean square of the logits: factors of 10 bits, six blocks


def run(scene: Scene) -> Iterator[Record]:
    yield from scene.check("CUDA context", lambda: context(scene))
    for name, case in (("scbert-3000", scbert(scene)), ("scgpt-1024", cells.scgpt(scene, 128))):
        yield from scene.check(f"{name} exact", lambda c=case: speed(scene, c, tf32=False), 3)
        yield from scene.check(f"{name} tf32", lambda c=case: speed(scene, c, tf32=True), 3)
        yield from scene.check(f"{name} tf32 logits", lambda c=case: logits(scene, c), 3)
    yield from scene.check("scbert-3000 kept prefix", lambda: kept(scene), 5)
    yield from scene.check("scbert-3000 kept prefix, tf32", lambda: kept(scene, tf32=True), 5)


def scbert(scene: Scene, **options: Any) -> cells.Case:
    """scBERT whose projections stay, on cells that all differ."""
    case = cells.scbert(scene, 3000, 120)
    length, size = scene.pick(3001, 31), scene.pick("official", "tiny")
    trained = scene.pick("published", "head")  # the tiny one has no block before the last but one

    def build() -> torch.nn.Module:
        from trainables.spec import get
        from trainables.training.trained import choose

        spec, wanted = get("scbert"), {"fix_projections": True, "size": size} | options
        network = spec.build(cells.NUM_CLASSES, num_tokens=length, **wanted)
        choose(network, spec, trained, pretrained=True)
        return network

    return replace(case, build=build)


def context(scene: Scene) -> Record:
    """Measure the card's memory before and after a process makes a context; both as the driver tells it."""
    if scene.rehearse:
        raise Skip("a rehearsal")
    free_before, total = torch.cuda.mem_get_info()  # this process has its own context already
    environment = os.environ | {"CUDA_MODULE_LOADING": "LAZY"}
    words = [sys.executable, "-c", ONE_CONTEXT]
    with subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        free_after = torch.cuda.mem_get_info()[0]
        process.communicate("\n", timeout=20)
    taken = free_before - free_after
    own = total - free_before - torch.cuda.memory_reserved()
    return rounded({"gib_of_a_new_process": taken / GIB, "gib_of_this_one_beside_torch": own / GIB})


def speed(scene: Scene, case: cells.Case, tf32: bool) -> Record:
    """Cells per second in float32."""
    case = replace(case, recipe=case.recipe | {"precision": "float32", "tf32": tf32})
    found = training.ours(scene, case)
    return {name: found[name] for name in ("cells_per_second", "batch") if name in found}


def logits(scene: Scene, case: cells.Case) -> Record:
    """The same network with and without TF32."""
    if scene.rehearse:
        raise Skip("a rehearsal")
    case = replace(case, recipe=case.recipe | {"precision": "float32"}).with_batch(8)
    network, rows = case.build(), np.arange(16)
    exact = cells.trainer_of(case, scene, network, tf32=False).predict(rows)
    rough = cells.trainer_of(case, scene, network, tf32=True).predict(rows)
    torch.set_float32_matmul_precision("highest")
    share = float(np.sqrt(np.mean((exact - rough) ** 2) / np.mean(exact**2)))
    record = {"share": share, "same_best": float(np.mean(exact.argmax(1) == rough.argmax(1)))}
    if not 0 < share < TF32_MOST:
        raise Wrong(f"not between 0 and {TF32_MOST}", record)
    return rounded(record)


def kept(scene: Scene, tf32: bool = False) -> Record:
    """The first epoch fills the cache, the later ones read it; predictions are as without it, to 1e-5."""
    torch.manual_seed(0)
    case = scbert(scene, cache_gigabytes=8.0)
    network, rows = case.build(), np.arange(len(case.encoded))
    begin_memory(scene.device)
    trainer = cells.trainer_of(case, scene, network, tf32=tf32)
    epochs = iter(range(1000))
    first = seconds_of(lambda: trainer.train(rows, next(epochs)), scene.device, 1, warm_up=0)
    later = seconds_of(lambda: trainer.train(rows, next(epochs)), scene.device, scene.pick(3, 1), warm_up=0)
    cache, with_it = network.cache, trainer.predict(rows)
    network.cache = None
    without = trainer.predict(rows)
    network.cache = cache
    pinned = all(cell.is_pinned() for cell in cache.kept.values()) if not scene.rehearse else None
    record = {"first_epoch": len(rows) / first, "later": len(rows) / later, "kept_cells": len(cache.kept)}
    record |= {"pinned": pinned, "hits": cache.hits, "misses": cache.misses} | memory(scene.device)
    record |= {"largest_difference": float(np.abs(with_it - without).max())}
    forget()
    if len(cache.kept) != len(rows) or record["largest_difference"] > 1e-5 * float(np.abs(without).max()):
        raise Wrong("not all cells were kept, or they differ", rounded(record))
    return rounded(record)
