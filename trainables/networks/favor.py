"""FAVOR+ attention: softmax attention through positive random features, linear in the number of tokens.

phi(x) = exp(P x - |x|^2 / 2 - max(P x)) + eps, x scaled by D^(-1/4)
attention = phi(q) (phi(k)^T v) / phi(q) sum phi(k)

Choromanski et al. 2021, as scBERT has it. Shapes: B cells, L tokens, N tokens of a block, H heads, D width of a head,
M features, V = D + 1: the values and a column of ones, so that one product gives numerator and denominator.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

Stabiliser = Literal["cell", "batch", "head"]
EPS = 1e-4  # keeps every feature positive, added after the exponential
BLOCK = 1 << 18  # features per thread worked on at once on a CPU: about 1 MB, which stays in the cache
SLACK = 8.0  # how far, in powers of 2, keys may exceed the reference before sums are rescaled
LOG2_E = 1 / math.log(2)  # powers of 2 are three times faster than powers of e

# Over which axes of [B, L, H, M] the keys' maximum is taken: scBERT takes it over the batch, so that a cell's logits
# depend on its neighbours; "cell" is what scBERT gives for a batch of one; "head" is performer-pytorch's.
STABILISERS: dict[str, tuple[int, ...]] = {"batch": (0, 1, 2, 3), "cell": (1, 2, 3), "head": (1, 3)}


def draw_projection(num_features: int, dim_head: int) -> Tensor:
    """Return float32 [M, D] with orthogonal rows in blocks of D, each as long as a Gaussian vector."""
    blocks = [_orthogonal(dim_head) for _ in range(-(-num_features // dim_head))]
    directions_MD = torch.cat(blocks)[:num_features]
    return torch.randn(num_features, dim_head).norm(dim=1, keepdim=True) * directions_MD


def _orthogonal(size: int) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size)).Q.T


def attend(q_BLHD: Tensor, k_BLHD: Tensor, v_BLHD: Tensor, projection_MD: Tensor, stabiliser: Stabiliser) -> Tensor:
    """Return the attention of all tokens of each cell to each other, [B, L, H, D]; in float32 under autocast too.

    On a CPU it works block by block, in the cache; numbers agree with `plain` up to rounding.
    """
    with torch.autocast(q_BLHD.device.type, enabled=False):
        inputs = (x.float() for x in (q_BLHD, k_BLHD, v_BLHD))
        if q_BLHD.device.type == "cpu":
            return _Blocked.apply(*inputs, projection_MD, stabiliser)
        return plain(*inputs, projection_MD, stabiliser)


def plain(q_BLHD: Tensor, k_BLHD: Tensor, v_BLHD: Tensor, projection_MD: Tensor, stabiliser: Stabiliser) -> Tensor:
    """Return the same as `attend`, as the formula is written."""
    q_BHLM = features(q_BLHD, projection_MD, (-1,)).transpose(1, 2)
    k_BHLM = features(k_BLHD, projection_MD, STABILISERS[stabiliser]).transpose(1, 2)
    context_BHMV = k_BHLM.transpose(-1, -2) @ _with_ones(v_BLHD).transpose(1, 2)
    out_BHLV = q_BHLM @ context_BHMV
    return (out_BHLV[..., :-1] / out_BHLV[..., -1:]).transpose(1, 2)


def features(x_BLHD: Tensor, projection_MD: Tensor, over: tuple[int, ...]) -> Tensor:
    """Return phi(x), [B, L, H, M]; the maximum is taken over axes `over`."""
    dots_BLHM = x_BLHD @ _scaled(projection_MD).T
    return (dots_BLHM - _half_norm(x_BLHD) - dots_BLHM.amax(over, keepdim=True)).exp() + EPS


def _scaled(projection_MD: Tensor) -> Tensor:
    return projection_MD * projection_MD.shape[1] ** -0.25


def _half_norm(x: Tensor) -> Tensor:
    """Return |x|^2 / 2 of the scaled x, last axis kept."""
    return x.square().sum(-1, keepdim=True) * (x.shape[-1] ** -0.5 / 2)


def _with_ones(v: Tensor) -> Tensor:
    return functional.pad(v, (0, 1), value=1.0)


# --- on a CPU, block by block: N cells times heads, L tokens of a block


class _Blocked(Function):
    """`plain`, keeping nothing of the features but their exponentials.

    With E the exponentials, C = phi(k)^T [v, 1] the context and (n, d) = phi(q) C: out = n / d, and for its gradient G
    dn = G / d, dd = -sum(G out) / d, dphi(q) = [dn, dd] C^T, dC = phi(q)^T [dn, dd], dphi(k) = [v, 1] dC^T,
    dv = phi(k) dC. Through phi: dx = (dphi E) P - sum(dphi E) (x + P at the maximum).
    """

    @staticmethod
    def forward(ctx, q, k, v, projection_MD: Tensor, stabiliser: Stabiliser) -> Tensor:
        projection_MD, keep, over = _scaled(projection_MD), any(ctx.needs_input_grad), _OVER[stabiliser]
        groups = _groups(q.shape, len(projection_MD))
        sums = [_sum_keys(k[cells], v[cells], projection_MD, blocks, keep) for cells, blocks in groups]
        top_BH = torch.cat([part.top_N for part in sums]).view(q.shape[0], q.shape[2])
        most_BH = top_BH.amax(over, keepdim=True).expand_as(top_BH) if over else top_BH
        out, below, queries = torch.empty_like(q), q.new_empty(*q.shape[:3], 1), []
        for (cells, blocks), part in zip(groups, sums, strict=True):
            part.finish(most_BH[cells].flatten())
            queries.append(_read_out(q[cells], projection_MD, part.context_NMV, blocks, out[cells], below[cells], keep))
        if keep:
            ctx.save_for_backward(q, k, v, projection_MD, out, below, top_BH, most_BH)
            ctx.groups, ctx.sums, ctx.queries, ctx.over = groups, sums, queries, over
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, projection_MD, out, below, top_BH, most_BH = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        slope_BH = torch.empty_like(top_BH)
        for (cells, blocks), part, queries in zip(ctx.groups, ctx.sums, ctx.queries, strict=True):
            given = q[cells], out[cells], below[cells], grad[cells]
            dcontext_NMV = _backward_queries(*given, projection_MD, part.context_NMV, blocks, queries, dq[cells])
            slope_N = _backward_keys(
                k[cells], v[cells], projection_MD, dcontext_NMV, blocks, part, dk[cells], dv[cells]
            )
            slope_BH[cells] = slope_N.view(-1, q.shape[2])
        blocks, where_BH = ctx.groups[0][1], torch.cat([part.where_N for part in ctx.sums]).view(top_BH.shape)
        _through_maximum(
            k, dk, projection_MD, slope_BH, top_BH == most_BH, [blocks[i] for i in where_BH.flatten()], ctx.over
        )
        return dq, dk, dv, None, None


_OVER: dict[str, tuple[int, ...]] = {"batch": (0, 1), "cell": (1,), "head": ()}  # STABILISERS for [B, H]


def _groups(shape: torch.Size, num_features: int) -> list[tuple[slice, list[slice]]]:
    """Return (cells of a group, blocks of their tokens): whole cells while several fit a block, else parts of one."""
    num_cells, num_tokens, num_heads, _ = shape
    room = BLOCK * torch.get_num_threads()
    together = max(1, room // (num_tokens * num_heads * num_features))
    size = num_tokens if together > 1 else max(16, room // (num_heads * num_features))
    blocks = [slice(start, min(start + size, num_tokens)) for start in range(0, num_tokens, size)]
    return [(slice(start, min(start + together, num_cells)), blocks) for start in range(0, num_cells, together)]


def _read(x_BLHD: Tensor, tokens: slice) -> Tensor:
    """Return the block of these tokens, heads first: [N, L, D]."""
    return x_BLHD[:, tokens].transpose(1, 2).flatten(0, 1)


def _write(into_BLHD: Tensor, tokens: slice, block_NLD: Tensor) -> None:
    into_BLHD[:, tokens] = block_NLD.unflatten(0, (-1, into_BLHD.shape[2])).transpose(1, 2)


class _Exponents:
    """Computes P x in powers of 2, for one block after the other; reuses its memory unless the results are kept."""

    def __init__(self, projection_MD: Tensor, keep: bool) -> None:
        self._projection_DM = (projection_MD * LOG2_E).T
        self._keep, self._memory = keep, projection_MD.new_empty(0)

    def dots(self, x_NLD: Tensor) -> Tensor:
        """Return P x, [N, L, M]."""
        num_features = self._projection_DM.shape[1]
        size = x_NLD[..., 0].numel() * num_features
        if self._keep or self._memory.numel() < size:
            self._memory = x_NLD.new_empty(size)
        dots = torch.mm(
            x_NLD.reshape(-1, x_NLD.shape[-1]), self._projection_DM, out=self._memory[:size].view(-1, num_features)
        )
        return dots.view(*x_NLD.shape[:-1], num_features)


@dataclass
class _Keys:
    """Sums over keys of E [v, 1], E = 2^(P k - |k|^2 / 2 - reference), for each of N cells times heads.

    top_N: the largest P k; where_N: in which block it is. exponentials, references: of each block, if they are kept.
    After `finish`, context_NMV is phi(k)^T [v, 1] with most_N as the maximum.
    """

    context_NMV: Tensor
    values_NV: Tensor
    top_N: Tensor
    where_N: Tensor
    most_N: Tensor | None = None
    exponentials: list[Tensor] = field(default_factory=list)
    references: list[Tensor] = field(default_factory=list)

    def add(self, block: int, dots_NLM: Tensor, half_NL1: Tensor, v_NLV: Tensor, keep: bool) -> None:
        """Take in a block; `dots_NLM` is overwritten. A reference that keys leave far behind is raised."""
        top_N = dots_NLM.amax((1, 2))
        self.where_N[top_N > self.top_N] = block
        self.top_N = torch.maximum(self.top_N, top_N)
        reference_N = self.references[-1] if self.references else self.top_N
        if bool((self.top_N > reference_N + SLACK).any()):
            self.context_NMV *= (reference_N - self.top_N).exp2()[:, None, None]
            reference_N = self.top_N
        e_NLM = dots_NLM.sub_(half_NL1 + reference_N[:, None, None]).exp2_()
        self.context_NMV.baddbmm_(e_NLM.transpose(1, 2), v_NLV)
        self.values_NV += v_NLV.sum(1)
        self.references.append(reference_N)
        if keep:
            self.exponentials.append(e_NLM)

    def finish(self, most_N: Tensor) -> None:
        self.most_N = most_N
        self.context_NMV *= (self.references[-1] - most_N).exp2()[:, None, None]
        self.context_NMV += EPS * self.values_NV[:, None]


def _sum_keys(k_BLHD: Tensor, v_BLHD: Tensor, projection_MD: Tensor, blocks: list[slice], keep: bool) -> _Keys:
    num, wide = k_BLHD.shape[0] * k_BLHD.shape[2], v_BLHD.shape[-1] + 1
    zeros = k_BLHD.new_zeros(num, len(projection_MD), wide), k_BLHD.new_zeros(num, wide)
    keys = _Keys(*zeros, k_BLHD.new_full((num,), -torch.inf), torch.zeros(num, dtype=torch.int64))
    exponents = _Exponents(projection_MD, keep)
    for number, tokens in enumerate(blocks):
        k_NLD = _read(k_BLHD, tokens)
        half_NL1 = _half_norm(k_NLD) * LOG2_E
        keys.add(number, exponents.dots(k_NLD), half_NL1, _with_ones(_read(v_BLHD, tokens)), keep)
    return keys


def _read_out(
    q_BLHD: Tensor,
    projection_MD: Tensor,
    context_NMV: Tensor,
    blocks: list[slice],
    out: Tensor,
    below: Tensor,
    keep: bool,
) -> list[Tensor]:
    """Write the attention into `out` [B, L, H, D], its denominators into `below` [B, L, H, 1]; return kept E's."""
    rest_N1V, kept = EPS * context_NMV.sum(1, keepdim=True), []
    exponents = _Exponents(projection_MD, keep)
    for tokens in blocks:
        q_NLD = _read(q_BLHD, tokens)
        dots_NLM = exponents.dots(q_NLD)
        e_NLM = dots_NLM.sub_(_half_norm(q_NLD) * LOG2_E + dots_NLM.amax(-1, keepdim=True)).exp2_()
        n_NLV = torch.bmm(e_NLM, context_NMV).add_(rest_N1V)
        _write(out, tokens, n_NLV[..., :-1] / n_NLV[..., -1:])
        _write(below, tokens, n_NLV[..., -1:])
        if keep:
            kept.append(e_NLM)
    return kept


