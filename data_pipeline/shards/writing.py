"""Encoded cells onto disk, by a Ray Data job; and what a network at rest makes of them, by actors that hold it.

    <root>/<dataset digest>/cells.arrow                     label, cell id, donor, fixed_test, twins: one row per cell
    <root>/<dataset digest>/<encoding key>/part-*.arrow     the encoded cells of one block of rows
    <root>/<dataset digest>/<encoding key>/lengths.npy      tokens per cell
    <root>/<dataset digest>/<encoding key>/manifest.json    written last: its existence means complete
    <root>/<dataset digest>/<encoding key>/checked.json     which of these files have been hashed since they changed

Content-addressed: the key is the hash of everything that fixes the bytes, so two sweeps that prepare the same
encoding at once write the same files, and every file appears by rename.
"""

import functools
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_pipeline.atomic import publish
from data_pipeline.errors import RequestError
from data_pipeline.hashes import file_sha256, identity_hash
from data_pipeline.seeds import generator
from data_pipeline.shards.encoded import Encoded
from data_pipeline.shards.parts import lengths_of, serialise
from data_pipeline.shards.shards import CELLS, LENGTHS, Shards

BLOCK = 2048  # cells per part; part of the key, since each block has its own generator
PART = 256  # of vectors by a network, which takes seconds to hours for as many cells
VERSION = 2


@dataclass(frozen=True)
class Job:
    """One encoding of one dataset: `cells` is anything with digest, num_cells, read(start, stop), counts and totals.

    code: what stands for an encoder's code from outside, which may change without another identity. source: the
    encoding that vectors are made of; `encoder` is then a network at rest, called with encoded cells.
    """

    cells: Any
    encoder: Any
    root: Path
    code: str | None = None
    source: "Job | None" = None

    @property
    def dataset_folder(self) -> Path:
        return self.root / self.cells.digest[:16]

    @functools.cached_property
    def folder(self) -> Path:
        who = [self.encoder.identity, *([] if self.code is None else [self.code])]
        who += [] if self.source is None else [self.source.folder.name]
        return self.dataset_folder / identity_hash(VERSION, self.block, self.cells.digest, *who)

    @property
    def block(self) -> int:
        """Cells per part."""
        return BLOCK if self.source is None else PART

    @property
    def writer(self) -> "Writer":
        return Writer(self.folder, self.encoder, self.cells.totals)

    @property
    def reader(self) -> Any:
        """What reads blocks of counts: the light part of an opened dataset, without its names and labels."""
        return self.cells.counts if hasattr(self.cells.counts, "read") else self.cells

    @property
    def reads(self) -> tuple[str, str]:
        """What stands for the cells, and for their numbers if these are no counts."""
        return self.cells.digest, getattr(self.cells.counts, "digest", "")

    def is_complete(self) -> bool:
        """Tell whether the manifest is there, the cells it was made with are, and every part has the size it names."""
        try:
            manifest = json.loads((self.folder / "manifest.json").read_text())
            is_whole = all((self.folder / name).exists() for name in (CELLS, LENGTHS))
            parts = manifest["parts"]
            return is_whole and all((self.folder / part["file"]).stat().st_size == part["bytes"] for part in parts)
        except (OSError, ValueError, KeyError):
            return False


@dataclass(frozen=True)
class Writer:
    """What a worker needs of a job: where parts go, how cells are encoded, counts per cell over all genes."""

    folder: Path
    encoder: Any
    totals: np.ndarray

    def write(self, start: int, counts: Any) -> None:
        """Encode the block of cells from `start` on and publish its part, unless a whole one is there."""
        if not self.has(start):
            rng, totals = generator(0, "encode", self.folder.name, start), self.totals[start : start + counts.shape[0]]
            self.publish(start, self.encoder(counts, rng, totals=totals))

    def has(self, start: int) -> bool:
        path = self._path(start)
        return path.exists() and path.with_suffix(".json").exists()

    def _path(self, start: int) -> Path:
        return self.folder / f"part-{start:09d}.arrow"

    def publish(self, start: int, encoded: Encoded) -> None:
        """Put the part of the cells from `start` on where it belongs, its note last."""
        path = self._path(start)
        data, columns = serialise(encoded)
        part = {"file": path.name, "start": start, "stop": start + len(encoded), "tokens": int(encoded.offsets[-1])}
        part |= {"longest": int(encoded.lengths.max(initial=0)), "bytes": len(data), "columns": columns}
        part |= {"origin": getattr(self.encoder, "origin", {})}
        note = json.dumps(part | {"sha256": hashlib.sha256(data).hexdigest()})
        publish(path, data, durable=False)  # a loss of power shows in the hash, and the part is made again
        publish(path.with_suffix(".json"), note.encode(), durable=False)


def _finish(job: Job) -> None:
    """Publish the tokens per cell, and the manifest, of a job whose parts are all there."""
    parts = [json.loads(path.read_text()) for path in sorted(job.folder.glob("part-*.json"))]
    longest = max(part["longest"] for part in parts)
    lengths = io.BytesIO()
    np.save(lengths, np.concatenate([lengths_of(job.folder / part["file"]) for part in parts]), allow_pickle=False)
    publish(job.folder / LENGTHS, lengths.getvalue())
    manifest = {
        "version": VERSION,
        "dataset": job.cells.digest,
        "num_cells": job.cells.num_cells,
        "cells_sha256": file_sha256(job.folder / CELLS),
        "lengths_sha256": file_sha256(job.folder / LENGTHS),
        "classes": job.cells.classes,
        "identity": job.encoder.identity,
        "network_options": job.encoder.network_options if job.source is None else {"num_genes": longest},
        "coverage": job.encoder.coverage,
        "origin": _origin(job, parts),
        "longest": longest,
        "tokens": sum(part["tokens"] for part in parts),
        "parts": parts,
    }
    publish(job.folder / "manifest.json", json.dumps(manifest, indent=1, default=str).encode())


