"""Geneformer's network: BERT with a classifier on each cell's first token, over packed tokens; names as Hugging Face's.

Shapes: T tokens of all B cells, E width, H heads, D = E / H, C classes. Devlin et al. 2018; the names of parameters are
those of transformers' BertForSequenceClassification, so that official files load strictly.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.networks.attention import Cells, attend, attend_first, cells_of
from trainables.networks.dropout import add_dropped
from trainables.networks.exact import exactly

ACTIVATIONS = {"relu": functional.relu, "gelu": functional.gelu}
DEFAULTS = {  # what a config.json may leave out: transformers' own values
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "classifier_dropout": None,
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}


class Bert(nn.Module):
    """network(input_ids, ...) -> logits [B, C]. Only the first token is read out: the last layer computes nothing else.

    config: the fields of an official config.json.
    """

    def __init__(self, config: dict[str, Any], num_classes: int) -> None:
        super().__init__()
        config = DEFAULTS | config
        self.bert = Body(config)
        self.classifier = nn.Linear(config["hidden_size"], num_classes)
        rate = config["classifier_dropout"]
        self.dropout = config["hidden_dropout_prob"] if rate is None else rate
        self.apply(lambda module: _initialise(module, config["initializer_range"]))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        offsets: Tensor | None = None,
        longest: int | None = None,
    ) -> Tensor:
        """Packed: input_ids, positions int [T], offsets int [B + 1], longest: tokens of the longest cell.

        Padded, as Hugging Face's: input_ids int [B, L], attention_mask [B, L], 0 where a token is padding.
        """
        if offsets is None:
            input_ids, positions, offsets, longest = pack(input_ids, attention_mask)
        cells = cells_of(offsets, longest)
        pooled_BE = self.bert(input_ids, positions, cells)
        return exactly(self.classifier, functional.dropout(pooled_BE, self.dropout, self.training))


class Head(nn.Module):
    """Pooler and classifier alone, named as in the network: network(vectors [B, E]) -> logits [B, C]."""

    def __init__(self, config: dict[str, Any], num_classes: int) -> None:
        super().__init__()
        config = DEFAULTS | config
        self.bert = nn.Module()
        self.bert.pooler = nn.Module()
        self.bert.pooler.dense = nn.Linear(config["hidden_size"], config["hidden_size"])
        self.classifier = nn.Linear(config["hidden_size"], num_classes)
        rate = config["classifier_dropout"]
        self.dropout = config["hidden_dropout_prob"] if rate is None else rate
        self.apply(lambda module: _initialise(module, config["initializer_range"]))

    def forward(self, vectors: Tensor) -> Tensor:
        pooled_BE = torch.tanh(exactly(self.bert.pooler.dense, vectors))
        return exactly(self.classifier, functional.dropout(pooled_BE, self.dropout, self.training))


def pack(input_ids_BL: Tensor, mask_BL: Tensor | None) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return (ids [T], positions [T], offsets [B + 1], room per cell) of right-padded cells."""
    real_BL = torch.ones_like(input_ids_BL, dtype=torch.bool) if mask_BL is None else mask_BL.bool()
    places_L = torch.arange(input_ids_BL.shape[1], device=input_ids_BL.device)
    offsets_B1 = functional.pad(real_BL.sum(1).cumsum(0), (1, 0))
    return input_ids_BL[real_BL], places_L.expand_as(input_ids_BL)[real_BL], offsets_B1, len(places_L)


