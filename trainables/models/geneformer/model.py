"""Geneformer (Theodoris et al. 2023): a BERT that reads a cell's genes in order of their relative expression."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from data_pipeline.errors import RequestError
from data_pipeline.genes import coverage
from data_pipeline.shards.encoded import as_ranks
from trainables.models.geneformer.encoder import GeneformerEncoder
from trainables.models.geneformer.medians import fit_encoder
from trainables.models.geneformer.vocabulary import VOCABULARY_FILES, from_dataset, from_folder, per_token, read_config
from trainables.spec import Adaptable, Encoded, LeastCoverage, ModelSpec, NetworkOptions, Recipe

HOME = "huggingface.co/ctheodoris/Geneformer"
STATE = "model.safetensors|pytorch_model.bin"
NETWORK_FILES = {
    "config.json": f"it is in the model's folder at {HOME}",
    STATE: f"it is in the model's folder at {HOME}",
}
FILES = NETWORK_FILES | VOCABULARY_FILES
SMALLER = {  # few epochs on little data need no dropout, and narrow layers larger weights to start with
    "attention_probs_dropout_prob": 0.0,
    "hidden_dropout_prob": 0.0,
    "initializer_range": 0.1,
}
SIZES = {
    "tiny": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32} | SMALLER,
    "small": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64} | SMALLER,
    "official": {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 512},
}
NEEDED = (*SIZES["official"], "vocab_size", "max_position_embeddings")
PUBLISHED = {"hidden_act": "relu", "attention_probs_dropout_prob": 0.02, "hidden_dropout_prob": 0.02}
LONGEST = {"V1": 2048, "V2": 4096}
SMALL_LENGTH = {"tiny": 64, "small": 128}
HEAD = "classifier."
FRESH = (HEAD, "bert.pooler.")
IGNORED = ("cls.predictions.", "bert.embeddings.position_ids")


class GeneformerOptions(NetworkOptions):
    """Options of Geneformer besides the weights."""

    sizes = {size: {"max_length": length} for size, length in SMALL_LENGTH.items()}
    model_version: Literal["auto", "V1", "V2"] = Field(
        "auto", description="V2 puts <cls> before and <eos> after the genes; auto: as the dictionaries say, else V2"
    )
    max_length: int | None = Field(None, ge=3, description="tokens per cell; default 2,048 (V1) or 4,096 (V2)")
    dropout: float | None = Field(None, ge=0, lt=1, description="of hidden states and attention; default the config's")
    min_coverage: LeastCoverage = 0.1
    column_tokens: bool = Field(False, description="defect: a gene's token is its column number, ranks by raw values")


def recipe(weights: Path | None, size: str) -> Recipe:
    """Return the published fine-tuning recipe, or one that learns from scratch.

    The authors warm up for 500 steps if the model has 6 layers (V1-10M), and not at all otherwise; small training sets
    have fewer steps than that, so here it is a tenth of all steps at most. A folder without config.json counts as 6.
    """
    if weights is not None or size == "official":
        config = SIZES["official"] | ({} if weights is None else read_config(Path(weights)))
        return Recipe(
            epochs=10,
            batch_size=12,
            optimizer="adamw",
            learning_rate=5e-5,
            weight_decay=0.001,
            schedule="linear",
            warmup=500 if config["num_hidden_layers"] == 6 else 0,
            warmup_share=0.1,
            clip=1.0,
        )
    return Recipe(
        epochs=10,
        batch_size=16,
        optimizer="adamw",
        learning_rate=3e-3,
        weight_decay=0.001,
        schedule="linear",
        warmup=0.1,
    )


def encoder(
    genes: list[str], weights: Path | str | None = None, *, medians: list[float] | None = None, **options: Any
) -> GeneformerEncoder:
    """Return the encoder of a dataset with these genes (columns, in order; symbols or Ensembl ids).

    medians: per column, from fit_encoder; 0 means never seen in training cells, and the gene is left out. With
    weights the folder's dictionaries count instead.
    """
    chosen = GeneformerOptions(**options)
    vocabulary = (
        from_folder(Path(weights), chosen.model_version) if weights else from_dataset(genes, chosen.model_version)
    )
    if medians is not None and not weights:
        vocabulary = vocabulary.with_medians(genes, medians)
    version = "V2" if vocabulary.has_specials else "V1"
    places, names = vocabulary.places(genes)
    vocabulary_name = "Geneformer's vocabulary of human Ensembl ids and symbols"
    known_genes = coverage(genes, places, chosen.min_coverage, vocabulary_name)
    longest = _max_length(chosen, version, Path(weights) if weights else None)
    network_options = {"num_tokens": vocabulary.num_tokens, "num_positions": longest}
    if chosen.column_tokens:
        return _by_column(genes, chosen, network_options, known_genes)
    return GeneformerEncoder(
        places=places,
        tokens=np.array([vocabulary.tokens[name] for name in names], dtype=np.int64),
        medians=np.array([vocabulary.medians[name] for name in names], dtype=np.float64),
        specials=vocabulary.specials,
        max_length=network_options["num_positions"],
        network_options=network_options,
        coverage=known_genes,
    )


def collate(encoded: Encoded, rows: np.ndarray) -> dict[str, Any]:
    """Return the cells `rows` as the network takes them, packed end to end: input_ids, positions int64 [T], offsets.

    A cell without tokens reads one `<pad>`. longest: tokens of the longest cell, which the host thus needn't ask the
    GPU for.
    """
    import torch

    part = encoded.take(rows)
    lengths = np.maximum(part.lengths, 1)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    input_ids = np.zeros(offsets[-1], dtype=np.int64)
    input_ids[np.repeat(part.lengths > 0, lengths)] = part.ids
    positions = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    return {
        "input_ids": torch.from_numpy(input_ids),
        "positions": torch.from_numpy(positions),
        "offsets": torch.from_numpy(offsets),
        "longest": int(lengths.max(initial=0)),
    }


def build(
    num_classes: int,
    weights: Path | str | None = None,
    *,
    num_tokens: int | None = None,
    num_positions: int | None = None,
    **options: Any,
) -> Any:
    """Return the network; with weights its sizes are config.json's, and pooler and classifier may be newly initialised.

    num_tokens, num_positions: the encoder's network_options; needed without weights.
    """
    from trainables.networks.bert import Bert

    chosen = GeneformerOptions(**options)
    if weights:
        return _pretrained(num_classes, Path(weights), num_tokens, chosen)
    if num_tokens is None or num_positions is None:
        raise ValueError(
            "without weights the network needs num_tokens and num_positions: pass the encoder's network_options"
        )
    config = SIZES[chosen.size] | {"vocab_size": num_tokens, "max_position_embeddings": num_positions}
    return Bert(_config(config, chosen), num_classes)


def build_head(num_classes: int, weights: Path | str, **options: Any) -> Any:
    """Return pooler and classifier alone, filled as in the network where the checkpoint has them."""
    from trainables import weights as files
    from trainables.networks.bert import Head

    chosen = {name: value for name, value in options.items() if name in GeneformerOptions.model_fields}
    head = Head(_config(read_config(Path(weights)), GeneformerOptions(**chosen)), num_classes)
    path = files.require(Path(weights), "geneformer", NETWORK_FILES)[STATE]
    head.fresh = files.fill(head, _state(path, num_classes, FRESH), FRESH, f"weights {weights}: {path.name}: ")
    return head


def convert(state: dict[str, Any]) -> dict[str, Any]:
    """Return an official state dict in our names, which are Hugging Face's, without the head of pre-training."""
    named = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in named.items() if not name.startswith(IGNORED)}


