"""A trained network as a folder that can be used without the sweep: its weights, and what they mean.

<folder>/model.safetensors   trained parameters and buffers of the best epoch
<folder>/model.json          model, options for `build`, classes, encoding (genes, what was learnt), base, origin
"""

import json
import shutil
from pathlib import Path
from typing import Any

from trainables import checkpoint, protocol
from trainables.material import Material
from trainables.outcome import MODEL_FOLDER
from trainables.spec import ModelSpec

VERSION = 1


def publish_model(spec: ModelSpec, config: dict[str, Any], material: Material, saved: Path) -> Path:
    """Make the folder of a trial from its last checkpoint, by rename; returns it."""
    folder = Path(config["directory"]) / MODEL_FOLDER
    part = folder.with_name(f".{MODEL_FOLDER}.part")
    for old in (part, folder):
        shutil.rmtree(old, ignore_errors=True)
    part.mkdir()
    _link_or_copy(saved / "best.safetensors", part / "model.safetensors")
    described = json.dumps(_describe(spec, config, material, saved), indent=1, ensure_ascii=False)
    (part / "model.json").write_text(described, encoding="utf-8")
    return part.rename(folder)


def _link_or_copy(file: Path, path: Path) -> None:
    try:
        path.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, path)


def _describe(spec: ModelSpec, config: dict[str, Any], material: Material, saved: Path) -> dict[str, Any]:
    """Return everything but the weights; frozen parameters come from `weights`, or were drawn from `seed`."""
    state = checkpoint.load(saved)
    options, _ = protocol.apply(config["defects"], config["options"], {})
    encoding = {} if config["encoding"] is None else json.loads(Path(config["encoding"]).read_text(encoding="utf-8"))
    return {
        "version": VERSION,
        "model": spec.name,
        "options": spec.options(**options).model_dump() | material.shards.network_options,
        "classes": material.classes,
        "encoding": encoding,
        "weights": config["weights"],
        "base": state["base"],
        "seed": config["seed"],
        "best_epoch": state["epoch"] - state["since_best"],
        "sha256": state["checksums"]["best.safetensors"],
        "trial": config["key"],
    }
