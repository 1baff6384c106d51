"""What lies in a folder of weights: whose it is, what is missing, whether it can be read without running code."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import RequestError
from trainables import weights
from trainables.official.hub import digest
from trainables.spec import get

STATES = (".safetensors", ".bin", ".pt", ".pth")


def check(folder: Path) -> dict[str, Any]:
    """Return {"folder", "model", "files": [{"name", "megabytes", "sha256", "holds"}], "problems"}, JSON-able.

    model: the network whose files these are, None if nobody's. Nothing is unpickled but plain weights and dictionaries.
    RequestError if there is no such folder.
    """
    if not folder.is_dir():
        raise RequestError(f"--check {folder}: there is no such folder")
    model = weights.owner(folder, besides="")
    if model is None:
        files = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
        said = (
            f"{folder}: no known network's files are here, but {files}; `cellskew weights` lists what belongs together"
        )
        return {"folder": str(folder), "model": None, "files": [], "problems": [said]}
    found = {pattern: weights.find(folder, pattern) for pattern in get(model).files}
    lacking = [
        weights.missing_file(folder, weights.shown(pattern), get(model).files[pattern])
        for pattern, path in found.items()
        if path is None
    ]
    files = [_of(path) for path in found.values() if path is not None]
    broken = [problem for file in files for problem in file.pop("problems")]
    return {"folder": str(folder), "model": model, "files": files, "problems": lacking + broken}


def _of(path: Path) -> dict[str, Any]:
    about = {"name": path.name, "megabytes": round(path.stat().st_size / 1e6, 1), "sha256": digest(path)}
    try:
        return about | {"holds": _holds(path), "problems": []}
    except RequestError as error:
        return about | {"holds": "", "problems": list(error.problems)}


def _holds(path: Path) -> str:
    """Return in words what a file holds; RequestError if it can't be read, or asks for code to be run."""
    weights.refuse_pointer(path)
    if path.suffix in STATES:
        state = weights.load_state(path)
        if broken := [name for name, values in state.items() if not weights.is_finite(values)]:
            raise RequestError(f"{path}: not all numbers in {', '.join(broken[:5])} are finite; fetch it again")
        return f"{sum(values.numel() for values in state.values()):,} numbers in {len(state)} tensors"
    if path.suffix == ".pkl":
        return f"{len(weights.read_dictionary(path)):,} entries"
    try:
        if path.suffix == ".json":
            return f"{len(json.loads(path.read_text(encoding='utf-8'))):,} entries"
        if path.suffix == ".npy":
            return " x ".join(map(str, np.load(path, mmap_mode="r", allow_pickle=False).shape)) + " numbers"
    except (ValueError, EOFError, OSError) as error:
        raise RequestError(f"{path}: damaged or cut off ({error}); fetch it again") from error
    return "read when it is used"
