"""What trials need before they start: opened datasets, encoded shards, generated cells, chosen rows.

Everything made here is content-addressed and published by rename, so preparing again finds it and does nothing. What
passes over counts is done by Ray: a task per choice of genes, per encoder that learns, per set of made cells.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from data_pipeline.errors import RequestError
from data_pipeline.hashes import identity_hash
from data_pipeline.reading.cells import Cells
from data_pipeline.rows.generated import GeneratedCells, load_cells
from data_pipeline.rows.resample import STRATEGIES, check_compared
from data_pipeline.shards.job import BLOCK, Job
from data_pipeline.shards.shards import CELLS
from data_pipeline.shards.writing import write_shards
from data_pipeline.shared.hand import bring
from data_pipeline.shared.store import Shared
from sweeps.cluster import resources
from sweeps.drive.preparing import making
from sweeps.drive.preparing.encoders import Config, Encoders, given, options_of
from sweeps.drive.preparing.tasks import Count, Task, make_files
from sweeps.drive.workshop import Workshop
from sweeps.file.trials import Trial
from trainables import spec as registry
from trainables.spec import ModelSpec


def _as_trained(spec: ModelSpec, network: Any, options: dict[str, Any]) -> None:
    """Freeze and adapt a network as its trial will; RequestError if that can't be."""
    from trainables.training.trained import choose

    choose(network, spec, options.get("train"), pretrained=True)


