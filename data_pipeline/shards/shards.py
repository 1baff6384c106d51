"""Encoded cells from disk: verified once, then read by row, in as little memory as the cells asked for take."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from data_pipeline.atomic import publish
from data_pipeline.hashes import file_sha256
from data_pipeline.shards.encoded import Encoded
from data_pipeline.shards.parts import Part, ShardError

AT_ONCE = 2048  # cells that `iterate` yields at a time
HELD = 1 << 26  # bytes of vectors that are read at once
CELLS, LENGTHS, CHECKED = "../cells.arrow", "lengths.npy", "checked.json"


class _Rows:
    """Cells numbered through, of one or more parts: what Shards and Joined have in common."""

    lengths: np.ndarray
    labels: np.ndarray
    cell_ids: pa.ChunkedArray
    network_options: dict[str, Any]
    _parts: list[Part]
    _starts: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: np.ndarray, kind: type[np.integer] = np.int64) -> Encoded:
        """Return the cells `rows` (int64 [b], repeats allowed) in that order: ids of `kind`, values float32 | None.

        Each part is opened once, and little more is held than what is returned.
        """
        rows = np.asarray(rows, dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(self.lengths[rows], dtype=np.int64)])
        types = {"ids": kind, "values": np.float32}
        into = {name: np.empty(offsets[-1], types[name]) for name in self._parts[0].columns}
        order = np.argsort(rows, kind="stable")
        owners = np.searchsorted(self._starts, rows[order], side="right") - 1
        cuts = np.flatnonzero(np.diff(owners, prepend=-1))
        for owner, places in zip(owners[cuts], np.split(order, cuts[1:]), strict=False):
            self._parts[owner].copy(self.lengths, rows[places], places, offsets, into)
        return Encoded(into["ids"], into.get("values"), offsets)


class Shards(_Rows):
    """A complete set of shards: `take` copies out just the cells asked for.

    Attributes: num_cells, classes (list[str]), labels int64 [n] and cell_ids (mapped), lengths int32 [n] (tokens per
    cell, mapped), network_options (what the model's `build` needs to know of the encoding), origin (of vectors: the
    hash `frozen` of the weights that made them, and on which devices).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        try:
            manifest = json.loads((self.folder / "manifest.json").read_text())
        except (OSError, ValueError) as error:
            raise ShardError(f"{folder}: no complete shards ({error}); run the sweep again to encode them") from error
        _verify(self.folder, manifest)
        self.num_cells = manifest["num_cells"]
        self.classes = manifest["classes"]
        self.network_options = manifest["network_options"]
        self.origin = manifest.get("origin", {})
        self._parts = [Part(self.folder / p["file"], p["start"], p["stop"], p["columns"]) for p in manifest["parts"]]
        self._starts = np.array([part.start for part in self._parts])
        self.lengths = np.load(self.folder / LENGTHS, mmap_mode="r", allow_pickle=False)
        with pa.memory_map(str(self.folder / CELLS)) as source:
            self._cells = pa.ipc.open_file(source).read_all()
        self.labels = self._cells["label"].to_numpy()
        self.cell_ids = self._cells["cell_id"]

    @property
    def donors(self) -> pd.Categorical | None:
        """Each cell's donor, read anew at every call: only the split asks."""
        if "donors" not in self._cells.column_names:
            return None
        coded = self._cells["donors"].combine_chunks().dictionary_encode()
        return pd.Categorical.from_codes(coded.indices.to_numpy(), coded.dictionary.to_pylist())

    @property
    def fixed_test(self) -> np.ndarray | None:
        """Bool [n]: whether a cell is of the test set that the dataset brings; None where it brings none."""
        if "fixed_test" not in self._cells.column_names:
            return None
        return self._cells["fixed_test"].to_numpy()

    @property
    def twins(self) -> np.ndarray | None:
        """Int64 [n]: a number that cells with the same counts share; None where there are none, or it doesn't count."""
        if "twins" not in self._cells.column_names:
            return None
        return self._cells["twins"].to_numpy()


class Joined(_Rows):
    """Real cells followed by generated ones, as one set of rows: row n is the first generated cell."""

    def __init__(self, real: Shards, generated: Shards) -> None:
        self.real, shift = real, len(real)
        moved = [replace(part, start=part.start + shift, stop=part.stop + shift) for part in generated._parts]
        self._parts = [*real._parts, *moved]
        self._starts = np.array([part.start for part in self._parts])
        self.lengths = np.concatenate([real.lengths, generated.lengths])
        self.labels = np.concatenate([real.labels, generated.labels])
        self.cell_ids = pa.chunked_array([*real.cell_ids.chunks, *generated.cell_ids.chunks])
        self.network_options, self.origin = real.network_options, real.origin


class Stored:
    """Vectors of cells, all of one width: take(rows) -> float32 [b, width]. lengths: the width, for every cell.

    They are mapped, so that all trials of a node share them in the page cache; a few megabytes are read at once.
    """

    def __init__(self, shards: Shards | Joined) -> None:
        self.lengths = shards.lengths
        parts = [part.mapped(int(self.lengths[0])) for part in shards._parts]
        self._starts = shards._starts
        self._parts = [np.concatenate(parts)] if sum(part.nbytes for part in parts) <= HELD else parts

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return the vectors of the cells `rows` (int64 [b])."""
        if len(self._parts) == 1:
            return self._parts[0][rows].astype(np.float32, copy=False)
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        found = np.empty((len(rows), int(self.lengths[0])), np.float32)
        for owner in np.unique(owners):
            mine = owners == owner
            found[mine] = self._parts[owner][rows[mine] - self._starts[owner]]
        return found


def iterate(shards: Shards | Joined, rows: np.ndarray, size: int = AT_ONCE) -> Iterator[Encoded]:
    """Yield the cells `rows` in order, `size` at a time."""
    for start in range(0, len(rows), size):
        yield shards.take(rows[start : start + size])


def _verify(folder: Path, manifest: dict[str, Any]) -> None:
    """ShardError if a file isn't what was written; the damaged ones lose their notes, so that they are made again.

    What was hashed once is trusted for as long as its size and time of change stay, by every process that comes after.
    """
    expected = {part["file"]: part["sha256"] for part in manifest["parts"]}
    expected |= {CELLS: manifest["cells_sha256"], LENGTHS: manifest["lengths_sha256"]}
    now = {name: [*_stamp(folder / name), sha256] for name, sha256 in expected.items()}
    known = _checked(folder)
    news = [name for name in expected if known.get(name) != now[name]]
    damaged = [name for name in news if not now[name][0] or file_sha256(folder / name) != expected[name]]
    for name in damaged:
        (folder / name).with_suffix(".json").unlink(missing_ok=True)
        if name in (CELLS, LENGTHS):
            (folder / name).unlink(missing_ok=True)
    if damaged:
        (folder / "manifest.json").unlink(missing_ok=True)
        names = ", ".join(str((folder / name).resolve()) for name in damaged[:3])
        raise ShardError(f"{names}: missing, cut off or altered; run the sweep again to encode this part anew")
    if news:
        with contextlib.suppress(OSError):  # a folder that may only be read is hashed by each
            publish(folder / CHECKED, json.dumps(now).encode(), durable=False)


def _stamp(path: Path) -> tuple[int, int]:
    """Return (bytes, time of change in ns), zeros for a file that isn't there."""
    try:
        state = path.stat()
    except OSError:
        return 0, 0
    return state.st_size, state.st_mtime_ns


def _checked(folder: Path) -> dict[str, list]:
    try:
        return json.loads((folder / CHECKED).read_text())
    except (OSError, ValueError):
        return {}
