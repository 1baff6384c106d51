"""The door to Ray Data: blocks of raw counts by tasks, parts of encoded cells by actors, wherever Ray has room."""

import logging
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray import cloudpickle
from ray.data import ActorPoolStrategy, DataContext, Dataset, Datasource, ExecutionResources
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask
from scipy import sparse

from data_pipeline.errors import RequestError
from data_pipeline.sameness import comparison

ACTORS_PER_GPU = 2


def for_each_block(
    readers: list[Any],
    num_cells: list[int],
    tasks: list[tuple[int, int]],
    block: int,
    count: Callable[[int, int], None],
    work: Callable[[int, int, sparse.csr_matrix], None],
    at_once: int | None = None,
) -> None:
    """Call work(index, start, counts) for every task (index into `readers`, first row); Ray must be running.

    at_once: so many blocks; None: as many as there are CPUs.

    A lost worker's block is worked on again by another; the first error of `work` is raised here as it was there.
    count(done, of all) is called after each block.
    """
    if not tasks:
        return
    _hush()
    shared, launch, compare = ray.put(work), uuid.uuid4().hex, comparison()

    def run(batch: pa.Table) -> pa.Table:
        errors = [_attempt(partial(_checked, shared, launch, compare), *block) for block in counts_from_arrow(batch)]
        return pa.table({"error": pa.array(errors, pa.binary())})

    blocks = ray.data.read_datasource(CountBlocks(readers, num_cells, tasks, block))
    done = blocks.map_batches(run, batch_size=None, batch_format="pyarrow", zero_copy_batch=True)
    if at_once is not None:
        done.context.execution_options.resource_limits = ExecutionResources.for_limits(cpu=at_once)
    _wait(done, len(tasks), count)


def for_each_part(
    tasks: list[tuple[int, int]],
    work: Callable[[int, int], None],
    count: Callable[[int, int], None],
    at_once: int | None = None,
    gpus: int = 0,
) -> None:
    """Call work(index, start) for every task, in actors that keep what `work` has loaded; Ray must be running.

    An actor has a CPU, of `at_once` at most, or half of one of so many GPUs, if any. A lost actor's part
    is worked on again by another; the first error of `work` is raised here. count(done, of all) follows each part.
    """
    if not tasks:
        return
    _hush()
    shared, compare = ray.put(work), comparison()

    class Holding:
        def __init__(self) -> None:
            self.said = compare()
            self.work = None if self.said is not None else _fetch(shared)

        def do(self, index: int, start: int) -> None:
            if self.work is None:
                raise RequestError(self.said)
            self.work(index, start)

        def __call__(self, batch: pa.Table) -> pa.Table:
            errors = [_attempt(self.do, row["index"], row["start"]) for row in batch.to_pylist()]
            return pa.table({"error": pa.array(errors, pa.binary())})

    blocks = ray.data.from_arrow([pa.table({"index": [index], "start": [start]}) for index, start in tasks])
    done = blocks.map_batches(Holding, batch_size=1, batch_format="pyarrow", **_pool(len(tasks), at_once, gpus))
    _wait(done, len(tasks), count)


def _pool(num_tasks: int, at_once: int | None, gpus: int) -> dict[str, Any]:
    """Return how many actors there may be, and what each has: half a GPU, so that one reads while another computes."""
    most = ACTORS_PER_GPU * gpus or at_once or int(ray.cluster_resources().get("CPU", 1))
    size = max(1, min(most, num_tasks))
    pool = {"compute": ActorPoolStrategy(min_size=1, max_size=size, initial_size=size), "num_cpus": 1}
    return pool | {"num_gpus": 1 / ACTORS_PER_GPU} if gpus else pool


def _hush() -> None:
    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _wait(done: Dataset, total: int, count: Callable[[int, int], None]) -> None:
    """Count what is done; raise its first error."""
    errors = []
    for number, row in enumerate(done.iter_rows(), start=1):
        errors += [] if row["error"] is None else [row["error"]]
        count(number, total)
    if errors:
        raise cloudpickle.loads(errors[0])


_SAID: dict[str, str | None] = {}  # by launch: why this process's code won't do for it, None if it does


def _checked(ref: ray.ObjectRef, launch: str, compare: Callable[[], str | None], *block: Any) -> None:
    """Do the work, if this process has the driver's code; it is looked at once, before its first block."""
    if launch not in _SAID:
        _SAID[launch] = compare()
    if (said := _SAID[launch]) is not None:
        raise RequestError(said)
    _fetch(ref)(*block)


def _attempt(work: Callable[..., None], *given: Any) -> bytes | None:
    """Return the error of `work`, pickled by this very program: raised in a task, Ray keeps only its text."""
    try:
        work(*given)
    except Exception as error:
        return cloudpickle.dumps(error)
    return None


def _fetch(ref: ray.ObjectRef) -> Any:
    """Return the object; one that a worker can't unpickle is an error, not a lost worker to wait for without end."""
    try:
        return ray.get(ref)
    except ray.exceptions.RaySystemError as error:
        raise RuntimeError(f"a worker can't read what the driver sent: {error}") from error


def counts_to_arrow(group: int, start: int, counts: sparse.csr_matrix) -> pa.Table:
    """Return one block of counts as a table of one row, zero-copy."""

    def one(values: np.ndarray) -> pa.LargeListArray:
        return pa.LargeListArray.from_arrays(pa.array([0, len(values)], pa.int64()), pa.array(values))

    columns = {"group": pa.array([group]), "start": pa.array([start]), "num_genes": pa.array([counts.shape[1]])}
    columns |= {"data": one(counts.data), "indices": one(counts.indices), "indptr": one(counts.indptr.astype(np.int64))}
    return pa.table(columns)


def counts_from_arrow(table: pa.Table) -> Iterator[tuple[int, int, sparse.csr_matrix]]:
    """Yield (group, start, counts float32 CSR) of each block in the table."""
    for row in range(table.num_rows):
        data, indices, indptr = (table[name][row].values.to_numpy() for name in ("data", "indices", "indptr"))
        shape = (len(indptr) - 1, table["num_genes"][row].as_py())
        counts = sparse.csr_matrix((data, indices, indptr), shape)
        yield table["group"][row].as_py(), table["start"][row].as_py(), counts


class CountBlocks(Datasource):
    """The blocks `tasks` = [(index into readers, first row)] of several datasets of `num_cells` cells each."""

    def __init__(self, readers: list[Any], num_cells: list[int], tasks: list[tuple[int, int]], block: int) -> None:
        self._readers, self._num_cells, self._tasks, self._block = readers, num_cells, tasks, block

    def estimate_inmemory_data_size(self) -> int | None:
        """Return None: blocks are read and encoded one at a time, their sum never lies in memory."""
        return None

    def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
        """Return one task per block: blocks are small, and a lost one alone is read again."""
        refs = [ray.put(reader) for reader in self._readers]
        return [ReadTask(self._read(refs[group], group, start), _metadata()) for group, start in self._tasks]

    def _read(self, reader: ray.ObjectRef, group: int, start: int) -> Callable[[], Iterable[pa.Table]]:
        stop = min(start + self._block, self._num_cells[group])
        return lambda: [counts_to_arrow(group, start, _fetch(reader).read(start, stop))]


def _metadata() -> BlockMetadata:
    return BlockMetadata(num_rows=1, size_bytes=None, input_files=None, exec_stats=None)