class Preparation:
    """Prepares the trials of one sweep; each configuration is what run_trial takes, plus `dataset` and `genes`.

    shared: where machines that share no folder find what is made; `storage` has all of it as well.
    """

    def __init__(
        self,
        cells: dict[str, Cells],
        storage: Path,
        count: Count,
        work: Workshop | None = None,
        shared: Shared | None = None,
    ) -> None:
        self.cells, self.storage, self.count, self.work = cells, storage, count, work or Workshop()
        self.shared, self.encoders = shared, Encoders(cells, storage, shared)
        self._made: dict[Path, GeneratedCells] = {}

    def check(self, configs: list[Config]) -> None:
        """RequestError if what is given for a trial (vectors, weights, counts) won't do; makes a few genes for that."""
        for config in filter(given, configs):
            self.encoders.vectors(config)
        for config in filter(makes_own, configs):
            self._by_strategy(config)
        self._try_weights(configs)

    def prepare(self, configs: list[Config]) -> list[dict[str, str | None]]:
        """Make what is missing; returns for each config the paths that run_trial takes. Ray must run.

        shards, encoding (how cells became a model's input, for whoever uses the trained model), and where the strategy
        makes them: generated (shards of made cells), distances (a table of how far these are from real ones), rows.
        """
        self._make(self.encoders.genes, configs)
        self._make(self.encoders.learned, configs)
        self._make(self._by_strategy, list(filter(makes_own, configs)))
        jobs: dict[Path, Job] = {}
        made = [self._one(config, jobs) for config in configs]
        self._encode(jobs)
        self._make(self._distances, configs)
        if self.shared is not None:
            self.shared.push_missing(self.shared.made_in(made), (CELLS,))
        return made

    def _make(self, task_of: Any, configs: list[Config]) -> None:
        make_files(self._each(task_of, configs), self.count, self.work, self.shared)

    def _encode(self, jobs: dict[Path, Job]) -> None:
        missing = {folder: job for folder, job in jobs.items() if not job.is_complete()}
        if not missing:
            return
        for job in missing.values():
            bring(self.shared, job.cells.counts)
        blocks = sum(-(-job.cells.num_cells // BLOCK) for job in missing.values())
        encodings = {job.folder: job for job in (one.source or one for one in missing.values())}
        vectors = [job for job in missing.values() if job.source is not None]
        with self.work.making({*missing, *encodings}, blocks) as at_once:
            write_shards(list(encodings.values()), self._counted, at_once)
            with self.work.on_gpus(blocks if vectors else 0) as nodes:
                write_shards(vectors, self._counted, at_once, len(nodes))

    def _counted(self, what: str, done: int, total: int) -> None:
        self.work.check()
        self.count(what, done, total)

    def _each(self, task_of: Any, configs: list[Config]) -> dict[Path, Task]:
        """Return what `task_of` (config -> (path, task), or None) finds to be made, each file once."""
        return dict(task for config in configs if (task := task_of(config)) is not None)

    def _try_weights(self, configs: list[Config]) -> None:
        """Load every weights folder once before anything else; RequestError lists what is wrong with all of them."""
        tried: dict[str, Config] = {}
        for config in configs:
            if (own := _network(config)) is not None:
                tried.setdefault(identity_hash(own), config)
        self._make(self.encoders.genes, list(tried.values()))
        problems: list[str] = []
        for config in tried.values():
            try:
                model, weights, options = _network(config)
                options = options | self.encoders.encoder(config)[0].network_options
                classes, spec = self.cells[config["dataset"]].classes, registry.get(model)
                _as_trained(spec, spec.build(len(classes), weights=Path(weights), **options), options)
            except RequestError as error:
                problems += [problem for problem in error.problems if problem not in problems]
        if problems:
            raise RequestError(*problems)

    # strategies

    def _made_file(self, config: Config) -> Path:
        """Return the file of made cells, or of rows chosen by counts."""
        described = [config[name] for name in ("split", "skew", "strategy", "seed")]
        code = [config["functions"]] if config.get("functions") else []
        key = identity_hash(self.cells[config["dataset"]].digest, described, _as_published(config), *code)
        rows = making.looks_at_counts(config["strategy"])
        return self.storage / "generated" / (f"rows-{key}.npy" if rows else f"{key}.npz")

    def _by_strategy(self, config: Config) -> tuple[Path, Task]:
        """Return the task that makes a strategy's cells, or its rows where it looks at counts; see makes_own."""
        from data_pipeline.rows.synthesize import SYNTHESIZERS

        path, strategy, split = self._made_file(config), config["strategy"], config["split"]["seed"]
        args = (self.encoders.readable[config["dataset"]], self.encoders.rows(config).kept)
        if making.looks_at_counts(strategy):
            check_compared(len(args[1]))
            args = (*args, strategy, (split, "strategy", config["seed"]))
            return path, Task("rows chosen by counts", making.rows_by_counts, args)
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
        root, encoder, made = self.storage / "shards", self.encoders.encoder(config)[0], self._generated(config)
        code = config.get("code")
        if on := config.get("on"):
            code = None if given(config) else registry.code_of(on["model"])
        own = Job(made, encoder, root, code, shared=self.shared) if made is not None and made.num_cells else None
        return Job(self.encoders.seen(config), encoder, root, code, shared=self.shared), own

    def _one(self, config: Config, jobs: dict[Path, Job]) -> dict[str, Any]:
        """Return a trial's paths, its encodings, and what networks at rest make of them, added to `jobs`."""
        real, made = self._jobs(config)
        more = range(1, options_of(config).get("draws", 1))
        again = [replace(real, encoder=real.encoder.redrawn(draw)) for draw in more]
        encodings = [job for job in (real, made, *again) if job is not None]
        rested = {job.folder: self.encoders.at_rest(job, config) for job in encodings}
        vectors = {str(folder): job for folder, job in rested.items() if job is not None}
        for job in (*encodings, *vectors.values()):
            jobs.setdefault(job.folder, job)
        paths = {"shards": str(real.folder), "encoding": str(self.encoders.encoding(config, real))}
        paths |= {"generated": None if made is None else str(made.folder), "distances": None, "rows": None}
        if config["weights"] is not None:
            paths["weights"] = str(self.encoders.weights(config["weights"]))
        paths["redrawn"] = [str(job.folder) for job in again]
        if config.get("rests"):
            paths["features"] = {folder: str(job.folder) for folder, job in vectors.items()}
        elif vectors:
            paths["shards"] = str(vectors[str(real.folder)].folder)
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
        args = (self.encoders.readable[config["dataset"]], self.encoders.rows(config).kept, self._made_file(config))
        args += ((real.folder, made.folder), config["model"], (config["split"]["seed"], "distances", config["seed"]))
        return self._distances_file(config, real, made), Task("distances of made cells", making.distances, args)


def _network(config: Config) -> tuple[str, str, dict[str, Any]] | None:
    """Return model, weights and options of the pretrained network that a trial trains, or is on; None without one."""
    if (on := config.get("on")) and not given(config):
        return on["model"], on["weights"], on["options"]
    return None if config["weights"] is None else (config["model"], config["weights"], options_of(config))


def makes_own(config: Config) -> bool:
    """Tell whether the trial's strategy makes cells, or chooses rows by counts."""
    return config["strategy"]["kind"] not in STRATEGIES or making.looks_at_counts(config["strategy"])


def _group_of(config: Config) -> str:
    """Return what trials share that are made ready together: all that is made for them but their encodings."""
    if given(config):
        return config["dataset"]
    own = [config[name] for name in ("strategy", "seed", "defects")] if makes_own(config) else None
    return identity_hash(config["dataset"], config["split"], config["skew"], config["genes"], own)


def groups(todo: list[Trial], nodes: list[dict[str, float]]) -> list[list[Trial]]:
    """Return the trials in groups that are made ready together, those whose strategies make cells last.

    The first groups of each model and dataset whose share of a GPU is to be measured come before all, as that takes a
    whole GPU, which trials soon won't leave.
    """
    configs, found, first = {trial.key: trial.config() for trial in todo}, {}, {}
    for trial in sorted(todo, key=lambda trial: makes_own(configs[trial.key])):
        group = _group_of(configs[trial.key])
        found.setdefault(group, []).append(trial)
        if resources.has_gpus(nodes) and resources.is_auto(trial):
            first.setdefault((trial.dataset, trial.label), group)
    return [found[group] for group in sorted(found, key=lambda group: group not in first.values())]


def _as_published(config: Config) -> bool:
    """Tell whether the trial's cells are made with the published recipe's missing scale."""
    return "scvi_unscaled" in config["defects"]


def open_datasets(spec: Any, storage: Path) -> dict[str, Cells]:
    """Return every dataset of a sweep, validated; RequestError lists the problems of all of them at once."""
    from data_pipeline.reading.h5ad import open_cells
    from data_pipeline.reading.known.catalog import resolve

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
    configs: list[Config],
    cells: dict[str, Cells],
    storage: Path,
    count: Count = silent,
    work: Workshop | None = None,
    shared: Shared | None = None,
) -> list[dict[str, str | None]]:
    """Return for each trial configuration the paths of Preparation.prepare, making what is missing."""
    return Preparation(cells, storage, count, work, shared).prepare(configs)


def check(
    configs: list[Config], cells: dict[str, Cells], storage: Path, count: Count = silent, shared: Shared | None = None
) -> None:
    """RequestError if what is given for the trials won't do, see Preparation.check."""
    Preparation(cells, storage, count, shared=shared).check(configs)
