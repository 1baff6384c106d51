"""`cellskew run` with `gpu: auto`, its driver killed with SIGKILL and the same command given again: nothing is lost."""

import importlib.metadata
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from gpu_parts.scene import Record, Scene, Skip, Wrong

SWEEP = """
name: gpu-auto
datasets: [pbmc68k_reduced]
genes: {{select: hvg, n: {genes}}}
splits: {{seeds: {seeds}}}
skews: [{{kind: natural, total: {cells}}}]
strategies: [none]
models: {models}
resources: {resources}
checkpoint_every: 1
"""
MODELS = (
    "{scgpt: {epochs: 25, batch_size: 8}, geneformer: {epochs: 12, batch_size: 8}, majority: {}}",
    "{scgpt: {size: tiny, epochs: 3, batch_size: 16}}",
)
RESOURCES = ("{scgpt: {gpu: auto}, geneformer: {gpu: auto}}", "{scgpt: {gpu: auto}}")
EPOCHS = {"scgpt": (25, 3), "geneformer": (12, 12)}  # in earnest, in a rehearsal
NEEDS, LEFT = (170, 30), (60, 10)  # seconds; an H100's machine took 104 until the second epoch, 58 afterwards
EACH_EPOCH = ("train_loss", "val_macro_f1", "cells_per_second")


def run(scene: Scene) -> Iterator[Record]:
    storage = scene.folder / "auto" / "storage"
    sweep = storage.parent / "sweep.yaml"
    storage.mkdir(parents=True, exist_ok=True)
    sizes = {"genes": scene.pick(200, 30), "cells": scene.pick(350, 60), "seeds": scene.pick([0, 1], [0])}
    sweep.write_text(SWEEP.format(models=scene.pick(*MODELS), resources=scene.pick(*RESOURCES), **sizes))
    yield from scene.check("killed", lambda: killed(scene, storage, sweep), scene.pick(*NEEDS))
    yield from scene.check("resumed", lambda: resumed(scene, storage, sweep), scene.pick(*LEFT))
    yield from scene.check("histories", lambda: histories(scene, storage), after="resumed")
    yield from scene.check("shares measured", lambda: shares(scene, storage))


