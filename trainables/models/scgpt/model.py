"""scGPT (Cui et al. 2024): binned expression over packed gene tokens, a classifier on `<cls>`."""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError

from data_pipeline.errors import RequestError
from data_pipeline.genes import coverage, looks_ensembl, numbered, strip_version
from trainables.models.scgpt.encoder import ScgptEncoder
from trainables.spec import SCRATCH, Adaptable, Encoded, LeastCoverage, ModelSpec, NetworkOptions, Recipe

CLS = "<cls>"
SPECIAL = ("<pad>", CLS, "<eoc>")
ZOO = "https://drive.google.com/drive/folders/1oWh_-ZRdhtoGQ2Fw24HP41FgLoomVo-y"
SOURCE = f"download the whole-human folder from {ZOO} (others: model zoo of github.com/bowang-lab/scGPT)"
FILES = dict.fromkeys(("args.json", "best_model.pt", "vocab.json"), SOURCE)
SIZES = {
    "tiny": {"width": 32, "hidden": 32, "num_layers": 2, "num_heads": 4},
    "small": {"width": 64, "hidden": 64, "num_layers": 2, "num_heads": 2},
    "official": {"width": 512, "hidden": 512, "num_layers": 12, "num_heads": 8},
}
ARGS = {"width": "embsize", "hidden": "d_hid", "num_layers": "nlayers", "num_heads": "nheads"}  # ours -> args.json's
DROPPED = ("decoder.", "mvc_decoder.", "flag_encoder.")  # pre-training heads: they change no logit
HEAD = "cls_decoder."
Own = Annotated[int | None, Field(ge=1, json_schema_extra=SCRATCH)]


class ScgptOptions(NetworkOptions):
    """None: as the weights' args.json says, else upstream's value."""

    sizes = SIZES
    n_bins: int = Field(51, ge=2, description="expression bins, the one for zero included")
    max_length: int = Field(
        3001, ge=2, description="tokens per cell at most, <cls> included; the rest is drawn at random"
    )
    min_coverage: LeastCoverage = 0.1
    draws: int = Field(
        1, ge=1, description="the test's probabilities are averaged over so many draws of the bins of equal counts"
    )
    include_zero: bool = Field(False, description="give the model unexpressed genes too")
    dropout: float | None = Field(None, ge=0, lt=1)
    pre_norm: bool = Field(False, description="upstream's own pre-norm variant")
    n_layers_cls: int | None = Field(None, ge=1, description="layers of the classifier")
    width: Own = Field(None, description="instead of the size's; without weights only")
    hidden: Own = Field(None, description="width of the feed-forward part, likewise")
    num_layers: Own = Field(None, description="likewise")
    num_heads: Own = Field(None, description="likewise")

    def idle(self, pretrained: bool) -> dict[str, str]:
        said, none = super().idle(pretrained), {"dropout": "what is frozen has none, nor has the classifier"}
        said |= none if self.train == "head" else {}
        if self.size != "official" and None not in (self.width, self.hidden, self.num_layers, self.num_heads):
            said["size"] = f"{', '.join(ARGS)} say it"
        return said


def recipe(weights: Path | None, size: str) -> Recipe:
    """Return the published fine-tuning recipe, or one that learns from scratch: a higher rate, decaying faster.

    The published eps is 1e-4, which most gradients of pretrained layers are below: with 1e-8 their steps would be more
    than three times as large. From scratch it is 1e-8.
    """
    rate = 1e-4 if weights is not None or size == "official" else 2e-3
    eps = 1e-8 if weights is None else 1e-4
    return Recipe(epochs=15, batch_size=32, learning_rate=rate, eps=eps, schedule="step", gamma=0.9, clip=1.0)


def encoder(genes: list[str], weights: Path | str | None = None, **options: Any) -> ScgptEncoder:
    """Return the encoder of a dataset with these genes (columns, in order); without weights all of them are known."""
    chosen = ScgptOptions(**options)
    vocabulary = _vocabulary(Path(weights))[0] if weights else _with_special({gene: i for i, gene in enumerate(genes)})
    symbols = _symbols(genes, vocabulary, Path(weights)) if weights else genes
    tokens = np.array([vocabulary.get(symbol, -1) for symbol in symbols], dtype=np.int64)
    known_genes = coverage(genes, tokens, chosen.min_coverage, "scGPT's vocabulary of human gene symbols")
    columns = np.flatnonzero(tokens >= 0)
    places, ids = numbered(tokens[columns])
    return ScgptEncoder(
        columns=columns,
        places=None if len(ids) == len(columns) else places,
        ids=ids.astype(np.int32),
        cls=vocabulary[CLS],
        num_genes=len(genes),
        n_bins=chosen.n_bins,
        max_length=chosen.max_length,
        include_zero=chosen.include_zero,
        network_options={"num_tokens": max(vocabulary.values()) + 1},
        coverage=known_genes,
    )


