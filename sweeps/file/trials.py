"""One trial of a sweep, resolved: its key, its name, what it is called in MLflow, what run_trial is handed."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from trainables.fitting.contents import network_of
from trainables.spec import get, is_on_features

IDENTITY = 3  # raise it when the same description comes to mean another computation
ANEW = {"prior_shift": 2, "ldam": 2}  # the same of one adjustment or loss, in the keys of trials that have it
FEATURES = 1  # likewise, of what is trained on vectors that a network at rest has made
NAMED = ("model", "strategy", "loss", "skew", "dataset", "split", "seed")  # in the order of a name: pages cut its end
SEPARATOR = "·"
PLACES = ("path", "test_path")  # of a dataset's declaration: where its files lie
TUNING = ("cellskew.tuned", "cellskew.tuned_over")  # tags of a tuned model's runs alone
AXES = ("dataset", "split", "skew", "strategy", "loss", "model", "seed")


@dataclass(frozen=True)
class Resources:
    """What a trial asks of Ray; None: the launch decides (1 CPU, and a GPU where the cluster has some)."""

    cpu: float | None = None
    gpu: float | str | None = None  # "auto": measured share


@dataclass(frozen=True)
class Contents:
    """What is behind a sweep file's paths, if it is here: digests of datasets, hashes of weights, by label."""

    datasets: dict[str, str] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    vectors: dict[str, dict[str, str]] = field(default_factory=dict)  # by label, then dataset: what `on:` comes to