def command(storage: Path, sweep: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start the command line from this checkout; it becomes the head of a group of its own."""
    paths = [str(installed(storage.parent)), os.environ["PYTHONPATH"]]
    given = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "RAY_worker_niceness": "0", "PYTHONUNBUFFERED": "1"}
    words = [sys.executable, "-m", "sweeps.cli", "run", str(sweep), "--storage", str(storage)]
    with log.open("ab") as out:
        return subprocess.Popen(words, env=given, cwd=storage.parent, stdout=out, stderr=subprocess.STDOUT)


def installed(folder: Path) -> Path:
    """Return a folder that says which cellskew this is, where the package itself isn't installed."""
    try:
        importlib.metadata.version("cellskew")
    except importlib.metadata.PackageNotFoundError:
        said = folder / "said" / "cellskew-0.1.0.dist-info"
        said.mkdir(parents=True, exist_ok=True)
        (said / "METADATA").write_text("Metadata-Version: 2.1\nName: cellskew\nVersion: 0.1.0\n")
    return folder / "said"


def killed(scene: Scene, storage: Path, sweep: Path) -> Record:
    """Start the sweep and kill its driver once trials have saved their second epoch."""
    begin, log = time.monotonic(), storage.parent / "first.log"
    driver = command(storage, sweep, log)
    limit = time.monotonic() + scene.left() - scene.pick(*LEFT)
    try:
        while driver.poll() is None and time.monotonic() < limit and not saved(storage):
            time.sleep(0.02)
        epochs = sorted(path.name for path in storage.glob("trials/*/epoch-*"))
        ended = driver.poll()
    finally:
        driver.kill()
        driver.wait(30)
    record = {"seconds_to_kill": round(time.monotonic() - begin, 1), "epochs_saved": epochs, "said": tail(log)}
    if ended is not None:
        raise Wrong(f"the driver ended by itself with {ended}", record)
    if not epochs:
        raise Skip(f"no epoch was saved within {record['seconds_to_kill']} s; it was killed all the same", record)
    return record


def saved(storage: Path) -> bool:
    return any(int(path.name.split("-")[1]) >= 2 for path in storage.glob("trials/*/epoch-[0-9]*"))


def resumed(scene: Scene, storage: Path, sweep: Path) -> Record:
    begin, log = time.monotonic(), storage.parent / "second.log"
    driver = command(storage, sweep, log)
    try:
        code = driver.wait(max(5.0, scene.left() - 3))
    except subprocess.TimeoutExpired as error:
        raise Wrong("it didn't end in time", {"said": tail(log)}) from error
    finally:
        driver.kill()
        driver.wait(30)
    record = {"exit_code": code, "run_seconds": round(time.monotonic() - begin, 1), "said": tail(log)}
    if code:
        raise Wrong(f"exit code {code}", record)
    return record


def tail(log: Path, characters: int = 1800) -> str:
    return log.read_text(errors="replace")[-characters:]


def histories(scene: Scene, storage: Path) -> Record:
    """One FINISHED run per trial; each epoch's metrics once, without a gap."""
    with closing(sqlite3.connect(storage / "mlflow.db")) as database:
        runs = dict(database.execute("SELECT run_uuid, status FROM runs WHERE lifecycle_stage = 'active'"))
        tags = database.execute("SELECT run_uuid, key, value FROM tags").fetchall()
        points = database.execute("SELECT run_uuid, key, step FROM metrics").fetchall()
    told: dict[str, dict[str, str]] = {run: {} for run in runs}
    for run, key, value in tags:
        told.get(run, {})[key] = value
    runs = {run: status for run, status in runs.items() if "cellskew.trial" in told[run]}
    told = {run: told[run] for run in runs}
    problems, steps = [], steps_of(points)
    for run in runs:
        problems += history_problems(scene, told[run], steps.get(run, {}))
    keys = Counter(tags.get("cellskew.trial") for tags in told.values())
    problems += [f"{number} runs of trial {key}" for key, number in keys.items() if number > 1]
    problems += [
        f"{number} runs are {status}" for status, number in Counter(runs.values()).items() if status != "FINISHED"
    ]
    gpus = sorted({tags.get("cellskew.gpu", "none") for tags in told.values()})
    record = {"runs": len(runs), "statuses": dict(Counter(runs.values())), "points": len(points), "gpus": gpus}
    record["troubles"] = sorted(
        {t[k][:200] for t in told.values() for k in t if k in ("cellskew.trouble", "cellskew.reason")}
    )
    if problems:
        raise Wrong("; ".join(problems)[:600], record)
    return record


def steps_of(points: list[tuple[str, str, int]]) -> dict[str, dict[str, list[int]]]:
    found: dict[str, dict[str, list[int]]] = {}
    for run, key, step in points:
        found.setdefault(run, {}).setdefault(key, []).append(step)
    return found


def history_problems(scene: Scene, tags: dict[str, str], steps: dict[str, list[int]]) -> list[str]:
    name = tags.get("mlflow.runName", "?")
    model = next((model for model in EPOCHS if model in name or tags.get("cellskew.model") == model), None)
    if model is None or not steps:
        return [] if steps else [f"{name} has no metrics"]
    wanted = list(range(1, scene.pick(*EPOCHS[model]) + 1))
    return [
        f"{name}: {key} at {sorted(steps.get(key, []))}"
        for key in EACH_EPOCH[:2]
        if sorted(steps.get(key, [])) != wanted
    ]


def shares(scene: Scene, storage: Path) -> Record:
    """What `gpu: auto` found, and what the trials then took."""
    found: list[dict[str, Any]] = [json.loads(path.read_text()) for path in storage.glob("profiles/*.json")]
    results = [json.loads(path.read_text())["final"] for path in storage.glob("trials/*/result.json")]
    peaks = sorted(round(one["peak_memory_gb"], 3) for one in results)
    record = {"measured": [one | {"gib": round(one["peak"] / 2**30, 2)} for one in found], "peaks_gib": peaks}
    if not found and not scene.rehearse:
        raise (Wrong if scene.passed("resumed") else Skip)("nothing was measured", record)
    return record