def _backward_queries(
    q_BLHD, out, below, grad, projection_MD, context_NMV, blocks: list[slice], exponentials: list[Tensor], dq
) -> Tensor:
    """Write dq; return dC, [N, M, V]. sum(dphi E) is that of [dn, dd] (n - eps sum(C)), and [dn, dd] n is 0."""
    dcontext_NMV, dn_NV = torch.zeros_like(context_NMV), torch.zeros_like(context_NMV[:, 0])
    rest_N1V = EPS * context_NMV.sum(1, keepdim=True)
    for tokens, e_NLM in zip(blocks, exponentials, strict=True):
        grad_NLD = _read(grad, tokens)
        dd_NL1 = -(grad_NLD * _read(out, tokens)).sum(-1, keepdim=True)
        dn_NLV = torch.cat([grad_NLD, dd_NL1], -1).div_(_read(below, tokens))
        dcontext_NMV.baddbmm_(e_NLM.transpose(1, 2), dn_NLV)
        dn_NV += dn_NLV.sum(1)
        through_NLM = torch.bmm(dn_NLV, context_NMV.transpose(1, 2)).mul_(e_NLM)
        slope_NL1 = -(dn_NLV * rest_N1V).sum(-1, keepdim=True)
        peaks_NLM = torch.ge(e_NLM, e_NLM.amax(-1, keepdim=True), out=torch.empty_like(e_NLM))  # 1 at the maximum
        through_NLM.addcmul_(peaks_NLM, slope_NL1 / peaks_NLM.sum(-1, keepdim=True), value=-1)
        _write(dq, tokens, (through_NLM @ projection_MD).sub_(slope_NL1 * _slope(_read(q_BLHD, tokens))))
    return dcontext_NMV.add_(EPS * dn_NV[:, None])


