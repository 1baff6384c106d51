"""Attention within each cell over packed tokens: the only place that knows kernels.

On CUDA, numbers of 16 bits on Ampere or newer: flash-attn's varlen kernel if it is installed, else torch's own build of
it. Other numbers and cards: SDPA over nested tensors, or with dropout cell by cell (over nested tensors torch 2.11's
backward pass has another mask than its forward pass; seen on an H100 in float32). On a CPU: SDPA per cell, and with
dropout a blocked softmax of our own, as SDPA would fall back to whole L x L matrices there, kept for the backward pass.

Shapes: T tokens of all cells, B cells, L tokens of one cell, Q queries of a block, H heads, D width of a head.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from trainables.networks.dropout import Coin, draw_seed

HALF = (torch.float16, torch.bfloat16)
BLOCK = 1 << 19  # probabilities worked on at once on a CPU: a few MB, which stay in the cache
MIN_QUERIES = 32


@dataclass(frozen=True)
class Cells:
    """Where each cell's tokens lie: cell b is `offsets_B1[b]:offsets_B1[b + 1]`; longest: of the longest cell."""

    offsets_B1: Tensor
    longest: int

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens per cell, on the host."""
        return self.offsets_B1.diff().tolist()

    @cached_property
    def place_T(self) -> Tensor:
        """Each token's cell."""
        return torch.arange(len(self.offsets_B1) - 1).repeat_interleave(self.offsets_B1.diff())

    @cached_property
    def cumulative_B1(self) -> Tensor:
        """The offsets as int32, as varlen kernels want them."""
        return self.offsets_B1.int()

    @cached_property
    def singles_B1(self) -> Tensor:
        """The offsets of a batch of one query per cell, int32."""
        return torch.arange(len(self.offsets_B1), dtype=torch.int32, device=self.offsets_B1.device)


def cells_of(offsets_B1: Tensor, longest: int | None = None) -> Cells:
    """Return the layout of a batch; on a GPU pass `longest`, else it is asked for (one synchronisation)."""
    return Cells(offsets_B1, int(offsets_B1.diff().max()) if longest is None else longest)


def attend(qkv_T3HD: Tensor, cells: Cells, dropout: float = 0.0) -> Tensor:
    """Return softmax(q kᵀ / √D) v within each cell, [T, H, D]; `dropout` is applied to the probabilities."""
    if on_cpu(qkv_T3HD):
        _used.add("CPU: blocked softmax" if dropout > 0 else "CPU: SDPA per cell")
        blocked = _Blocked.apply
        return blocked(qkv_T3HD, cells.lengths, dropout) if dropout > 0 else _per_cell(qkv_T3HD, cells.lengths)
    q_THD, k_THD, v_THD = qkv_T3HD.unbind(1)
    kernel = _noted(cuda_kernel(qkv_T3HD.dtype, dropout))
    offsets = cells.cumulative_B1
    return kernel(q_THD, k_THD, v_THD, offsets, offsets, cells.longest, cells.longest, dropout)


def attend_first(q_BHD: Tensor, kv_T2HD: Tensor, cells: Cells, dropout: float = 0.0) -> Tensor:
    """Return what one query per cell sees of its cell, [B, H, D]."""
    k_THD, v_THD = kv_T2HD.unbind(1)
    if on_cpu(q_BHD):
        return _first(q_BHD, k_THD, v_THD, cells, dropout)
    kernel = _noted(cuda_kernel(q_BHD.dtype, dropout))
    return kernel(q_BHD, k_THD, v_THD, cells.singles_B1, cells.cumulative_B1, 1, cells.longest, dropout)


def on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu"


# --- CUDA: kernels that know offsets; each takes (q, k, v, offsets of q, of k, longest of q, of k, dropout)


def cuda_kernel(dtype: torch.dtype, dropout: float) -> Callable[..., Tensor]:
    """Return the fastest right kernel that is there for these numbers on this card."""
    if dtype in HALF and has_flash_instructions():
        return _varlen if flash_varlen() is None else _flash
    return _nested if dropout == 0 else _cell_by_cell


@cache
def has_flash_instructions() -> bool:
    """Tell whether varlen kernels run on this card: compute capability 8.0 (Ampere) or newer."""
    return torch.cuda.get_device_capability() >= (8, 0)


@cache
def flash_varlen() -> Callable[..., Tensor] | None:
    """Return flash-attn's function, None where it isn't installed."""
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        return None
    return flash_attn_varlen_func


def _flash(q, k, v, offsets_q, offsets_k, longest_q: int, longest_k: int, dropout: float) -> Tensor:
    return flash_varlen()(q, k, v, offsets_q, offsets_k, longest_q, longest_k, dropout_p=dropout)


def _varlen(q, k, v, offsets_q, offsets_k, longest_q: int, longest_k: int, dropout: float) -> Tensor:
    """torch's flash kernel, as torch.nn.attention.varlen calls it, which has no dropout and costs seconds to import.

    It takes widths that are multiples of 8; others are filled up with zeros, which change no product.
    """
    width = q.shape[-1]
    q, k, v = (functional.pad(x, (0, -width % 8)) if width % 8 else x for x in (q, k, v))
    lengths, options = (offsets_q, offsets_k, longest_q, longest_k), (dropout, False, False)  # not causal, no debugging
    return torch.ops.aten._flash_attention_forward(q, k, v, *lengths, *options, scale=width**-0.5)[0][..., :width]