def collate(encoded: Encoded, rows: np.ndarray) -> dict[str, Any]:
    """Return the cells `rows` as the network takes them, packed end to end.

    longest: tokens of the longest cell, which the host thus needn't ask the GPU for.
    """
    import torch

    part = encoded.take(rows)
    return {
        "ids": torch.from_numpy(np.ascontiguousarray(part.ids)),
        "values": torch.from_numpy(np.ascontiguousarray(part.values)),
        "offsets": torch.from_numpy(part.offsets.astype(np.int64)),
        "longest": int(part.lengths.max(initial=0)),
    }


def build(num_classes: int, weights: Path | str | None = None, *, num_tokens: int | None = None, **options: Any) -> Any:
    """Return the network; with weights its sizes are read off the folder, the classifier alone is newly initialised.

    num_tokens: the encoder's `network_options`; needed without weights. `network.fresh` lists what stayed random.
    """
    from trainables.networks.scgpt import ScGPT

    chosen = ScgptOptions(**options)
    if weights:
        network = _pretrained(num_classes, Path(weights), chosen)
    elif num_tokens is None:
        raise ValueError("without weights the network needs num_tokens: pass the encoder's network_options")
    else:
        sizes = SIZES[chosen.size] | chosen.model_dump(include=set(ARGS), exclude_none=True)
        if sizes["width"] % sizes["num_heads"]:
            raise RequestError(f"scgpt: width {sizes['width']} isn't a multiple of num_heads {sizes['num_heads']}")
        network = ScGPT(num_tokens, num_classes, **sizes, **_details(chosen, {}, "args.json"))
        network.fresh = list(network.state_dict())
    return network


def build_head(num_classes: int, weights: Path | str, **options: Any) -> Any:
    """Return the classifier alone, newly initialised, of the size that the folder's args.json says."""
    from trainables.networks.scgpt import Head

    chosen = ScgptOptions(**{name: value for name, value in options.items() if name in ScgptOptions.model_fields})
    args = _read_json(Path(weights) / "args.json")
    width = _sizes(args, Path(weights), chosen)["width"]
    return Head(width, num_classes, _details(chosen, args, str(weights))["num_layers_cls"])


def convert(state: dict[str, Any]) -> dict[str, Any]:
    """Return an official state dict in our names: all three attention layouts, without the pre-training heads."""
    named = {ours(name): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in named.items() if not name.startswith(DROPPED)}


def ours(name: str) -> str:
    """Return our name of an official parameter: `module.`, `._impl.` (flash since 0.2.5), `in_proj_` (torch) undone."""
    name = name.removeprefix("module.").replace(".self_attn._impl.", ".self_attn.")
    return name.replace(".self_attn.in_proj_", ".self_attn.Wqkv.")


def _pretrained(num_classes: int, folder: Path, chosen: ScgptOptions) -> Any:
    """Return the network with the folder's weights; RequestError unless every parameter but the head's was filled."""
    from trainables import weights as files
    from trainables.networks.scgpt import ScGPT

    files.require(folder, "scgpt", FILES)
    args, vocabulary, absent = _read_json(folder / "args.json"), *_vocabulary(folder)
    sizes, details = _sizes(args, folder, chosen), _details(chosen, args, str(folder / "args.json"))
    state = convert(files.load_state(folder / "best_model.pt"))
    state = {name: tensor for name, tensor in state.items() if not name.startswith(HEAD)}
    network = ScGPT(max(vocabulary.values()) + 1, num_classes, **sizes, **details)
    strangers = sorted(state.keys() - network.state_dict().keys())
    if strangers:
        raise RequestError(
            f"weights {folder}: best_model.pt holds {len(strangers)} weights that scGPT's annotation model with "
            f"{sizes['num_layers']} layers doesn't have: {', '.join(strangers[:5])}"
        )
    try:
        state, rows = _with_special_rows(state, network, vocabulary, absent)
        network.fresh = files.fill(network, state, (HEAD,)) + rows
    except RequestError as error:
        raise RequestError(*(f"weights {folder}: {problem}" for problem in error.problems)) from error
    return network


def _sizes(args: dict[str, Any], folder: Path, chosen: ScgptOptions) -> dict[str, int]:
    """Return the network's sizes from args.json; RequestError for what is missing or set against it."""
    problems = [
        f"{folder / 'args.json'}: {key} is missing, or no whole number from 1 on"
        for key in ARGS.values()
        if type(args.get(key)) is not int or args[key] < 1
    ]
    problems += [
        f"{name}: the weights in {folder} fix it; leave it out" for name in ARGS if getattr(chosen, name) is not None
    ]
    if not problems and args["embsize"] % args["nheads"]:
        problems = [f"{folder / 'args.json'}: embsize {args['embsize']} isn't a multiple of nheads {args['nheads']}"]
    if problems:
        raise RequestError(*problems)
    return {name: args[key] for name, key in ARGS.items()}


