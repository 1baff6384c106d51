"""Every attention kernel that is there, beside SDPA in float64 cell by cell: forward, gradients, dropout, speed."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gpu_parts.scene import Record, Scene, Skip, Wrong, seconds_of

LENGTHS = [1, 7, 64, 333, 128, 1023]
SHORT = [1, 7, 20]
LIMITS = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}  # of the largest number compared
WIDTHS = (64, 32, 12, 20, 4)  # of a head; kernels want multiples of 8
KERNEL = ["q", "k", "v", "offsets_q", "offsets_k"]  # how the parameters of a kernel begin


def run(scene: Scene) -> Iterator[Record]:
    for name, kernel in kernels().items():
        reason = absent(scene, name)
        if reason:
            yield {"check": name, "ok": None, "skipped": reason}
            continue
        for dtype in LIMITS:
            for width in scene.pick(WIDTHS, WIDTHS[1:3]):
                said = f"{name} {_short(dtype)} width {width}"
                yield from scene.check(said, lambda k=kernel, d=dtype, w=width: raw(scene, k, d, w))
    for dtype in LIMITS:
        for width in (64, 12):
            said = f"attend {_short(dtype)} width {width}"
            yield from scene.check(said, lambda d=dtype, w=width: chosen(scene, d, w))
            yield from scene.check(f"{said} dropout", lambda d=dtype, w=width: dropped(scene, d, w))
    yield from scene.check("random features", lambda: random_features(scene))
    for dtype in (torch.bfloat16, torch.float32):
        for rate in (0.0, 0.2):
            said = f"speed {_short(dtype)} dropout {rate}"
            yield from scene.check(said, lambda d=dtype, r=rate: speed(scene, d, r), seconds=2)


def kernels() -> dict[str, Callable[..., Tensor]]:
    """Return the functions of trainables.attention that are kernels, by name."""
    from trainables.networks import attention

    functions = inspect.getmembers(attention, inspect.isfunction)
    return {name: f for name, f in functions if list(inspect.signature(f).parameters)[:5] == KERNEL}


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def layout(scene: Scene, lengths: list[int]) -> Any:
    from trainables.networks.attention import cells_of

    offsets = torch.tensor([0, *lengths]).cumsum(0).to(scene.device)
    return cells_of(offsets, max(lengths))


def numbers(scene: Scene, lengths: list[int], width: int, dtype: torch.dtype, heads: int = 4) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(sum(lengths), 3, heads, width, device=scene.device).to(dtype).requires_grad_()


def reference(qkv_T3HD: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return output, the gradient that was sent back, and that of qkv, all float64."""
    exact = qkv_T3HD.detach().double().requires_grad_()
    parts = (cell.permute(1, 2, 0, 3).unsqueeze(1) for cell in exact.split(lengths))
    outs = [functional.scaled_dot_product_attention(*part)[0].transpose(0, 1) for part in parts]
    out = torch.cat(outs)
    torch.manual_seed(1)
    grad = torch.randn(out.shape, device=out.device).to(qkv_T3HD.dtype).double()
    out.backward(grad)
    return out.detach(), grad, exact.grad


def compare(out: Tensor, qkv: Tensor, lengths: list[int]) -> Record:
    wanted, grad, wanted_grad = reference(qkv, lengths)
    out.backward(grad.to(out.dtype))
    record = {"forward": _apart(out, wanted), "gradient": _apart(qkv.grad, wanted_grad)}
    if not max(record.values()) <= LIMITS[qkv.dtype]:
        raise Wrong(f"differs from SDPA in float64 by more than {LIMITS[qkv.dtype]}", record)
    return record


def _apart(found: Tensor, wanted: Tensor) -> float:
    """Return the largest difference as a share of the largest number; NaN counts as such."""
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


def absent(scene: Scene, name: str) -> str | None:
    """Return why a kernel can't be tried here."""
    from trainables.networks import attention

    if name == "_flash" and attention.flash_varlen() is None:
        return "flash-attn isn't installed"
    return "needs CUDA" if scene.rehearse and name != "_nested" else None


def raw(scene: Scene, kernel: Callable[..., Tensor], dtype: torch.dtype, width: int) -> Record:
    """A kernel called by itself. What it isn't made for is recorded as skipped, with its own words."""
    lengths = scene.pick(LENGTHS, SHORT)
    cells, qkv = layout(scene, lengths), numbers(scene, lengths, width, dtype)
    offsets = cells.cumulative_B1
    try:
        out = kernel(*qkv.unbind(1), offsets, offsets, cells.longest, cells.longest, 0.0)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        if dtype is torch.float32 or width % 8:
            raise Skip(f"the kernel refuses: {str(error).splitlines()[0][:200]}") from error
        raise
    return compare(out, qkv, lengths)


