"""What people run today, on the device: scgpt's model, transformers' BERT, performer-pytorch; padded as they pad."""

import functools
import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

from gpu_parts.props.cells import NUM_CLASSES, Case, labels_of
from gpu_parts.scene import Scene, Skip

Step = Callable[[np.ndarray], None]
ALONE = "scgpt_model_alone"
NUMBERS = {"scgpt": "bfloat16 autocast", "geneformer": "bfloat16 autocast", "scbert": "float32"}  # on a GPU


def step_of(case: Case, scene: Scene) -> Step:
    """Return a training step on the cells with these row numbers; Skip where upstream can't be imported."""
    return {"scgpt": scgpt, "geneformer": bert, "scbert": performer}[case.model](case, scene)


def train_step(network: nn.Module, optimizer: torch.optim.Optimizer, logits: Tensor, labels: Tensor) -> None:
    loss = functional.cross_entropy(logits.float(), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()


def on_device(scene: Scene, array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).to(scene.device)


def half(scene: Scene) -> Any:
    """The same 16-bit numbers as ours; on a CPU float32, as ours."""
    return torch.autocast(scene.device.type, torch.bfloat16, enabled=not scene.rehearse)


def scgpt(case: Case, scene: Scene) -> Step:
    """The wheel's model as its annotation script trains it: padded to the longest cell, Adam, MLM decoder run too."""
    told, encoded = case.options, case.encoded
    pad = told["num_tokens"] - 3
    network = scgpt_module(scene.scgpt_source).TransformerModel(
        told["num_tokens"], told["width"], told["num_heads"], told["hidden"], told["num_layers"], nlayers_cls=3,
        n_cls=NUM_CLASSES, vocab={"<pad>": pad}, dropout=told["dropout"], pad_value=-2, n_input_bins=51,
        use_fast_transformer=False,
    ).to(scene.device)  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    places = np.arange(encoded.lengths.max()) < encoded.lengths[:, None]
    ids, values = np.full(places.shape, pad, np.int64), np.full(places.shape, -2, np.float32)
    ids[places], values[places] = encoded.ids, encoded.values
    labels = labels_of(encoded)

    def step(rows: np.ndarray) -> None:
        src, val = on_device(scene, ids[rows]), on_device(scene, values[rows])
        with half(scene):
            out = network(src, val, src_key_padding_mask=src.eq(pad), CLS=True)
        train_step(network, optimizer, out["cls_output"], on_device(scene, labels[rows]))

    return step


@functools.cache
def scgpt_module(source: Path | None) -> Any:
    """Return scgpt/model/model.py alone, of the wheel or of a file: the package can't be imported beside this torch.

    What lies beside it and annotation doesn't need is replaced by nothing where it is missing.
    """
    found = find_spec("scgpt") if source is None else None
    if source is None and (found is None or found.origin is None):
        raise Skip("scgpt isn't installed; name its model.py with --scgpt-source")
    path = Path(found.origin).parent / "model" / "model.py" if source is None else source
    package = types.ModuleType(ALONE)
    package.__path__ = [str(path.parent)]
    sys.modules[ALONE] = package
    for name, needed in {"dsbn": "DomainSpecificBatchNorm1d", "grad_reverse": "grad_reverse"}.items():
        if not path.with_name(f"{name}.py").exists():
            sys.modules[f"{ALONE}.{name}"] = types.ModuleType(name)
            setattr(sys.modules[f"{ALONE}.{name}"], needed, None)
    warnings.simplefilter("ignore")
    spec = importlib.util.spec_from_file_location(f"{ALONE}.model", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def bert(case: Case, scene: Scene) -> Step:
    """transformers' BertForSequenceClassification (sdpa), right-padded to the longest cell of a batch, AdamW."""
    try:
        from transformers import BertConfig, BertForSequenceClassification
    except ImportError as error:
        raise Skip(f"transformers can't be imported: {error}") from error
    config = case.options | {"layer_norm_eps": 1e-12, "pad_token_id": 0}
    wanted = BertConfig(**config, num_labels=NUM_CLASSES, attn_implementation="sdpa")
    network = BertForSequenceClassification(wanted).to(scene.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-5, weight_decay=0.001)
    labels = labels_of(case.encoded)

    def step(rows: np.ndarray) -> None:
        part = case.encoded.take(rows)
        places = np.arange(part.lengths.max()) < part.lengths[:, None]
        ids = np.zeros(places.shape, np.int64)
        ids[places] = part.ids
        with half(scene):
            out = network(input_ids=on_device(scene, ids), attention_mask=on_device(scene, places.astype(np.int64)))
        train_step(network, optimizer, out.logits, on_device(scene, labels[rows]))

    return step


def performer(case: Case, scene: Scene) -> Step:
    """performer-pytorch's PerformerLM with scBERT's settings, head and frozen parameters, Adam, float32."""
    try:
        import setuptools  # noqa: F401  # puts distutils back, which performer-pytorch imports

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from performer_pytorch import PerformerLM
    except ImportError as error:
        raise Skip(f"performer-pytorch can't be imported: {error}") from error
    from trainables.networks.performer import CellHead

    length, encoded = case.options["num_tokens"], case.encoded
    sizes = scene.pick((200, 6, 10, 64), (8, 2, 2, 8))
    settings = dict(zip(("dim", "depth", "heads", "dim_head"), sizes, strict=True))
    settings |= {"rotary_position_emb": False, "attn_out_bias": True, "feature_redraw_interval": 1000}
    network = PerformerLM(num_tokens=7, max_seq_len=length, **settings)
    network.to_out = CellHead(length, sizes[0], NUM_CLASSES)
    network.requires_grad_(False)
    for part in (network.norm, network.to_out, network.performer.net.layers[-2]):
        part.requires_grad_(True)
    network.to(scene.device)
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-4)
    tokens, labels = encoded.ids.reshape(-1, length), labels_of(encoded)

    def step(rows: np.ndarray) -> None:
        logits = network(on_device(scene, tokens[rows].astype(np.int64)))
        train_step(network, optimizer, logits, on_device(scene, labels[rows]))

    return step
