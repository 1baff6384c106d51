"""What is trained of a network, on a GPU: heads and probes on an atlas's vectors, adapters, all of it."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from gpu_parts.props import atlas
from gpu_parts.resume import command, tail
from gpu_parts.scene import Record, Scene, Skip, Wrong, rounded, seconds_of

HEADS = """
name: heads
datasets: [{{path: {cells}, label: cell_type, name: atlas}}]
genes: {{select: all}}
splits: {{seeds: [0]}}
skews: [{{kind: natural, total: {total}}}]
strategies: [none, oversample]
models:
  head: {{model: scgpt, weights: {weights}, train: head, learning_rate: 0.001, epochs: 2, batch_size: 256}}
  probe: {{model: logistic_regression, on: {{model: scgpt, weights: {weights}}}}}
  majority: {{}}
"""
VARIANTS = """
name: variants
datasets: [{{path: {cells}, label: cell_type, name: atlas}}]
genes: {{select: hvg, n: {genes}}}
splits: {{seeds: [0]}}
skews: [{{kind: natural, total: {total}}}]
strategies: [none]
models:
  all: {{model: scgpt, weights: {weights}, train: all, steps: {steps}, epochs: 2, batch_size: 16}}
  lora: {{model: scgpt, weights: {weights}, train: {{lora: {{rank: 8}}}}, steps: {steps}, epochs: 2, batch_size: 16}}
  head: {{model: scgpt, weights: {weights}, train: head, steps: {steps}, epochs: 2, batch_size: 16}}
  probe: {{model: logistic_regression, on: {{model: scgpt, weights: {weights}}}}}
  neighbours: {{model: knn, on: {{model: scgpt, weights: {weights}}}}}
