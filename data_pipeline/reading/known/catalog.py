"""An entry of the catalog, or a user's own files -> a Source: files that are on this machine, and what is in them."""

from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from data_pipeline.atomic import replacing
from data_pipeline.errors import RequestError
from data_pipeline.names import did_you_mean
from data_pipeline.reading.file import hdf5, inspection, places
from data_pipeline.reading.known import bundled
from data_pipeline.reading.labels import read_renames
from data_pipeline.reading.source import Source, Values, unknown_key

CATALOG = Path(__file__).with_name("datasets.yaml")
OPTIONS = ["label", "layer", "values", "gene_names", "donor", "duplicates", "empty_cells", "unlabelled", "totals"]
OPTIONS += ["twins", "other_features", "labels"]
PATHS = ["path", "test_path"]
KEYS = ["name", *PATHS, *OPTIONS, "tree"]  # of which the cells say nothing: whoever asks how types are related reads it


@dataclass(frozen=True)
class Entry:
    """One dataset of the catalog: what it is, where it comes from, and what its file must hold.

    label: columns of obs that may hold the labels, the first that is there counts. classes, test_classes: cells per
    class. bundled: {package, files: {name: sha256}} of an installed package; by_hand: {path, test_path} under
    <storage>/datasets.
    """

    name: str
    title: str
    label: list[str]
    cells: int
    genes: int
    classes: dict[str, int]
    values: Values
    licence: str
    citation: str
    how_to_get: str
    bundled: dict[str, Any] | None = None
    by_hand: dict[str, str] | None = None
    version: int = 1
    gene_names: str | None = None
    totals: str | None = None
    test_cells: int = 0
    test_classes: dict[str, int] = field(default_factory=dict)

    def places(self, storage: Path) -> dict[str, Path]:
        """Return where its files lie, or will: {"path": ..., "test_path": ...}."""
        folder = Path(storage).absolute() / "datasets"
        if self.by_hand is None:
            return {"path": folder / f"{self.name}-{self.version}.h5ad"}
        return {role: folder / name for role, name in self.by_hand.items()}

    def present(self, storage: Path) -> bool:
        """Return whether its files are on this machine already (bundled ones are made when first asked for)."""
        return all(path.exists() for path in self.places(storage).values())


@cache
def entries() -> dict[str, Entry]:
    """Return the catalog, by name."""
    listed = yaml.safe_load(CATALOG.read_text(encoding="utf-8"))
    return {
        name: Entry(name=name, **{**fields, "values": Values.parse(fields["values"])})
        for name, fields in listed.items()
    }


def resolve(entry: str | dict[str, Any], storage: Path) -> Source:
    """Return the Source behind a `datasets:` item: a catalog name, a path, or a mapping with `name` or `path`.

    Bundled datasets are made under <storage>/datasets when they aren't there. RequestError: unknown name or key, a
    file to be fetched by hand, a file that is not the published one.
    """
    given = _as_mapping(entry)
    problems = [unknown_key("dataset", key, KEYS) for key in given if key not in KEYS] + _wrong_types(given)
    if problems:
        raise RequestError(*problems)
    listed = entries().get(given.get("name"))
    if listed is not None and listed.by_hand is not None:
        return _by_hand(listed, given, storage)
    if listed is not None and "path" not in given:
        return _bundled(listed, given, storage)
    return _own(given)


