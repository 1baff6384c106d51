"""What trials need before the first one starts: opened datasets, encoded shards, generated cells, chosen rows.

Everything made here is content-addressed and published by rename, so preparing again finds it and does nothing.
"""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from data_pipeline.atomic import publish
from data_pipeline.errors import RequestError
from data_pipeline.genes import select_hvg
from data_pipeline.hashes import identity_hash
from data_pipeline.reading.cells import Cells
from data_pipeline.rows import choice
from data_pipeline.rows.generated import GeneratedCells
from data_pipeline.rows.resample import STRATEGIES
from data_pipeline.seeds import generator
from data_pipeline.shards.writing import Job, write_shards
from trainables import protocol
from trainables import spec as registry


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


class Preparation:
    """Prepares the trials of one sweep; each configuration is what run_trial takes, plus `dataset` and `genes`."""

    def __init__(self, cells: dict[str, Cells], storage: Path) -> None:
        self.cells, self.storage = cells, storage
        self._rows: dict[str, choice.Rows] = {}
        self._encoders: dict[str, Any] = {}
        self._columns: dict[str, np.ndarray | None] = {}
        self._made: dict[str, GeneratedCells] = {}

    def prepare(self, configs: list[dict[str, Any]]) -> list[dict[str, str | None]]:
        """Make what is missing; returns for each config the paths that run_trial takes. Ray must run.

        shards, encoding (how cells became a model's input, for whoever uses the trained model), and where the strategy
        makes them: generated (shards of made cells), distances (a table of how far these are from real ones), rows.
        """
        self._try_weights(configs)
        jobs: dict[Path, Job] = {}
        made = [self._one(config, jobs) for config in configs]
        write_shards(list(jobs.values()))
        return made

    def _try_weights(self, configs: list[dict[str, Any]]) -> None:
        """Load every weights folder once before anything is made; RequestError lists what is wrong with all of them."""
        tried: dict[str, dict[str, Any]] = {}
        for config in configs:
            if config["weights"] is not None:
                tried.setdefault(identity_hash(config["model"], config["weights"], config["options"]), config)
        problems: list[str] = []
        for config in tried.values():
            try:
                options = _options(config) | self.encoder(config).network_options
                classes = self.cells[config["dataset"]].classes
                registry.get(config["model"]).build(len(classes), weights=Path(config["weights"]), **options)
            except RequestError as error:
                problems += [problem for problem in error.problems if problem not in problems]
        if problems:
            raise RequestError(*problems)

    def encoder(self, config: dict[str, Any]) -> Any:
        """Return the encoder of a trial, fitted on the training cells of its split where it learns anything."""
        return self._made_encoder(config)[0]

    def _made_encoder(self, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return a trial's encoder, and what it was made of: genes in column order, what it learnt."""
        key = identity_hash(
            [config[name] for name in ("dataset", "genes", "model", "options", "weights", "defects", "split")]
        )
        if key not in self._encoders:
            self._encoders[key] = self._make_encoder(config)
        return self._encoders[key]

    def _make_encoder(self, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        spec, cells, options = registry.get(config["model"]), self.cells[config["dataset"]], _options(config)
        columns = self._hvg(config)
        genes = cells.genes if columns is None else [cells.genes[column] for column in columns]
        weights = None if config["weights"] is None else Path(config["weights"])
        learned = {}
        if spec.fit_encoder is not None and weights is None:
            learned = spec.fit_encoder(self._training_blocks(config, columns), genes) or {}
        encoder = spec.encoder(genes, weights, **options, **learned)
        return encoder if columns is None else OnColumns(encoder, columns), {"genes": genes, "learned": learned}

    def _encoding(self, config: dict[str, Any], job: Job) -> Path:
        """Return the file that says how cells were encoded, which whoever uses the trained model needs."""
        path = self.storage / "genes" / f"encoding-{job.folder.name}.json"
        if not path.exists():
            made_of = self._made_encoder(config)[1] | {"identity": job.encoder.identity}
            publish(path, json.dumps(made_of, ensure_ascii=False).encode())
        return path

    def rows(self, config: dict[str, Any]) -> choice.Rows:
        """Return the split of a trial and its training cells after the skew."""
        key = identity_hash(config["dataset"], config["split"], config["skew"])
        if key not in self._rows:
            cells = self.cells[config["dataset"]]
            self._rows[key] = choice.choose(
                cells.labels, cells.classes, config["split"], config["skew"], cells.donors, cells.fixed_test
            )
        return self._rows[key]

    def _one(self, config: dict[str, Any], jobs: dict[Path, Job]) -> dict[str, str | None]:
        cells, root = self.cells[config["dataset"]], self.storage / "shards"
        job = Job(cells, self.encoder(config), root)
        jobs.setdefault(job.folder, job)
        paths: dict[str, str | None] = {"shards": str(job.folder), "encoding": str(self._encoding(config, job))}
        paths |= {"generated": None, "distances": None, "rows": None}
        kind = config["strategy"]["kind"]
        if kind not in STRATEGIES:
            made = self._generated(config)
            paths["distances"] = str(self._distances(config, made))
            if made.num_cells:
                generated = Job(made, job.encoder, root)
                jobs.setdefault(generated.folder, generated)
                paths["generated"] = str(generated.folder)
        elif getattr(STRATEGIES[kind], "needs", None) == "counts":
            paths["rows"] = str(self._rows_by_counts(config))
        return paths

    def _hvg(self, config: dict[str, Any]) -> np.ndarray | None:
        """Return the columns of the highly variable genes, fitted on the training cells of the split; None: all."""
        genes, cells = config["genes"], self.cells[config["dataset"]]
        if genes["select"] == "all" or genes["n"] >= cells.num_genes:
            return None
        key = identity_hash(cells.digest, genes, config["split"])
        if key not in self._columns:
            path = self.storage / "genes" / f"hvg-{key}.npy"

            def blocks() -> Iterator[sparse.csr_matrix]:
                return (counts for counts, _ in self._training_blocks(config, None))

            chosen = partial(select_hvg, blocks, cells.num_genes, genes["n"], true_counts=cells.true_counts)
            self._columns[key] = _kept_array(path, chosen)
        return self._columns[key]

    def _training_blocks(self, config: dict[str, Any], columns: np.ndarray | None) -> Iterator[tuple]:
        """Yield (counts CSR, totals) of the split's training cells, before any skew, block by block."""
        cells = self.cells[config["dataset"]]
        training = self.rows(config | {"skew": {"kind": "natural"}}).split.train
        for start, counts in cells.blocks():
            inside = training[(training >= start) & (training < start + counts.shape[0])]
            chosen = counts[inside - start]
            if len(inside):
                yield (chosen if columns is None else sparse.csr_matrix(chosen[:, columns])), cells.totals[inside]

    def _made_key(self, config: dict[str, Any]) -> str:
        described = [config[name] for name in ("split", "skew", "strategy", "seed")]
        return identity_hash(self.cells[config["dataset"]].digest, described, _made_as_published(config))

    def _generated(self, config: dict[str, Any]) -> GeneratedCells:
        """Return the cells that the trial's strategy makes of its training cells' counts."""
        cells, key = self.cells[config["dataset"]], self._made_key(config)
        if key not in self._made:
            path = self.storage / "generated" / f"{key}.npz"
            if not path.exists():
                self._make_cells(config, key).save(path)
            published = _made_as_published(config)
            self._made[key] = GeneratedCells.load(path, f"{key}-generated", cells.classes, published)
        return self._made[key]

    def _make_cells(self, config: dict[str, Any], key: str) -> GeneratedCells:
        from data_pipeline.rows.synthesize import SYNTHESIZERS

        cells, kept, kind = self.cells[config["dataset"]], self.rows(config).kept, config["strategy"]["kind"]
        if not cells.true_counts:
            raise RequestError(
                f"{config['dataset']}: strategy {kind} needs raw counts, but this file holds "
                "log-normalised values (values: log1p); leave the strategy out, or give the dataset's raw counts"
            )
        params = {name: value for name, value in config["strategy"].items() if name != "kind"}
        params |= {"unscaled": True} if _made_as_published(config) else {}
        rng, labels = generator(config["split"]["seed"], "generate", config["seed"]), cells.labels[kept]
        counts, made = choice.call(
            SYNTHESIZERS[kind], cells.take(kept), labels, rng, params=params, classes=cells.classes
        )
        return GeneratedCells(key, counts, made, cells.classes)

    def _distances(self, config: dict[str, Any], made: GeneratedCells) -> Path:
        """Return the table of how far the made cells are from the training cells, made once, beside them."""
        from data_pipeline.rows.synthesize import distance_report

        path = self.storage / "generated" / f"{self._made_key(config)}.csv"
        if not path.exists():
            cells, kept = self.cells[config["dataset"]], self.rows(config).kept
            rng = generator(config["split"]["seed"], "distances", config["seed"])
            table = distance_report(cells.take(kept), cells.labels[kept], made.counts, made.labels, made.classes, rng)
            publish(path, table.to_csv(index=False).encode())
        return path

    def _rows_by_counts(self, config: dict[str, Any]) -> Path:
        """Choose the rows of a strategy that looks at counts; returns the file that holds them."""
        cells, kept = self.cells[config["dataset"]], self.rows(config).kept
        path = self.storage / "generated" / f"rows-{self._made_key(config)}.npy"
        seed = (config["split"]["seed"], "strategy", config["seed"])
        context = {"classes": cells.classes}

        def choose() -> np.ndarray:
            return choice.resample(cells.labels, kept, config["strategy"], seed, counts=cells.take(kept), **context)

        _kept_array(path, choose)
        return path


def _options(config: dict[str, Any]) -> dict[str, Any]:
    """Return all options of a trial's model, defaults included, as its defects leave them."""
    options, _ = protocol.apply(config["defects"], config["options"], {})
    return registry.get(config["model"]).options(**options).model_dump()


def _made_as_published(config: dict[str, Any]) -> bool:
    """Tell whether the trial's cells are made with the published recipe's missing scale."""
    return "scvi_unscaled" in config["defects"]


def _kept_array(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the array in `path`, made and published first if it isn't there."""
    if not path.exists():
        data = io.BytesIO()
        np.save(data, make(), allow_pickle=False)
        publish(path, data.getvalue())
    return np.load(path, allow_pickle=False)


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


def prepare(configs: list[dict[str, Any]], cells: dict[str, Cells], storage: Path) -> list[dict[str, str | None]]:
    """Return for each trial configuration the paths of Preparation.prepare, making what is missing."""
    return Preparation(cells, storage).prepare(configs)