"""
ZHENG = (68579, 20387, 1500)  # cells, genes, reads a cell: some 525 genes of each are seen
FEWEST, A_SECOND = 6000, 250  # cells of the atlas: at least, and of each second that is left
FAR = 1e-3  # of their root mean square: how far vectors of a GPU may lie from a CPU's
ALL, HEADS_ALONE, NETWORK = (110, 25), (70, 25), (25, 1)  # seconds that each wants, in earnest and in a rehearsal
RESERVE = 10.0  # seconds to end a sweep and tell of it
TOLD = ("trial_seconds", "cells_per_second", "peak_memory_gb", "test_macro_f1")


def run(scene: Scene) -> Iterator[Record]:
    folder = scene.folder / "variants"
    folder.mkdir(exist_ok=True)
    made: dict[str, Any] = {}
    yield from scene.check("files", lambda: files(scene, folder, made), again=True)
    wants, at_rest = (scene.pick(*seconds) for seconds in (HEADS_ALONE, NETWORK))
    small = lambda: variants(scene, folder, made, max(scene.pick(*ALL), scene.left() - wants - at_rest))  # noqa: E731
    yield from scene.check("all, adapters, head, probe", small, scene.pick(*ALL) + wants, after="files")
    yield from scene.check("heads on an atlas", lambda: heads(scene, folder, made), wants, after="files")
    yield from scene.check("vectors on GPU and CPU", lambda: vectors(scene, folder, made), at_rest, after="files")
    yield from scene.check("vectors by precision", lambda: precisions(scene, folder, made), at_rest, after="files")


def files(scene: Scene, folder: Path, made: dict[str, Any]) -> Record:
    """Write the files, of as many cells as there is time for; what an earlier process has written stays."""
    note = folder / "made.json"
    if note.exists():
        made |= {name: Path(path) for name, path in json.loads(note.read_text()).items()}
        return {}
    few, many = folder / "few.h5ad", folder / "atlas.h5ad"
    genes = atlas.write(few, scene.pick(2000, 120), scene.pick(ZHENG[1], 60), scene.pick(1500, 40), seed=1)
    most, begin = max(FEWEST, int(A_SECOND * scene.left())), time.monotonic()
    cells, *sizes = scene.pick((min(ZHENG[0], most), *ZHENG[1:]), (600, 60, 40))
    atlas.write(many, cells, *sizes)
    written = time.monotonic() - begin
    network = scene.pick({}, {"embsize": 8, "nheads": 2, "d_hid": 12, "nlayers": 2})
    made |= {"few": few, "atlas": many, "weights": atlas.write_scgpt(folder, genes, **network)}
    note.write_text(json.dumps({name: str(path) for name, path in made.items()}))
    return {"atlas_cells": cells, "atlas_mb": many.stat().st_size >> 20, "written_seconds": round(written, 1)}


def variants(scene: Scene, folder: Path, made: dict[str, Any], most: float) -> Record:
    """The five ways beside each other, in `most` seconds."""
    sizes = {"genes": scene.pick(1200, 40), "total": scene.pick(1000, 60), "steps": scene.pick(60, 2)}
    text = VARIANTS.format(cells=made["few"], weights=made["weights"], **sizes)
    record, found = swept(folder / "variants", text, most)
    devices = {name: one["device"] for name, one in found.items()}
    if any((devices[name] == "cpu") != scene.rehearse for name in ("all", "lora")):
        raise Wrong(f"trained on {devices}", record)
    return record


def heads(scene: Scene, folder: Path, made: dict[str, Any]) -> Record:
    text = HEADS.format(cells=made["atlas"], weights=made["weights"], total=scene.pick(4000, 300))
    record, _ = swept(folder / "heads", text, scene.left() - RESERVE)
    shards = rested(folder / "heads")
    if shards is None:
        raise Wrong("no vectors lie in the storage", record)
    manifest = json.loads((shards / "manifest.json").read_text())
    record |= {"cells": manifest["num_cells"], "origin": manifest["origin"]["devices"]}
    record["vectors_mb"] = sum(part["bytes"] for part in manifest["parts"]) >> 20
    begin, end = record["timeline"][shards.name]
    parts = len(manifest["parts"])
    if end > begin:
        record["cells_per_second"] = (parts - 1) * manifest["num_cells"] / parts / (end - begin)
    if manifest["origin"]["devices"] != [scene.device.type]:
        raise Wrong(f"the vectors were made on {manifest['origin']}", rounded(record))
    return rounded(record)


def swept(storage: Path, text: str, most: float) -> tuple[Record, dict[str, dict[str, Any]]]:
    """Run a sweep to its end, in `most` seconds; return what is told of it, and each label's device and metrics."""
    storage.mkdir(exist_ok=True)
    sweep, log, begin = storage / "sweep.yaml", storage / "log", time.monotonic()
    sweep.write_text(text)
    driver = command(storage, sweep, log)
    try:
        code = driver.wait(max(5.0, most))
    except subprocess.TimeoutExpired as error:
        driver.kill()
        raise Wrong(f"it didn't end in {most:.0f} s", told(storage, log, begin)) from error
    finally:
        driver.kill()
        driver.wait(30)
    record = {"exit_code": code} | told(storage, log, begin)
    if code:
        raise Wrong(f"exit code {code}", record)
    return record, by_label(storage)


def told(storage: Path, log: Path, begin: float) -> Record:
    """Return what there is of a sweep that began then, whether or not it has ended."""
    seconds, found = time.monotonic() - begin, by_label(storage)
    trials = {name: {key: round(one[key], 3) for key in TOLD if key in one} for name, one in found.items()}
    when = {"run_seconds": round(seconds, 1), "timeline": timeline(storage, time.time() - seconds)}
    return when | {"trials": trials, "said": tail(log)}


def timeline(storage: Path, begin: float) -> dict[str, tuple[float, float]]:
    """Return of each encoding, of vectors and of results when the first and the last file came, seconds after begin."""
    kinds = {folder.name: list(folder.glob("part-*.arrow")) for folder in storage.glob("shards/*/*/")}
    kinds["results"] = list(storage.glob("trials/*/result.json"))
    times = {kind: [path.stat().st_mtime - begin for path in paths] for kind, paths in kinds.items() if paths}
    return {kind: (round(min(of), 1), round(max(of), 1)) for kind, of in times.items()}


def by_label(storage: Path) -> dict[str, dict[str, Any]]:
    """Return metrics and device of each label's first finished trial, of the sweep that has its folder's name."""
    from sweeps.tracking.kept.database import NoSuchSweep
    from sweeps.tracking.kept.runs import runs_of

    found: dict[str, dict[str, Any]] = {}
    if not (storage / "mlflow.db").exists():
        return found
    with suppress(NoSuchSweep):  # killed before it was registered
        for run in runs_of(f"sqlite:///{storage}/mlflow.db", storage.name):
            if run.status == "FINISHED":
                device = {"device": run.tags.get("cellskew.gpu", "cpu")}
                found.setdefault(run.tags["cellskew.model"], device | run.metrics)
    return found


