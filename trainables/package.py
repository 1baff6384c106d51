"""A trained network as a folder that can be used without the sweep: its weights, and what they mean.

<folder>/model.safetensors   trained parameters and buffers of the best epoch
<folder>/model.json          model, options for `build`, classes, encoding (genes, what was learnt), base, origin
"""

import json
import shutil
from pathlib import Path
from typing import Any

from trainables import protocol
from trainables.checkpoint import sha256, write_tensors
from trainables.material import Material
from trainables.outcome import MODEL_FOLDER
from trainables.spec import ModelSpec
from trainables.training import Trained

VERSION = 1


def publish_model(spec: ModelSpec, config: dict[str, Any], material: Material, trained: Trained) -> Path:
    """Make the folder of a trial, by rename; returns it."""
    folder = Path(config["directory"]) / MODEL_FOLDER
    part = folder.with_name(f".{MODEL_FOLDER}.part")
    for old in (part, folder):
        shutil.rmtree(old, ignore_errors=True)
    part.mkdir(parents=True)
    write_tensors(part / "model.safetensors", trained.best)
    described = _describe(spec, config, material, trained) | {"sha256": sha256(part / "model.safetensors")}
    described = json.dumps(described, indent=1, ensure_ascii=False)
    (part / "model.json").write_text(described, encoding="utf-8")
    return part.rename(folder)


def _describe(spec: ModelSpec, config: dict[str, Any], material: Material, trained: Trained) -> dict[str, Any]:
    """Return everything but the weights; frozen parameters come from `weights`, or were drawn from `seed`."""
    options, _ = protocol.apply(config["defects"], config["options"], {})
    encoding = {} if config["encoding"] is None else json.loads(Path(config["encoding"]).read_text(encoding="utf-8"))
    return {
        "version": VERSION,
        "model": spec.name,
        "options": spec.options(**options).model_dump() | material.shards.network_options,
        "classes": material.classes,
        "encoding": encoding,
        "weights": config["weights"],
        "base": trained.base,
        "seed": config["seed"],
        "best_epoch": trained.best_epoch,
        "trial": config["key"],
    }
