"""Quick checks of what could only be read without a GPU: each ends ok or with its traceback, none ends the others."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from gpu_parts.props import cells
from gpu_parts.scene import Record, Scene, Skip, Wrong

ROWS = np.arange(48)
LONGEST = 100  # tokens of a cell at most
HALVES = ("bfloat16", "float16")


def run(scene: Scene) -> Iterator[Record]:
    yield from scene.check("varlen kernel of torch", lambda: varlen(scene))
    yield from scene.check("capability guards", lambda: guards(scene))
    for width, heads in scene.pick(((48, 4), (80, 4), (64, 4)), ((48, 4),)):
        for precision in HALVES:
            said = f"scgpt heads of width {width // heads}, {precision}"
            yield from scene.check(said, lambda w=width, h=heads, p=precision: learns(scene, scgpt(w, h), p))
    for name, make in {"scgpt": scgpt, "geneformer": geneformer, "scbert": scbert}.items():
        for precision in HALVES:
            said = f"{name} evaluates in {precision}"
            yield from scene.check(said, lambda m=make, p=precision: evaluates(scene, m(), p))
        yield from scene.check(f"{name} with the recipe's precision", lambda m=make: learns(scene, m(), "auto"))
    yield from scene.check("attention dropout, bfloat16", lambda: learns(scene, scgpt(dropout=0.2), "bfloat16"))
    yield from scene.check("attention dropout, float16", lambda: learns(scene, scgpt(dropout=0.2), "float16"))
    yield from scene.check("float16 scales its gradients", lambda: scales(scene))
    yield from scene.check("float16 skips a step that overflows", lambda: overflows(scene))
    yield from scene.check("not-a-number stops the trial", lambda: stops(scene))
    yield from scene.check("parameters in bfloat16", lambda: bf16_parameters(scene))
    yield from scene.check("an optimiser that isn't fused", lambda: not_fused(scene))
    for name, error in OUT_OF_MEMORY.items():
        yield from scene.check(f"retreat of a step: {name}", lambda e=error: retreats(scene, e))
    yield from scene.check("retreat of predict", lambda: predict_retreats(scene))
    yield from scene.check("retreat of the optimiser's first step", lambda: optimiser_retreats(scene))
    yield from scene.check("repeats bit for bit", lambda: repeats(scene))


# --- small networks


def scgpt(width: int = 64, heads: int = 2, dropout: float = 0.0) -> cells.Case:
    sizes = {"width": width, "hidden": width, "num_layers": 2, "num_heads": heads, "dropout": dropout}
    return _case("scgpt", cells.made_up(cells.ragged(48, LONGEST), 60, values=True), num_tokens=60, **sizes)


def geneformer() -> cells.Case:
    encoded = cells.made_up(cells.ragged(48, LONGEST), 60, values=False)
    return _case("geneformer", encoded, num_tokens=60, num_positions=128, size="small", dropout=0.02)


def scbert() -> cells.Case:
    encoded = cells.made_up(np.full(48, 41), 9, values=False, fixed_tokens=6)
    return _case("scbert", encoded, num_tokens=41, size="small")


def _case(model: str, encoded: Any, **options: Any) -> cells.Case:
    def build() -> nn.Module:
        from trainables.spec import get

        return get(model).build(cells.NUM_CLASSES, **options)

    def nothing(lengths: np.ndarray) -> float:
        return 0.0

    recipe = {"batch_size": 16, "learning_rate": 1e-3, "warmup": 0, "schedule": "constant", "epochs": 40}
    recipe |= {"accumulate": 1, "carry_accumulation": False}
    return cells.Case(model, model, build, encoded, recipe, cells.Flops(nothing, nothing, nothing), {})


# --- kernels and types of numbers


def varlen(scene: Scene) -> Record:
    from torch.nn.attention.varlen import varlen_attn

    taken = list(inspect.signature(varlen_attn).parameters)
    private = getattr(torch.ops.aten, "_flash_attention_forward", None)
    return {"parameters": taken, "private_op": str(private.default._schema)[:600] if private else None}


def guards(scene: Scene) -> Record:
    """Which type of numbers `auto` takes and which kernel each gets, beside what the card can do."""
    from gpu_parts.kernels import which
    from trainables.networks.attention import flash_varlen

    case = scgpt()
    record: Record = {"auto": str(cells.trainer_of(case, scene, precision="auto")._dtype())}
    record["flash_attn"] = flash_varlen() is not None
    for name in ("bfloat16", "float16", "float32"):
        for rate in (0.0, 0.2):
            for width in (64, 12):
                record[f"{name}, dropout {rate}, width {width}"] = which(scene, getattr(torch, name), rate, width)
    if not scene.rehearse:
        record["capability"] = list(torch.cuda.get_device_capability(0))
        record["bf16_with_emulation"] = torch.cuda.is_bf16_supported()
        record["bf16"] = torch.cuda.is_bf16_supported(including_emulation=False)
    return record


def learns(scene: Scene, case: cells.Case, precision: str) -> Record:
    """Train some passes over a few cells: the loss must be finite and fall; then predict."""
    precision = "float32" if scene.rehearse and precision == "float16" else precision
    changes = {} if precision == "auto" else {"precision": precision}
    trainer = cells.trainer_of(case, scene, **changes)
    losses = [trainer.train(ROWS, epoch).loss for epoch in range(scene.pick(25, 3))]
    record = {"first_loss": losses[0], "last_loss": losses[-1], "dtype": str(trainer._dtype())}
    if not (np.isfinite(losses).all() and losses[-1] < losses[0]):
        raise Wrong("the loss doesn't fall", record | {"losses": losses})
    if not np.isfinite(trainer.predict(ROWS)).all():
        raise Wrong("predict gives numbers that aren't finite", record)
    return record


def evaluates(scene: Scene, case: cells.Case, precision: str) -> Record:
    """Predict in 16 bits, beside the same network in float32."""
    network = case.build()
    exact = cells.trainer_of(case, scene, network, precision="float32").predict(ROWS)
    found = cells.trainer_of(case, scene, network, precision=precision).predict(ROWS)
    record = {"share": float(np.abs(found - exact).max() / np.abs(exact).max())}
    record["same_best"] = float((found.argmax(1) == exact.argmax(1)).mean())
    if not record["share"] < 0.08:
        raise Wrong("16-bit logits are far from float32", record)
    return record


def _only_gpu(scene: Scene) -> None:
    if scene.rehearse:
        raise Skip("needs CUDA")


def scales(scene: Scene) -> Record:
    _only_gpu(scene)
    trainer = cells.trainer_of(scgpt(), scene, precision="float16", clip=1.0)
    trainer.train(ROWS, 0)
    record = {"enabled": trainer.scaler.is_enabled(), "scale": trainer.scaler.get_scale(), "steps": trainer.steps}
    if not record["enabled"]:
        raise Wrong("float16 without a GradScaler", record)
    return record


def overflows(scene: Scene) -> Record:
    """A scale that overflows must be halved and the step skipped, not end the trial."""
    _only_gpu(scene)
    trainer = cells.trainer_of(scgpt(), scene, precision="float16")
    trainer.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**40)
    before = [p.detach().clone() for p in trainer.network.parameters()]
    losses = [trainer.train(ROWS[:16], 0).loss]
    same = all(torch.equal(a, b) for a, b in zip(before, trainer.network.parameters(), strict=True))
    losses += [trainer.train(ROWS, epoch).loss for epoch in range(1, 15)]
    record = {"first_step_skipped": same, "scale": trainer.scaler.get_scale(), "last_loss": losses[-1]}
    if not (same and record["scale"] < 2.0**40 and np.isfinite(losses).all()):
        raise Wrong("the step that overflows isn't skipped", record)
    return record


class Poisoned(nn.Module):
    """A network whose logits become NaN at one call."""

    def __init__(self, inner: nn.Module, at: int) -> None:
        super().__init__()
        self.inner, self.left = inner, at

    def forward(self, **inputs: Any) -> torch.Tensor:
        self.left -= 1
        logits = self.inner(**inputs)
        return logits * float("nan") if self.left == 0 else logits


def stops(scene: Scene) -> Record:
    """A loss that isn't a number ends the trial, with finite weights."""
    from trainables.training.finite import NonFiniteLoss

    trainer = cells.trainer_of(scgpt(), scene, Poisoned(scgpt().build(), 2), precision="float32")
    try:
        trainer.train(ROWS, 0)
    except NonFiniteLoss as error:
        finite = all(bool(torch.isfinite(p).all()) for p in trainer.network.parameters())
        record = {"said": str(error)[:200], "weights_finite": finite}
        if not finite:
            raise Wrong("the weights were touched", record) from error
        return record
    raise Wrong("training went on over a loss that isn't a number", {})