def _details(chosen: ScgptOptions, args: dict[str, Any], where: str) -> dict[str, Any]:
    """Return what isn't a size: the option if set, else the folder's, else upstream's value; checked like options."""
    details = {"dropout": args.get("dropout", 0.2), "n_layers_cls": args.get("n_layers_cls", 3)}
    try:
        told = ScgptOptions(**details)
    except ValidationError as error:
        wrong = "; ".join(f"{problem['loc'][0]}: {problem['msg']}" for problem in error.errors())
        raise RequestError(f"{where}: {wrong}") from error
    return {
        "dropout": told.dropout if chosen.dropout is None else chosen.dropout,
        "num_layers_cls": told.n_layers_cls if chosen.n_layers_cls is None else chosen.n_layers_cls,
        "pre_norm": chosen.pre_norm,
    }


def _with_special_rows(
    state: dict[str, Any], network: Any, vocabulary: dict[str, int], absent: list[str]
) -> tuple[dict[str, Any], list[str]]:
    """Return (the state with the network's random rows for tokens beyond its table, the names of those rows).

    absent: special tokens that vocab.json lacks. RequestError where the table ends before a token that it names: that
    token would stay random unnoticed.
    """
    import torch

    name = "encoder.embedding.weight"
    own, saved = network.encoder.embedding.weight.detach(), state.get(name)
    if saved is None or saved.shape[1:] != own.shape[1:] or len(saved) >= len(own):
        return state, []
    beyond = [token for token, number in vocabulary.items() if number >= len(saved)]
    orphans = [token for token in beyond if token not in absent]
    if orphans:
        shown = ", ".join(orphans[:5]) + (f" and {len(orphans) - 5:,} more" if len(orphans) > 5 else "")
        raise RequestError(
            f"best_model.pt has {len(saved):,} rows for tokens, and vocab.json names {len(orphans):,} beyond them "
            f"({shown}), which would stay random: the files are not of one download; fetch both again"
        )
    return state | {name: torch.cat([saved, own[len(saved) :]])}, [f"{name}[{token}]" for token in beyond]


def _vocabulary(folder: Path) -> tuple[dict[str, int], list[str]]:
    """Return (token -> id of the folder's vocab.json and of all special tokens, the special ones it lacks)."""
    from trainables import weights

    weights.require(folder, "scgpt", {"vocab.json": FILES["vocab.json"]})
    vocabulary = _read_json(folder / "vocab.json")
    numbers = {number for number in vocabulary.values() if type(number) is int and number >= 0}
    if not vocabulary or len(numbers) < len(vocabulary):
        raise RequestError(f"{folder / 'vocab.json'}: must map each token to a number of its own, from 0 on")
    return _with_special(vocabulary), [token for token in SPECIAL if token not in vocabulary]


def _with_special(vocabulary: dict[str, int]) -> dict[str, int]:
    """Return the vocabulary with <pad>, <cls>, <eoc>, appended in that order where missing."""
    missing = [token for token in SPECIAL if token not in vocabulary]
    start = max(vocabulary.values(), default=-1) + 1
    return vocabulary | {token: start + i for i, token in enumerate(missing)}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RequestError(f"{path}: damaged or cut off ({error}); download it again") from error
    if not isinstance(content, dict):
        raise RequestError(f"{path}: holds a {type(content).__name__}, not a table of names")
    return content


def _symbols(genes: list[str], vocabulary: dict[str, int], folder: Path) -> list[str]:
    """Return the genes as symbols: Ensembl ids are looked up in a gene_name_id dictionary beside the weights."""
    if not looks_ensembl(genes):
        return genes
    from trainables.weights import find, read_dictionary

    path = find(folder, "gene_name_id*.pkl")
    if path is None:
        raise RequestError(
            f"the genes are Ensembl ids ({genes[0]}, ...), scGPT knows symbols: name the column that holds them with "
            f"gene_names, or put Geneformer's gene_name_id_dict*.pkl into {folder}"
        )
    pairs = sorted(read_dictionary(path).items(), key=lambda pair: pair[0] in vocabulary)
    symbol_of = {identifier: symbol for symbol, identifier in pairs}  # known symbols last: they win
    return [symbol_of.get(strip_version(gene), gene) for gene in genes]


SPEC = ModelSpec(
    name="scgpt",
    title="scGPT",
    kind="network",
    options=ScgptOptions,
    encoder=encoder,
    collate=collate,
    build=build,
    convert=convert,
    rests="cls_decoder",
    build_head=build_head,
    of_head=("train", "dropout", "n_layers_cls", "draws"),
    head=HEAD,
    adaptable=Adaptable("transformer_encoder.", ("Wqkv", "out_proj", "linear1", "linear2"), ("Wqkv",)),
    recipe=recipe,
    files=FILES,
    signature=tuple(FILES),
)
