"""Made-up cells, networks at official size with random weights, and trainers around them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from gpu_parts.scene import Scene

NUM_CLASSES = 10
V2_104M = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}


@dataclass(frozen=True)
class Flops:
    """Multiplications and additions of one training step on cells of these lengths, as our networks do them.

    matrix: products with weights, 6 per weight and token; attention: those of token with token; by_parameters: the
    usual 6 x N x tokens, N the weights of all layers, though our last layer works out `<cls>` alone.
    """

    matrix: Callable[[np.ndarray], float]
    attention: Callable[[np.ndarray], float]
    by_parameters: Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Case:
    """A network, its cells and how it is trained. options: what upstream's implementation must know."""

    name: str
    model: str
    build: Callable[[], nn.Module]
    encoded: Any
    recipe: dict[str, Any]
    flops: Flops
    options: dict[str, Any]

    def with_batch(self, batch_size: int) -> "Case":
        return replace(self, recipe=self.recipe | {"batch_size": batch_size})

    @property
    def batch_size(self) -> int:
        return self.recipe["batch_size"]


def made_up(lengths: np.ndarray, num_tokens: int, values: bool, fixed_tokens: int = 0, seed: int = 0) -> Any:
    """Return cells with these numbers of tokens, all ids below `num_tokens` less three; values: bins 1 to 50."""
    from data_pipeline.shards.encoded import Encoded

    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = rng.integers(0, fixed_tokens if fixed_tokens else num_tokens - 3, offsets[-1]).astype(np.int32)
    bins = rng.integers(1, 51, offsets[-1]).astype(np.float32) if values else None
    return Encoded(ids, bins, offsets)


def ragged(num_cells: int, longest: int, seed: int = 0) -> np.ndarray:
    """Return numbers of tokens per cell: log-normal about half the longest, cut there."""
    rng = np.random.default_rng(seed)
    return np.clip(rng.lognormal(np.log(longest / 2), 0.5, num_cells), 16, longest).astype(np.int64)


def labels_of(encoded: Any) -> np.ndarray:
    return np.random.default_rng(1).integers(0, NUM_CLASSES, len(encoded))


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, progress: float) -> torch.Tensor:
    return functional.cross_entropy(logits, labels)


def trainer_of(case: Case, scene: Scene, network: nn.Module | None = None, **recipe: Any) -> Any:
    """Return our trainer of a case, on the scene's device."""
    from trainables.spec import get
    from trainables.training.loop import Trainer

    spec = get(case.model)
    wanted = spec.recipe(None, "official").model_copy(update=case.recipe | recipe)
    torch.manual_seed(0)
    network = case.build() if network is None else network
    return Trainer(network, wanted, cross_entropy, feed_of(case, wanted.batch_size), 0, scene.device)


def feed_of(case: Case, batch_size: int) -> Any:
    from data_pipeline.shards.feed import Feed
    from trainables.spec import get

    return Feed(case.encoded, labels_of(case.encoded), get(case.model).collate, batch_size)


# --- the networks


def scgpt(scene: Scene, num_cells: int, tokens: int = 1024, **options: Any) -> Case:
    """scGPT of 51 M weights, every cell of `tokens` tokens."""
    size = {"size": scene.pick("official", "tiny")}
    tokens, num_tokens = scene.pick(tokens, 24), scene.pick(60697, 60)
    num_cells, batch = scene.pick(num_cells, 12), scene.pick(32, 4)
    encoded = made_up(np.full(num_cells, tokens), num_tokens, values=True)

    def build() -> nn.Module:
        from trainables.spec import get

        return get("scgpt").build(NUM_CLASSES, num_tokens=num_tokens, **size, **options)

    sizes = scgpt_sizes(size["size"])
    width, hidden, layers = sizes["width"], sizes["hidden"], sizes["num_layers"]
    flops = transformer_flops(width, hidden, layers, beside=width**2)
    told = sizes | {"num_tokens": num_tokens, "dropout": 0.2}
    return Case(f"scgpt-{tokens}", "scgpt", build, encoded, {"batch_size": batch}, flops, told)


def scgpt_sizes(size: str) -> dict[str, int]:
    from trainables.models.scgpt.model import SIZES

    return SIZES[size]


def geneformer(scene: Scene, version: str, num_cells: int) -> Case:
    """Geneformer-V1-10M or V2-104M on ragged cells of up to 2,048 or 4,096 tokens."""
    from trainables.models.geneformer.model import PUBLISHED, SIZES

    sizes = {"V1-10M": SIZES["official"], "V2-104M": V2_104M}[version]
    sizes = scene.pick(sizes, {**sizes, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64})
    sizes = scene.pick(sizes, sizes | {"num_attention_heads": 2})
    longest = scene.pick({"V1-10M": 2048, "V2-104M": 4096}[version], 40)
    num_tokens = scene.pick({"V1-10M": 25426, "V2-104M": 20275}[version], 80)
    config = PUBLISHED | sizes | {"vocab_size": num_tokens, "max_position_embeddings": longest}
    encoded = made_up(ragged(scene.pick(num_cells, 12), longest), num_tokens, values=False)

    def build() -> nn.Module:
        from trainables.networks.bert import Bert

        return Bert(config, NUM_CLASSES)

    flops = transformer_flops(sizes["hidden_size"], sizes["intermediate_size"], sizes["num_hidden_layers"])
    recipe = {"batch_size": scene.pick(12, 4), "warmup": 0.1}
    return Case(f"geneformer-{version}", "geneformer", build, encoded, recipe, flops, config)


def transformer_flops(width: int, hidden: int, layers: int, beside: int = 0) -> Flops:
    """Our last layer makes keys and values of all tokens, and the rest of the first one; beside: weights elsewhere."""
    layer = 4 * width**2 + 2 * width * hidden
    used = (layers - 1) * layer + 2 * width**2 + beside
    return Flops(
        lambda lengths: 6.0 * used * float(lengths.sum()),
        lambda lengths: 12.0 * (layers - 1) * width * float((lengths.astype(float) ** 2).sum()),
        lambda lengths: 6.0 * (layers * layer + beside) * float(lengths.sum()),
    )


def scbert(scene: Scene, num_genes: int, num_cells: int, batch_size: int = 1, accumulate: int = 60) -> Case:
    """scBERT's size, trained as published: head, last norm and last block but one."""
    num_genes, batch_size, accumulate = scene.pick((num_genes, batch_size, accumulate), (30, 2, 3))
    length, size = num_genes + 1, scene.pick("official", "tiny")
    encoded = made_up(np.full(scene.pick(num_cells, 12), length), 9, values=False, fixed_tokens=6)

    def build() -> nn.Module:
        from trainables.spec import get
        from trainables.training.trained import choose

        spec = get("scbert")
        network = spec.build(NUM_CLASSES, num_tokens=length, size=size)
        choose(network, spec, "published", pretrained=True)
        return network

    def matrix(lengths: np.ndarray) -> float:
        return 26.5e6 * float(lengths.sum())  # 6 blocks forward (3.03e6 a token), the last two partly backward

    flops = Flops(matrix, lambda lengths: 0.0, matrix)
    recipe = {"batch_size": batch_size, "accumulate": accumulate, "carry_accumulation": False}
    name = f"scbert-{num_genes}-batch{batch_size}"
    return Case(name, "scbert", build, encoded, recipe, flops, {"num_tokens": length, "size": size})
