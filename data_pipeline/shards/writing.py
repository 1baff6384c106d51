"""Encoded cells onto disk, by a Ray Data job.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_pipeline.atomic import publish
from data_pipeline.hashes import file_sha256, identity_hash
from data_pipeline.seeds import generator
from data_pipeline.shards.parts import lengths_of, serialise
from data_pipeline.shards.shards import CELLS, LENGTHS

BLOCK = 2048  # cells per part; part of the key, since each block has its own generator
VERSION = 2


@dataclass(frozen=True)
class Job:
    """One encoding of one dataset: `cells` is anything with digest, num_cells, read(start, stop), counts and totals.

    code: what stands for an encoder's code from outside, which may change without another identity.
    """

    cells: Any
    encoder: Any
    root: Path
    code: str | None = None

    @property
    def dataset_folder(self) -> Path:
        return self.root / self.cells.digest[:16]

    @functools.cached_property
    def folder(self) -> Path:
        who = [self.encoder.identity, *([] if self.code is None else [self.code])]
        return self.dataset_folder / identity_hash(VERSION, BLOCK, self.cells.digest, *who)

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
        path = self.folder / f"part-{start:09d}.arrow"
        if path.exists() and path.with_suffix(".json").exists():
            return
        rng, totals = generator(0, "encode", self.folder.name, start), self.totals[start : start + counts.shape[0]]
        encoded = self.encoder(counts, rng, totals=totals)
        data, columns = serialise(encoded)
        part = {"file": path.name, "start": start, "stop": start + len(encoded), "tokens": int(encoded.offsets[-1])}
        part |= {"longest": int(encoded.lengths.max(initial=0)), "bytes": len(data), "columns": columns}
        note = json.dumps(part | {"sha256": hashlib.sha256(data).hexdigest()})
        publish(path, data, durable=False)  # a loss of power shows in the hash, and the part is made again
        publish(path.with_suffix(".json"), note.encode(), durable=False)


def _finish(job: Job) -> None:
    """Publish the tokens per cell, and the manifest, of a job whose parts are all there."""
    parts = [json.loads(path.read_text()) for path in sorted(job.folder.glob("part-*.json"))]
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
        "network_options": job.encoder.network_options,
        "coverage": job.encoder.coverage,
        "longest": max(part["longest"] for part in parts),
        "tokens": sum(part["tokens"] for part in parts),
        "parts": parts,
    }
    publish(job.folder / "manifest.json", json.dumps(manifest, indent=1, default=str).encode())


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


def write_shards(jobs: list[Job], count: Callable[[str, int, int], None] | None = None) -> None:
    """Encode every job that isn't complete, in one Ray Data job that reads each block of counts once.

    count(what, done, of all) is told of each block.
    Ray must be running. A job that was cut short goes on where it stopped; parts that are there are not made again.
    """
    pending = {str(job.folder): job for job in jobs if not job.is_complete()}
    if not pending:
        return
    by_cells: dict[tuple[str, str], list[Job]] = {}
    for job in pending.values():
        _drop_damaged(job)
        _write_cells(job)
        by_cells.setdefault(job.reads, []).append(job)
    _run(list(by_cells.values()), lambda done, of: count and count("preparing: blocks encoded", done, of))
    for job in pending.values():
        _finish(job)


def write_here(job: Job) -> None:
    """Encode a job in this process, without Ray: the same bytes, one block after the other."""
    _write_cells(job)
    for start in range(0, job.cells.num_cells, BLOCK):
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
    starts = range(0, group[0].cells.num_cells, BLOCK)
    return [s for s in starts if not all((job.folder / f"part-{s:09d}.json").exists() for job in group)]


def _run(groups: list[list[Job]], count: Callable[[int, int], None]) -> None:
    from data_pipeline.shards.datasource import for_each_block

    writers = [[job.writer for job in group] for group in groups]
    readers = [group[0].reader for group in groups]

    def encode(index: int, start: int, counts: Any) -> None:
        for writer in writers[index]:
            writer.write(start, counts)

    tasks = [(index, start) for index, group in enumerate(groups) for start in _missing_blocks(group)]
    for_each_block(readers, [group[0].cells.num_cells for group in groups], tasks, BLOCK, count, encode)
