"""Trials per hour with 1, 2, 4 and 8 small trials at once on one GPU through Ray, without and with MPS."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpu_parts import mps
from gpu_parts.scene import GIB, ROOT, Record, Scene, Skip

TARGET = 3.0  # times the trials per hour of one after the other, with 8 at once
SWEEP = """
name: packing
datasets: [pbmc68k_reduced]
genes: {{select: hvg, n: {genes}}}
splits: {{seeds: [0]}}
skews: [{{kind: natural, total: {cells}}}]
strategies: [none]
models: {{scgpt: {{size: {size}, epochs: {epochs}, batch_size: 16}}}}
"""


def run(scene: Scene) -> Iterator[Record]:
    """Each number of slots runs as many trials as it has slots, two at least, after one that warms the process up."""
    from sweeps.cluster import running_ray

    with running_ray(None, scene.pick(16, 2)):
        config = prepared(scene)
        for slots in scene.pick((1, 2, 4, 8), (1, 2)):
            yield from scene.check(f"{slots} at once", lambda s=slots: packed(scene, config, s, {}), 4)
        yield from with_service(scene, config)


def with_service(scene: Scene, config: dict[str, Any]) -> Iterator[Record]:
    try:
        with contextlib.ExitStack() as stack:
            if scene.rehearse:
                raise Skip("a rehearsal")
            environment = stack.enter_context(mps.service(scene.folder))
            for slots in (8, 4, 2):
                said = f"{slots} at once, MPS"
                yield from scene.check(said, lambda s=slots: packed(scene, config, s, environment), 4)
            yield {"check": "what MPS wrote down", "ok": True, "said": mps.logs(scene.folder)}
    except Skip as reason:
        yield {"check": "MPS", "ok": None, "skipped": str(reason)}


def prepared(scene: Scene) -> dict[str, Any]:
    """Return what run_trial takes, its shards made. Ray must run."""
    from sweeps.config import parse
    from sweeps.converge import real_parts

    sizes = scene.pick((200, 350, "small", 20), (30, 60, "tiny", 1))
    text = SWEEP.format(**dict(zip(("genes", "cells", "size", "epochs"), sizes, strict=True)))
    storage = scene.folder / "packing"
    storage.mkdir(exist_ok=True)
    spec, parts = parse(text, storage / "packing.yaml"), real_parts()
    (trial,) = spec.trials()
    (made,) = parts.prepare([trial.config()], parts.open_datasets(spec, storage), storage)
    return trial.config() | made | {"device": scene.pick("cuda", "cpu"), "checkpoint_every": 1000}


def packed(scene: Scene, config: dict[str, Any], slots: int, environment: dict[str, str]) -> Record:
    """Run the trials, `slots` at once, each in a process of its own that lives as long, as Tune's do."""
    import ray

    share = 1 / slots
    asked = {"num_cpus": scene.pick(1, 0.5), "num_gpus": scene.pick(share, 0)}
    path = {"PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}"} | environment
    actor = ray.remote(Slot).options(**asked, runtime_env={"env_vars": path})
    actors = [actor.remote() for _ in range(slots)]
    try:
        limit = max(5.0, scene.left() - 2)
        first = [_config(scene, config, slots, f"warm-{n}-{bool(environment)}", share) for n in range(slots)]
        short = [one | {"recipe": one["recipe"] | {"epochs": 1}} for one in first]
        ray.get([actor.run.remote(one) for actor, one in zip(actors, short, strict=True)], timeout=limit)
        jobs = [_config(scene, config, slots, f"{n}-{bool(environment)}", share) for n in range(max(2, slots))]
        begin = time.perf_counter()
        given = [actors[n % slots].run.remote(one) for n, one in enumerate(jobs)]
        ended = ray.get(given, timeout=max(5.0, scene.left() - 2))
        seconds = time.perf_counter() - begin
    finally:
        for one in actors:
            ray.kill(one)
    record = {"trials": len(jobs), "wall_seconds": round(seconds, 2), "trials_per_hour": 3600 * len(jobs) / seconds}
    record["trial_seconds"] = [round(one["trial_seconds"], 2) for one in ended]
    record["peak_gib"] = max(one["peak_memory_gb"] for one in ended)
    record |= {"gpu_used_gib": max(one["gpu_used_gib"] for one in ended)}
    alone = scene.numbers.setdefault("alone", record["trials_per_hour"]) if slots == 1 else scene.numbers.get("alone")
    if alone and slots > 1:
        record["times_alone"] = round(record["trials_per_hour"] / alone, 2)
        record |= {"target": TARGET, "met": record["times_alone"] >= TARGET} if slots == 8 else {}
    return record


def _config(scene: Scene, config: dict[str, Any], slots: int, name: str, share: float) -> dict[str, Any]:
    directory: Path = scene.folder / "packing" / "trials" / f"{slots}-{name}"
    return config | {"directory": str(directory), "gpu_share": share, "seed": 0}


class Slot:
    """A process that runs one trial after the other."""

    def run(self, config: dict[str, Any]) -> dict[str, Any]:
        import torch

        from trainables.trial import run_trial

        Path(config["directory"]).mkdir(parents=True, exist_ok=True)
        final = run_trial(config, lambda metrics, checkpoint: None, None)
        used = 0.0
        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            used = round((total - free) / GIB, 2)
        wanted = {name: final[name] for name in ("trial_seconds", "peak_memory_gb", "cells_per_second")}
        return wanted | {"gpu_used_gib": used}
