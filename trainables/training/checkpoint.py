"""The state of a trial on disk: saved by rename, verified by checksum, restored bit for bit.

    <directory>/epoch-0007/state.json             epoch, history, what was best, checksums, cost; written last
    <directory>/epoch-0007/weights.safetensors    trainable parameters and buffers after this epoch
    <directory>/epoch-0007/optimizer.safetensors  Adam's moments
    <directory>/epoch-0007/best.safetensors       trainable parameters and buffers of the best epoch so far

Frozen parameters aren't saved but hashed: a checkpoint only fits the base it was trained on.
"""

import hashlib
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data_pipeline.atomic import replacing
from data_pipeline.hashes import file_sha256 as sha256

SHARE = 0.05  # of the time spent in training steps that saving may cost
FIXED_COST, BYTES_PER_SECOND = 0.05, 100e6  # of writing, syncing and hashing, supposed until one has been timed


class CheckpointError(RuntimeError):
    """A checkpoint does not belong to this trial's network, or holds other parameters than it."""


class Spacing:
    """Which epochs are saved: every n-th one, or with "auto" so few that saving stays below SHARE of the training.

    A trial that dies trains again what came after its last checkpoint: with "auto" 20 times what a checkpoint costs and
    an epoch, at most. It comes to the same weights whatever was saved. Short trials are never saved.
    """

    def __init__(self, every: int | Literal["auto"], num_bytes: int) -> None:
        self.every, self.cost, self.unsaved = every, FIXED_COST + num_bytes / BYTES_PER_SECOND, 0.0

    def is_due(self, epoch: int, seconds: float) -> bool:
        """Tell whether to save after `epoch` (counted from 1), in which so many seconds were spent in steps."""
        self.unsaved += seconds
        return self.cost <= SHARE * self.unsaved if self.every == "auto" else epoch % self.every == 0

    def saved(self, seconds: float) -> None:
        """Note that a checkpoint was written and how long that took."""
        self.cost, self.unsaved = seconds, 0.0


def trained_tensors(network: nn.Module, trained: set[str]) -> dict[str, Tensor]:
    """Return what training changes: the parameters named in `trained` and all persistent buffers, on the CPU."""
    frozen = {name for name, _ in network.named_parameters()} - trained
    state = network.state_dict()
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items() if name not in frozen}


def frozen_hash(network: nn.Module, trained: set[str]) -> str:
    """Return the sha256 of the names and bytes of the parameters that are not in `trained`."""
    digest = hashlib.sha256()
    for name, parameter in sorted(network.named_parameters()):
        if name not in trained:
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def optimizer_tensors(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's tensors under `<parameter name>/<what>`."""
    names = {parameter: name for name, parameter in network.named_parameters()}
    tensors = {}
    for parameter, state in optimizer.state.items():
        for what, value in state.items():
            tensors[f"{names[parameter]}/{what}"] = torch.as_tensor(value).detach().cpu().contiguous()
    return tensors


def restore_optimizer(network: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put the tensors of `optimizer_tensors` back; step counts stay where the fused kernels want them."""
    parameters = dict(network.named_parameters())
    for key, value in tensors.items():
        name, what = key.rsplit("/", 1)
        optimizer.state[parameters[name]][what] = value.clone().to(parameters[name].device)


def restore_weights(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load the tensors of `trained_tensors`; the network's frozen parameters stay as they are."""
    missing, unexpected = network.load_state_dict(tensors, strict=False)
    trainable = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    if unexpected or trainable & set(missing):
        wrong = ", ".join([*unexpected, *sorted(trainable & set(missing))][:5])
        raise CheckpointError(f"the checkpoint does not fit this network: {wrong}")


def save(directory: Path, epoch: int, files: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> Path:
    """Publish the checkpoint of `epoch` and remove older ones. `files`: name -> tensors."""
    begin = time.perf_counter()
    target = directory / f"epoch-{epoch:04d}"
    with replacing(target, alone=True) as part:
        part.mkdir()
        for name, content in files.items():
            write_tensors(part / name, content)
        checksums = {name: sha256(part / name) for name in files}
        size = sum((part / name).stat().st_size for name in files) / 1e6
        cost = {"checkpoint_seconds": time.perf_counter() - begin, "checkpoint_mb": size}
        state = state | {"epoch": epoch, "checksums": checksums, "cost": cost}
        (part / "state.json").write_text(json.dumps(state | {"own_checksum": _digest(state)}))
    for old in directory.glob("epoch-*"):
        if old != target:
            shutil.rmtree(old, ignore_errors=True)
    return target


def write_tensors(path: Path, content: dict[str, Tensor]) -> None:
    """Write tensors as a safetensors file that is on disk when this returns; OSError when it is full."""
    try:
        save_file(content, path)
    except SafetensorError as error:
        raise _disk_error(error, path) from error
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _disk_error(error: SafetensorError, path: Path) -> Exception:
    """Return the OSError that safetensors met (disk full, ...), so that it counts as the machine's; else `error`."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return error if number is None else OSError(int(number[1]), os.strerror(int(number[1])), str(path))


def _digest(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def load(path: Path) -> dict[str, Any]:
    """Return state.json of a checkpoint folder: what `save` was given, and "cost": the metrics checkpoint_*."""
    return json.loads((path / "state.json").read_text())


def tensors(path: Path, name: str) -> dict[str, Tensor]:
    """Return the tensors of one of a checkpoint's files."""
    return load_file(path / name)


def newest(directory: Path) -> Path | None:
    """Return the newest whole checkpoint; one that is cut off or altered is removed and the one before it taken."""
    for path in sorted(directory.glob("epoch-*"), reverse=True):
        try:
            state = load(path)
            is_whole = state.pop("own_checksum") == _digest(state)
            if is_whole and all(sha256(path / name) == digest for name, digest in state["checksums"].items()):
                return path
        except (OSError, ValueError, KeyError):
            pass
        shutil.rmtree(path, ignore_errors=True)
    return None


def discard(directory: Path) -> None:
    """Remove a trial's checkpoints, which nobody needs once its result is on disk."""
    for path in [*directory.glob("epoch-*"), *directory.glob(".epoch-*.part")]:
        shutil.rmtree(path, ignore_errors=True)
