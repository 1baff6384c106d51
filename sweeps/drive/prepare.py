"""What trials need before the first one starts: opened datasets, encoded shards, generated cells, chosen rows.

Everything made here is content-addressed and published by rename, so preparing again finds it and does nothing. What
passes over counts is done by Ray: a task per choice of genes, per encoder that learns, per set of made cells.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import ray
from scipy import sparse

from data_pipeline.atomic import publish
from data_pipeline.errors import RequestError
from data_pipeline.hashes import identity_hash
from data_pipeline.reading.cells import Cells
from data_pipeline.rows import choice
from data_pipeline.rows.generated import GeneratedCells, load_cells
from data_pipeline.rows.resample import STRATEGIES
from data_pipeline.shards.writing import Job, write_shards
from sweeps.drive import making
from sweeps.drive.tasks import Count, Task, make_files
from trainables import protocol
from trainables import spec as registry

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

    def __call__(self, counts: sparse.csr_matrix, rng: np.random.Generator, totals: np.ndarray) -> Any:
        return self.encoder(sparse.csr_matrix(counts[:, self.columns]), rng, totals=totals)


def described_totals(cells: Any) -> dict[str, Any]:
    """Return what a cell's total was: a column of obs, or (None) the sum of the file's genes; its median over cells."""
    return {"column": getattr(getattr(cells, "source", None), "totals", None), "median": float(np.median(cells.totals))}


class Preparation:
    """Prepares the trials of one sweep; each configuration is what run_trial takes, plus `dataset` and `genes`."""

    def __init__(self, cells: dict[str, Cells], storage: Path, count: Count) -> None:
        self.cells, self.storage, self.count = cells, storage, count
        self._rows: dict[str, choice.Rows] = {}
        self._digests: dict[str, str] = {}
        self._encoders: dict[str, tuple[Any, dict[str, Any]]] = {}
        self._made: dict[Path, GeneratedCells] = {}

    def prepare(self, configs: list[Config]) -> list[dict[str, str | None]]:
        """Make what is missing; returns for each config the paths that run_trial takes. Ray must run.

        shards, encoding (how cells became a model's input, for whoever uses the trained model), and where the strategy
        makes them: generated (shards of made cells), distances (a table of how far these are from real ones), rows.
        """
        make_files(self._each(self._genes, configs), self.count)
        self._try_weights(configs)
        make_files(self._each(self._learned, configs) | self._each(self._by_strategy, configs), self.count)
        jobs: dict[Path, Job] = {}
        made = [self._one(config, jobs) for config in configs]
        write_shards(list(jobs.values()), self.count)
        make_files(self._each(self._distances, configs), self.count)
        return made

    def _each(self, task_of: Any, configs: list[Config]) -> dict[Path, Task]:
        """Return what `task_of` (config -> (path, task), or None) finds to be made, each file once."""
        return dict(task for config in configs if (task := task_of(config)) is not None)

    def _try_weights(self, configs: list[Config]) -> None:
        """Load every weights folder once before anything is made; RequestError lists what is wrong with all of them."""
        tried: dict[str, Config] = {}
        for config in configs:
            if config["weights"] is not None:
                tried.setdefault(identity_hash(config["model"], config["weights"], config["options"]), config)
        problems: list[str] = []
        for config in tried.values():
            try:
                options = _options(config) | self._encoder(config)[0].network_options
                classes = self.cells[config["dataset"]].classes
                registry.get(config["model"]).build(len(classes), weights=Path(config["weights"]), **options)
            except RequestError as error:
                problems += [problem for problem in error.problems if problem not in problems]
        if problems:
            raise RequestError(*problems)

    # rows

    def rows(self, config: Config) -> choice.Rows:
        """Return the split of a trial and its training cells after the skew."""
        key = identity_hash(config["dataset"], config["split"], config["skew"])
        if key not in self._rows:
            cells = self.cells[config["dataset"]]
            self._rows[key] = choice.choose(
                cells.labels, cells.classes, config["split"], config["skew"], cells.donors, cells.fixed_test
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
    def _readable(self) -> dict[str, ray.ObjectRef]:
        """What tasks read of each dataset, sent to the cluster once."""
        return {
            name: ray.put(making.Readable(one.counts, one.totals, one.labels, one.classes, one.true_counts))
            for name, one in self.cells.items()
        }

    # genes and encoders

    def _genes_file(self, config: Config) -> Path | None:
        """Return the file of the highly variable genes' columns; None where the trial sees all genes."""
        genes, cells = config["genes"], self.cells[config["dataset"]]
        if genes["select"] == "all" or genes["n"] >= cells.num_genes:
            return None
        key = identity_hash(self._fitted(config), genes["select"], genes["n"])
        return self.storage / "genes" / f"hvg-{key}.npy"

    def _genes(self, config: Config) -> tuple[Path, Task] | None:
        path = self._genes_file(config)
        if path is None or path.exists():
            return None
        args = (self._readable[config["dataset"]], self.fitted_rows(config), config["genes"]["n"])
        return path, Task("genes", making.fit_genes, args)

    def _learned_file(self, config: Config) -> Path | None:
        """Return the file of what the model's encoder learns; None where it learns nothing."""
        if registry.get(config["model"]).fit_encoder is None or config["weights"] is not None:
            return None
        genes = self._genes_file(config)
        key = identity_hash(self._fitted(config), "all" if genes is None else genes.name, config["model"])
        return self.storage / "genes" / f"learned-{key}.json"

    def _learned(self, config: Config) -> tuple[Path, Task] | None:
        path = self._learned_file(config)
        if path is None or path.exists():
            return None
        cells, genes = self._readable[config["dataset"]], self.cells[config["dataset"]].genes
        args = (cells, self.fitted_rows(config), self._genes_file(config), genes, config["model"])
        return path, Task(f"{config['model']}'s medians", making.fit_encoder, args)

    def _encoder(self, config: Config) -> tuple[Any, dict[str, Any]]:
        """Return a trial's encoder, and what it was made of: genes in column order, what it learnt."""
        columns, learned = self._genes_file(config), self._learned_file(config)
        own = [config[name] for name in ("dataset", "model", "options", "weights", "defects")]
        key = identity_hash(own, str(columns), str(learned))
        if key not in self._encoders:
            self._encoders[key] = self._make_encoder(config, columns, learned)
        return self._encoders[key]

    def _make_encoder(self, config: Config, columns: Path | None, learned: Path | None) -> tuple[Any, dict[str, Any]]:
        genes = self.cells[config["dataset"]].genes
        chosen = None if columns is None else np.load(columns, allow_pickle=False)
        genes = genes if chosen is None else [genes[column] for column in chosen]
        known = {} if learned is None else json.loads(learned.read_text())
        weights = None if config["weights"] is None else Path(config["weights"])
        encoder = registry.get(config["model"]).encoder(genes, weights, **_options(config), **known)
        return encoder if chosen is None else OnColumns(encoder, chosen), {"genes": genes, "learned": known}

    def _encoding(self, config: Config, job: Job) -> Path:
        """Return the file that says how cells were encoded, which whoever uses the trained model needs."""
        path = self.storage / "genes" / f"encoding-2-{job.folder.name}.json"
        if not path.exists():
            made_of = self._encoder(config)[1] | {"identity": job.encoder.identity}
            made_of["totals"] = described_totals(self.cells[config["dataset"]])
            publish(path, json.dumps(made_of, ensure_ascii=False).encode())
        return path

    # strategies

    def _made_file(self, config: Config) -> Path:
        """Return the file of made cells, or of rows chosen by counts."""
        described = [config[name] for name in ("split", "skew", "strategy", "seed")]
        key = identity_hash(self.cells[config["dataset"]].digest, described, _as_published(config))
        rows = making.looks_at_counts(config["strategy"])
        return self.storage / "generated" / (f"rows-{key}.npy" if rows else f"{key}.npz")

    def _by_strategy(self, config: Config) -> tuple[Path, Task] | None:
        """Return the task that makes a strategy's cells, or its rows where it looks at counts."""
        from data_pipeline.rows.synthesize import SYNTHESIZERS

        path, strategy, split = self._made_file(config), config["strategy"], config["split"]["seed"]
        args = (self._readable[config["dataset"]], self.rows(config).kept)
        if making.looks_at_counts(strategy):
            args = (*args, strategy, (split, "strategy", config["seed"]))
            return path, Task("rows chosen by counts", making.rows_by_counts, args)
        if strategy["kind"] in STRATEGIES:
            return None
        self._check_counts(config)
        strategy = strategy | ({"unscaled": True} if _as_published(config) else {})
        synthesizer = SYNTHESIZERS[strategy["kind"]]
        args = (*args, synthesizer, strategy, (split, "generate", config["seed"]))
        on_gpu = getattr(synthesizer, "on_gpu", False)
        return path, Task(f"cells by {strategy['kind']}", making.make_cells, args, on_gpu)

    def _check_counts(self, config: Config) -> None:
        if not self.cells[config["dataset"]].true_counts:
            raise RequestError(
                f"{config['dataset']}: strategy {config['strategy']['kind']} needs raw counts, but this file holds "
                "log-normalised values (values: log1p); leave the strategy out, or give the dataset's raw counts"
            )

    def _generated(self, config: Config) -> GeneratedCells | None:
        """Return the cells that the trial's strategy has made, None if it makes none."""
        if config["strategy"]["kind"] in STRATEGIES:
            return None
        path = self._made_file(config)
        if path not in self._made:
            self._made[path] = load_cells(path, self.cells[config["dataset"]].classes)
        return self._made[path]

    # shards, and what is measured on them

    def _jobs(self, config: Config) -> tuple[Job, Job | None]:
        """Return the encodings of a trial: of the dataset, and of the cells made for it, if any."""
        root, encoder = self.storage / "shards", self._encoder(config)[0]
        made = self._generated(config)
        own = Job(made, encoder, root) if made is not None and made.num_cells else None
        return Job(self.cells[config["dataset"]], encoder, root), own

    def _one(self, config: Config, jobs: dict[Path, Job]) -> dict[str, str | None]:
        """Return a trial's paths, its encodings added to `jobs`."""
        real, made = self._jobs(config)
        jobs |= {job.folder: job for job in (real, made) if job is not None and job.folder not in jobs}
        paths = {"shards": str(real.folder), "encoding": str(self._encoding(config, real))}
        paths |= {"generated": None if made is None else str(made.folder), "distances": None, "rows": None}
        if made is not None:
            paths["distances"] = str(self._distances_file(config, real, made))
        if making.looks_at_counts(config["strategy"]):
            paths["rows"] = str(self._made_file(config))
        return paths

    def _distances_file(self, config: Config, real: Job, made: Job) -> Path:
        key = identity_hash(real.folder.name, made.folder.name, config["split"], config["skew"], config["seed"])
        return self.storage / "generated" / f"distances-{key}.csv"

    def _distances(self, config: Config) -> tuple[Path, Task] | None:
        real, made = self._jobs(config)
        if made is None:
            return None
        args = (self._readable[config["dataset"]], self.rows(config).kept, self._made_file(config))
        args += ((real.folder, made.folder), config["model"], (config["split"]["seed"], "distances", config["seed"]))
        return self._distances_file(config, real, made), Task("distances of made cells", making.distances, args)


def _options(config: Config) -> dict[str, Any]:
    """Return all options of a trial's model, defaults included, as its defects leave them."""
    options, _ = protocol.apply(config["defects"], config["options"], {})
    return registry.get(config["model"]).options(**options).model_dump()


def _as_published(config: Config) -> bool:
    """Tell whether the trial's cells are made with the published recipe's missing scale."""
    return "scvi_unscaled" in config["defects"]


def open_datasets(spec: Any, storage: Path) -> dict[str, Cells]:
    """Return every dataset of a sweep, validated; RequestError lists the problems of all of them at once."""
    from data_pipeline.reading.catalog import resolve
    from data_pipeline.reading.h5ad import open_cells

    opened, problems = {}, []
    for entry in spec.datasets:
        try:
            source = resolve(entry, storage)
            opened[source.name] = open_cells(source, storage / "datasets")
        except RequestError as error:
            problems += error.problems
    if problems:
        raise RequestError(*problems)
    return opened


def silent(what: str, done: int, total: int) -> None:
    """Tell nobody how far a step has come."""


def prepare(
    configs: list[Config], cells: dict[str, Cells], storage: Path, count: Count = silent
) -> list[dict[str, str | None]]:
    """Return for each trial configuration the paths of Preparation.prepare, making what is missing."""
    return Preparation(cells, storage, count).prepare(configs)
