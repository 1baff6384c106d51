"""Writes a folder as people download it for scGPT, at any size, with random weights: not a test."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

SPECIAL = ("<pad>", "<cls>", "<eoc>")


def folder_args(**changes: int) -> dict:
    """args.json of a small model, with the keys the official file has and we don't need left in."""
    args = {"embsize": 8, "nheads": 2, "d_hid": 12, "nlayers": 2, "n_layers_cls": 3, "dropout": 0.1}
    return args | {"pad_token": "<pad>", "pad_value": -2, "n_bins": 51, "fast_transformer": True, **changes}


def write_folder(
    parent: Path, genes: Sequence[str], n_cls: int = 1, special: Sequence[str] = SPECIAL, args: dict | None = None
) -> Path:
    """Return <parent>/scGPT with args.json, vocab.json and best_model.pt in the flash layout, extra heads included."""
    args, folder = folder_args() if args is None else args, parent / "scGPT"
    folder.mkdir(exist_ok=True)
    vocabulary = {token: number for number, token in enumerate([*genes, *special])}
    (folder / "args.json").write_text(json.dumps(args))
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    generator = torch.Generator().manual_seed(0)
    shapes = official_shapes(args, len(vocabulary), n_cls)
    torch.save({name: _random(shape, generator) for name, shape in shapes.items()}, folder / "best_model.pt")
    return folder


def _random(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator) * 0.1


def official_shapes(args: dict, num_tokens: int, n_cls: int) -> dict[str, tuple[int, ...]]:
    """The official file's names and shapes: pretrained part, MLM and MVC decoders, flags, classifier."""
    width, hidden = args["embsize"], args["d_hid"]
    shapes = {"encoder.embedding.weight": (num_tokens, width), **_affine("encoder.enc_norm", width)}
    shapes |= {"flag_encoder.weight": (2, width)}
    shapes |= _linear("value_encoder.linear1", 1, width) | _linear("value_encoder.linear2", width, width)
    shapes |= _affine("value_encoder.norm", width)
    for layer in (f"transformer_encoder.layers.{number}." for number in range(args["nlayers"])):
        shapes |= _linear(layer + "self_attn.Wqkv", width, 3 * width) | _linear(
            layer + "self_attn.out_proj", width, width
        )
        shapes |= _linear(layer + "linear1", width, hidden) | _linear(layer + "linear2", hidden, width)
        shapes |= _affine(layer + "norm1", width) | _affine(layer + "norm2", width)
    for number, out in ((0, width), (2, width), (4, 1)):
        shapes |= _linear(f"decoder.fc.{number}", width, out)
    for number in range(args["n_layers_cls"] - 1):
        shapes |= _linear(f"cls_decoder._decoder.{3 * number}", width, width)
        shapes |= _affine(f"cls_decoder._decoder.{3 * number + 2}", width)
    shapes |= _linear("cls_decoder.out_layer", width, n_cls)
    return shapes | {"mvc_decoder.W.weight": (width, width), **_linear("mvc_decoder.gene2query", width, width)}


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _affine(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