@dataclass(frozen=True)
class Trial:
    """One cell of the grid. `described` holds everything that can change its result, defaults included.

    described: dataset (its declaration), genes, split, skew, strategy, loss, model, options, recipe, weights, seed,
    defects, posthoc, and of a control `control`. labels: what tables call each axis, which no key depends on. digest,
    weights_hash, vectors_hash: what dataset, weights and the files behind `on:` hold, "" where that isn't known. tuned:
    its values of what is tuned, one of `num_settings` combinations that share all labels. Keys are 16 hex digits.
    """

    described: dict[str, Any]
    labels: dict[str, str]
    protocol: str
    resources: Resources = field(default_factory=Resources)
    digest: str = ""
    weights_hash: str = ""
    tuned: dict[str, Any] = field(default_factory=dict)
    num_settings: int = 1
    vectors_hash: str = ""

    @cached_property
    def key(self) -> str:
        """What the trial is, wherever its files lie and whatever sweep has it; `declared` if they aren't here."""
        if not self.is_known:
            return self.declared
        weights = {"sha256": self.weights_hash} if self.weights_hash else None
        held = {"dataset": {"digest": self.digest}, "weights": weights} | self._vectors
        return _hash(self.described | held | ({} if self.rests is None else {"features": FEATURES}))

    @property
    def _vectors(self) -> dict[str, Any]:
        """What `on:` comes to, by what the files hold and not where they lie; {} without."""
        on = self.described.get("on")
        if on is None:
            return {}
        plain = {key: value for key, value in on.items() if key not in ("embeddings", "weights")}
        made = {"features": FEATURES} if "model" in on else {}
        return {"on": plain | {"sha256": self.vectors_hash} | made}

    @property
    def rests(self) -> str | None:
        """What stands for the frozen network whose stored vectors the trial's head is trained on; None: there is none.

        "" where it isn't known yet.
        """
        described = self.described
        if not is_on_features(get(self.model), described["options"].get("train"), described["weights"] is not None):
            return None
        return network_of(self.model, self.weights_hash, described.get("code"))

    @cached_property
    def declared(self) -> str:
        """What the sweep's file says of the trial, paths included."""
        return _hash(self.described)

    @property
    def is_known(self) -> bool:
        """Tell whether it is known what is in the trial's dataset and weights, not only where they lie."""
        has_weights = self.described["weights"] is None or bool(self.weights_hash)
        return bool(self.digest) and has_weights and ("on" not in self.described or bool(self.vectors_hash))

    @property
    def name(self) -> str:
        """The run's name, what is chosen first: scgpt·oversample·cross_entropy·exponential-50·pbmc68k_reduced·s0·0."""
        named = self.labels | {"split": f"s{self.labels['split']}", "model": self.called}
        parts = [named[axis] for axis in NAMED]
        return SEPARATOR.join([parts[0], *([self.control] if self.control else []), *parts[1:]])

    @property
    def control(self) -> str:
        """What is done to the labels that the trial is trained on, so that it shows chance; "": nothing."""
        return self.described.get("control", "")

    @property
    def model(self) -> str:
        """What the model is, in the registry; the sweep calls it by its `label`."""
        return self.described["model"]

    @property
    def label(self) -> str:
        return self.labels["model"]

    @property
    def called(self) -> str:
        """The model's label, with its values of what is tuned: geneformer(learning_rate=1e-05)."""
        return self.label + called(self.tuned)

    @property
    def dataset(self) -> str:
        return self.labels["dataset"]

    @property
    def is_network(self) -> bool:
        """Tell whether the trial's model is a network; baselines are fitted again in no time, and save no rounds."""
        return self.described["recipe"] is not None

    @property
    def leaves_model(self) -> bool:
        """Tell whether the trial leaves a folder that other cells are annotated by."""
        return not self.control and (self.is_network or get(self.model).fitted is not None)

    def tags(self) -> dict[str, str]:
        """Return the MLflow tags that queries go by."""
        tags = {axis: self.labels[axis] for axis in AXES} | {"trial": self.key, "protocol": self.protocol}
        tags["architecture"] = self.model
        if self.tuned:
            tags |= {"tuned": called(self.tuned)[1:-1], "tuned_over": str(self.num_settings)}
        tags |= {f"{axis}.kind": self.described[axis]["kind"] for axis in ("skew", "strategy", "loss")}
        if "on" in self.described:
            tags |= {"on": on_what(self.described["on"]), "vectors": self.vectors_hash}
        if self.control:
            tags["control"] = self.control
        if self.described["defects"]:
            tags["defects"] = ",".join(self.described["defects"])
        if self.described["genes"]["fit"] == "natural":
            tags["genes_fit"] = "natural"
        if self.is_known:
            tags |= {"declared": self.declared} | ({"weights": self.weights_hash} if self.weights_hash else {})
        return {f"cellskew.{name}": value for name, value in tags.items()}

    def params(self) -> dict[str, str]:
        """Return everything resolved, flat, as MLflow parameters: what files hold, not where they lie."""
        flat: dict[str, str] = {}
        tree = {} if "tree" not in self.described else {"tree": _hash(self.described["tree"])}  # names MLflow refuses
        dataset = {name: value for name, value in self.described["dataset"].items() if name not in PLACES}
        weights = None if self.described["weights"] is None else {"sha256": self.weights_hash}
        for name, value in (
            self.described | {"dataset": dataset | {"digest": self.digest}, "weights": weights} | self._vectors | tree
        ).items():
            inner = value.items() if isinstance(value, dict) else [("", value)]
            flat |= {f"{name}.{key}" if key else name: _text(one) for key, one in inner}
        return flat

    def config(self) -> dict[str, Any]:
        """Return what the preparation and run_trial take; directory, shards and threads are added by the launch."""
        recipe = self.described["recipe"]
        here = {"key": self.key, "name": self.name, "dataset": self.dataset, "protocol": self.protocol}
        if "on" in self.described:
            here["on"] = self.described["on"] | {"sha256": self.vectors_hash}
        if self.rests is not None:
            here["rests"] = self.rests
        return self.described | {"recipe": {} if recipe is None else recipe} | here


def called(tuned: dict[str, Any]) -> str:
    """Return how values of what is tuned are shown: (learning_rate=1e-05, dropout=0.1), "" for none."""
    return f"({', '.join(f'{name}={_text(value)}' for name, value in tuned.items())})" if tuned else ""


def on_what(on: dict[str, Any]) -> str:
    """Return what a model is trained on, in words: obsm X_uce, embeddings cells.h5ad, scgpt at rest."""
    if "model" in on:
        return f"{on['model']} at rest"
    return f"obsm {on['obsm']}" if "obsm" in on else f"embeddings {Path(on['embeddings']).name}"


def _hash(described: dict[str, Any]) -> str:
    has = [*described.get("posthoc", ()), described.get("loss", {}).get("kind")]
    anew = {name: ANEW[name] for name in has if name in ANEW}
    text = json.dumps([IDENTITY, described, *([anew] if anew else [])], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
