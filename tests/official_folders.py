"""Writes folders as people download them for scBERT and Geneformer, at any size, with random weights: not a test."""

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

BERT = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
SPECIAL = {"V1": ("<pad>", "<mask>"), "V2": ("<pad>", "<mask>", "<cls>", "<eos>")}


def write_scbert(
    parent: Path, genes: Sequence[str], *, dim: int = 6, depth: int = 3, heads: int = 2, dim_head: int = 8
) -> Path:
    """Return <parent>/scBERT with panglao_pretrain.pth (wrapped and of a parallel run), gene table and genes.txt."""
    folder = parent / "scBERT"
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(len(genes) + 1, dim, generator=generator, dtype=torch.float64)
    table[-1] = 0
    state = scbert_state(table, depth, heads, dim_head, generator)
    saved = {"module." + name: tensor for name, tensor in state.items()}
    torch.save({"epoch": 3, "model_state_dict": saved, "losses": 0.5}, folder / "panglao_pretrain.pth")
    np.save(folder / "gene2vec_16906.npy", table[:-1].numpy())
    (folder / "genes.txt").write_text("\n".join(genes) + "\n")
    return folder


def scbert_state(table: Tensor, depth: int, heads: int, dim_head: int, generator: torch.Generator) -> dict[str, Tensor]:
    """The official pre-training file's names: embeddings, blocks, norm, head over 7 tokens."""
    dim, inner = table.shape[1], heads * dim_head
    shapes = {"token_emb.weight": (7, dim), **_affine("norm", dim), **_linear("to_out", dim, 7)}
    for block in (f"performer.net.layers.{number}." for number in range(depth)):
        shapes |= _affine(block + "0.norm", dim) | _affine(block + "1.norm", dim)
        shapes[block + "0.fn.fast_attention.projection_matrix"] = (int(dim_head * np.log(dim_head)), dim_head)
        shapes |= {f"{block}0.fn.to_{part}.weight": (inner, dim) for part in "qkv"}
        shapes |= _linear(block + "0.fn.to_out", inner, dim)
        shapes |= _linear(block + "1.fn.fn.w1", dim, 4 * dim) | _linear(block + "1.fn.fn.w2", 4 * dim, dim)
    state = _random(shapes, generator)
    return state | {"pos_emb.emb.weight": table, "performer.calls_since_last_redraw": torch.tensor(12)}


def write_geneformer(
    parent: Path, ids: Sequence[str], version: str = "V2", *, safetensors: bool = True, **sizes
) -> Path:
    """Return <parent>/Geneformer-<version>: an MLM checkpoint without pooler, config.json, dictionaries beside them.

    Gene i of `ids` has the symbol G<i>, the old symbol OLD<i> (V2's mapping) and the median 1 + i / 10.
    """
    folder = parent / f"Geneformer-{version}"
    folder.mkdir(exist_ok=True)
    write_dictionaries(folder, ids, version)
    config = BERT | {"vocab_size": len(ids) + len(SPECIAL[version]), "max_position_embeddings": 32} | sizes
    config |= {"hidden_act": "relu", "model_type": "bert", "architectures": ["BertForMaskedLM"], "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config))
    state = mlm_state(config)
    if safetensors:
        save_file(state, folder / "model.safetensors")
    else:
        torch.save(state | {"bert.embeddings.position_ids": torch.arange(32)[None]}, folder / "pytorch_model.bin")
    return folder


def write_dictionaries(folder: Path, ids: Sequence[str], version: str) -> None:
    """Write the pickles; V1's numbers are numpy scalars, as in the official files."""
    number = np.int16 if version == "V1" else int
    tokens = dict.fromkeys(SPECIAL[version], 0) | dict.fromkeys(ids, 0)
    tokens = {name: number(token) if name in ids else token for token, name in enumerate(tokens)}
    dictionaries = {
        "token_dictionary": tokens,
        "gene_median_dictionary": {name: np.float64(1 + i / 10) for i, name in enumerate(ids)},
        "gene_name_id_dict": {f"G{i}": name for i, name in enumerate(ids)},
    }
    if version == "V2":
        old = {f"OLD{i}": name for i, name in enumerate(ids)}
        dictionaries["ensembl_mapping_dict"] = {name: name for name in ids} | old
    suffix = {"V1": "_gc30M", "V2": "_gc104M"}[version]
    for name, content in dictionaries.items():
        (folder / f"{name}{suffix}.pkl").write_bytes(pickle.dumps(content))


def mlm_state(config: dict) -> dict[str, Tensor]:
    """The names of BertForMaskedLM: everything but pooler and classifier, and the head of pre-training."""
    width, hidden = config["hidden_size"], config["intermediate_size"]
    shapes = {
        "bert.embeddings.word_embeddings.weight": (config["vocab_size"], width),
        "bert.embeddings.position_embeddings.weight": (config["max_position_embeddings"], width),
        "bert.embeddings.token_type_embeddings.weight": (2, width),
        "cls.predictions.bias": (config["vocab_size"],),
    } | _affine("bert.embeddings.LayerNorm", width)
    for layer in (f"bert.encoder.layer.{number}." for number in range(config["num_hidden_layers"])):
        for part in ("query", "key", "value"):
            shapes |= _linear(f"{layer}attention.self.{part}", width, width)
        shapes |= _linear(layer + "attention.output.dense", width, width)
        shapes |= _affine(layer + "attention.output.LayerNorm", width)
        shapes |= _linear(layer + "intermediate.dense", width, hidden) | _linear(layer + "output.dense", hidden, width)
        shapes |= _affine(layer + "output.LayerNorm", width)
    shapes |= _linear("cls.predictions.transform.dense", width, width)
    shapes |= _affine("cls.predictions.transform.LayerNorm", width)
    return _random(shapes, torch.Generator().manual_seed(2))


def _random(shapes: dict[str, tuple[int, ...]], generator: torch.Generator) -> dict[str, Tensor]:
    return {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _affine(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