def rested(storage: Path) -> Path | None:
    """Return the folder of the vectors that the sweep had made, None if they aren't whole."""
    for manifest in storage.glob("shards/*/*/manifest.json"):
        if json.loads(manifest.read_text())["identity"].get("encoder") == "resting":
            return manifest.parent
    return None


def at_rest(storage: Path, weights: Path, device: str) -> tuple[Any, Any]:
    """Return (the network on the device that made the vectors, the shards that it made them of)."""
    import torch

    from data_pipeline.shards.shards import Shards
    from trainables.fitting import resting
    from trainables.fitting.contents import contents_of, network_of
    from trainables.spec import code_of

    if rested(storage) is None:
        raise Skip("`heads on an atlas` has left no vectors")
    told = json.loads((rested(storage) / "manifest.json").read_text())["identity"]
    manifests = {path: json.loads(path.read_text()) for path in storage.glob("shards/*/*/manifest.json")}
    shards = Shards(next(path.parent for path, one in manifests.items() if one["identity"] == told["base"]))
    base = SimpleNamespace(identity=told["base"], coverage={}, network_options=shards.network_options)
    digest = network_of("scgpt", contents_of("scgpt", weights), code_of("scgpt"))
    resting._LOADED.clear()
    network = resting.Resting(base, "scgpt", weights, told["options"], digest)
    with mock.patch("trainables.training.device.choose_device", lambda _: torch.device(device)):
        network._network()
    return network, shards


def vectors(scene: Scene, folder: Path, made: dict[str, Any]) -> Record:
    """Beside each other: stored vectors of the first cells, and those that this machine's CPU makes of them."""
    from data_pipeline.shards.shards import Shards

    storage, rows = folder / "heads", np.arange(32)
    network, shards = at_rest(storage, made["weights"], "cpu")
    of_cpu = network(shards.take(rows)).values.reshape(len(rows), -1)
    stored = Shards(rested(storage)).take(rows).values.reshape(len(rows), -1)
    apart = float(np.abs(stored - of_cpu).max() / np.sqrt(np.square(of_cpu).mean()))
    record = {"apart": apart, "limit": FAR}
    if not apart < FAR:
        raise Wrong("the GPU's vectors are others", rounded(record))
    return rounded(record)


def precisions(scene: Scene, folder: Path, made: dict[str, Any]) -> Record:
    """Cells per second of a network at rest: exact as they are stored, in TF32, in bf16; how far each moves vectors."""
    import torch

    from trainables.fitting.resting import _kept_before
    from trainables.spec import get
    from trainables.training import device

    made_by, shards = at_rest(folder / "heads", made["weights"], scene.device.type)
    network, rows = made_by._network(), np.arange(scene.pick(2048, 16))
    encoded, spec, found = shards.take(rows), get("scgpt"), {}
    for at_once in scene.pick((32, 128), (4,)):
        for name in ("float32", "tf32", "bf16"):
            kept: list[Any] = []

            def work(kept: list[Any] = kept, at_once: int = at_once, name: str = name) -> None:
                kept.clear()
                on = torch.autocast(scene.device.type, torch.bfloat16, enabled=name == "bf16")
                with torch.no_grad(), on, _kept_before(spec, network, kept):
                    for start in range(0, len(rows), at_once):
                        inputs = spec.collate(encoded, rows[start : start + at_once])
                        network(**(inputs if scene.rehearse else device.move(inputs, scene.device)))

            device.allow_tf32(scene.device, name == "tf32")
            seconds = seconds_of(work, scene.device, repeats=1, warm_up=1)
            found[name, at_once] = len(rows) / seconds, torch.cat(kept).float().cpu()
    device.allow_tf32(scene.device, False)
    exact = next(iter(found.values()))[1]
    record = {}
    for (name, at_once), (speed, given) in found.items():
        apart = float((given - exact).abs().max() / exact.square().mean().sqrt())
        record[f"{name}, {at_once} at once"] = {
            "cells_per_second": float(f"{speed:.3g}"),
            "apart": float(f"{apart:.2g}"),
        }
    return record