def _backward_keys(k_BLHD, v_BLHD, projection_MD, dcontext_NMV, blocks: list[slice], keys: _Keys, dk, dv) -> Tensor:
    """Write dv, and dk but for the part through the maximum; return sum(dphi E) per cell and head, [N]."""
    slope_N, rest_N1D = torch.zeros_like(keys.top_N), EPS * dcontext_NMV[..., :-1].sum(1, keepdim=True)
    kept = zip(blocks, keys.exponentials, keys.references, strict=True)
    reference_N, scaled_NMV = None, dcontext_NMV
    for tokens, e_NLM, block_reference_N in kept:
        if block_reference_N is not reference_N:
            reference_N = block_reference_N
            scaled_NMV = dcontext_NMV * (reference_N - keys.most_N).exp2()[:, None, None]
        _write(dv, tokens, torch.bmm(e_NLM, scaled_NMV[..., :-1]).add_(rest_N1D))
        v_NLV = _with_ones(_read(v_BLHD, tokens))
        through_NLM = torch.bmm(v_NLV, scaled_NMV.transpose(1, 2)).mul_(e_NLM)
        slope_NL1 = through_NLM.sum(-1, keepdim=True)
        slope_N += slope_NL1.sum((1, 2))
        _write(dk, tokens, (through_NLM @ projection_MD).sub_(slope_NL1 * _slope(_read(k_BLHD, tokens))))
    return slope_N


def _slope(x: Tensor) -> Tensor:
    """Return the gradient of |x|^2 / 2 of the scaled x."""
    return x * x.shape[-1] ** -0.5


def _through_maximum(k, dk, projection_MD, slope_BH, owners_BH, blocks: list[slice], over: tuple[int, ...]) -> None:
    """Take from dk what flows through the keys' maximum, evenly from the cells and heads where it is reached.

    blocks: for each cell and head the tokens among which its own maximum is.
    """
    if over:
        slope_BH = slope_BH.sum(over, keepdim=True) / owners_BH.sum(over, keepdim=True)
    slope_BH = slope_BH.expand_as(owners_BH)
    for cell, head in torch.nonzero(owners_BH).tolist():
        tokens = blocks[cell * owners_BH.shape[1] + head]
        token, feature = divmod(int((k[cell, tokens, head] @ projection_MD.T).argmax()), len(projection_MD))
        dk[cell, tokens.start + token, head] -= slope_BH[cell, head] * projection_MD[feature]
