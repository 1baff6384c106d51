"""The rows, genes and encoders of a sweep's trials: fitted on what each may know, each once."""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import ray
from scipy import sparse

from data_pipeline.atomic import publish
from data_pipeline.hashes import identity_hash
from data_pipeline.reading.cells import Cells
from data_pipeline.reading.vectors import Vectors
from data_pipeline.rows import choice
from data_pipeline.shards.job import Job
from data_pipeline.shared.hand import bring
from data_pipeline.shared.store import Shared
from sweeps.drive.contents import vectors_of
from sweeps.drive.preparing import making
from sweeps.drive.preparing.tasks import Task
from trainables import protocol
from trainables import spec as registry
from trainables.fitting.features import Given
from trainables.fitting.resting import Resting

Config = dict[str, Any]


@dataclass(frozen=True)
class OnColumns:
    """An encoder that sees only `columns` of the counts; totals stay those over all genes measured."""

    encoder: Any
    columns: np.ndarray

    @property
    def identity(self) -> dict[str, Any]:
        return {"columns": identity_hash(self.columns.tolist()), **self.encoder.identity}

    @property
    def network_options(self) -> dict[str, Any]:
        return self.encoder.network_options

    @property
    def coverage(self) -> dict[str, Any]:
        return self.encoder.coverage

    def redrawn(self, draw: int) -> "OnColumns":
        """Return the encoder that gives cells another draw of what is random in their encoding."""
        return replace(self, encoder=self.encoder.redrawn(draw))

    def __call__(self, counts: sparse.csr_matrix, rng: np.random.Generator, totals: np.ndarray) -> Any:
        return self.encoder(sparse.csr_matrix(counts[:, self.columns]), rng, totals=totals)


