"""scGPT's transformer with a classifier on `<cls>`, over packed tokens; parameter names are those of the official file.

Shapes: T tokens of all B cells, E width, H heads, D = E / H, C classes. Cui et al. 2024, Nature Methods;
the layout follows github.com/bowang-lab/scGPT, scgpt/model/model.py (MIT).
"""

from torch import Tensor, nn
from torch.nn import functional

from trainables.networks.attention import Cells, attend, attend_first, cells_of
from trainables.networks.dropout import add_dropped, relu_dropped
from trainables.networks.exact import exactly

MAX_VALUE = 512.0  # larger values are cut before they are embedded


class ScGPT(nn.Module):
    """network(ids, values, offsets) -> logits [B, C].

    Tokens are packed end to end, each cell's first token is `<cls>`. Only `<cls>` is read out, so that the last layer
    computes nothing else. `pre_norm` is upstream's own variant, which isn't the textbook's (`Layer`).
    """

    def __init__(
        self,
        num_tokens: int,
        num_classes: int,
        *,
        width: int,
        hidden: int,
        num_layers: int,
        num_heads: int,
        num_layers_cls: int = 3,
        dropout: float = 0.2,
        pre_norm: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = GeneEncoder(num_tokens, width)
        self.value_encoder = ValueEncoder(width)
        self.transformer_encoder = nn.Module()
        layers = [Layer(width, hidden, num_heads, dropout, pre_norm) for _ in range(num_layers)]
        self.transformer_encoder.layers = nn.ModuleList(layers)
        self.cls_decoder = Classifier(width, num_classes, num_layers_cls)
        self.dropout = dropout

    def forward(self, ids: Tensor, values: Tensor, offsets: Tensor, longest: int | None = None) -> Tensor:
        """ids int [T], values float [T], offsets int [B + 1], longest: tokens of the longest cell -> logits [B, C]."""
        return exactly(self.cls_decoder, self.embed(ids, values, offsets, longest))

    def embed(self, ids: Tensor, values: Tensor, offsets: Tensor, longest: int | None = None) -> Tensor:
        """Return each cell's embedding [B, E]: `<cls>` after the last layer."""
        cells = cells_of(offsets, longest)
        rate = self.dropout if self.encoder.training else 0.0
        x_TE = add_dropped(self.encoder(ids), self.value_encoder(values), rate)
        *layers, last = self.transformer_encoder.layers
        for layer in layers:
            x_TE = layer(x_TE, cells)
        return last.first(x_TE, cells)


class GeneEncoder(nn.Module):
    """Token ids -> LN(embedding), [T, E]; normalises whichever is fewer, the vocabulary or the tokens."""

    def __init__(self, num_tokens: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_tokens, width)
        self.enc_norm = nn.LayerNorm(width)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def forward(self, ids_T: Tensor) -> Tensor:
        if len(ids_T) > self.embedding.num_embeddings:
            return functional.embedding(ids_T, self.enc_norm(self.embedding.weight))
        return self.enc_norm(self.embedding(ids_T))


class ValueEncoder(nn.Module):
    """Bins -> LN(W2 relu(W1 min(bin, 512))), [T, E]; on a CPU each distinct bin is worked out once."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(1, width)
        self.linear2 = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, values_T: Tensor) -> Tensor:
        if values_T.device.type != "cpu":  # finding the distinct ones would make the host wait for the GPU
            return self._embed(values_T)
        bins, place_T = values_T.unique(return_inverse=True)
        return functional.embedding(place_T, self._embed(bins))

    def _embed(self, values_T: Tensor) -> Tensor:
        values_T1 = values_T.clamp(max=MAX_VALUE).unsqueeze(1)
        return self.norm(self.linear2(functional.relu(self.linear1(values_T1))))


class SelfAttention(nn.Module):
    """Rows of Wqkv: all heads' queries, then keys, then values; dropout on the attention probabilities."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.Wqkv = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        self.num_heads, self.dropout = num_heads, dropout
        nn.init.xavier_uniform_(self.Wqkv.weight)
        nn.init.zeros_(self.Wqkv.bias)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x_TE: Tensor, cells: Cells) -> Tensor:
        qkv_T3HD = self.Wqkv(x_TE).unflatten(1, (3, self.num_heads, -1))
        return self.out_proj(attend(qkv_T3HD, cells, self._rate()).flatten(1))

    def first(self, x_TE: Tensor, first_BE: Tensor, cells: Cells) -> Tensor:
        """Return the attention of each cell's first token alone, [B, E]."""
        width = x_TE.shape[1]
        weight, bias = self.Wqkv.weight, self.Wqkv.bias
        q_BHD = functional.linear(first_BE, weight[:width], bias[:width]).unflatten(1, (self.num_heads, -1))
        kv_TE = functional.linear(x_TE, weight[width:], bias[width:])
        kv_T2HD = kv_TE.unflatten(1, (2, self.num_heads, -1))
        return self.out_proj(attend_first(q_BHD, kv_T2HD, cells, self._rate()).flatten(1))

    def _rate(self) -> float:
        return self.dropout if self.training else 0.0


class Layer(nn.Module):
    """Post-norm: x = LN1(x + attention(x)); x = LN2(x + feed(x)).

    pre_norm, as upstream's flash layer has it: x = LN1(x); x = x + attention(x); x = LN2(x); x = x + feed(x).
    """

    def __init__(self, width: int, hidden: int, num_heads: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.self_attn = SelfAttention(width, num_heads, dropout)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout, self.pre_norm = dropout, pre_norm

    def forward(self, x_TE: Tensor, cells: Cells) -> Tensor:
        if self.pre_norm:
            x_TE = self.norm1(x_TE)
        return self._after_attention(x_TE, self.self_attn(x_TE, cells))

    def first(self, x_TE: Tensor, cells: Cells) -> Tensor:
        """Return the layer's output for each cell's first token alone, [B, E]."""
        if self.pre_norm:
            x_TE = self.norm1(x_TE)
        first_BE = x_TE[cells.offsets_B1[:-1]]
        return self._after_attention(first_BE, self.self_attn.first(x_TE, first_BE, cells))

    def _after_attention(self, x_TE: Tensor, context_TE: Tensor) -> Tensor:
        rate = self.dropout if self.training else 0.0
        x_TE = add_dropped(x_TE, context_TE, rate)
        x_TE = self.norm2(x_TE) if self.pre_norm else self.norm1(x_TE)
        x_TE = add_dropped(x_TE, self.linear2(relu_dropped(self.linear1(x_TE), rate)), rate)
        return x_TE if self.pre_norm else self.norm2(x_TE)


class Classifier(nn.Module):
    """(num_layers - 1) x [Linear, ReLU, LN], then Linear to the classes."""

    def __init__(self, width: int, num_classes: int, num_layers: int) -> None:
        super().__init__()
        parts = [
            part for _ in range(num_layers - 1) for part in (nn.Linear(width, width), nn.ReLU(), nn.LayerNorm(width))
        ]
        self._decoder = nn.Sequential(*parts)
        self.out_layer = nn.Linear(width, num_classes)

    def forward(self, x_BE: Tensor) -> Tensor:
        return self.out_layer(self._decoder(x_BE))


class Head(nn.Module):
    """The classifier alone, named as in the network: network(vectors [B, E]) -> logits [B, C]."""

    def __init__(self, width: int, num_classes: int, num_layers: int) -> None:
        super().__init__()
        self.cls_decoder = Classifier(width, num_classes, num_layers)

    def forward(self, vectors: Tensor) -> Tensor:
        return exactly(self.cls_decoder, vectors)
