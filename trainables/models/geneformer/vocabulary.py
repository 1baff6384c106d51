"""Which token and median a gene has for Geneformer, and under which names it is known."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import RequestError
from data_pipeline.genes import strip_version

PAD, MASK, CLS, EOS = "<pad>", "<mask>", "<cls>", "<eos>"
HOME = "huggingface.co/ctheodoris/Geneformer, folder geneformer (V1: geneformer/gene_dictionaries_30m)"
TOKENS, MEDIANS = "token_dictionary*.pkl", "gene_median_dictionary*.pkl"
NAMES, MAPPING = "gene_name_id_dict*.pkl", "ensembl_mapping_dict*.pkl"
PLACES = (
    "",
    "geneformer/",
    "../geneformer/",
    "../geneformer/gene_dictionaries_30m/",
)  # as in a clone of the repository
VOCABULARY_FILES = {
    "|".join(place + name for place in PLACES): f"get it from {HOME}" for name in (TOKENS, MEDIANS, NAMES)
}


@dataclass(frozen=True)
class Vocabulary:
    """tokens: gene -> token, special tokens included; medians: gene -> median; aliases: upper-case name -> gene."""

    tokens: dict[str, int]
    medians: dict[str, float]
    aliases: dict[str, str]

    @property
    def num_tokens(self) -> int:
        return max(self.tokens.values()) + 1

    @property
    def has_specials(self) -> bool:
        """Whether cells start with `<cls>` and end with `<eos>` (V2)."""
        return CLS in self.tokens and EOS in self.tokens

    @property
    def specials(self) -> tuple[list[int], list[int]]:
        """The tokens before and after a cell's genes."""
        return ([self.tokens[CLS]], [self.tokens[EOS]]) if self.has_specials else ([], [])

    def gene(self, name: str) -> str | None:
        """Return the gene of a symbol, old symbol or Ensembl id (with version or not), None if there is none."""
        for form in (name, strip_version(name)):
            for gene in (self.aliases.get(form.upper()), form):
                if gene in self.tokens and gene in self.medians:
                    return gene
        return None

    def places(self, names: list[str]) -> tuple[np.ndarray, list[str]]:
        """Return for each column its gene's number (int64, -1: none) and the genes in order of first appearance."""
        number: dict[str, int] = {}
        found = [self.gene(name) for name in names]
        places = [-1 if gene is None else number.setdefault(gene, len(number)) for gene in found]
        return np.array(places, dtype=np.int64), list(number)

    def with_medians(self, names: list[str], medians: list[float]) -> "Vocabulary":
        """Return the vocabulary with these medians; a gene whose median is 0 is no longer known."""
        return replace(self, medians={name: m for name, m in zip(names, medians, strict=True) if m > 0})


def from_dataset(genes: list[str], version: str) -> Vocabulary:
    """Return the vocabulary of a dataset's own genes, in their order after the special tokens; all medians 1."""
    specials = [PAD, MASK] if version == "V1" else [PAD, MASK, CLS, EOS]
    tokens = {name: token for token, name in enumerate([*specials, *genes])}
    return Vocabulary(tokens, dict.fromkeys(genes, 1.0), {})


def from_folder(folder: Path, version: str = "auto") -> Vocabulary:
    """Return the vocabulary of a weights folder, whose dictionaries lie in it or as in a clone of the repository.

    Of several dictionaries the one counts that has the version asked for and as many tokens as config.json says.
    """
    from trainables import weights

    path, tokens = _token_dictionary(folder, version)
    medians = weights.read_dictionary(_companion(path, MEDIANS))
    aliases = {}
    for pattern in (NAMES, MAPPING):  # the mapping knows old names too, and counts more
        companion = _companion(path, pattern, needed=False)
        if companion is not None:
            aliases |= {name.upper(): gene for name, gene in weights.read_dictionary(companion).items()}
    return Vocabulary(tokens, medians, aliases)


def per_token(folder: Path) -> float:
    """Return the weights of all layers that a token is multiplied with, by config.json; 0 if it doesn't say."""
    names = ("num_hidden_layers", "hidden_size", "intermediate_size")
    layers, width, hidden = (read_config(folder).get(name, 0) for name in names)
    is_told = all(isinstance(one, int) for one in (layers, width, hidden))
    return float(layers * (4 * width**2 + 2 * width * hidden)) if is_told else 0.0


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json of a weights folder, {} if it has none."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise RequestError(f"{path}: damaged or cut off ({error}); download it again") from error
    if not isinstance(config, dict):
        raise RequestError(f"{path}: holds a {type(config).__name__}, not a table of names")
    return config


def _token_dictionary(folder: Path, version: str) -> tuple[Path, dict[str, int]]:
    from trainables import weights

    paths = [path for place in PLACES for path in sorted(folder.glob(place + TOKENS))]
    if not paths:
        weights.require(folder, "geneformer", {TOKENS: f"get it from {HOME}"})
    size, seen = read_config(folder).get("vocab_size"), []
    for path in paths:
        tokens = weights.read_dictionary(path)
        kind = "V2" if CLS in tokens and EOS in tokens else "V1"
        if version in ("auto", kind) and size in (None, len(tokens)):
            return path, tokens
        seen.append(f"{path.name} ({kind}, {len(tokens)} tokens)")
    wanted = ("" if version == "auto" else f" {version}") + ("" if size is None else f" of {size} tokens (config.json)")
    raise RequestError(f"weights {folder}: no token dictionary{wanted}; found {', '.join(seen)}; get it from {HOME}")


def _companion(tokens: Path, pattern: str, needed: bool = True) -> Path | None:
    """Return the dictionary of another kind that belongs to a token dictionary: the same suffix, else the only one."""
    suffix = tokens.stem.removeprefix(TOKENS.split("*")[0])
    exact = tokens.with_name(pattern.replace("*", suffix))
    others = [path for path in sorted(tokens.parent.glob(pattern))]
    if exact.is_file():
        return exact
    if len(others) == 1:
        return others[0]
    if needed:
        raise RequestError(f"weights {tokens.parent}: {exact.name} is missing; get it from {HOME}")
    return None