# --- optimisers


def bf16_parameters(scene: Scene) -> Record:
    """One trainable part in bfloat16, as adapters are: `fused` is off then."""
    case = scgpt()
    network = case.build()
    network.cls_decoder.out_layer.to(torch.bfloat16)
    hook = network.cls_decoder.out_layer.register_forward_pre_hook(lambda layer, given: (given[0].bfloat16(),))
    trainer = cells.trainer_of(case, scene, network)
    record = {"fused": trainer.optimizer.defaults.get("fused"), "loss": trainer.train(ROWS, 0).loss}
    hook.remove()
    return record


def not_fused(scene: Scene) -> Record:
    case = scgpt()
    trainer = cells.trainer_of(case, scene)
    trainer.optimizer = torch.optim.Adam(trainer.network.parameters(), lr=1e-3)
    return {"loss": trainer.train(ROWS, 0).loss}


# --- memory


class Tight(nn.Module):
    """A network that raises above `fits` cells, in training, in evaluation or in both."""

    def __init__(self, inner: nn.Module, fits: int, error: Callable[[], Exception], training: bool) -> None:
        super().__init__()
        self.inner, self.fits, self.error, self.wanted = inner, fits, error, training

    def forward(self, offsets: torch.Tensor, **inputs: Any) -> torch.Tensor:
        if len(offsets) - 1 > self.fits and self.training == self.wanted:
            raise self.error()
        return self.inner(offsets=offsets, **inputs)