class Encoders:
    """What the trials of one sweep are encoded by. Methods take a trial's configuration, see Preparation.

    genes, learned: the task that makes a file if one is wanted and not there; encoder: needs both files.
    """

    def __init__(self, cells: dict[str, Cells], storage: Path, shared: Shared | None = None) -> None:
        self.cells, self.storage, self.shared = cells, storage, shared
        self._rows: dict[str, choice.Rows] = {}
        self._digests: dict[str, str] = {}
        self._encoders: dict[str, tuple[Any, dict[str, Any]]] = {}
        self._vectors: dict[str, Vectors] = {}
        self._weights: dict[str, Path] = {}

    def rows(self, config: Config) -> choice.Rows:
        """Return the split of a trial and its training cells after the skew."""
        key = identity_hash(config["dataset"], config["split"], config["skew"])
        if key not in self._rows:
            cells = self.cells[config["dataset"]]
            self._rows[key] = choice.choose(
                cells.labels,
                cells.classes,
                config["split"],
                config["skew"],
                cells.donors,
                cells.fixed_test,
                cells.twins,
            )
        return self._rows[key]

    def fitted_rows(self, config: Config) -> np.ndarray:
        """Return the cells that genes and encoders are fitted on: what the skew has left, or all training cells."""
        rows = self.rows(config)
        return rows.kept if config["genes"]["fit"] == "kept" else rows.split.train

    def _fitted(self, config: Config) -> tuple[str, str]:
        """Return what identifies the cells that a trial's genes and encoder are fitted on."""
        where = identity_hash(config["dataset"], config["split"], config["skew"], config["genes"]["fit"])
        if where not in self._digests:
            self._digests[where] = hashlib.sha256(self.fitted_rows(config).tobytes()).hexdigest()
        return self.cells[config["dataset"]].digest, self._digests[where]

    @cached_property
    def readable(self) -> dict[str, ray.ObjectRef]:
        """What tasks read of each dataset, sent to the cluster once."""
        for one in self.cells.values():
            bring(self.shared, one.counts)
        return {
            name: ray.put(making.Readable(one.counts, one.totals, one.labels, one.classes, one.true_counts))
            for name, one in self.cells.items()
        }

    def _genes_file(self, config: Config) -> Path | None:
        """Return the file of the highly variable genes' columns; None where the trial sees all genes."""
        genes, cells = config["genes"], self.cells[config["dataset"]]
        if given(config) or genes["select"] == "all" or genes["n"] >= cells.num_genes:
            return None
        key = identity_hash(self._fitted(config), genes["select"], genes["n"])
        return self.storage / "genes" / f"hvg-{key}.npy"

    def genes(self, config: Config) -> tuple[Path, Task] | None:
        path = self._genes_file(config)
        if path is None or path.exists():
            return None
        args = (self.readable[config["dataset"]], self.fitted_rows(config), config["genes"]["n"])
        return path, Task("genes", making.fit_genes, args)

    def _learned_file(self, config: Config) -> Path | None:
        """Return the file of what the model's encoder learns; None where it learns nothing."""
        if config.get("on") or registry.get(config["model"]).fit_encoder is None or config["weights"] is not None:
            return None
        genes = self._genes_file(config)
        who = [config["model"], *([] if config.get("code") is None else [config["code"]])]
        key = identity_hash(self._fitted(config), "all" if genes is None else genes.name, *who)
        return self.storage / "genes" / f"learned-{key}.json"

    def learned(self, config: Config) -> tuple[Path, Task] | None:
        path = self._learned_file(config)
        if path is None or path.exists():
            return None
        cells, genes = self.readable[config["dataset"]], self.cells[config["dataset"]].genes
        args = (cells, self.fitted_rows(config), self._genes_file(config), genes, config["model"])
        return path, Task(f"{config['model']}'s medians", making.fit_encoder, args)

    def encoder(self, config: Config) -> tuple[Any, dict[str, Any]]:
        """Return a trial's encoder, and what it was made of: genes in column order, what it learnt."""
        columns, learned = self._genes_file(config), self._learned_file(config)
        own = [config[name] for name in ("dataset", "model", "options", "weights", "defects")] + [config.get("on")]
        key = identity_hash(own, str(columns), str(learned))
        if key not in self._encoders:
            self._encoders[key] = self._make_encoder(config, columns, learned)
        return self._encoders[key]

    def _make_encoder(self, config: Config, columns: Path | None, learned: Path | None) -> tuple[Any, dict[str, Any]]:
        genes = self.cells[config["dataset"]].genes
        chosen = None if columns is None else np.load(columns, allow_pickle=False)
        genes = genes if chosen is None else [genes[column] for column in chosen]
        known = {} if learned is None else json.loads(learned.read_text(encoding="utf-8"))
        weights = None if config["weights"] is None else Path(config["weights"])
        if given(config):
            vectors = self.vectors(config)
            return Given(vectors.width, vectors.digest, _where(config["on"])), {"genes": [], "learned": {}}
        if on := config.get("on"):
            encoder = registry.get(on["model"]).encoder(genes, Path(on["weights"]), **on["options"])
        else:
            encoder = registry.get(config["model"]).encoder(genes, weights, **options_of(config), **known)
        return encoder if chosen is None else OnColumns(encoder, chosen), {"genes": genes, "learned": known}

    def at_rest(self, encoding: Job, config: Config) -> Job | None:
        """Return the vectors that a network at rest makes of encoded cells for a trial; None where it has no such."""
        if given(config) or not (config.get("on") or config.get("rests")):
            return None
        own = {"model": config["model"], "weights": config["weights"], "sha256": config.get("rests")}
        on = config.get("on") or own | {"options": options_of(config)}
        network = Resting(encoding.encoder, on["model"], self.weights(on["weights"]), on["options"], on["sha256"])
        return Job(encoding.cells, network, encoding.root, source=encoding, shared=self.shared)

    def weights(self, folder: str) -> Path:
        """Return where workers find a folder of weights: where it is, or in the store."""
        if folder not in self._weights:
            self._weights[folder] = Path(folder) if self.shared is None else self.shared.bring(Path(folder))
        return self._weights[folder]

    def vectors(self, config: Config) -> Vectors:
        """Return the vectors that stand for a dataset's cells, where the trial is on given ones."""
        on, dataset = config["on"], config["dataset"]
        key = identity_hash(on, dataset)
        if key not in self._vectors:
            self._vectors[key] = vectors_of(on, self.cells[dataset])
        return self._vectors[key]

    def seen(self, config: Config) -> Any:
        """Return the dataset as the trial's encoder reads it: its counts, or the vectors in their place."""
        cells = self.cells[config["dataset"]]
        return replace(cells, counts=self.vectors(config)) if given(config) else cells

    def encoding(self, config: Config, job: Job) -> Path:
        """Return the file that says how cells were encoded, which whoever uses the trained model needs."""
        path = self.storage / "genes" / f"encoding-2-{job.folder.name}.json"
        if not path.exists():
            made_of = self.encoder(config)[1] | {"identity": job.encoder.identity}
            made_of["totals"] = described_totals(self.cells[config["dataset"]])
            publish(path, json.dumps(made_of, ensure_ascii=False).encode())
        return path


def given(config: Config) -> bool:
    """Tell whether vectors that somebody else has made stand for the trial's cells."""
    return bool(config.get("on")) and "model" not in config["on"]


def _where(on: dict[str, Any]) -> str:
    return f"obsm {on['obsm']}" if "obsm" in on else "embeddings"


def options_of(config: Config) -> dict[str, Any]:
    """Return all options of a trial's model, defaults included, as its defects leave them."""
    options, _ = protocol.apply(config["defects"], config["options"], {})
    return registry.get(config["model"]).options(**options).model_dump()


def described_totals(cells: Any) -> dict[str, Any]:
    """Return what a cell's total was: a column of obs, or (None) the sum of the file's genes; its median over cells."""
    return {"column": getattr(getattr(cells, "source", None), "totals", None), "median": float(np.median(cells.totals))}
