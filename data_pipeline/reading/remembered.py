"""Datasets already validated: a Parquet file each, named by what was asked of which files. A second open is instant."""

import hashlib
import json
from pathlib import Path

import numpy as np

from data_pipeline.atomic import replacing
from data_pipeline.reading.cells import Cells
from data_pipeline.reading.file import places
from data_pipeline.reading.source import Source
from data_pipeline.reading.stacked import Counts, Files, Part

FORMAT = 4  # raise it when what is checked or kept changes


def _place(source: Source, cache: Path) -> Path | None:
    """Return the file for this request, or None if a dataset's file isn't there to be compared."""
    try:
        stamps = [(path, *places.stamp(path)) for path in source.all_paths]
    except OSError:
        return None
    asked = json.dumps([FORMAT, source.to_dict(), stamps], sort_keys=True)
    return cache / f"validated-{hashlib.sha256(asked.encode()).hexdigest()[:24]}.parquet"


def remember(cells: Cells, cache: Path) -> None:
    """Store what `open_cells` found, published by rename."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = _place(cells.source, cache)
    if place is None:
        return
    columns = {"label": cells.labels, "cell": cells.cell_ids, "total": cells.totals}
    optional = {"donor": cells.donors, "fixed_test": cells.fixed_test, "twins": cells.twins}
    for name, values in (optional | {"rows": _file_rows(cells.counts)}).items():
        if values is not None:
            columns[name] = values
    table = pa.table(columns).replace_schema_metadata({"cellskew": json.dumps(_extras(cells))})
    with replacing(place) as part:
        pq.write_table(table, part)


def _file_rows(counts: Counts):
    """Return the file rows behind each cell as an Arrow array of integers, or of lists where cells are sums."""
    import pyarrow as pa

    if counts.offsets is None:
        return counts.rows
    return pa.LargeListArray.from_arrays(counts.offsets, counts.rows)


def _extras(cells: Cells) -> dict:
    files = cells.counts.files
    return {
        "genes": cells.genes,
        "classes": cells.classes,
        "digest": cells.digest,
        "facts": cells.facts,
        "scratch": str(files.scratch),
        "parts": [
            [part.path, part.layer, part.num_rows, None if part.columns is None else part.columns.tolist()]
            for part in files.parts
        ],
    }


def recall(source: Source, cache: Path) -> Cells | None:
    """Return the dataset if these very files were validated with these options before, else None."""
    import pyarrow.parquet as pq

    place = _place(source, cache)
    if place is None or not place.exists():
        return None
    try:
        table = pq.read_table(place)
    except (OSError, ValueError):  # the remembered file is damaged: validate again
        return None
    extras = json.loads(table.schema.metadata[b"cellskew"])
    return Cells(
        source=source,
        genes=extras["genes"],
        classes=extras["classes"],
        labels=table["label"].to_numpy(),
        cell_ids=_texts(table, "cell"),
        donors=_texts(table, "donor"),
        fixed_test=table["fixed_test"].to_numpy() if "fixed_test" in table.column_names else None,
        twins=table["twins"].to_numpy() if "twins" in table.column_names else None,
        totals=table["total"].to_numpy(),
        digest=extras["digest"],
        facts=extras["facts"],
        counts=_counts(table, extras, source),
    )


def _texts(table, name: str) -> np.ndarray | None:
    return np.array(table[name].to_pylist(), dtype=object) if name in table.column_names else None


def _counts(table, extras: dict, source: Source) -> Counts:
    parts = [
        Part(path, layer, num_rows, None if columns is None else np.array(columns, dtype=np.int64))
        for path, layer, num_rows, columns in extras["parts"]
    ]
    files = Files(parts, len(extras["genes"]), source.values, Path(extras["scratch"]))
    if "rows" not in table.column_names:
        return Counts(files, table.num_rows)
    rows = table["rows"].combine_chunks()
    if not hasattr(rows, "offsets"):
        return Counts(files, table.num_rows, rows.to_numpy())
    return Counts(files, table.num_rows, rows.values.to_numpy(), rows.offsets.to_numpy())