def _origin(job: Job, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what made all parts, beyond the job's identity; RequestError, and none is kept, if these are several."""
    origins = [json.loads(one) for one in {json.dumps(part.get("origin", {}), sort_keys=True) for part in parts}]
    if len({origin.get("frozen") for origin in origins}) > 1:
        for note in job.folder.glob("part-*.json"):
            note.unlink()
        raise RequestError(f"{job.folder}: its parts were made by different weights; none is kept, run the sweep again")
    return {"frozen": origins[0].get("frozen"), "devices": sorted(filter(None, (o.get("device") for o in origins)))}


def _write_cells(job: Job) -> None:
    path = job.dataset_folder / Path(CELLS).name
    if path.exists():
        return
    cells = job.cells
    columns: dict[str, Any] = {"cell_id": pa.array(cells.cell_ids, pa.string()), "label": cells.labels}
    for name in ("donors", "fixed_test", "twins"):
        if getattr(cells, name) is not None:
            columns[name] = pa.array(getattr(cells, name).tolist())
    table, sink = pa.table(columns), pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    publish(path, sink.getvalue().to_pybytes())


def write_shards(
    jobs: list[Job], count: Callable[[str, int, int], None] | None = None, at_once: int | None = None
) -> None:
    """Encode every job that isn't complete, in one Ray Data job that reads each block of counts once.

    Vectors by networks follow, once the encodings are there that they are made of. count(what, done, of all) is told of
    each block. at_once: blocks, None: as many as there are CPUs. Ray must be running. A job that was cut short goes on
    where it stopped; parts that are there are not made again.
    """
    jobs = list({str(job.folder): job for job in jobs}.values())
    vectors = _opened([job for job in jobs if job.source is not None])
    plain = {str(job.folder): job for job in [*jobs, *(job.source for job in vectors)] if job.source is None}
    encoded = _opened(list(plain.values()))
    by_cells: dict[tuple[str, str], list[Job]] = {}
    for job in encoded:
        by_cells.setdefault(job.reads, []).append(job)
    _encode(list(by_cells.values()), lambda done, of: count and count("preparing: blocks encoded", done, of), at_once)
    for job in encoded:
        _finish(job)
    if vectors:
        _rest(vectors, lambda done, of: count and count("preparing: features, parts of cells", done, of), at_once)


def _opened(jobs: list[Job]) -> list[Job]:
    """Return those that aren't complete, what is damaged of them removed."""
    pending = [job for job in jobs if not job.is_complete()]
    for job in pending:
        _drop_damaged(job)
        _write_cells(job)
    return pending


def write_here(job: Job) -> None:
    """Make a job in this process, without Ray: the same bytes, one block after the other."""
    _write_cells(job)
    rest = None if job.source is None else AtRest([job])
    if job.source is not None and not job.source.is_complete():
        write_here(job.source)
    for start in _missing_blocks([job]):
        if rest is not None:
            rest(0, start)
        else:
            job.writer.write(start, job.cells.read(start, min(start + BLOCK, job.cells.num_cells)))
    _finish(job)


def _drop_damaged(job: Job) -> None:
    """Remove the parts whose bytes are not what their note says, so that they are encoded again."""
    for note in job.folder.glob("part-*.json"):
        try:
            is_whole = file_sha256(note.with_suffix(".arrow")) == json.loads(note.read_text())["sha256"]
        except (OSError, ValueError, KeyError):
            is_whole = False
        if not is_whole:
            note.unlink()


def _missing_blocks(group: list[Job]) -> list[int]:
    starts = range(0, group[0].cells.num_cells, group[0].block)
    return [start for start in starts if not all(job.writer.has(start) for job in group)]


def _encode(groups: list[list[Job]], count: Callable[[int, int], None], at_once: int | None) -> None:
    from data_pipeline.shards.datasource import for_each_block

    writers = [[job.writer for job in group] for group in groups]
    readers = [group[0].reader for group in groups]

    def encode(index: int, start: int, counts: Any) -> None:
        for writer in writers[index]:
            writer.write(start, counts)

    tasks = [(index, start) for index, group in enumerate(groups) for start in _missing_blocks(group)]
    for_each_block(readers, [group[0].cells.num_cells for group in groups], tasks, BLOCK, count, encode, at_once)


class AtRest:
    """What an actor does that holds a network: call(index of a job, first cell) publishes a part of its vectors.

    Encoded cells come from where their encoding lies; parts of one job follow each other, so that one network at a time
    is held.
    """

    def __init__(self, jobs: list[Job]) -> None:
        self._writers = [replace(job.writer, totals=np.zeros(0)) for job in jobs]
        self._sources = [job.source.folder for job in jobs]
        self._open: tuple[Path, Shards] | None = None

    def __call__(self, index: int, start: int) -> None:
        if not self._writers[index].has(start):
            shards = self._shards(self._sources[index])
            encoded = shards.take(np.arange(start, min(start + PART, len(shards))))
            self._writers[index].publish(start, self._writers[index].encoder(encoded))

    def _shards(self, folder: Path) -> Shards:
        if self._open is None or self._open[0] != folder:
            self._open = folder, Shards(folder)
        return self._open[1]


def _rest(jobs: list[Job], count: Callable[[int, int], None], at_once: int | None) -> None:
    """Make the vectors of all jobs, and publish the manifest of each."""
    from data_pipeline.shards.datasource import for_each_part

    tasks = [(index, start) for index, job in enumerate(jobs) for start in _missing_blocks([job])]
    for_each_part(tasks, AtRest(jobs), count, at_once)
    for job in jobs:
        _finish(job)
