"""`datasets:` of a sweep file -> entries for the catalog, names, and what each is to a trial's key."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from data_pipeline.errors import RequestError
from data_pipeline.reading.file import places
from data_pipeline.reading.known import catalog
from data_pipeline.reading.labels import read_renames
from data_pipeline.reading.source import Drop, Duplicates, Source, Twins, Values
from data_pipeline.tree import read_tree
from sweeps.file.plugins import Problem, unknown
from sweeps.file.strict import NAME, Strict, shaped


class Labels(Strict):
    """A table of two columns: a label and its new name; an empty one leaves its cells out."""

    map: str


class Dataset(Strict):
    """A dataset of the user's own, or a catalog entry with something said about it."""

    name: str | None = None
    path: str | list[str] | None = None
    test_path: str | list[str] | None = None
    label: str | None = None
    layer: str | None = None
    values: Any = None
    gene_names: str | None = None
    donor: str | None = None
    totals: str | None = None
    duplicates: Duplicates | None = None
    empty_cells: Drop | None = None
    unlabelled: Drop | None = None
    labels: Labels | None = None
    twins: Twins | None = None
    other_features: Drop | None = None
    tree: str | None = None


UNREAD = ""  # a table of labels that wasn't looked at, in the place of what it says


def read_datasets(given: Any, folder: Path, check_files: bool) -> tuple[dict[str, Any], list[Problem]]:
    found: dict[str, Any] = {"datasets": [], "dataset_names": [], "identities": {}, "trees": {}}
    problems: list[Problem] = []
    for index, item in enumerate(given if isinstance(given, list) else []):
        entry, name, wrong = read_dataset(item, folder)
        problems += [(("datasets", index, *where), said) for where, said in wrong]
        if wrong:
            continue
        if name in found["dataset_names"]:
            problems.append((("datasets", index), f"a second dataset called {name}; give it another `name:`"))
        found["datasets"].append(entry)
        found["dataset_names"].append(name)
        renames, wrong = _renames(entry, check_files)
        problems += [(("datasets", index, "labels", "map"), said) for said in wrong]
        found["identities"][name] = identity(entry, name, renames)
        tree, wrong = _tree(entry, check_files)
        problems += [(("datasets", index, "tree"), said) for said in wrong]
        found["trees"] |= {name: tree} if tree else {}
    return found, problems


def read_dataset(item: Any, folder: Path) -> tuple[Any, str, list[Problem]]:
    """Return (the entry for catalog.resolve, paths absolute; its name; problems)."""
    if isinstance(item, str):
        if item in catalog.entries():
            return item, item, []
        if not item.endswith(".h5ad") and "/" not in item:
            own = "a file of your own is {path: cells.h5ad, label: celltype}"
            return None, "", [((), f"{unknown('dataset', item, catalog.entries())}; {own}")]
        item = {"path": item}
    if not isinstance(item, dict):
        return None, "", []  # its shape has been refused already
    dataset, problems = shaped(Dataset, item)
    if dataset is None:
        return None, "", problems
    entry = {key: item[key] for key in item if item[key] is not None}
    for key in ("path", "test_path"):
        if key in entry:
            entry[key] = _absolute(entry[key], folder)
    if "labels" in entry:
        entry["labels"] = {"map": _absolute(entry["labels"]["map"], folder)}
    if "tree" in entry:
        entry["tree"] = _absolute(entry["tree"], folder)
    tables = {("labels", "map"): entry.get("labels", {}).get("map", ""), ("tree",): entry.get("tree", "")}
    problems += [(where, elsewhere(path)) for where, path in tables.items() if places.is_uri(path)]
    problems += _dataset_problems(entry)
    first = entry["path"] if isinstance(entry.get("path"), str) else next(iter(entry.get("path", [])), "")
    name = entry.get("name", Path(first).stem)
    if not problems and not NAME.fullmatch(name):
        problems.append((("name",), f"{name!r} is no name for a dataset; use letters, digits, dot, dash, underscore"))
    return entry, name, problems


def _absolute(given: str | list[str], folder: Path) -> str | list[str]:
    if isinstance(given, str):
        return given if places.is_uri(given) else str(folder / Path(given).expanduser())
    return [_absolute(one, folder) for one in given]


def elsewhere(uri: str) -> str:
    """Return why a file or folder that isn't a dataset's `path` can't be given by its place in a bucket."""
    return (
        f"{uri} is in a bucket, from where only a dataset's `path` and `test_path` are read: copy it to the machine "
        "that drives the sweep, and give its place there; with --shared the others have it from that machine"
    )


def _dataset_problems(entry: dict[str, Any]) -> list[Problem]:
    problems: list[Problem] = []
    listed = entry.get("name") in catalog.entries()
    if not entry.get("path") and not listed:
        said = unknown("dataset", entry["name"], catalog.entries()) if "name" in entry else "path: is missing"
        problems.append(((), f"{said}; or give `path:` and `label:`"))
    elif not listed and "label" not in entry:
        problems.append(((), "label: is missing: which column of obs holds the cell types?"))
    try:
        Values.parse(entry.get("values", "counts"))
    except RequestError as error:
        problems += [(("values",), said.removeprefix("values: ")) for said in error.problems]
    return problems


def _renames(entry: str | dict[str, Any], check_files: bool) -> tuple[list[list[str]] | str, list[str]]:
    """Return (what labels are renamed to: the table's content, wherever it lies, or UNREAD; what is wrong with it)."""
    if isinstance(entry, str) or "labels" not in entry:
        return [], []
    if not check_files:
        return UNREAD, []
    try:
        return [list(pair) for pair in read_renames(entry["labels"]["map"])], []
    except RequestError as error:
        return UNREAD, list(error.problems)


def _tree(entry: str | dict[str, Any], check_files: bool) -> tuple[dict[str, str | list[str]], list[str]]:
    """Return (the tree of cell types, {} without one; what is wrong with its file, where files are looked at)."""
    if isinstance(entry, str) or "tree" not in entry:
        return {}, []
    try:
        return read_tree(entry["tree"]), []
    except RequestError as error:
        return {}, list(error.problems) if check_files else []


def check_paths(entry: str | dict[str, Any]) -> None:
    """RequestError with what is wrong with a dataset's table of labels and tree, where the file was read without."""
    if problems := _renames(entry, True)[1] + _tree(entry, True)[1]:
        raise RequestError(*problems)


def identity(entry: str | dict[str, Any], name: str, renames: list[list[str]] | str) -> dict[str, Any]:
    """Return what a dataset is to a trial's key: a catalog entry's version or a file's path, and every option."""
    given = {"name": entry} if isinstance(entry, str) else dict(entry)
    options = {field.name: None for field in fields(Source) if field.name not in ("name", "paths", "test_paths")}
    options |= {key: value for key, value in given.items() if key in options}
    options["values"] = str(Values.parse(given.get("values", "counts")))
    options["labels"] = renames
    options["twins"] = given.get("twins", "together")
    listed = catalog.entries().get(given.get("name"))
    if listed is not None and (listed.by_hand is not None or "path" not in given):
        return {"catalog": name, "version": listed.version, **options}
    return {"path": given["path"], "test_path": given.get("test_path"), **options}
