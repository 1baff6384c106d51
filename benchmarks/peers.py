"""What people run today, as training steps beside ours: the scgpt wheel, transformers' BERT, performer-pytorch."""

import functools
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import sparse
from torch import nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

Step = Callable[[np.ndarray], None]  # trains on the cells with these row numbers
PERFORMER = {"dim": 200, "depth": 6, "heads": 10, "dim_head": 64}


@dataclass(frozen=True)
class Data:
    """counts: float32 CSR [n, G]; genes: [G]; labels: int64 [n]."""

    counts: sparse.csr_matrix
    genes: list[str]
    labels: np.ndarray

    @property
    def num_classes(self) -> int:
        return int(self.labels.max()) + 1


def train_step(network: nn.Module, optimizer: torch.optim.Optimizer, logits: torch.Tensor, labels: np.ndarray) -> None:
    """Finish a step as both sides' loops do: cross entropy, backward, clipping at 1, optimiser."""
    loss = functional.cross_entropy(logits, torch.from_numpy(labels))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()


# --- scGPT


def scgpt_upstream(num_tokens: int, sizes: dict, encoded, data: Data) -> Step:
    """The wheel's model as its annotation script trains it: all cells padded, Adam at 1e-4, the MLM decoder run too."""
    pad = num_tokens - 3
    network = wheel_model().TransformerModel(
        num_tokens, sizes["width"], sizes["num_heads"], sizes["hidden"], sizes["num_layers"], nlayers_cls=3,
        n_cls=data.num_classes, vocab={"<pad>": pad}, dropout=sizes["dropout"], pad_value=-2, n_input_bins=51,
        use_fast_transformer=False,
    )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    places = np.arange(encoded.lengths.max()) < encoded.lengths[:, None]
    ids, values = np.full(places.shape, pad, np.int64), np.full(places.shape, -2, np.float32)
    ids[places], values[places] = encoded.ids, encoded.values

    def step(rows: np.ndarray) -> None:
        src, val = torch.from_numpy(ids[rows]), torch.from_numpy(values[rows])
        out = network(src, val, src_key_padding_mask=src.eq(pad), CLS=True)
        train_step(network, optimizer, out["cls_output"], data.labels[rows])

    return step


@functools.cache
def wheel_model():
    """Return the wheel's scgpt/model/model.py alone: the package can't be imported beside this torch."""
    import importlib
    import types
    from importlib.util import find_spec

    package = types.ModuleType("scgpt_model_alone")
    package.__path__ = [str(Path(find_spec("scgpt").origin).parent / "model")]
    sys.modules["scgpt_model_alone"] = package
    warnings.simplefilter("ignore")
    return importlib.import_module("scgpt_model_alone.model")


# --- Geneformer


def bert_upstream(options: dict, config: dict, encoded, data: Data) -> Step:
    """transformers' BertForSequenceClassification on right-padded cells, AdamW at 5e-5."""
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"vocab_size": options["num_tokens"], "max_position_embeddings": options["num_positions"]}
    wanted = BertConfig(**config, **sizes, num_labels=data.num_classes, attn_implementation="sdpa")
    network = BertForSequenceClassification(wanted)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-5, weight_decay=0.001)

    def step(rows: np.ndarray) -> None:
        cells = [torch.from_numpy(encoded.take(rows[i : i + 1]).ids.astype(np.int64)) for i in range(len(rows))]
        ids = nn.utils.rnn.pad_sequence(cells, batch_first=True)
        mask = torch.arange(ids.shape[1]) < torch.tensor([len(cell) for cell in cells])[:, None]
        logits = network(input_ids=ids, attention_mask=mask.long()).logits
        train_step(network, optimizer, logits, data.labels[rows])

    return step


# --- scBERT


def performer_upstream(table: torch.Tensor, spec, encoded, data: Data) -> Step:
    """performer-pytorch's PerformerLM with scBERT's settings, head and frozen parameters, Adam at 1e-4."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from performer_pytorch import PerformerLM as Theirs
    from trainables.networks.performer import CellHead

    settings = {"rotary_position_emb": False, "attn_out_bias": True, "feature_redraw_interval": 1000}
    network = Theirs(num_tokens=7, max_seq_len=len(table), **PERFORMER, **settings)
    network.pos_emb.emb.weight.data.copy_(table)
    network.to_out = CellHead(len(table), 200, data.num_classes)
    network.requires_grad_(False)
    for part in (network.norm, network.to_out, network.performer.net.layers[-2]):
        part.requires_grad_(True)
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-4)

    def step(rows: np.ndarray) -> None:
        train_step(network, optimizer, network(spec.collate(encoded, rows)["tokens"]), data.labels[rows])

    return step
