"""Encoded cells from disk: memory-mapped by every trial, verified, copied out by row."""

import functools
import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_pipeline.hashes import file_sha256
from data_pipeline.shards.encoded import Encoded, concatenate

AT_ONCE = 2048  # cells that `iterate` yields at a time
CELLS = "cells.arrow"


class ShardError(RuntimeError):
    """A shard is missing, cut off or altered. The damaged part is removed, so that the next run encodes it again."""


class Shards:
    """A complete set of shards, memory-mapped: `take` copies out just the cells asked for.

    Attributes: num_cells, classes (list[str]), labels int64 [n], cell_ids, donors | None, fixed_test | None,
    lengths int64 [n] (tokens per cell), network_options (what the model's `build` needs to know of the encoding).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        try:
            self.manifest = json.loads((self.folder / "manifest.json").read_text())
        except (OSError, ValueError) as error:
            raise ShardError(f"{folder}: no complete shards ({error}); run the sweep again to encode them") from error
        self.num_cells = self.manifest["num_cells"]
        self.classes = self.manifest["classes"]
        self.network_options = self.manifest["network_options"]
        mapped = [_map_part(self.folder, part) for part in self.manifest["parts"]]
        self._parts, self._maps = [part for part, _ in mapped], [pages for _, pages in mapped]
        self._starts = np.array([part["start"] for part in self.manifest["parts"]])
        cells = _read_cells(self.folder.parent / CELLS, self.manifest)
        self.labels = cells["label"].to_numpy().astype(np.int64)
        self.cell_ids = cells["cell_id"]
        self.donors = np.array(cells["donors"].to_pylist()) if "donors" in cells.column_names else None
        self.fixed_test = np.array(cells["fixed_test"].to_pylist()) if "fixed_test" in cells.column_names else None
        self.lengths = np.concatenate([part.lengths for part in self._parts])
        _let_go(self._maps)

    def __len__(self) -> int:
        return self.num_cells

    def take(self, rows: np.ndarray) -> Encoded:
        """Return the cells `rows` (int64 [b], repeats allowed) in that order: ids int64, values float32 | None."""
        rows = np.asarray(rows, dtype=np.int64)
        part_of = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(part_of, kind="stable")
        parts = np.unique(part_of)
        pieces = [self._parts[p].take(rows[order][part_of[order] == p] - self._starts[p]) for p in parts]
        together = concatenate([_widen(piece) for piece in pieces]) if pieces else _widen(self._parts[0].take(rows))
        _let_go([self._maps[p] for p in parts])
        return together if np.all(order[:-1] < order[1:]) else together.take(np.argsort(order))


def _let_go(maps: list[mmap.mmap]) -> None:
    """Unmap the pages that were read: they stay in the page cache, but are no memory of this process any more.

    A read maps all that the kernel has of its surroundings, up to megabytes per cell.
    """
    for pages in maps if hasattr(mmap, "MADV_DONTNEED") else ():
        pages.madvise(mmap.MADV_DONTNEED)


def _widen(part: Encoded) -> Encoded:
    values = None if part.values is None else part.values.astype(np.float32)
    return Encoded(part.ids.astype(np.int64), values, part.offsets)


def _read_cells(path: Path, manifest: dict[str, Any]) -> pa.Table:
    if not path.exists() or not _verified(path, path.stat().st_mtime_ns, manifest["cells_sha256"]):
        path.unlink(missing_ok=True)
        raise ShardError(f"{path}: missing, cut off or altered; run the sweep again to write it anew")
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


@functools.lru_cache(maxsize=256)
def _verified(path: Path, modified: int, sha256: str) -> bool:
    """Tell whether the file holds the bytes of its note; hashed once per process and version of the file."""
    return file_sha256(path) == sha256


def _map_part(folder: Path, part: dict) -> tuple[Encoded, mmap.mmap]:
    """Return a part's cells, which copy nothing, and the mapping that they lie in."""
    path = folder / part["file"]
    if not path.exists() or not _verified(path, path.stat().st_mtime_ns, part["sha256"]):
        path.with_suffix(".json").unlink(missing_ok=True)
        (folder / "manifest.json").unlink(missing_ok=True)
        raise ShardError(f"{path}: missing, cut off or altered; run the sweep again to encode this part anew")
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    table = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(pages))).read_all()
    ids = table["ids"].chunk(0)
    values = table["values"].chunk(0).values.to_numpy() if "values" in table.column_names else None
    return Encoded(ids.values.to_numpy(), values, ids.offsets.to_numpy()), pages


class Joined:
    """Real cells followed by generated ones, as one set of rows: row n is the first generated cell."""

    def __init__(self, real: Shards, generated: Shards) -> None:
        self.real, self.generated = real, generated
        self.lengths = np.concatenate([real.lengths, generated.lengths])
        self.labels = np.concatenate([real.labels, generated.labels])
        self.cell_ids = pa.chunked_array([*real.cell_ids.chunks, *generated.cell_ids.chunks])
        self.network_options = real.network_options

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: np.ndarray) -> Encoded:
        """Return the cells `rows` in that order, from both sets."""
        rows = np.asarray(rows, dtype=np.int64)
        made = rows >= len(self.real)
        parts = [self.real.take(rows[~made]), self.generated.take(rows[made] - len(self.real))]
        return concatenate(parts).take(np.argsort(np.argsort(made, kind="stable"), kind="stable"))


def iterate(shards: Shards | Joined, rows: np.ndarray, size: int = AT_ONCE) -> Iterator[Encoded]:
    """Yield the cells `rows` in order, `size` at a time."""
    for start in range(0, len(rows), size):
        yield shards.take(rows[start : start + size])
