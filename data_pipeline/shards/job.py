"""One encoding of one dataset: what is to be made, whether it is there, and how workers write its parts."""

import functools
import hashlib
import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.atomic import publish
from data_pipeline.hashes import identity_hash
from data_pipeline.seeds import generator
from data_pipeline.shards.encoded import Encoded
from data_pipeline.shards.parts import serialise
from data_pipeline.shards.shards import CELLS, LENGTHS
from data_pipeline.shared import cache
from data_pipeline.shared.hand import reading
from data_pipeline.shared.store import Shared

BLOCK = 2048  # cells per part; part of the key, since each block has its own generator
PART = 256  # of vectors by a network, which takes seconds to hours for as many cells
VERSION = 2


@dataclass(frozen=True)
class Job:
    """One encoding of one dataset: `cells` is anything with digest, num_cells, read(start, stop), counts and totals.

    code: what stands for an encoder's code from outside, which may change without another identity. source: the
    encoding that vectors are made of; `encoder` is then a network at rest, called with encoded cells. shared: where
    machines without a shared folder find it.
    """

    cells: Any
    encoder: Any
    root: Path
    code: str | None = None
    source: "Job | None" = None
    shared: Shared | None = None

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
        return Writer(self.folder, self.encoder, self.cells.totals, self.shared)

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
    shared: Shared | None = None

    def write(self, start: int, counts: Any) -> None:
        """Encode the block of cells from `start` on and publish its part, unless a whole one is there."""
        with self.used():
            if not self.has(start):
                rng = generator(0, "encode", self.folder.name, start)
                self.publish(start, self.encoder(counts, rng, totals=self.totals[start : start + counts.shape[0]]))
            self.push(start)

    def used(self) -> AbstractContextManager[None]:
        """Have the parts that are on this machine stay while it lasts."""
        return nullcontext() if self.shared is None else cache.using(self.shared, [self.folder])

    def push(self, start: int) -> None:
        """Have the part of the cells from `start` on, its note last, in the store, if there is one."""
        if self.shared is not None:
            self.shared.push(self._path(start))
            self.shared.push(self._path(start).with_suffix(".json"))

    def has(self, start: int) -> bool:
        path = self._here(self._path(start))
        return path.exists() and path.with_suffix(".json").exists()

    def _path(self, start: int) -> Path:
        return self.folder / f"part-{start:09d}.arrow"

    def _here(self, path: Path) -> Path:
        return path if self.shared is None else self.shared.here(path)

    def on_node(self) -> "Writer":
        """Return the same, as a worker has it."""
        if self.shared is None:
            return self
        return replace(self, shared=self.shared.on_node(), encoder=reading(self.shared, self.encoder))

    def publish(self, start: int, encoded: Encoded) -> None:
        """Put the part of the cells from `start` on where it belongs, its note last."""
        path = self._here(self._path(start))
        data, columns = serialise(encoded)
        part = {"file": path.name, "start": start, "stop": start + len(encoded), "tokens": int(encoded.offsets[-1])}
        part |= {"longest": int(encoded.lengths.max(initial=0)), "bytes": len(data), "columns": columns}
        part |= {"origin": getattr(self.encoder, "origin", {})}
        note = json.dumps(part | {"sha256": hashlib.sha256(data).hexdigest()})
        publish(path, data, durable=False)  # a loss of power shows in the hash, and the part is made again
        publish(path.with_suffix(".json"), note.encode(), durable=False)
