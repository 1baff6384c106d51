"""scBERT (Yang et al. 2022): a Performer that reads every gene's expression, binned to six tokens."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from data_pipeline.errors import RequestError
from data_pipeline.genes import coverage, looks_ensembl, numbered, strip_version
from data_pipeline.shards.encoded import as_places
from trainables.models.scbert.encoder import ScbertEncoder
from trainables.spec import PRETRAINED, Adaptable, Encoded, LeastCoverage, ModelSpec, NetworkOptions, Recipe

HOME = "linked from the README of github.com/TencentAILabHealthcare/scBERT"
CHECKPOINT, TABLE, GENES = "panglao_pretrain.pth", "gene2vec_16906.npy", "genes.txt|panglao_10000.h5ad"
VOCABULARY = {GENES: f"panglao_10000.h5ad is {HOME}; genes.txt would hold its var_names, one a line"}
FILES = {CHECKPOINT: f"it is {HOME}", TABLE: f"it is {HOME}", **VOCABULARY}
SIZES = {
    "tiny": {"dim": 8, "depth": 2, "heads": 2, "dim_head": 8, "ff_factor": 2, "head": (16, 8)},
    "small": {"dim": 16, "depth": 2, "heads": 2, "dim_head": 8, "ff_factor": 2, "head": (64, 32)},
    "official": {"dim": 200, "depth": 6, "heads": 10, "dim_head": 64, "ff_factor": 4, "head": (512, 128)},
}
HEAD = "to_out."


class ScbertOptions(NetworkOptions):
    """Options of scBERT besides the weights."""

    gene_set: Literal["list", "dataset"] = Field(
        "list",
        description="with weights: all 16,906 genes of scBERT, or only those of them that the dataset has",
        json_schema_extra=PRETRAINED,
    )
    stabiliser: Literal["cell", "batch", "head"] = Field(
        "cell", description="over what the keys' maximum is taken; `batch` is a defect: logits depend on the neighbours"
    )
    fix_projections: bool = Field(
        False, description="never redraw the random projections (published: every 1001 calls)"
    )
    cache_gigabytes: float = Field(
        0,
        ge=0,
        description="memory for what the frozen blocks make of a cell, with fix_projections: less work per epoch",
    )
    min_coverage: LeastCoverage = 0.1
    misaligned_gene2vec: bool = Field(False, description="defect: gene2vec rows by position, not by gene")
    double_log: bool = Field(False, description="defect: normalise and log already log-normalised values")

    def idle(self, pretrained: bool) -> dict[str, str]:
        said = super().idle(pretrained)
        said |= {"gene_set": "`misaligned_gene2vec` goes by position"} if self.misaligned_gene2vec else {}
        if self.cache_gigabytes > 0 and not (self.fix_projections and self.stabiliser != "batch"):
            said["cache_gigabytes"] = (
                "it keeps what never changes: say `fix_projections: true`, not `stabiliser: batch`"
            )
        elif self.cache_gigabytes > 0 and self.train not in ("head", "published"):
            said["cache_gigabytes"] = "it keeps what frozen blocks make, with `train: head` or `published` alone"
        return said


def recipe(weights: Path | None, size: str) -> Recipe:
    """Return the published fine-tuning recipe, or one that learns from scratch."""
    if weights is not None or size == "official":
        return Recipe(
            epochs=15,
            batch_size=1,
            accumulate=60,
            learning_rate=1e-4,
            schedule="cosine_restarts",
            warmup=5,
            gamma=0.9,
            clip=None,
            patience=10,
            precision="float32",
        )
    return Recipe(epochs=8, batch_size=32, learning_rate=0.01, schedule="linear", warmup=0.1, precision="float32")


def encoder(genes: list[str], weights: Path | str | None = None, **options: Any) -> ScbertEncoder:
    """Return the encoder of a dataset with these genes (columns, in order); without weights all of them are known."""
    chosen = ScbertOptions(**options)
    known = gene_list(Path(weights)) if weights else list(genes)
    names = _symbols(genes, set(known), Path(weights)) if weights else genes
    place_of = {gene: place for place, gene in reversed(list(enumerate(known)))}
    found = np.array([place_of.get(name, -1) for name in names], dtype=np.int64)
    known_genes = coverage(genes, found, chosen.min_coverage, "scBERT's list of human gene symbols")
    places, positions, num_genes = found, None, len(known)
    if chosen.misaligned_gene2vec:
        places, num_genes = np.arange(len(genes)), len(genes)
        positions = _by_position(len(genes), len(known))
    elif chosen.gene_set == "dataset":
        places, there = numbered(found)
        positions, num_genes = [*there.tolist(), len(known)], len(there)
    network_options = {"num_tokens": num_genes + 1, "positions": positions if weights else None}
    return ScbertEncoder(places, num_genes, chosen.double_log, network_options, known_genes)


def collate(encoded: Encoded, rows: np.ndarray) -> dict[str, Any]:
    """Return {"tokens": int64 [B, L]} of the cells `rows`."""
    import torch

    starts = np.asarray(encoded.offsets)[rows]
    length = int(encoded.offsets[1] - encoded.offsets[0]) if len(encoded) else 0
    tokens_BL = np.asarray(encoded.ids)[starts[:, None] + np.arange(length)]
    return {"tokens": torch.from_numpy(tokens_BL.astype(np.int64))}


def build(
    num_classes: int,
    weights: Path | str | None = None,
    *,
    num_tokens: int | None = None,
    positions: list[int] | None = None,
    **options: Any,
) -> Any:
    """Return the network; with weights depth, heads and widths are read off the checkpoint, the head alone is new.

    positions: row of the gene table for each token (None: all rows in order). Without weights the table is random,
    as wide as the size says, and learned.
    """
    import torch

    chosen = ScbertOptions(**options)
    if chosen.cache_gigabytes > 0 and (not chosen.fix_projections or chosen.stabiliser == "batch"):
        raise RequestError(
            "cache_gigabytes keeps what never changes: set fix_projections: true as well, and stabiliser: cell"
        )
    if weights:
        network = _pretrained(num_classes, Path(weights), positions, chosen)
    elif num_tokens is None:
        raise ValueError("without weights the network needs num_tokens: pass the encoder's network_options")
    else:
        network = _from_scratch(num_classes, num_tokens, chosen)
    network.pos_emb.requires_grad_(network.pos_emb.emb.weight.dtype == torch.float32)
    return network


def published(network: Any) -> tuple[str, ...]:
    """Return what the authors train, as prefixes of names: the head, the last norm, the last block but one."""
    return HEAD, "norm.", f"performer.net.layers.{len(network.performer.net.layers) - 2}."


def convert(state: dict[str, Any]) -> dict[str, Any]:
    """Return an official state dict in our names, which are the official ones (`module.` of parallel training off)."""
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def gene_list(folder: Path) -> list[str]:
    """Return scBERT's genes in order, from genes.txt or the var_names of panglao_10000.h5ad."""
    from trainables import weights

    path = weights.require(folder, "scbert", VOCABULARY)[GENES]
    if path.suffix == ".txt":
        return path.read_text(encoding="utf-8-sig").split()
    from data_pipeline.reading.file import hdf5, places

    with places.open_hdf5(str(path)) as file:
        return list(hdf5.index(hdf5.find_var(file, None)))


