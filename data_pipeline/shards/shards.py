"""Encoded cells on disk: written once by a Ray Data job, memory-mapped by every trial.

    <root>/<dataset digest>/cells.arrow                     label, cell id, donor, fixed_test: one row per cell
    <root>/<dataset digest>/<encoding key>/part-*.arrow     the encoded cells of one block of rows
    <root>/<dataset digest>/<encoding key>/manifest.json    written last: its existence means complete

Content-addressed: the key is the hash of everything that fixes the bytes, so two sweeps that prepare the same
encoding at once write the same files, and every file appears by rename.
"""

import functools
import hashlib
import json
import mmap
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_pipeline.seeds import generator
from data_pipeline.shards.encoded import Encoded, concatenate

BLOCK = 2048  # cells per part; part of the key, since each block has its own generator
VERSION = 1
CELLS = "cells.arrow"


class ShardError(RuntimeError):
    """A shard is missing, cut off or altered. The damaged part is removed, so that the next run encodes it again."""


def identity_hash(*parts: Any) -> str:
    """Return 16 hex digits that stand for `parts` (JSON-able)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Job:
    """One encoding of one dataset: `cells` is anything with digest, num_cells, read(start, stop), counts and totals."""

    cells: Any
    encoder: Any
    root: Path

    @property
    def dataset_folder(self) -> Path:
        return self.root / self.cells.digest[:16]

    @functools.cached_property
    def folder(self) -> Path:
        return self.dataset_folder / identity_hash(VERSION, BLOCK, self.cells.digest, self.encoder.identity)

    @property
    def writer(self) -> "Writer":
        return Writer(self.folder, self.encoder, self.cells.totals)

    @property
    def reader(self) -> Any:
        """What reads blocks of counts: the light part of an opened dataset, without its names and labels."""
        return self.cells.counts if hasattr(self.cells.counts, "read") else self.cells

    def is_complete(self) -> bool:
        """Tell whether the manifest is there, the cells it was made with are, and every part has the size it names."""
        try:
            manifest = json.loads((self.folder / "manifest.json").read_text())
            is_whole = (self.dataset_folder / CELLS).exists() and bool(manifest["cells_sha256"])
            parts = manifest["parts"]
            return is_whole and all((self.folder / part["file"]).stat().st_size == part["bytes"] for part in parts)
        except (OSError, ValueError, KeyError):
            return False


def publish(path: Path, data: bytes) -> None:
    """Write `data` to `path` by rename: a reader sees the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _smallest(values: np.ndarray) -> np.ndarray:
    """Return `values` in the narrowest type that holds them exactly: whole numbers from 0 to 65,535 in 1 or 2 bytes."""
    top = values.max(initial=0)
    in_range = values.min(initial=0) >= 0 and top < 65536
    if not (in_range and (values.dtype.kind in "iu" or np.all(values == np.rint(values)))):
        return values.astype(np.float32 if values.dtype.kind == "f" else np.int32, copy=False)
    return values.astype(np.uint8 if top < 256 else np.uint16)


def _ragged(flat: np.ndarray, offsets: np.ndarray) -> pa.LargeListArray:
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(_smallest(flat)))


def _ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


@dataclass(frozen=True)
class Writer:
    """What a worker needs of a job: where parts go, how cells are encoded, counts per cell over all genes."""

    folder: Path
    encoder: Any
    totals: np.ndarray

    def write(self, start: int, counts: Any) -> None:
        """Encode the block of cells from `start` on and publish its part, unless a whole one is there."""
        path = self.folder / f"part-{start:09d}.arrow"
        if path.exists() and path.with_suffix(".json").exists():
            return
        rng, totals = generator(0, "encode", self.folder.name, start), self.totals[start : start + counts.shape[0]]
        encoded = self.encoder(counts, rng, totals=totals)
        columns = {"ids": _ragged(encoded.ids, encoded.offsets)}
        if encoded.values is not None:
            columns["values"] = _ragged(encoded.values, encoded.offsets)
        data = _ipc(pa.table(columns))
        part = {"file": path.name, "start": start, "stop": start + len(encoded), "tokens": int(encoded.offsets[-1])}
        part |= {"longest": int(encoded.lengths.max(initial=0)), "bytes": len(data)}
        publish(path, data)
        publish(path.with_suffix(".json"), json.dumps(part | {"sha256": hashlib.sha256(data).hexdigest()}).encode())


