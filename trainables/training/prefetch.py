"""Batches made ahead of need by a thread, so that a GPU doesn't wait while the host gathers and pins the next one."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from data_pipeline.shards.feed import Batch

DEPTH = 2  # batches that wait, ready, at most: one to take and one in the making


def ahead(batches: Iterable[Batch], prepare: Callable[[Batch], Batch], depth: int = DEPTH) -> Iterator[Batch]:
    """Yield prepare(batch) of every batch in order; one thread works up to `depth` batches ahead of the reader.

    What goes wrong in the thread is raised here, at the batch it belongs to. A reader that stops early ends the thread.
    """
    source = iter(batches)

    def make() -> Batch | None:
        batch = next(source, None)
        return None if batch is None else prepare(batch)

    with ThreadPoolExecutor(1, "prefetch") as thread:
        waiting = deque(thread.submit(make) for _ in range(depth))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(make))
            yield batch