def _cell_by_cell(q, k, v, offsets_q, offsets_k, longest_q: int, longest_k: int, dropout: float) -> Tensor:
    """SDPA of one cell after the other: slow, right everywhere. Asks the device for the cells' lengths."""
    lengths = (offsets_q.diff().tolist(), offsets_k.diff().tolist(), offsets_k.diff().tolist())
    parts = (x.transpose(0, 1).unsqueeze(0).split(of, 2) for x, of in zip((q, k, v), lengths, strict=True))
    out = [functional.scaled_dot_product_attention(*cell, dropout_p=dropout) for cell in zip(*parts, strict=True)]
    return torch.cat(out, 2)[0].transpose(0, 1)


def _nested(q, k, v, offsets_q, offsets_k, longest_q: int, longest_k: int, dropout: float) -> Tensor:
    ragged = ((q, offsets_q, longest_q), (k, offsets_k, longest_k), (v, offsets_k, longest_k))
    heads_first = (
        torch.nested.nested_tensor_from_jagged(
            x.contiguous(), offsets.long(), min_seqlen=1, max_seqlen=longest
        ).transpose(1, 2)
        for x, offsets, longest in ragged
    )
    out = functional.scaled_dot_product_attention(*heads_first, dropout_p=dropout)
    return out.transpose(1, 2).values()


# --- which of them were used

KERNELS = {
    "_flash": "flash-attn",
    "_varlen": "torch's flash kernel",
    "_nested": "SDPA over nested tensors",
    "_cell_by_cell": "SDPA per cell",
}
_used: set[str] = set()


def forget_used() -> None:
    """Begin to note anew which kernels are used."""
    _used.clear()


def used() -> str:
    """Return the kernels used since `forget_used`, and why flash-attn isn't among them; "" without attention."""
    names = ", ".join(sorted(_used))
    instead = _used & set(KERNELS.values()) and KERNELS["_flash"] not in _used
    return f"{names} ({_why_no_flash()})" if instead else names


def _noted(kernel: Callable[..., Tensor]) -> Callable[..., Tensor]:
    _used.add(KERNELS.get(kernel.__name__, "another kernel"))
    return kernel


def _why_no_flash() -> str:
    if not has_flash_instructions():
        return "no flash-attn: the card is older than Ampere"
    try:
        import flash_attn  # noqa: F401
    except ImportError as error:
        return f"no flash-attn: {str(error).splitlines()[0]}"
    return "no flash-attn: it takes numbers of 16 bits only"


# --- CPU


def _per_cell(qkv_T3HD: Tensor, lengths: list[int]) -> Tensor:
    """SDPA cell by cell: torch's blocked CPU kernel takes one length at a time."""
    cells = (qkv_L3HD.transpose(0, 2).unsqueeze(0).unbind(2) for qkv_L3HD in qkv_T3HD.split(lengths))
    return torch.cat([functional.scaled_dot_product_attention(*cell)[0].transpose(0, 1) for cell in cells])


def _first(q_BHD: Tensor, k_THD: Tensor, v_THD: Tensor, cells: Cells, dropout: float) -> Tensor:
    """One query per cell, all cells at once: T x E multiplications are little beside the rest."""
    lengths_B, place_T = cells.offsets_B1.diff(), cells.place_T
    s_TH = (_spread(q_BHD * q_BHD.shape[-1] ** -0.5, place_T) * k_THD).sum(-1)
    top_BH = torch.segment_reduce(s_TH.detach(), "max", lengths=lengths_B)
    e_TH = (s_TH - _spread(top_BH, place_T)).exp()
    p_TH = e_TH / _spread(torch.segment_reduce(e_TH, "sum", lengths=lengths_B), place_T)
    p_TH1 = functional.dropout(p_TH, dropout).unsqueeze(-1)
    return torch.segment_reduce((p_TH1 * v_THD).flatten(1), "sum", lengths=lengths_B).view_as(q_BHD)


def _spread(x_B: Tensor, place_T: Tensor) -> Tensor:
    """Return each cell's row once per token; an embedding's backward pass is the fast one on a CPU."""
    return functional.embedding(place_T, x_B.flatten(1)).unflatten(1, x_B.shape[1:])


