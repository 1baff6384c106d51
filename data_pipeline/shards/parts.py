"""One part of the encoded cells: an Arrow file whose numbers are read where they lie, some runs of bytes at a time.

A part of tokens is open only while it is read and never mapped, so a trial holds one file and no page of it, however
many parts there are; vectors, all of one width, are mapped. The page cache is shared by all trials of a node.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_pipeline.shards.encoded import Encoded

GAP = 4096  # unwanted tokens that are cheaper to read than to skip


class ShardError(RuntimeError):
    """A shard is missing, cut off or altered. The damaged part is removed, so that the next run encodes it again."""


def serialise(encoded: Encoded) -> tuple[bytes, dict[str, tuple[str, int]]]:
    """Return the cells as an Arrow file, and per column (ids, values) its numpy type and where its first byte is."""
    columns = {"ids": _ragged(encoded.ids, encoded.offsets)}
    if encoded.values is not None:
        columns["values"] = _ragged(encoded.values, encoded.offsets)
    table, sink = pa.table(columns), pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    data = sink.getvalue()
    stored = pa.ipc.open_file(pa.BufferReader(data)).read_all()
    flat = {name: stored[name].chunk(0).values for name in columns}
    places = {name: part.buffers()[1].address - data.address for name, part in flat.items()}
    return data.to_pybytes(), {name: (flat[name].to_numpy().dtype.str, place) for name, place in places.items()}


def lengths_of(path: Path) -> np.ndarray:
    """Return the tokens of each cell of a part, int32."""
    with pa.memory_map(str(path)) as source:
        return np.diff(pa.ipc.open_file(source).read_all()["ids"].chunk(0).offsets.to_numpy()).astype(np.int32)


def _ragged(flat: np.ndarray, offsets: np.ndarray) -> pa.LargeListArray:
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(smallest(flat)))


def smallest(values: np.ndarray) -> np.ndarray:
    """Return `values` in the narrowest type that holds them exactly: whole numbers from 0 to 65,535 in 1 or 2 bytes."""
    top = values.max(initial=0)
    in_range = values.min(initial=0) >= 0 and top < 65536
    if not (in_range and (values.dtype.kind in "iu" or np.all(values == np.rint(values)))):
        return values.astype(np.float32 if values.dtype.kind == "f" else np.int32, copy=False)
    return values.astype(np.uint8 if top < 256 else np.uint16)


@dataclass(frozen=True)
class Part:
    """Cells start..stop of a numbering; columns as `serialise` tells them."""

    path: Path
    start: int
    stop: int
    columns: dict[str, tuple[str, int]]

    def mapped(self, width: int) -> np.ndarray:
        """Return the values of cells that have `width` each, [cells, width], mapped and not read."""
        kind, place = self.columns["values"]
        try:
            return np.memmap(self.path, np.dtype(kind), "r", place, (self.stop - self.start, width))
        except (OSError, ValueError):
            raise ShardError(f"{self.path}: missing or cut off; run the sweep again to make this part anew") from None

    def copy(self, lengths: np.ndarray, rows: np.ndarray, places: np.ndarray, offsets: np.ndarray, into: dict) -> None:
        """Copy the tokens of cells `rows` (ascending) to `into[column]`, that of cell i at offsets[places[i]].

        lengths: tokens per cell of the whole numbering.
        """
        ends = np.cumsum(lengths[self.start : self.stop], dtype=np.int64)
        last = ends[rows - self.start]
        first = last - lengths[rows]
        handle = self._open()
        try:
            for run in _runs(first, last):
                source, target = _matching(first[run], last[run], offsets[places[run]])
                for name, column in into.items():
                    column[target] = self._read(handle, name, int(first[run][0]), int(last[run][-1]))[source]
        finally:
            os.close(handle)

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            raise ShardError(f"{self.path}: missing; run the sweep again to encode this part anew") from None

    def _read(self, handle: int, name: str, first: int, last: int) -> np.ndarray:
        """Return the numbers first..last of a column as they are stored."""
        kind, place = np.dtype(self.columns[name][0]), self.columns[name][1]
        data = os.pread(handle, (last - first) * kind.itemsize, place + first * kind.itemsize)
        if len(data) < (last - first) * kind.itemsize:
            raise ShardError(f"{self.path}: cut off; run the sweep again to encode this part anew")
        return np.frombuffer(data, kind)


def _runs(first: np.ndarray, last: np.ndarray) -> Iterator[slice]:
    """Yield slices of the cells that are read together: those with at most GAP unwanted tokens between them."""
    cuts = np.flatnonzero(first[1:] - last[:-1] > GAP) + 1
    for start, stop in zip([0, *cuts], [*cuts, len(first)], strict=True):
        if last[stop - 1] > first[start]:
            yield slice(start, stop)


def _matching(first: np.ndarray, last: np.ndarray, at: np.ndarray) -> tuple[slice | np.ndarray, slice | np.ndarray]:
    """Return (where the tokens lie among those read from first[0] on, where they go); slices where that can be."""
    sizes = last - first
    ends = np.cumsum(sizes)
    if np.array_equal(at[1:] - at[:-1], sizes[:-1]):
        target = slice(int(at[0]), int(at[0] + ends[-1]))
        if np.array_equal(first[1:], last[:-1]):
            return slice(None), target
    else:
        target = np.arange(ends[-1]) + np.repeat(at - (ends - sizes), sizes)
    return np.arange(ends[-1]) + np.repeat(first - first[0] - (ends - sizes), sizes), target