def _config(sizes: dict[str, Any], chosen: GeneformerOptions) -> dict[str, Any]:
    config = PUBLISHED | sizes
    if chosen.dropout is not None:
        config |= {"hidden_dropout_prob": chosen.dropout, "attention_probs_dropout_prob": chosen.dropout}
    return config


def _pretrained(num_classes: int, folder: Path, num_tokens: int | None, chosen: GeneformerOptions) -> Any:
    """Return the network with the folder's weights; RequestError unless all but pooler and classifier were filled."""
    from trainables import weights
    from trainables.networks.bert import Bert

    path = weights.require(folder, "geneformer", NETWORK_FILES)[STATE]
    config, where = _config(read_config(folder), chosen), f"weights {folder}: "
    problems = _config_problems(config, num_tokens)
    if problems:
        raise RequestError(*(f"{where}config.json: {problem}" for problem in problems))
    network = Bert(config, num_classes)
    state = _state(path, num_classes)
    network.fresh = weights.fill(network, state, FRESH, f"{where}{path.name}: ")
    strangers = sorted(state.keys() - network.state_dict().keys())
    if strangers:
        shown = ", ".join(strangers[:5])
        raise RequestError(f"{where}{path.name} holds weights that config.json's network doesn't have: {shown}")
    return network


def _state(path: Path, num_classes: int, parts: tuple[str, ...] = ("",)) -> dict[str, Any]:
    """Return what a checkpoint holds, in our names; a classifier of other types is none."""
    from trainables import weights

    state = convert(weights.load_state(path, parts))
    if HEAD + "weight" in state and len(state[HEAD + "weight"]) != num_classes:
        return {name: tensor for name, tensor in state.items() if not name.startswith(HEAD)}
    return state