class _Blocked(Function):
    """Attention with dropout, a block of queries at a time; probabilities and masks are made anew in the backward pass.

    With P the probabilities, M the mask, κ the share kept, O the output: O = (P∘M) V / κ, and for its gradient G
    dV = (P∘M)ᵀ G / κ, dS = P∘(M∘(G Vᵀ)/κ − rowsum(G∘O)), dQ = dS K / √D, dK = dSᵀ Q / √D.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # under autocast; else in its own numbers
    def forward(ctx, qkv_T3HD: Tensor, lengths: list[int], dropout: float) -> Tensor:
        ctx.lengths, ctx.dropout, ctx.seed = lengths, dropout, draw_seed()
        coin, blocks = Coin(dropout, ctx.seed), _Blocks(qkv_T3HD, lengths, 2)
        out_THD = torch.empty_like(qkv_T3HD[:, 0])
        parts = (_scaled_queries(qkv_T3HD), qkv_T3HD[:, 1], qkv_T3HD[:, 2], out_THD)
        for cell in zip(*(part.split(lengths) for part in parts), strict=True):
            _blocked_forward(*(x.transpose(0, 1) for x in cell), coin, blocks)
        ctx.save_for_backward(qkv_T3HD, out_THD)
        return out_THD

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, grad_THD: Tensor) -> tuple[Tensor, None, None]:
        qkv_T3HD, out_THD = ctx.saved_tensors
        coin, blocks = Coin(ctx.dropout, ctx.seed), _Blocks(qkv_T3HD, ctx.lengths, 3)
        grad_T3HD = torch.empty_like(qkv_T3HD)
        share_TH1 = (grad_THD * out_THD).sum(-1, keepdim=True)
        inputs = (_scaled_queries(qkv_T3HD), qkv_T3HD[:, 1], qkv_T3HD[:, 2], share_TH1, grad_THD * (1 / coin.kept))
        for cell in zip(*(part.split(ctx.lengths) for part in (*inputs, *grad_T3HD.unbind(1))), strict=True):
            _blocked_backward(*(x.transpose(0, 1) for x in cell), coin, blocks)
        grad_T3HD[:, 0].mul_(_scale(qkv_T3HD))
        return grad_T3HD, None, None


def _blocked_forward(
    q_HLD: Tensor, k_HLD: Tensor, v_HLD: Tensor, out_HLD: Tensor, coin: Coin, blocks: "_Blocks"
) -> None:
    for rows, (p_HQL, m_HQL) in blocks.of(q_HLD):
        _probabilities(q_HLD[:, rows], k_HLD, p_HQL).mul_(coin.toss(m_HQL))
        torch.mul(torch.bmm(p_HQL, v_HLD), 1 / coin.kept, out=out_HLD[:, rows])


def _blocked_backward(
    q_HLD: Tensor, k_HLD: Tensor, v_HLD: Tensor, share_HL1: Tensor, grad_HLD: Tensor,
    dq_HLD: Tensor, dk_HLD: Tensor, dv_HLD: Tensor, coin: Coin, blocks: "_Blocks",
) -> None:  # fmt: skip
    dk_sum_HLD, dv_sum_HLD = (torch.zeros(k_HLD.shape, dtype=k_HLD.dtype) for _ in range(2))
    for rows, (p_HQL, m_HQL, d_HQL) in blocks.of(q_HLD):
        _probabilities(q_HLD[:, rows], k_HLD, p_HQL)
        torch.bmm(grad_HLD[:, rows], v_HLD.transpose(1, 2), out=d_HQL)
        d_HQL.mul_(coin.toss(m_HQL)).sub_(share_HL1[:, rows]).mul_(p_HQL)
        dv_sum_HLD.baddbmm_(p_HQL.mul_(m_HQL).transpose(1, 2), grad_HLD[:, rows])
        dk_sum_HLD.baddbmm_(d_HQL.transpose(1, 2), q_HLD[:, rows])
        dq_HLD[:, rows] = torch.bmm(d_HQL, k_HLD)
    dk_HLD.copy_(dk_sum_HLD)
    dv_HLD.copy_(dv_sum_HLD)


def _scale(qkv_T3HD: Tensor) -> float:
    return qkv_T3HD.shape[-1] ** -0.5


def _scaled_queries(qkv_T3HD: Tensor) -> Tensor:
    return qkv_T3HD[:, 0] * _scale(qkv_T3HD)


def _probabilities(q_HQD: Tensor, k_HLD: Tensor, out_HQL: Tensor) -> Tensor:
    """Write softmax(q kᵀ) into `out_HQL` and return it."""
    torch.bmm(q_HQD, k_HLD.transpose(1, 2), out=out_HQL)
    return torch.softmax(out_HQL, -1, out=out_HQL)


class _Blocks:
    """Cuts cells into blocks of queries and lends the same few buffers [H, Q, L] to all of them."""

    def __init__(self, qkv_T3HD: Tensor, lengths: list[int], num_buffers: int) -> None:
        heads = qkv_T3HD.shape[2]
        most = max((heads * self._queries(heads, length) * length for length in lengths), default=0)
        self._buffers = [torch.empty(most, dtype=qkv_T3HD.dtype) for _ in range(num_buffers)]

    def of(self, q_HLD: Tensor) -> Iterator[tuple[slice, list[Tensor]]]:
        """Yield (rows of a block of queries, its buffers)."""
        heads, length, _ = q_HLD.shape
        step = self._queries(heads, length)
        for start in range(0, length, step):
            shape = (heads, min(step, length - start), length)
            yield slice(start, start + shape[1]), [buffer[: math.prod(shape)].view(shape) for buffer in self._buffers]

    @staticmethod
    def _queries(heads: int, length: int) -> int:
        return min(length, max(MIN_QUERIES, BLOCK // (heads * length)))
