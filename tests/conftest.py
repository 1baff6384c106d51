"""What many tests need: the folder of real data (tests skip without it) and small made-up cells."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run beside each other; networks this small gain nothing from more
HERE = Path(__file__).resolve().parent
FOLDERS = [HERE.parent, HERE, *sorted(path for path in HERE.rglob("[a-z]*") if path.is_dir())]
PATHS = os.pathsep.join(str(path) for path in FOLDERS)  # where this checkout's code and its tests' modules lie
SHARED = HERE.parents[1] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data, dictionaries and large goldens beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("the folder of real data is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def zheng11(shared: Path) -> Path:
    return shared / "data" / "zheng11_composite.h5ad"


@pytest.fixture(scope="session")
def baron(shared: Path) -> Path:
    return shared / "data" / "baron_h1.h5ad"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def blank_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow without a sweep, to be copied: MLflow takes seconds to make one."""
    from sweeps.tracking.connection import create_database

    path = tmp_path_factory.mktemp("blank") / "mlflow.db"
    create_database(path)
    return path


@pytest.fixture
def tracker(tmp_path: Path, blank_database: Path):
    """The tracker of sweep small, whose store is embedded in the test's own folder."""
    from sweeps.tracking.store import Tracker
    from sweeps.tracking.uris import default_uri

    (tmp_path / "sweeps").mkdir()
    shutil.copyfile(blank_database, tmp_path / "mlflow.db")
    made = Tracker(default_uri(tmp_path), "small", tmp_path)
    yield made
    made.close(10)


def counts_like(num_cells: int, num_genes: int, num_types: int, seed: int = 0) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Return (counts float32 CSR [n, G], labels int64 [n]): types that differ in a few marker genes each."""
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.integers(0, num_types, num_cells))
    rates = rng.gamma(0.3, 1.0, num_genes) * np.ones((num_types, 1))
    for kind in range(num_types):
        rates[kind, rng.choice(num_genes, max(1, num_genes // 20), replace=False)] += 6
    counts = rng.poisson(rates[labels] * rng.lognormal(0, 0.3, (num_cells, 1)))
    return sparse.csr_matrix(counts.astype(np.float32)), labels.astype(np.int64)


def local_ray(**shape: int) -> None:
    """See to it that this process drives a Ray of its own with that many CPUs and GPUs; one that fits is kept."""
    import ray

    import sweeps.cluster.environment  # noqa: F401  (settings that Ray reads at its start)

    if ray.is_initialized() and any(ray.cluster_resources().get(name, 0) != number for name, number in shape.items()):
        ray.shutdown()
    if not ray.is_initialized():
        options = {f"num_{name.lower()}s": number for name, number in shape.items()}
        here = {"env_vars": {"PYTHONPATH": PATHS}}  # workers import what tests define
        quiet = {"include_dashboard": False, "logging_level": "ERROR", "log_to_driver": False}
        ray.init("local", **options, **quiet, runtime_env=here)


@pytest.fixture(scope="module")
def ray_here() -> None:
    """A small Ray, shared by all modules that ask for one."""
    local_ray(CPU=2, GPU=0)


@pytest.fixture(scope="module")
def ray_with_gpus() -> None:
    """A small Ray that believes in four GPUs."""
    local_ray(CPU=4, GPU=4)


@pytest.fixture(scope="session")
def finished_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small sweep, finished: my.h5ad, the files that README and docs name, cellskew-runs."""
    from documents import finish_sweep

    folder = tmp_path_factory.mktemp("finished")
    finish_sweep(folder)
    return folder


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A storage folder with a sweep of fault_tools.py on which nothing went wrong, and its state."""
    from fault_tools import finish, start, state

    storage = tmp_path_factory.mktemp("undisturbed") / "storage"
    finish(start(storage))
    return storage, state(storage)


@pytest.fixture(scope="session", autouse=True)
def no_ray_left_behind():
    yield
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()


def make_shards(cells, encoder, root: Path) -> Path:
    """Encode `cells` in this process; returns the folder."""
    from data_pipeline.shards.writing import Job, write_here

    job = Job(cells, encoder, root)
    write_here(job)
    return job.folder


def made_up_cells(num_cells: int = 300, num_genes: int = 60, num_types: int = 4, seed: int = 0):
    """Return made-up cells of `num_types` types with the face of an opened dataset."""
    from data_pipeline.rows.generated import GeneratedCells

    counts, labels = counts_like(num_cells, num_genes, num_types, seed)
    digest, totals = f"{seed:04d}-made-up-{num_cells}-{num_genes}", np.asarray(counts.sum(axis=1)).ravel()
    return GeneratedCells(digest, counts, labels, [f"type {n}" for n in range(num_types)], totals)


def trainable_here() -> list[str]:
    """Return the names of the models whose packages are installed."""
    from trainables.spec import get, names

    return [name for name in names() if get(name).lacking is None or get(name).lacking() is None]


def trial_config(tmp_path: Path, model: str, **changes) -> dict:
    """Return the configuration of a tiny trial on made-up cells, its shards made."""
    from trainables.spec import get

    cells, spec = changes.pop("cells", None), get(model)
    cells = made_up_cells() if cells is None else cells
    genes = [f"gene{n}" for n in range(cells.counts.shape[1])]
    options = {"size": "tiny"} | changes.pop("options", {})
    resolved = spec.options(**options).model_dump()
    learned = spec.fit_encoder([(cells.counts, cells.totals)], genes) if spec.fit_encoder else {}
    folder = make_shards(cells, spec.encoder(genes, None, **resolved, **(learned or {})), tmp_path / "shards")
    config = {
        "key": f"{model}-tiny",
        "directory": str(tmp_path / "trials" / model),
        "shards": str(folder),
        "model": model,
        "options": options,
        "recipe": {"epochs": 3} if spec.kind == "network" else {},
        "split": {"seed": 0, "test": 0.2, "validation": 0.1},
        "skew": {"kind": "natural"},
        "strategy": {"kind": "none"},
        "device": "cpu",
    }
    return config | changes
