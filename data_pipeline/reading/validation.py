"""One pass over a dataset: tables first, then every number; all problems in one RequestError."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from data_pipeline.errors import RequestError
from data_pipeline.normalise import row_sums
from data_pipeline.reading import joining, labels, likely, twins
from data_pipeline.reading.cells import Cells
from data_pipeline.reading.file import inspection
from data_pipeline.reading.file.inspection import Table
from data_pipeline.reading.file.matrix import EXACT
from data_pipeline.reading.file.values import TOO_LARGE, Scan, limits
from data_pipeline.reading.joining import Joint
from data_pipeline.reading.source import Source
from data_pipeline.reading.stacked import BLOCK, Counts, Files

QUICK_LOOK = 50_000  # cells per file whose values are still looked at when the tables have problems already


def validate(source: Source, scratch: Path) -> Cells:
    """Return the opened dataset, or raise RequestError with all problems of all its files."""
    tables = _tables(source)
    joint = joining.join_cells(tables, source)
    genes, files, problems = joining.join_genes(tables, source, scratch)
    grouped = joining.group_rows(joint, source, problems)
    refused, doubts = joining.foreign_labels(joint, tables, source)
    problems += refused
    problems += [problem for table in tables for problem in table.problems]
    seen = Pass(files, tables, QUICK_LOOK if problems else None)
    files.close()
    problems += seen.problems
    if len(seen.sums) == len(joint.cells):
        grouped = joining.drop_empty(seen.sums, joint, grouped, source, problems)
        problems += _totals_problems(joint, seen.sums, source)
        problems += [] if problems else _sums_problems(seen.largest_count, grouped[1], source)
        grouped, alike = twins.settle(seen.hashes, joint, grouped, source)
    seen.facts["nonzero"] = int(seen.lengths[grouped[0]].sum()) if not problems else 0
    classes = sorted(set(joint.labels[grouped[0]]))
    if not problems and len(classes) < 2 and source.label is not None:
        problems.append(_one_class(source, classes))
    if problems:
        raise RequestError(*problems)
    seen.facts["warnings"] += doubts + _doubts(tables, source)
    if source.label is not None:
        seen.facts["warnings"] += twins.doubts(alike, source) + labels.doubts(Counter(joint.labels[grouped[0]]))
    if joint.donors is not None:
        seen.facts["warnings"] += labels.donor_doubts(Counter(joint.donors[grouped[0]]))
    seen.facts |= {"twins": alike.facts, "renamed": joint.renamed}
    return _assemble(source, joint, genes, classes, files, seen, grouped, alike.together)


def _doubts(tables: list[Table], source: Source) -> list[str]:
    """Return what the tables of the files leave doubtful."""
    found = [doubt for table in tables for doubt in table.doubts] + joining.feature_doubts(tables, source)
    if source.label is not None and not inspection.may_be_types(source.label):
        found.append(f"obs[{source.label!r}] is taken for the types of cells, though its name tells of something else")
    if source.label is not None and source.donor is None:
        found += likely.donor_doubts(source.paths[0])
    return found


def _tables(source: Source) -> list[Table]:
    tables, problems = [], []
    for path in source.all_paths:
        try:
            tables.append(inspection.inspect(path, source))
        except RequestError as error:
            problems += error.problems
    if problems:
        raise RequestError(*problems)
    return tables


def _one_class(source: Source, classes: list[str]) -> str:
    what = f"only one value, {classes[0]!r}" if classes else "no value"
    renamed = " once the table of labels has renamed and left out" if source.labels else ""
    return (
        f"{', '.join(source.all_paths)}: obs[{source.label!r}] has {what}{renamed}; telling cell types apart needs "
        "two. Name another column with `label:`."
    )


def _totals_problems(joint: Joint, sums: np.ndarray, source: Source) -> list[str]:
    if joint.totals is None:
        return []
    short = np.flatnonzero(joint.totals < sums * (1 - 1e-3))
    if not len(short):
        return []
    first = short[0]
    return [
        f"{', '.join(source.all_paths)}: obs[{source.totals!r}] (totals) is below the counts in the file for "
        f"{len(short):,} cells (first: {joint.cells[first]!r}, {joint.totals[first]:g} against {sums[first]:g}). "
        "Totals are counts per cell over all genes measured; without `totals:` the file's own sums are taken."
    ]


def _sums_problems(largest: float, offsets: np.ndarray, source: Source) -> list[str]:
    """Return that counts which are added up would be rounded. largest: of a row; offsets: where cells begin in rows."""
    most = largest * int(np.diff(offsets).max(initial=1))
    if source.values.kind != "counts" or most < EXACT:
        return []
    return [f"{', '.join(source.all_paths)}: counts of one name may add up to {most:,.0f}. {TOO_LARGE}"]


class Pass:
    """What one pass over every number of every file finds (or over `most` cells per file).

    sums: counts per file row, float64; lengths: its genes with a count, int64; hashes: what stands for its counts,
    uint64 (twins.row_hashes); facts: what `check.summarise` tells; content: sha256 over the stored numbers.
    """

    def __init__(self, files: Files, tables: list[Table], most: int | None) -> None:
        self.problems: list[str] = []
        self.facts = {"largest": 0.0, "warnings": []}
        self.largest_count = 0.0  # of a gene in a row, columns of one gene added up
        self._hashes = [hashlib.sha256() for _ in range(3)]
        self._cells_per_gene = np.zeros(files.num_genes, np.int64)
        found = [self._look(files, number, table, most) for number, table in enumerate(tables)]
        self.sums, self.lengths, self.hashes = (np.concatenate(parts) for parts in zip(*found, strict=True))
        self.facts["cells_per_gene"] = self._cells_per_gene.tolist()

    @property
    def content(self) -> str:
        return hashlib.sha256(b"".join(part.digest() for part in self._hashes)).hexdigest()

    def _look(self, files: Files, number: int, table: Table, most: int | None) -> list[np.ndarray]:
        """Look at one file; return `sums`, `lengths` and `hashes` of its rows."""
        scan = Scan(files.values, table)
        rows = [(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.uint64))]
        start = 0
        try:
            stored = files.stored(number)
            self.facts["warnings"] += [] if stored.note is None else [stored.note]
            end = min(stored.shape[0], *([] if most is None else [most]), len(table.cells))
            for start in range(0, end, BLOCK):
                block = stored.read(start, min(start + BLOCK, end))
                self._hash(block.data, block.indices, np.diff(block.indptr).astype(np.int32))
                counts = files.counts(number, block)
                rows.append((row_sums(counts), np.diff(counts.indptr).astype(np.int64), twins.row_hashes(counts)))
                scan.add(start, files.taken(number, block), rows[-1][0])
                self.largest_count = max(self.largest_count, float(counts.data.max(initial=0.0)))
                self._cells_per_gene += np.bincount(counts.indices, minlength=files.num_genes)
        except inspection.DAMAGE as error:
            self.problems.append(f"{table.path}: can't be read from cell {start:,} on {inspection.cause(error)}")
            return _joined(rows)
        self.facts["largest"] = max(self.facts["largest"], scan.largest)
        self.facts["warnings"] += scan.warnings() + limits(table.path, stored.kind, scan.largest)
        self.problems += scan.problems(files.parts[number].layer)
        return _joined(rows)

    def _hash(self, *parts: np.ndarray) -> None:
        for found, part in zip(self._hashes, parts, strict=True):
            found.update(np.ascontiguousarray(part))


def _joined(rows: list[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
    return [np.concatenate(parts) for parts in zip(*rows, strict=True)]


def _assemble(
    source: Source,
    joint: Joint,
    genes: list[str],
    classes: list[str],
    files: Files,
    seen: Pass,
    grouped: tuple[np.ndarray, np.ndarray],
    together: np.ndarray | None,
) -> Cells:
    rows, offsets = grouped
    first = rows[offsets[:-1]]
    merged = len(first) < len(rows)
    totals = _totals(joint, seen.sums, source)
    everything = not merged and len(rows) == len(joint.cells)
    return Cells(
        source=source,
        genes=genes,
        classes=classes,
        labels=np.searchsorted(np.array(classes, dtype=object), joint.labels[first]).astype(np.int64),
        cell_ids=joint.cells[first],
        donors=None if joint.donors is None else joint.donors[first],
        fixed_test=joint.is_test[first] if source.test_paths else None,
        twins=together,
        totals=np.add.reduceat(totals[rows], offsets[:-1]) if merged else totals[first],
        digest=_digest(source, joint, genes, files, seen, grouped, together),
        facts=seen.facts | {"left_out": len(joint.cells) - len(rows), "merged": len(rows) - len(first)},
        counts=Counts(files, len(first), None if everything else rows, offsets if merged else None),
    )


def _totals(joint: Joint, sums: np.ndarray, source: Source) -> np.ndarray:
    if joint.totals is not None:
        return joint.totals
    return sums if source.values.kind == "counts" else np.full(len(sums), source.values.target_sum)


def _digest(
    source: Source,
    joint: Joint,
    genes: list[str],
    files: Files,
    seen: Pass,
    grouped: tuple[np.ndarray, np.ndarray],
    together: np.ndarray | None,
) -> str:
    """Return the sha256 of what the dataset holds: the same for the same cells in another storage format or place."""
    found = hashlib.sha256(json.dumps([source.to_dict()["values"], seen.content]).encode())
    if source.labels:
        found.update(json.dumps(source.labels, ensure_ascii=False).encode())
    for names in (genes, joint.cells, joint.labels, () if joint.donors is None else joint.donors):
        found.update(_names_digest(names))
    numbers = [*grouped, joint.is_test, _totals(joint, seen.sums, source)]
    numbers += [] if together is None else [together]
    numbers += [np.zeros(0) if part.columns is None else part.columns for part in files.parts]
    for array in numbers:
        found.update(hashlib.sha256(np.ascontiguousarray(array)).digest())
    return found.hexdigest()


def _names_digest(names: Iterable[str]) -> bytes:
    return hashlib.sha256("\x1f".join(names).encode()).digest()