def _accelerator_error() -> Exception:
    kind = getattr(torch, "AcceleratorError", RuntimeError)
    try:
        return kind("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation'")
    except TypeError:
        return RuntimeError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation'")


OUT_OF_MEMORY: dict[str, Callable[[], Exception]] = {
    "torch's allocator": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "CUDA itself": _accelerator_error,
    "cuBLAS": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
}


def retreats(scene: Scene, error: Callable[[], Exception]) -> Record:
    case = scgpt()
    trainer = cells.trainer_of(case, scene, Tight(case.build(), 8, error, training=True))
    loss = trainer.train(ROWS, 0).loss
    return {"loss": loss, "micro_batch": trainer.micro_batch}


def predict_retreats(scene: Scene) -> Record:
    case = scgpt()
    error = OUT_OF_MEMORY["torch's allocator"]
    trainer = cells.trainer_of(case, scene, Tight(case.build(), 8, error, training=False))
    return {"finite": bool(np.isfinite(trainer.predict(ROWS)).all())}


def optimiser_retreats(scene: Scene) -> Record:
    """The optimiser's moments are allocated in its first step, when gradients and activations fill the card."""
    trainer = cells.trainer_of(scgpt(), scene)
    step, failed = trainer.optimizer.step, []

    def once(*given: Any, **named: Any) -> Any:
        if not failed:
            failed.append(1)
            raise OUT_OF_MEMORY["torch's allocator"]()
        return step(*given, **named)

    trainer.optimizer.step = once
    return {"loss": trainer.train(ROWS, 0).loss, "failed": len(failed)}


def repeats(scene: Scene) -> Record:
    """The same seed twice: are the weights the same? Recorded, and no failure: kernels may add in any order."""

    def weights() -> list[torch.Tensor]:
        trainer = cells.trainer_of(scgpt(dropout=0.2), scene, precision=scene.pick("bfloat16", "float32"))
        trainer.train(ROWS, 0)
        return [p.detach().cpu() for p in trainer.network.parameters()]

    pairs = list(zip(weights(), weights(), strict=True))
    apart = max(float((a - b).abs().max()) for a, b in pairs)
    return {"same": all(torch.equal(a, b) for a, b in pairs), "largest_difference": apart}
