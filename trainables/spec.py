"""What a model is to cellskew, and how to find one: the name in `trainables/models` is the registry."""

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy import sparse

from data_pipeline.errors import RequestError
from data_pipeline.names import did_you_mean
from data_pipeline.outside import GROUP, folders, in_folder, outside, where_it_failed
from data_pipeline.outside import code_of as hash_of_code
from data_pipeline.shards.encoded import Encoded, as_values
from trainables.recipe import Recipe

__all__ = [
    "Adaptable",
    "Encoded",
    "Encoder",
    "Fitted",
    "ModelSpec",
    "NetworkOptions",
    "Options",
    "Recipe",
    "get",
    "names",
]

MODELS = Path(__file__).parent / "models"
SCRATCH = {"only": "from scratch"}  # what an option is marked with that says nothing where a folder of weights does
PRETRAINED = {"only": "pretrained"}  # one that says nothing without such a folder
LeastCoverage = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description="least share of the dataset's genes that the model must know",
        json_schema_extra=PRETRAINED,
    ),
]


def ascending(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return settings of which a set is meant in order, each once: the same set is written in one way."""
    return tuple(sorted(set(values)))


class Options(BaseModel):
    """What a sweep file may say about a model besides its recipe; each model extends it. `weights` is apart.

    sizes: by size, the options that it stands for from scratch; a sweep file that says them as well says nothing more.
    """

    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    size: Literal["tiny", "small", "official"] = Field("small", json_schema_extra=SCRATCH)

    def idle(self, pretrained: bool) -> dict[str, str]:
        """Return the options that change nothing beside what the others say, with or without weights, each with why."""
        mark, why = PRETRAINED, "without `weights:` every gene of the dataset is known"
        if pretrained:
            mark, why = SCRATCH, "with `weights:` the files say it"
        marks = {name: field.json_schema_extra or {} for name, field in type(self).model_fields.items()}
        return {name: why for name, found in marks.items() if isinstance(found, dict) and found.items() >= mark.items()}


class Lora(BaseModel):
    """Low-rank adapters beside frozen layers, see networks.lora."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    rank: int = Field(8, ge=1)
    alpha: float = Field(16.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[str, ...] | None = Field(None, min_length=1)


class Adapters(BaseModel):
    """`{lora: {...}}`: the head is trained, and adapters."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    lora: Lora


Train = Literal["all", "published", "head"]


class NetworkOptions(Options):
    """Options that every network has."""

    train: Train | Adapters | None = Field(
        None,
        description="what is trained: `all`; `published`, what its authors train; `head` alone, on frozen features; "
        "`{lora: {rank, alpha, dropout, targets}}`, see below. Default `published`, without weights `all`",
    )


class Encoder(Protocol):
    """Raw counts -> a model's input. Plain, picklable, and the same for the same `identity`, counts and generator."""

    identity: dict[str, Any]  # JSON-able: everything that fixes the output, the version of the encoder included
    network_options: dict[str, Any]  # what `build` needs to know of the encoding: num_tokens, ...
    coverage: dict[str, Any]  # {"genes": G, "known": k, "share": k / G, "unknown": first unknown names}

    def __call__(
        self,
        counts: sparse.csr_matrix,
        rng: np.random.Generator | np.random.RandomState,
        totals: np.ndarray | None = None,
    ) -> Encoded: ...


class Fitted(Protocol):
    """A baseline after its fit. numbers: what the fit says of itself (converged, iterations), metrics of the trial.

    One that learns another class mix than its rows and weights have says it as `prior`, float64 [C].
    """

    @property
    def numbers(self) -> dict[str, float]: ...

    def predict_proba(self, encoded: Encoded) -> np.ndarray: ...


@dataclass(frozen=True)
class Adaptable:
    """Layers of a network that adapters can stand beside: by the last part of their names, within a part of it.

    usual: those that have one unless `targets` says otherwise.
    """

    within: str
    layers: tuple[str, ...]
    usual: tuple[str, ...]


@dataclass(frozen=True)
class ModelSpec:
    """One model: how cells become its input, how it is built and trained. `build` for networks, `fit` for baselines.

    encoder(genes, weights=None, **options) -> Encoder
    features(encoded) -> CSR [n, F]: the input as numbers that a linear method can tell cells apart by
    fit_encoder(blocks, genes) -> encoder options learnt from training cells (Geneformer's medians), or None
    collate(encoded, rows) -> dict of tensors for the network (networks only)
    build(num_classes, weights=None, **options) -> nn.Module (networks only)
    convert(official state dict) -> our state dict (networks only)
    head: prefix of the classifier's parameter names (networks only)
    fresh: prefixes of what else official weights don't have, and is trained wherever the head is
    published(network) -> prefixes of what the authors train; None: everything
    adaptable: layers that adapters can stand beside; None: there are none
    recipe(weights folder or None, size) -> Recipe (networks only)
    on: takes `on:`, vectors of cells in place of genes; these options have another default there. None: genes alone
    scaled: on vectors, each number is brought to mean 0 and variance 1 of the training cells
    rests: the module that is handed one vector per cell, of pretrained parts alone, which others can be trained on
    build_head(num_classes, weights, **options) -> nn.Module: what comes behind, vectors [b, E] -> logits, parameters
    named and filled as in the whole network; with `train: head` it alone is trained, on stored vectors
    of_head: options that change no vector
    per_token(weights folder) -> weights that a token is multiplied with, where published sizes differ; see estimate
    files: what an official weights folder holds: file, or alternatives as "a|b" -> where people get it
    signature: files, with wildcards, that only this model's folder has
    needs_totals: its encoder goes by counts per cell over all genes measured, not only over those it knows
    fit(encoded, labels, num_classes, rng, **options) -> Fitted; predict_proba(encoded) -> float64 [n, C]
    weighs: its `fit` takes `class_weight`, so that losses that only weigh types go with it
    lacking: says what isn't installed here that the model can't do without, and the way out; None where all is there
    fitted: the dataclass that `fit` returns, of arrays, plain values and such dataclasses (see fitting.kept), so that
        what was learnt can be kept for `predict`; None: it isn't kept
    """

    name: str
    title: str
    kind: Literal["network", "baseline"]
    options: type[Options]
    encoder: Callable[..., Encoder]
    features: Callable[[Encoded], sparse.csr_matrix] = as_values
    recipe: Callable[[Path | None, str], Recipe] | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    signature: tuple[str, ...] = ()
    needs_totals: bool = False
    fit_encoder: Callable[[Iterable[tuple[sparse.csr_matrix, np.ndarray]], list[str]], dict[str, Any]] | None = None
    collate: Callable[[Encoded, np.ndarray], dict[str, Any]] | None = None
    build: Callable[..., Any] | None = None
    convert: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    head: str = ""
    fresh: tuple[str, ...] = ()
    published: Callable[[Any], tuple[str, ...]] | None = None
    adaptable: Adaptable | None = None
    fit: Callable[..., Fitted] | None = None
    fitted: type | None = None
    weighs: bool = True
    lacking: Callable[[], str | None] | None = None
    on: Mapping[str, Any] | None = None
    scaled: bool = False
    rests: str = ""
    build_head: Callable[..., Any] | None = None
    of_head: tuple[str, ...] = ("train",)
    per_token: Callable[[Path], float] | None = None


def what_is_trained(spec: ModelSpec, train: Any, pretrained: bool) -> Any:
    """Return what `train` comes to: "all", "published", "head", or {"lora": all its settings}.

    None: what the authors train, which is all where `spec.published` doesn't say otherwise; without weights, all.
    """
    if isinstance(train, dict):
        settings = Adapters(**train | {"lora": train["lora"] or {}}).lora.model_dump()
        targets = spec.adaptable.usual if settings["targets"] is None else settings["targets"]
        return {"lora": settings | {"targets": [one for one in spec.adaptable.layers if one in targets]}}
    how = ("published" if pretrained else "all") if train is None else train
    return "all" if how == "published" and spec.published is None else how


def settings(spec: ModelSpec) -> list[str]:
    """Return the names of the options that change a model: a baseline has no size, unless it says what that is."""
    own = [base for base in spec.options.__mro__ if issubclass(base, Options) and base is not Options]
    has_sizes = spec.kind == "network" or any("size" in inspect.get_annotations(base) for base in own)
    return [name for name in spec.options.model_fields if has_sizes or name != "size"]


def is_on_features(spec: ModelSpec, train: Any, pretrained: bool) -> bool:
    """Tell whether a head is trained alone on stored vectors of its network, which is the same for every trial then."""
    return spec.build_head is not None and pretrained and what_is_trained(spec, train, pretrained) == "head"


def names() -> list[str]:
    """Return the names of all models: those in `trainables/models`, and those from outside, see there."""
    ours, others = in_folder(MODELS), outside()
    if twice := sorted(set(ours) & set(others)):
        raise RequestError(f"{others[twice[0]]}: there is a model {twice[0]} already; call this one otherwise")
    return sorted([*ours, *others])


def get(name: str) -> ModelSpec:
    """Return the model of that name; KeyError lists the known names. A broken model file raises its own traceback.

    RequestError for one from outside that can't be imported, or is no model.
    """
    if name not in names():
        raise KeyError(f"no model {name!r}; {did_you_mean(name, names())}known: {', '.join(names())}")
    place = outside().get(name)
    return importlib.import_module(f"trainables.models.{name}").SPEC if place is None else _from_outside(name, place)


def code_of(name: str) -> str | None:
    """Return what stands for the code of a model from outside; None for one of cellskew's own."""
    place = outside().get(name)
    return None if place is None else hash_of_code(place)


def _from_outside(name: str, place: Path | EntryPoint) -> ModelSpec:
    searched = importlib.import_module("trainables.models").__path__
    searched.extend(str(folder) for folder in folders() if str(folder) not in searched)
    where = place if isinstance(place, Path) else f"{GROUP} {place.name} = {place.value}"
    try:
        found = importlib.import_module(f"trainables.models.{name}").SPEC if isinstance(place, Path) else place.load()
    except Exception as error:
        raise RequestError(f"{where}: can't be imported as a model: {where_it_failed(error)}") from error
    if not isinstance(found, ModelSpec) or found.name != name:
        raise RequestError(f"{where}: must give SPEC, a ModelSpec with name={name!r}")
    return found
