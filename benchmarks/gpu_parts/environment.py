"""The machine: card, driver, versions, what attention can run on it, and the measured peaks of matrix products."""

import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import torch

from gpu_parts.scene import GIB, Record, Scene, peak_flops

PACKAGES = (
    "cellskew",
    "torch",
    "triton",
    "transformers",
    "flash-attn",
    "scgpt",
    "performer-pytorch",
    "local-attention",
    "ray",
    "mlflow",
    "numpy",
    "scipy",
    "scikit-learn",
    "anndata",
    "scanpy",
    "imbalanced-learn",
    "setuptools",
    "safetensors",
)
QUERY = "name,driver_version,memory.total,compute_mode,mig.mode.current,persistence_mode,clocks.sm,power.limit"


def run(scene: Scene) -> Iterator[Record]:
    yield from scene.check("machine", machine)
    yield from scene.check("packages", lambda: {"versions": {name: _version(name) for name in PACKAGES}})
    yield from scene.check("card", lambda: card(scene))
    yield from scene.check("nvidia-smi", lambda: {"said": _smi()})
    yield from scene.check("peaks", lambda: peaks(scene))


def machine() -> Record:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB),
        "shm_gib": round(_free("/dev/shm") / GIB, 1),
    }


def _free(folder: str) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def card(scene: Scene) -> Record:
    if scene.rehearse:
        return {"name": "none: a rehearsal"}
    free, total = torch.cuda.mem_get_info()
    return {
        "name": torch.cuda.get_device_name(0),
        "capability": list(torch.cuda.get_device_capability(0)),
        "total_gib": round(total / GIB, 2),
        "free_gib": round(free / GIB, 2),
        "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
        "bf16_with_emulation": torch.cuda.is_bf16_supported(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
    }


def _smi() -> str:
    """Only reads."""
    try:
        asked = subprocess.run(
            ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv"], capture_output=True, text=True, timeout=15
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"not to be had: {error}"
    return (asked.stdout + asked.stderr).strip()[:800]


def peaks(scene: Scene) -> Record:
    """bf16 counts as the card's peak; float32 is torch's default, without TF32."""
    size = scene.pick(8192, 512)
    kinds = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    found = {f"{name}_tflops": peak_flops(scene.device, kind, size) / 1e12 for name, kind in kinds.items()}
    return {"size": size} | {name: round(number, 3) for name, number in found.items()}
