"""scBERT's network: a Performer over every gene of a cell, with a head that reads one number per gene.

Names of parameters are the official ones. Shapes: B cells, L tokens, E width, H heads, D width of a head, C classes.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.networks.exact import exactly
from trainables.networks.favor import Stabiliser, attend, draw_projection
from trainables.networks.prefix import PrefixCache

REDRAW_AFTER = 1000  # training calls between two draws of the random projections


class FastAttention(nn.Module):
    """Softmax attention through random features; the projection is a buffer, shared by the heads of a layer."""

    def __init__(self, dim_head: int, num_features: int, stabiliser: Stabiliser) -> None:
        super().__init__()
        self.stabiliser = stabiliser
        self.register_buffer("projection_matrix", draw_projection(num_features, dim_head))

    def redraw(self) -> None:
        """Draw the projection anew, from torch's CPU generator on every device."""
        self.projection_matrix.copy_(draw_projection(*self.projection_matrix.shape))

    def forward(self, q_BLHD: Tensor, k_BLHD: Tensor, v_BLHD: Tensor) -> Tensor:
        return attend(q_BLHD, k_BLHD, v_BLHD, self.projection_matrix, self.stabiliser)


def after_norm(layer: nn.Linear, norm: nn.LayerNorm, z_BLE: Tensor) -> Tensor:
    """Return layer(norm.weight z + norm.bias), the norm folded into the layer's weights.

    Then the norm's own gradient comes from that of the weights, and no product is needed for that of z, which behind
    frozen blocks nobody asks for.
    """
    weight = layer.weight  # read once: an adapter beside it may draw dropout whenever it is read
    return functional.linear(z_BLE, weight * norm.weight, functional.linear(norm.bias, weight, layer.bias))


class SelfAttention(nn.Module):
    """Multi-head self-attention over all tokens of a cell; the heads together may be wider than the model."""

    def __init__(self, dim: int, heads: int, dim_head: int, num_features: int, stabiliser: Stabiliser) -> None:
        super().__init__()
        self.heads = heads
        self.fast_attention = FastAttention(dim_head, num_features, stabiliser)
        self.to_q = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_k = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_v = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim)

    def forward(self, z_BLE: Tensor, norm: nn.LayerNorm) -> Tensor:
        layers = (self.to_q, self.to_k, self.to_v)
        parts = (after_norm(layer, norm, z_BLE).unflatten(-1, (self.heads, -1)) for layer in layers)
        return self.to_out(self.fast_attention(*parts).flatten(2))


class FeedForward(nn.Module):
    """Two layers with an exact GELU between them."""

    def __init__(self, dim: int, factor: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, dim * factor)
        self.w2 = nn.Linear(dim * factor, dim)

    def forward(self, z_BLE: Tensor, norm: nn.LayerNorm) -> Tensor:
        return self.w2(functional.gelu(after_norm(self.w1, norm, z_BLE)))


class Within(nn.Module):
    """Holds a module under the name `fn`, as the official names have it."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, z_BLE: Tensor, norm: nn.LayerNorm) -> Tensor:
        return self.fn(z_BLE, norm)


class PreNorm(Within):
    """Normalises the input of a module, which itself scales and shifts it (`after_norm`)."""

    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__(fn)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x_BLE: Tensor) -> Tensor:
        return self.fn(functional.layer_norm(x_BLE, self.norm.normalized_shape, eps=self.norm.eps), self.norm)


class Blocks(nn.Module):
    """The blocks, under `net.layers`: block i is [attention, feed-forward], both normalised first."""

    def __init__(self, blocks: list[nn.ModuleList]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(blocks)


class Performer(nn.Module):
    """A stack of blocks whose random projections are drawn anew at every 1001st call in training mode.

    The count of calls is part of the state (`calls_since_last_redraw`), but lives on the host: no call waits for a GPU.
    """

    def __init__(self, blocks: list[nn.ModuleList], redraw_after: int | None) -> None:
        super().__init__()
        self.net = Blocks(blocks)
        self.redraw_after = redraw_after
        self.calls = 0

    @torch.no_grad()
    def redraw(self, num_calls: int = 1) -> None:
        """Count training calls; draw all projections anew (frozen blocks' too) if `redraw_after` calls went by."""
        if not self.training or self.redraw_after is None:
            return
        if self.calls < self.redraw_after:
            self.calls += num_calls
            return
        for attention, _ in self.net.layers:
            attention.fn.fast_attention.redraw()
        self.calls = 0

    def run(self, x_BLE: Tensor, first: int, last: int) -> Tensor:
        """Return the output of blocks `first` to `last - 1`."""
        for attention, feed_forward in self.net.layers[first:last]:
            x_BLE = x_BLE + attention(x_BLE)
            x_BLE = x_BLE + feed_forward(x_BLE)
        return x_BLE

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "calls_since_last_redraw"] = torch.tensor(self.calls)

    def _load_from_state_dict(self, state: dict, prefix: str, metadata, strict, missing, unexpected, errors) -> None:
        key = prefix + "calls_since_last_redraw"
        super()._load_from_state_dict(state, prefix, metadata, strict, missing, unexpected, errors)
        if key in state:
            self.calls = int(state[key])
            unexpected[:] = [name for name in unexpected if name != key]
        elif strict:
            missing.append(key)


