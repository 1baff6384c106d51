"""Trials per hour with 1, 2, 4 and 8 small trials at once on one GPU through Ray, without and with MPS."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpu_parts.props import mps
from gpu_parts.scene import GIB, Record, Scene, Skip

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
    """As many trials as are at once, two at least; the processes live on, as Tune's do, and start with a short one."""
    from sweeps.cluster import environment
    from sweeps.cluster.nodes import running_ray

    assert environment.DEFAULTS  # imported first: Ray reads them
    with running_ray(None, scene.pick(16, 2)):
        import ray

        scene.numbers["gpus"] = ray.cluster_resources().get("GPU", 0)
        config = prepared(scene)
        yield from rounds(scene, config, scene.pick((1, 8, 4, 2), (1, 2)), {})
        yield from with_service(scene, config)


def with_service(scene: Scene, config: dict[str, Any]) -> Iterator[Record]:
    try:
        with contextlib.ExitStack() as stack:
            if scene.rehearse:
                raise Skip("a rehearsal")
            environment = stack.enter_context(mps.service(scene.folder))
            yield from rounds(scene, config, (8, 4, 2, 1), environment)
            yield {"check": "what MPS wrote down", "ok": True, "said": mps.logs(scene.folder)}
    except Skip as reason:
        yield {"check": "MPS", "ok": None, "skipped": str(reason)}


def rounds(scene: Scene, config: dict[str, Any], numbers: tuple[int, ...], environment: dict[str, str]) -> Iterator:
    """Yield a record for each number of trials at once."""
    import ray

    kind = " with MPS" if environment else ""
    pool: list[Any] = []
    first, starting = f"processes{kind}", lambda: start(scene, config, max(numbers), environment, pool)
    yield from scene.check(first, starting, scene.pick(30, 5), again=True)
    for number in numbers:
        needs = scene.pick(25 if number == 1 else 12, 2)
        work = lambda n=number: packed(scene, config, pool[:n], kind)  # noqa: E731
        yield from scene.check(f"{number} at once{kind}", work, needs, after=first)
    for actor in pool:
        ray.kill(actor)


def start(scene: Scene, config: dict[str, Any], number: int, environment: dict[str, str], pool: list[Any]) -> Record:
    """Fill the pool with processes, each with an equal share of the GPU, and have each run a trial of one epoch."""
    import ray

    share = 1 / number
    asked = {"num_cpus": scene.pick(1, 0.5), "num_gpus": share if scene.numbers["gpus"] else 0}
    path = {"PYTHONPATH": os.environ["PYTHONPATH"]} | environment
    actor = ray.remote(Slot).options(**asked, runtime_env={"env_vars": path})
    pool += [actor.remote() for _ in range(number)]
    short = config | {"recipe": config["recipe"] | {"epochs": 1}}
    kind = "mps" if environment else "plain"
    jobs = [located(scene, short, f"warm-{kind}-{n}", share) for n in range(number)]
    answers = [one.run.remote(job) for one, job in zip(pool, jobs, strict=True)]
    ended = ray.get(answers, timeout=max(5.0, scene.left() - 2))
    seen = scene.numbers["gpus"]  # none: Ray hands no GPU out, and the processes take the first one
    return {"processes": number, "gpus_ray_sees": seen, "gpu_used_gib": max(one["gpu_used_gib"] for one in ended)}


def prepared(scene: Scene) -> dict[str, Any]:
    """Return what run_trial takes, its shards made. Ray must run."""
    from sweeps.drive.converge import real_parts
    from sweeps.file.config import parse

    sizes = scene.pick((200, 350, "small", 20), (30, 60, "tiny", 1))
    text = SWEEP.format(**dict(zip(("genes", "cells", "size", "epochs"), sizes, strict=True)))
    storage = scene.folder / "packing"
    storage.mkdir(exist_ok=True)
    spec, parts = parse(text, storage / "packing.yaml"), real_parts()
    (trial,) = spec.trials()
    (made,) = parts.prepare([trial.config()], parts.open_datasets(spec, storage), storage)
    return trial.config() | made | {"device": scene.pick("cuda", "cpu"), "checkpoint_every": 1000}


def packed(scene: Scene, config: dict[str, Any], pool: list[Any], kind: str) -> Record:
    """Run the trials, one at a time in each process of the pool."""
    import ray

    slots, number = len(pool), max(2, len(pool))
    jobs = [located(scene, config, f"{slots}{kind.strip()}-{n}".replace(" ", "-"), 1 / slots) for n in range(number)]
    begin = time.perf_counter()
    answers = [pool[n % slots].run.remote(job) for n, job in enumerate(jobs)]
    ended = ray.get(answers, timeout=max(5.0, scene.left() - 2))
    seconds = time.perf_counter() - begin
    record = {"trials": number, "wall_seconds": round(seconds, 2), "trials_per_hour": round(3600 * number / seconds)}
    record["trial_seconds"] = [round(one["trial_seconds"], 2) for one in ended]
    record |= {name: max(one[name] for one in ended) for name in ("peak_memory_gb", "gpu_used_gib")}
    if slots == 1 and not kind:
        scene.numbers["alone"] = 3600 * number / seconds
    elif "alone" in scene.numbers:
        record["times_alone"] = round(3600 * number / seconds / scene.numbers["alone"], 2)
        record |= {"target": TARGET, "met": record["times_alone"] >= TARGET} if slots == 8 else {}
    return record


def located(scene: Scene, config: dict[str, Any], name: str, share: float) -> dict[str, Any]:
    """Return the configuration of a trial with a folder of its own."""
    directory: Path = scene.folder / "packing" / "trials" / name
    return config | {"directory": str(directory), "gpu_share": share}


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