def chosen(scene: Scene, dtype: torch.dtype, width: int) -> Record:
    """What the networks call, and one query per cell."""
    from trainables.networks.attention import attend, attend_first

    lengths = scene.pick(LENGTHS, SHORT)
    cells, qkv = layout(scene, lengths), numbers(scene, lengths, width, dtype)
    record = {"kernel": which(scene, dtype, 0.0, width)} | compare(attend(qkv, cells), qkv, lengths)
    with torch.no_grad():
        whole = attend(qkv, cells)[cells.offsets_B1[:-1]]
        first = attend_first(qkv[cells.offsets_B1[:-1], 0], qkv[:, 1:], cells)
    record["first"] = _apart(first, whole.double())
    if not record["first"] <= LIMITS[dtype]:
        raise Wrong("one query per cell sees something else than the first of all queries", record)
    return record


def which(scene: Scene, dtype: torch.dtype, rate: float, width: int) -> str:
    """Return the name of the kernel that is taken."""
    from trainables.networks import attention

    if scene.rehearse:
        return "CPU"
    asked = inspect.signature(attention.cuda_kernel).parameters
    given = (dtype, rate, width)[: len(asked)]
    return getattr(attention.cuda_kernel(*given), "__name__", "?")


def dropped(scene: Scene, dtype: torch.dtype, width: int, rate: float = 0.2, draws: int = 24) -> Record:
    """Dropout: of the right rate, without bias, another mask each time, and the same mask in the backward pass.

    The output is linear in v, so <gradient of v, v> must equal <gradient sent, output> of the same pass.
    """
    from trainables.networks.attention import attend

    lengths = scene.pick([64, 200], [9, 20])
    cells, qkv = layout(scene, lengths), numbers(scene, lengths, width, dtype)
    out = attend(qkv, cells, rate)
    grad = torch.randn_like(out)
    out.backward(grad)
    sent = float((grad.double() * out.double()).sum())
    back = float((qkv.grad[:, 2].double() * qkv[:, 2].double()).sum())
    scale = float((grad.double() * out.double()).norm())
    ones = qkv.detach().clone()
    ones[:, 2] = 1
    with torch.no_grad():
        kept = torch.stack([attend(ones, cells, rate).float()[..., 0] for _ in range(draws)])
    record = {"kernel": which(scene, dtype, rate, width), "mean_kept": float(kept.mean())}
    record |= {"spread": float(kept.std(0).mean()), "backward_apart": abs(sent - back) / scale}
    if not (abs(record["mean_kept"] - 1) < 0.05 and record["spread"] > 0.005 and record["backward_apart"] < 0.1):
        raise Wrong("this is no dropout on the probabilities, or its backward pass has another mask", record)
    return record


def random_features(scene: Scene) -> Record:
    """scBERT's attention on the device beside its formula in float64 on the CPU."""
    from trainables.networks import favor

    torch.manual_seed(0)
    projection = favor.draw_projection(266, 64)
    given = [torch.randn(2, scene.pick(700, 30), 4, 64) for _ in range(3)]
    ours = [x.clone().to(scene.device).requires_grad_() for x in given]
    exact = [x.double().requires_grad_() for x in given]
    out = favor.attend(*ours, projection.to(scene.device), "cell")
    wanted = favor.plain(*exact, projection.double(), "cell")
    grad = torch.randn(wanted.shape)
    out.backward(grad.to(scene.device))
    wanted.backward(grad.double())
    record = {"forward": _apart(out.cpu(), wanted)}
    record |= {f"gradient_{n}": _apart(a.grad.cpu(), b.grad) for n, a, b in zip("qkv", ours, exact, strict=True)}
    if not max(record.values()) <= 1e-3:
        raise Wrong("differs from the formula in float64 by more than 1e-3", record)
    return record


def speed(scene: Scene, dtype: torch.dtype, rate: float) -> Record:
    """One layer of scGPT on 32 cells of 1,024 tokens: forward and backward, 12 L^2 E operations a cell."""
    from trainables.networks.attention import attend

    num_cells, length, heads, width = scene.pick((32, 1024, 8, 64), (2, 16, 2, 8))
    cells, qkv = layout(scene, [length] * num_cells), numbers(scene, [length] * num_cells, width, dtype, heads)
    grad = torch.randn(qkv[:, 0].shape, device=scene.device, dtype=dtype)

    def forward() -> None:
        with torch.no_grad():
            attend(qkv, cells, rate)

    def both() -> None:
        attend(qkv, cells, rate).backward(grad)

    seconds, alone = (seconds_of(work, scene.device) for work in (both, forward))
    tflops = 12 * num_cells * length**2 * heads * width / seconds / 1e12
    record = {"kernel": which(scene, dtype, rate, width), "forward_ms": alone * 1e3, "both_ms": seconds * 1e3}
    return record | {"tflops": tflops}