class Positions(nn.Module):
    """One vector per gene, under the official name `emb`."""

    def __init__(self, table_LE: Tensor, learned: bool) -> None:
        super().__init__()
        self.emb = nn.Embedding.from_pretrained(table_LE, freeze=not learned)

    def forward(self) -> Tensor:
        return self.emb.weight


class CellHead(nn.Module):
    """From [B, L, E] to logits [B, C]: one number per gene (the same E weights for all), then three layers."""

    def __init__(self, num_tokens: int, dim: int, num_classes: int, widths: tuple[int, int] = (512, 128)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 1, (1, dim))
        self.fc1 = nn.Linear(num_tokens, widths[0])
        self.fc2 = nn.Linear(widths[0], widths[1])
        self.fc3 = nn.Linear(widths[1], num_classes)

    def forward(self, x_BLE: Tensor) -> Tensor:
        gene_BL = functional.linear(x_BLE, self.conv1.weight[0, 0], self.conv1.bias).squeeze(-1)
        hidden = functional.relu(self.fc1(functional.relu(gene_BL)))
        return self.fc3(functional.relu(self.fc2(hidden)))


class PerformerLM(nn.Module):
    """Tokens [B, L] -> logits of `to_out`: [B, C] with a CellHead, [B, L, 7] with the head of pre-training."""

    def __init__(
        self,
        positions_LE: Tensor,
        *,
        depth: int,
        heads: int,
        dim_head: int = 64,
        num_features: int | None = None,
        ff_factor: int = 4,
        num_ids: int = 7,
        stabiliser: Stabiliser = "cell",
        redraw_after: int | None = REDRAW_AFTER,
        learned_positions: bool = False,
        cache_gigabytes: float = 0.0,
    ) -> None:
        super().__init__()
        if cache_gigabytes > 0 and (redraw_after is not None or stabiliser == "batch"):
            raise ValueError("a cached prefix needs fixed projections and cells that don't depend on their neighbours")
        self.cache = PrefixCache(cache_gigabytes) if cache_gigabytes > 0 else None
        dim = positions_LE.shape[1]
        num_features = int(dim_head * math.log(dim_head)) if num_features is None else num_features
        self.token_emb = nn.Embedding(num_ids, dim)
        self.pos_emb = Positions(positions_LE, learned_positions)
        blocks = []
        for _ in range(depth):
            attention = SelfAttention(dim, heads, dim_head, num_features, stabiliser)
            parts = PreNorm(dim, attention), PreNorm(dim, Within(FeedForward(dim, ff_factor)))
            blocks.append(nn.ModuleList(parts))
        self.performer = Performer(blocks, redraw_after)
        self.norm = nn.LayerNorm(dim)
        self.to_out: nn.Module = nn.Linear(dim, num_ids)
        self.cells_are_independent = stabiliser != "batch"
        self.cells_are_calls = False  # count each cell as a call: for batches of one that go through together

    @property
    def num_frozen(self) -> int:
        """Blocks at the start through which no gradient has to flow: what comes before the first trainable weight."""
        if any(p.requires_grad for part in (self.token_emb, self.pos_emb) for p in part.parameters()):
            return 0
        trained = [any(p.requires_grad for p in block.parameters()) for block in self.performer.net.layers]
        return trained.index(True) if True in trained else len(trained)

    def embed(self, tokens_BL: Tensor) -> Tensor:
        """Return token plus gene vectors, float32 [B, L, E]."""
        token_BLE = self.token_emb(tokens_BL)
        return token_BLE + self.pos_emb().to(token_BLE.dtype)

    def prefix(self, tokens_BL: Tensor) -> Tensor:
        """Return what enters the first trainable block, [B, L, E]; constant per cell while projections are fixed."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.num_frozen == 0):
            return self.performer.run(self.embed(tokens_BL), 0, self.num_frozen)

    def encode(self, tokens_BL: Tensor, prefix: Tensor | None = None) -> Tensor:
        """Return the normalised output of the last block, [B, L, E]; `prefix` saves the frozen blocks' work."""
        self.performer.redraw(len(tokens_BL) if self.cells_are_calls else 1)
        if prefix is None and self.cache is not None and self.num_frozen > 0:
            prefix = self.cache(tokens_BL, self._frozen_version(), self.prefix)
        x_BLE = self.prefix(tokens_BL) if prefix is None else prefix
        return self.norm(self.performer.run(x_BLE, self.num_frozen, len(self.performer.net.layers)))

    def _frozen_version(self) -> tuple[int, ...]:
        """Return what differs once anything before the first trained block was written to."""
        frozen = [self.token_emb, self.pos_emb, *self.performer.net.layers[: self.num_frozen]]
        tensors = [tensor for part in frozen for tensor in (*part.parameters(), *part.buffers())]
        return (self.num_frozen, *(tensor._version for tensor in tensors), *(tensor.data_ptr() for tensor in tensors))

    def forward(self, tokens: Tensor, prefix: Tensor | None = None) -> Tensor:
        return exactly(self.to_out, self.encode(tokens, prefix))