class Body(nn.Module):
    """Embeddings, layers and pooler."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.pooler = nn.Module()
        self.pooler.dense = nn.Linear(config["hidden_size"], config["hidden_size"])

    def forward(self, ids_T: Tensor, positions_T: Tensor, cells: Cells) -> Tensor:
        """Return tanh(W first token), [B, E]."""
        x_TE = self.embeddings(ids_T, positions_T)
        *layers, last = self.encoder.layer
        for layer in layers:
            x_TE = layer(x_TE, cells)
        return torch.tanh(exactly(self.pooler.dense, last.first(x_TE, cells)))


class Embeddings(nn.Module):
    """LN(gene + rank + type 0) with dropout, [T, E]."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.word_embeddings = nn.Embedding(config["vocab_size"], width, padding_idx=config["pad_token_id"])
        self.position_embeddings = nn.Embedding(config["max_position_embeddings"], width)
        self.token_type_embeddings = nn.Embedding(config["type_vocab_size"], width)
        self.LayerNorm = nn.LayerNorm(width, eps=config["layer_norm_eps"])
        self.dropout = config["hidden_dropout_prob"]

    def forward(self, ids_T: Tensor, positions_T: Tensor) -> Tensor:
        x_TE = self.word_embeddings(ids_T) + self.token_type_embeddings.weight[0]
        x_TE = self.LayerNorm(x_TE + self.position_embeddings(positions_T))
        return functional.dropout(x_TE, self.dropout, self.training)


class Layer(nn.Module):
    """Post-norm: x = LN(x + drop(attention(x))); x = LN(x + drop(feed(x)))."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, hidden = config["hidden_size"], config["intermediate_size"]
        self.attention = nn.Module()
        self.attention.self = SelfAttention(
            width, config["num_attention_heads"], config["attention_probs_dropout_prob"]
        )
        self.attention.output = AddNorm(width, width, config)
        self.intermediate = nn.Module()
        self.intermediate.dense = nn.Linear(width, hidden)
        self.output = AddNorm(hidden, width, config)
        self.activation = ACTIVATIONS[config["hidden_act"]]

    def forward(self, x_TE: Tensor, cells: Cells) -> Tensor:
        return self._after_attention(x_TE, self.attention.self(x_TE, cells))

    def first(self, x_TE: Tensor, cells: Cells) -> Tensor:
        """Return the layer's output for each cell's first token alone, [B, E]."""
        first_BE = x_TE[cells.offsets_B1[:-1]]
        return self._after_attention(first_BE, self.attention.self.first(x_TE, first_BE, cells))

    def _after_attention(self, x_TE: Tensor, attended_TE: Tensor) -> Tensor:
        x_TE = self.attention.output(attended_TE, x_TE)
        return self.output(self.activation(self.intermediate.dense(x_TE)), x_TE)


class SelfAttention(nn.Module):
    """All heads' attention within each cell, [T, E], dropout on the probabilities; without the output projection."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.num_heads, self.dropout = num_heads, dropout

    def forward(self, x_TE: Tensor, cells: Cells) -> Tensor:
        qkv_T3HD = self._project(x_TE, (self.query, self.key, self.value))
        return attend(qkv_T3HD, cells, self._rate()).flatten(1)

    def first(self, x_TE: Tensor, first_BE: Tensor, cells: Cells) -> Tensor:
        """Return the attention of each cell's first token alone, [B, E]."""
        q_BHD = self._project(first_BE, (self.query,)).squeeze(1)
        kv_T2HD = self._project(x_TE, (self.key, self.value))
        return attend_first(q_BHD, kv_T2HD, cells, self._rate()).flatten(1)

    def _project(self, x_TE: Tensor, parts: tuple[nn.Linear, ...]) -> Tensor:
        """Return the parts' outputs, [T, number of parts, H, D], from one matrix product."""
        weight, bias = torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
        return functional.linear(x_TE, weight, bias).unflatten(1, (len(parts), self.num_heads, -1))

    def _rate(self) -> float:
        return self.dropout if self.training else 0.0


class AddNorm(nn.Module):
    """LN(x + drop(W y)), [T, E]."""

    def __init__(self, wide: int, width: int, config: dict[str, Any]) -> None:
        super().__init__()
        self.dense = nn.Linear(wide, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config["layer_norm_eps"])
        self.dropout = config["hidden_dropout_prob"]

    def forward(self, y_TF: Tensor, x_TE: Tensor) -> Tensor:
        return self.LayerNorm(add_dropped(x_TE, self.dense(y_TF), self.dropout if self.training else 0.0))


def _initialise(module: nn.Module, spread: float) -> None:
    """Set normal weights, zero biases and a zero vector for padding, as Hugging Face does."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=spread)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        nn.init.zeros_(module.weight[module.padding_idx])