def _symbols(genes: list[str], known: set[str], folder: Path) -> list[str]:
    """Return the genes as symbols: Ensembl ids are looked up in a gene_name_id dictionary beside the weights."""
    if not looks_ensembl(genes):
        return genes
    from trainables.weights import symbols_of

    symbols = symbols_of(genes, folder)
    if symbols is None:
        raise RequestError(
            f"the genes are Ensembl ids ({genes[0]}, ...), scBERT knows symbols: name the column that holds them with "
            f"gene_names, or put Geneformer's gene_name_id_dict*.pkl into {folder}"
        )
    candidates = (symbols.get(strip_version(gene), [gene]) for gene in genes)
    return [next((name for name in names if name in known), names[0]) for names in candidates]


def _by_position(num_genes: int, num_known: int) -> list[int]:
    if num_genes > num_known:
        raise RequestError(
            f"misaligned_gene2vec takes gene vectors by position, but there are {num_genes} genes, "
            f"{num_known} vectors; select fewer genes (genes: {{select: hvg, n: 3000}})"
        )
    return list(range(num_genes + 1))


def _from_scratch(num_classes: int, num_tokens: int, chosen: ScbertOptions) -> Any:
    import torch

    from trainables.networks.performer import CellHead, PerformerLM

    sizes = dict(SIZES[chosen.size])
    dim, head = sizes.pop("dim"), sizes.pop("head")
    table_LE = torch.randn(num_tokens, dim) * 0.1
    network = PerformerLM(table_LE, learned_positions=True, **_details(chosen), **sizes)
    network.to_out = CellHead(num_tokens, dim, num_classes, head)
    return network