def _as_mapping(entry: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(entry, dict):
        return entry
    if entry in entries():
        return {"name": entry}
    if entry.endswith(".h5ad") or "/" in entry:
        return {"path": entry}
    raise RequestError(
        f"dataset {entry!r} is not in the catalog; {did_you_mean(entry, entries())}It has: {', '.join(entries())}. "
        "Give a file of your own as {path: cells.h5ad, label: celltype}."
    )


def _wrong_types(given: dict[str, Any]) -> list[str]:
    """Return one message per value that is not text (paths: text or a list of it)."""
    problems = []
    for key, value in given.items():
        if key in PATHS:
            listed = value if isinstance(value, list) and value else [value]
            if not all(isinstance(path, str | Path) and str(path) for path in listed):
                problems.append(f"dataset: {key}: {value!r} is neither a path nor a list of paths")
        elif key == "labels":
            if not (isinstance(value, dict) and list(value) == ["map"] and isinstance(value["map"], str | Path)):
                problems.append(f"dataset: labels: {value!r} is not {{map: names.csv}}")
        elif key in KEYS and key != "values" and not (isinstance(value, str) and value):
            problems.append(f"dataset: {key}: {value!r} is not text; leave the line out for the default")
    return problems


def _bundled(listed: Entry, given: dict[str, Any], storage: Path) -> Source:
    target = listed.places(storage)["path"]
    if not target.exists():
        files = bundled.package_files(listed.bundled["package"], listed.bundled["files"])
        with replacing(target) as part:
            bundled.MAKERS[listed.name](files, part)
    return _source(listed.name, {"label": listed.label[0], "totals": listed.totals, **given}, (str(target),))


def _own(given: dict[str, Any]) -> Source:
    if "path" not in given:
        raise RequestError(
            f"dataset {given.get('name', given)!r} needs a `path:`, or a name of the catalog: {', '.join(entries())}"
        )
    paths, test_paths = _paths(given["path"]), _paths(given.get("test_path", []))
    name = given.get("name", Path(paths[0]).stem)
    if "label" not in given:
        raise RequestError(
            f"dataset {name}: `label:` is missing: which column of obs holds the cell types? {_hint(paths[0])}"
        )
    return _source(name, given, paths, test_paths)


def _hint(path: str) -> str:
    with places.open_hdf5(path) as file:
        likely = inspection.label_columns(file["obs"]) if "obs" in file else []
    return (
        f"Columns that could: {', '.join(f'{name} ({kinds} values)' for name, kinds in likely[:6])}." if likely else ""
    )


def _paths(given: str | list[str]) -> tuple[str, ...]:
    listed = [given] if isinstance(given, str | Path) else given
    return tuple(places.absolute(path) for path in listed)


def _source(name: str, given: dict[str, Any], paths: tuple[str, ...], test_paths: tuple[str, ...] = ()) -> Source:
    options = {key: given[key] for key in OPTIONS if key in given}
    if "labels" in options:
        options["labels"] = read_renames(options["labels"]["map"])
    return Source.from_dict({"name": name, "paths": paths, "test_paths": test_paths, **options})


# files fetched by hand


def _by_hand(listed: Entry, given: dict[str, Any], storage: Path) -> Source:
    files = {role: places.absolute(given.get(role, place)) for role, place in listed.places(storage).items()}
    absent = {role: path for role, path in files.items() if not (places.is_uri(path) or Path(path).exists())}
    if absent:
        raise RequestError(_how_to_get(listed, absent))
    main, test = files["path"], files.get("test_path")
    found = {"label": _first_column(listed, main), "values": listed.values, **_gene_names(listed, main)}
    source = _source(listed.name, {**found, **given}, (main,), () if test is None else (test,))
    _compare(listed, source)
    return source


def _how_to_get(listed: Entry, absent: dict[str, str]) -> str:
    there = " and ".join(absent.values())
    roles = ", ".join(f"{role}: ..." for role in absent)
    return (
        f"dataset {listed.name}: {there} not found. Fetch it by hand: {listed.how_to_get}; put it there, or say where "
        f"it is: {{name: {listed.name}, {roles}}}. Expected: {listed.cells:,} cells x {listed.genes:,} genes, "
        f"{len(listed.classes)} types in obs[{listed.label[0]!r}], {listed.values}."
    )


def _first_column(listed: Entry, path: str) -> str:
    with places.open_hdf5(path) as file:
        columns = hdf5.column_names(file["obs"]) if "obs" in file else []
    return next((name for name in listed.label if name in columns), listed.label[0])


def _gene_names(listed: Entry, path: str) -> dict[str, str]:
    with places.open_hdf5(path) as file:
        columns = hdf5.column_names(file["var"]) if "var" in file else []
    return {"gene_names": listed.gene_names} if listed.gene_names in columns else {}


def _compare(listed: Entry, source: Source) -> None:
    """Raise RequestError with every difference between the files and the published data set."""
    wanted = [(source.paths[0], listed.cells, listed.classes)]
    if source.test_paths:
        wanted.append((source.test_paths[0], listed.test_cells, listed.test_classes))
    problems = []
    for path, cells, classes in wanted:
        table = inspection.inspect(path, source)
        problems += table.problems + _differences(listed, table, cells, classes, source)
    if problems:
        own = f"{{path: {source.paths[0]}, label: {source.label}}}"
        raise RequestError(*problems, f"If the file is meant to be another one, give it as your own: {own}.")


def _differences(
    listed: Entry, table: inspection.Table, cells: int, classes: dict[str, int], source: Source
) -> list[str]:
    problems = []
    for noun, there, expected in (("cells", len(table.cells), cells), ("genes", len(table.genes), listed.genes)):
        if there != expected:
            problems.append(f"{table.path}: has {there:,} {noun}, but {listed.name} has {expected:,}.")
    if table.labels is None:
        return problems
    texts, labelled = inspection.label_strings(table, source)
    counts = sorted(Counter(texts[labelled]).values(), reverse=True)
    expected = sorted(classes.values(), reverse=True)
    if counts != expected:
        problems.append(
            f"{table.path}: cells per class are {_some(counts)}, but in {listed.name} they are {_some(expected)}."
        )
    return problems


def _some(counts: list[int]) -> str:
    few = counts if len(counts) < 8 else [*counts[:4], "...", *counts[-3:]]
    return f"{', '.join(map(str, few))} ({len(counts)} classes)"