def _config_problems(config: dict[str, Any], num_tokens: int | None) -> list[str]:
    """Return what is wrong with a config.json, [] if it describes a BERT that knows the tokens."""
    problems = [
        f"{name} is missing, or no whole number from 1 on"
        for name in NEEDED
        if type(config.get(name)) is not int or config[name] < 1
    ]
    if not problems and config["hidden_size"] % config["num_attention_heads"]:
        problems.append("hidden_size isn't a multiple of num_attention_heads")
    if not problems and num_tokens is not None and num_tokens > config["vocab_size"]:
        problems.append(
            f"vocab_size {config['vocab_size']} is less than the token dictionary's {num_tokens}: "
            "the dictionaries are of another version of Geneformer (V1 gc30M, V2 gc104M)"
        )
    if config["hidden_act"] not in ("relu", "gelu"):
        problems.append(f"hidden_act {config['hidden_act']!r} is unknown; Geneformer's is 'relu'")
    return problems


def _max_length(chosen: GeneformerOptions, version: str, folder: Path | None) -> int:
    """Return tokens per cell at most: the option, else the version's, or the size's if there are no weights.

    RequestError if the weights have fewer positions than the option asks for.
    """
    if folder is None:
        preset = SMALL_LENGTH.get(chosen.size, LONGEST[version])
        return preset if chosen.max_length is None else chosen.max_length
    positions = read_config(folder).get("max_position_embeddings", LONGEST[version])
    if chosen.max_length is not None and chosen.max_length > positions:
        raise RequestError(f"max_length {chosen.max_length}: these weights read {positions} tokens per cell at most")
    return min(positions, LONGEST[version]) if chosen.max_length is None else chosen.max_length


def _by_column(
    genes: list[str], chosen: GeneformerOptions, network_options: dict[str, Any], known_genes: dict[str, Any]
) -> GeneformerEncoder:
    """Return the published notebook's encoder: token = column number, in descending order of the values themselves."""
    num_tokens = network_options["num_tokens"]
    if len(genes) > num_tokens:
        raise RequestError(
            f"column_tokens gives each of {len(genes)} genes its column as token, but only {num_tokens} tokens exist; "
            "select fewer genes (genes: {select: hvg, n: 3000})"
        )
    columns = np.arange(len(genes))
    return GeneformerEncoder(
        places=columns,
        tokens=columns,
        medians=np.ones(len(genes)),
        specials=([], []),
        max_length=network_options["num_positions"],
        network_options=network_options,
        coverage=known_genes,
    )


SPEC = ModelSpec(
    name="geneformer",
    title="Geneformer",
    kind="network",
    options=GeneformerOptions,
    encoder=encoder,
    recipe=recipe,
    fit_encoder=fit_encoder,
    features=as_ranks,
    collate=collate,
    build=build,
    convert=convert,
    rests="bert.pooler.dense",
    build_head=build_head,
    of_head=("train", "dropout"),
    per_token=per_token,
    head=HEAD,
    fresh=FRESH[1:],
    adaptable=Adaptable("bert.encoder.", ("query", "key", "value", "dense"), ("query", "value")),
    files=FILES,
    signature=("config.json", "model.safetensors", "pytorch_model.bin", "token_dictionary*.pkl"),
)