def _pretrained(num_classes: int, folder: Path, positions: list[int] | None, chosen: ScbertOptions) -> Any:
    """Return the network with the folder's weights, loaded whole with the pre-training head, which is then replaced."""
    import torch

    from trainables import weights
    from trainables.networks.performer import CellHead, PerformerLM, Positions

    paths = weights.require(folder, "scbert", FILES)
    where = f"weights {folder}: {CHECKPOINT}: "
    state = convert(weights.load_state(paths[CHECKPOINT]))
    if "pos_emb.emb.weight" not in state:
        state["pos_emb.emb.weight"] = _gene_table(paths[TABLE])
    table_LE, num_listed = state["pos_emb.emb.weight"], len(gene_list(folder))
    if len(table_LE) != num_listed + 1:
        raise RequestError(f"{where}has vectors of {len(table_LE) - 1} genes, but the gene list has {num_listed} genes")
    network = PerformerLM(torch.empty_like(table_LE), **sizes_of(state, where), **_details(chosen))
    weights.fill(network, state, (), where)
    if positions is not None:
        network.pos_emb = Positions(table_LE[torch.as_tensor(positions)], learned=False)
    num_tokens, dim = network.pos_emb.emb.weight.shape
    network.to_out = CellHead(num_tokens, dim, num_classes)
    network.fresh = [name for name in network.state_dict() if name.startswith(HEAD)]
    return network


def sizes_of(state: dict[str, Any], where: str) -> dict[str, int]:
    """Return the network's sizes as an official state dict's shapes show them; RequestError if it isn't scBERT's."""
    depth = len({name.split(".")[3] for name in state if name.startswith("performer.net.layers.")})
    try:
        num_ids, dim = state["token_emb.weight"].shape
        num_features, dim_head = state["performer.net.layers.0.0.fn.fast_attention.projection_matrix"].shape
        inner = len(state["performer.net.layers.0.0.fn.to_q.weight"])
        hidden = len(state["performer.net.layers.0.1.fn.fn.w1.weight"])
    except KeyError as error:
        raise RequestError(f"{where}not scBERT's weights, it has no {error}") from error
    return {
        "depth": depth,
        "heads": inner // dim_head,
        "dim_head": dim_head,
        "num_features": num_features,
        "ff_factor": hidden // dim,
        "num_ids": num_ids,
    }


def _details(chosen: ScbertOptions) -> dict[str, Any]:
    from trainables.networks.performer import REDRAW_AFTER

    redraw_after = None if chosen.fix_projections else REDRAW_AFTER
    return {"stabiliser": chosen.stabiliser, "redraw_after": redraw_after, "cache_gigabytes": chosen.cache_gigabytes}


def _gene_table(path: Path) -> Any:
    """Return the gene2vec rows, float64 [16906, 200], with a zero row for the appended token."""
    import torch

    try:
        table = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise RequestError(f"{path}: damaged or no array ({error}); download it again") from error
    return torch.from_numpy(np.vstack([table, np.zeros((1, table.shape[1]))]))


SPEC = ModelSpec(
    name="scbert",
    title="scBERT",
    kind="network",
    options=ScbertOptions,
    encoder=encoder,
    features=as_places,
    recipe=recipe,
    collate=collate,
    build=build,
    convert=convert,
    head=HEAD,
    published=published,
    adaptable=Adaptable("performer.", ("to_q", "to_k", "to_v", "to_out", "w1", "w2"), ("to_q", "to_v")),
    files=FILES,
    signature=(CHECKPOINT, TABLE),
    needs_totals=True,
)
