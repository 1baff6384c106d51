"""Encoded cells onto disk, by a Ray Data job; and what a network at rest makes of them, by actors that hold it.

    <root>/<dataset digest>/cells.arrow                     label, cell id, donor, fixed_test, twins: one row per cell
    <root>/<dataset digest>/<encoding key>/part-*.arrow     the encoded cells of one block of rows
    <root>/<dataset digest>/<encoding key>/lengths.npy      tokens per cell
    <root>/<dataset digest>/<encoding key>/manifest.json    written last: its existence means complete
    <root>/<dataset digest>/<encoding key>/checked.json     which of these files have been hashed since they changed

Content-addressed: the key is the hash of everything that fixes the bytes, so two sweeps that prepare the same
encoding at once write the same files, and every file appears by rename.
"""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_pipeline.atomic import publish
from data_pipeline.errors import RequestError
from data_pipeline.hashes import file_sha256
from data_pipeline.shards.job import VERSION, Job
from data_pipeline.shards.parts import lengths_of
from data_pipeline.shards.shards import CELLS, LENGTHS, Shards
from data_pipeline.shared.hand import at_hand


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
    if job.shared is not None:
        job.shared.push(job.folder, (CELLS,))


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
    jobs: list[Job],
    count: Callable[[str, int, int], None] | None = None,
    at_once: int | None = None,
    gpus: int = 0,
) -> None:
    """Encode every job that isn't complete, in one Ray Data job that reads each block of counts once.

    Vectors by networks follow, once the encodings are there that they are made of, on so many `gpus`, if any.
    count(what, done, of all) is told of each block. at_once: blocks, None: as many as there are CPUs. Ray must be
    running. A job that was cut short goes on where it stopped; parts that are there are not made again.
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
        _gather(job)
        _finish(job)
    if vectors:
        _rest(vectors, lambda done, of: count and count("preparing: features, parts of cells", done, of), at_once, gpus)


def _opened(jobs: list[Job]) -> list[Job]:
    """Return those that aren't complete, what is damaged of them removed."""
    for job in jobs:
        if not job.is_complete():
            _gather(job)
    pending = [job for job in jobs if not job.is_complete()]
    for job in pending:
        _drop_damaged(job)
        _write_cells(job)
    return pending


def _gather(job: Job) -> None:
    """Have the job here as far as it is in the store, if there is one."""
    if job.shared is not None and not job.shared.pull(job.folder):
        for path in job.shared.parts(job.folder):
            job.shared.pull(path)


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
            job.writer.write(start, job.cells.read(start, min(start + job.block, job.cells.num_cells)))
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
            note.with_suffix(".arrow").unlink(missing_ok=True)


def _missing_blocks(group: list[Job]) -> list[int]:
    starts = range(0, group[0].cells.num_cells, group[0].block)
    return [start for start in starts if not all(job.writer.has(start) for job in group)]


def _encode(groups: list[list[Job]], count: Callable[[int, int], None], at_once: int | None) -> None:
    from data_pipeline.shards.datasource import for_each_block

    writers = [[job.writer for job in group] for group in groups]
    readers = [group[0].reader for group in groups]

    def encode(index: int, start: int, counts: Any) -> None:
        for writer in writers[index]:
            writer.on_node().write(start, counts)

    tasks = [(index, start) for index, group in enumerate(groups) for start in _missing_blocks(group)]
    num_cells, block = [group[0].cells.num_cells for group in groups], groups[0][0].block if groups else 0
    for_each_block(readers, num_cells, tasks, block, count, encode, at_once)


class AtRest:
    """What an actor does that holds a network: call(index of a job, first cell) publishes a part of its vectors.

    Encoded cells come from where their encoding lies; parts of one job follow each other, so that one network at a time
    is held.
    """

    def __init__(self, jobs: list[Job]) -> None:
        self._writers = [replace(job.writer, totals=np.zeros(0)) for job in jobs]
        self._sources, self._sizes = [job.source.folder for job in jobs], [job.block for job in jobs]
        self._open: tuple[Path, Shards] | None = None

    def __call__(self, index: int, start: int) -> None:
        writer = self._writers[index].on_node()
        with writer.used():
            if not writer.has(start):
                with at_hand(writer.shared, self._sources[index]) as source:
                    shards = self._shards(source)
                    encoded = shards.take(np.arange(start, min(start + self._sizes[index], len(shards))))
                writer.publish(start, writer.encoder(encoded))
            writer.push(start)

    def _shards(self, folder: Path) -> Shards:
        if self._open is None or self._open[0] != folder:
            self._open = folder, Shards(folder)
        return self._open[1]


def _rest(jobs: list[Job], count: Callable[[int, int], None], at_once: int | None, gpus: int) -> None:
    """Make the vectors of all jobs, and publish the manifest of each."""
    from data_pipeline.shards.datasource import for_each_part

    tasks = [(index, start) for index, job in enumerate(jobs) for start in _missing_blocks([job])]
    for_each_part(tasks, AtRest(jobs), count, at_once, gpus)
    for job in jobs:
        _gather(job)
        _finish(job)