def _finish(job: Job) -> None:
    """Publish the manifest of a job whose parts are all there."""
    stats = sorted(job.folder.glob("part-*.json"))
    parts = [json.loads(path.read_text()) for path in stats]
    manifest = {
        "version": VERSION,
        "dataset": job.cells.digest,
        "num_cells": job.cells.num_cells,
        "cells_sha256": _sha256(job.dataset_folder / CELLS),
        "classes": job.cells.classes,
        "identity": job.encoder.identity,
        "network_options": job.encoder.network_options,
        "coverage": job.encoder.coverage,
        "longest": max(part["longest"] for part in parts),
        "tokens": sum(part["tokens"] for part in parts),
        "parts": parts,
    }
    publish(job.folder / "manifest.json", json.dumps(manifest, indent=1, default=str).encode())


def _write_cells(job: Job) -> None:
    path = job.dataset_folder / CELLS
    if path.exists():
        return
    cells = job.cells
    columns: dict[str, Any] = {"cell_id": pa.array(list(map(str, cells.cell_ids))), "label": cells.labels}
    for name in ("donors", "fixed_test"):
        if getattr(cells, name) is not None:
            columns[name] = pa.array(list(getattr(cells, name)))
    publish(path, _ipc(pa.table(columns)))


def write_shards(jobs: list[Job]) -> None:
    """Encode every job that isn't complete, in one Ray Data job that reads each block of counts once.

    Ray must be running. A job that was cut short goes on where it stopped; parts that are there are not made again.
    """
    pending = {str(job.folder): job for job in jobs if not job.is_complete()}
    if not pending:
        return
    by_cells: dict[str, list[Job]] = {}
    for job in pending.values():
        _drop_damaged(job)
        _write_cells(job)
        by_cells.setdefault(job.cells.digest, []).append(job)
    _run(list(by_cells.values()))
    for job in pending.values():
        _finish(job)


def _drop_damaged(job: Job) -> None:
    """Remove the parts whose bytes are not what their note says, so that they are encoded again."""
    for note in job.folder.glob("part-*.json"):
        try:
            is_whole = _sha256(note.with_suffix(".arrow")) == json.loads(note.read_text())["sha256"]
        except (OSError, ValueError, KeyError):
            is_whole = False
        if not is_whole:
            note.unlink()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _missing_blocks(group: list[Job]) -> list[int]:
    starts = range(0, group[0].cells.num_cells, BLOCK)
    return [s for s in starts if not all((job.folder / f"part-{s:09d}.json").exists() for job in group)]


def _run(groups: list[list[Job]]) -> None:
    from data_pipeline.shards.datasource import for_each_block

    writers = [[job.writer for job in group] for group in groups]
    readers = [group[0].reader for group in groups]

    def encode(index: int, start: int, counts: Any) -> None:
        for writer in writers[index]:
            writer.write(start, counts)

    tasks = [(index, start) for index, group in enumerate(groups) for start in _missing_blocks(group)]
    for_each_block(readers, [group[0].cells.num_cells for group in groups], tasks, BLOCK, encode)


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
    return _sha256(path) == sha256


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


def iterate(shards: Shards | Joined, rows: np.ndarray, size: int = BLOCK) -> Iterator[Encoded]:
    """Yield the cells `rows` in order, `size` at a time."""
    for start in range(0, len(rows), size):
        yield shards.take(rows[start : start + size])
