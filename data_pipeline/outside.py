"""Code from outside: models and functions in folders of one's own, and models that installed packages offer.

Folders of one's own are those of the variable CELLSKEW_PLUGINS (`cellskew --plugins FOLDER` sets it), which workers are
handed on; packages name their models as entry points `cellskew.models`. A function NAME lies in FOLDER/<kind>/NAME.py.
"""

import hashlib
import importlib.util
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from data_pipeline.errors import RequestError

T = TypeVar("T")
VARIABLE, GROUP = "CELLSKEW_PLUGINS", "cellskew.models"
KINDS = ("strategies", "losses", "posthoc")  # of functions; no model is called so


def folders() -> list[Path]:
    """Return the folders of one's own."""
    return [Path(one).resolve() for one in os.environ.get(VARIABLE, "").split(os.pathsep) if one]


def variable() -> dict[str, str]:
    """Return the variable as a process in another working folder is to have it; {} where it isn't set."""
    return {VARIABLE: os.pathsep.join(map(str, folders()))} if folders() else {}


@cache
def in_folder(folder: Path) -> dict[str, Path]:
    """Return name -> file or folder of the models that a folder holds, when this process first asks."""
    found = {path.stem: path for path in folder.glob("[!_]*.py")}
    found |= {path.parent.name: path.parent for path in folder.glob("[!_]*/__init__.py")}
    return {name: path for name, path in found.items() if name not in KINDS}


@cache
def _functions_in(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in folder.glob("[!_]*.py")}


def functions(kind: str) -> dict[str, Path]:
    """Return the functions of a kind in folders of one's own, by name."""
    found: dict[str, Path] = {}
    for folder in reversed(folders()):
        found |= _functions_in(folder / kind)
    return found


class Functions(Mapping[str, T]):
    """Functions of a kind by name: cellskew's `own`, and those of folders of one's own, read when first asked for.

    made(function) is what becomes of one from outside; its `outside_code` stands for its code, and all beside it, then.
    """

    def __init__(self, kind: str, own: dict[str, T], made: Callable[[Any], T]) -> None:
        self.kind, self.own, self.made = kind, own, made
        self._read: dict[Path, T] = {}

    def _outside(self) -> dict[str, Path]:
        found = functions(self.kind)
        if twice := sorted(set(self.own) & set(found)):
            raise RequestError(f"{found[twice[0]]}: there is a {twice[0]} already; call this one otherwise")
        return found

    def __iter__(self) -> Iterator[str]:
        return iter([*self.own, *sorted(self._outside())])

    def __len__(self) -> int:
        return len(self.own) + len(self._outside())

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in self._outside()

    def __getitem__(self, name: str) -> T:
        if name in self.own:
            return self.own[name]
        path = self._outside()[name]
        if path not in self._read:
            code, found = code_of(path.parent), self.made(_function(path))
            found.outside_code = code
            self._read[path] = found
        return self._read[path]

    def __or__(self, more: dict[str, T]) -> "Functions[T]":
        joined = Functions(self.kind, self.own | more, self.made)
        joined._read = self._read
        return joined

    def code(self, name: str) -> str | None:
        """Return what stands for the code of a function from outside, as it was read; None for one of cellskew's."""
        return None if name in self.own else self[name].outside_code


def _function(path: Path) -> Any:
    """Return what a file defines under its own name; RequestError if it can't be imported, or has no such thing."""
    spec = importlib.util.spec_from_file_location(f"cellskew_outside.{path.parent.name}.{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise RequestError(f"{path}: can't be imported: {where_it_failed(error)}") from error
    found = getattr(module, path.stem, None)
    if not callable(found):
        raise RequestError(f"{path}: must define {path.stem}, see docs/your-own-model.md")
    return found


def types_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of a function's parameters by name; RequestError if one isn't there when cellskew runs."""
    try:
        return get_type_hints(function)
    except NameError as error:
        raise RequestError(
            f"{function.__name__}: its parameters' types can't be read: {error}; import them without TYPE_CHECKING"
        ) from error


def where_it_failed(error: Exception) -> str:
    """Return an error of code from outside with the line that raised it."""
    line = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({line.filename}, line {line.lineno})"


def outside() -> dict[str, Path | EntryPoint]:
    """Return the models that aren't cellskew's own, by name; of two folders the first counts, as it does for Python."""
    found: dict[str, Path | EntryPoint] = dict(installed())
    for folder in reversed(folders()):
        found |= in_folder(folder)
    return found


@cache
def installed() -> dict[str, EntryPoint]:
    """Return the models that installed packages offer, by name."""
    return {one.name: one for one in entry_points(group=GROUP)}


def code_of(place: Path | EntryPoint) -> str:
    """Return the hash, 16 hex digits, of the code that a model from outside may run: all of its folder, or package."""
    root = place.parent if isinstance(place, Path) else _root(place)
    whole = hashlib.sha256()
    for path in sorted(root.rglob("*.py")) if root.is_dir() else [root]:
        whole.update(
            f"{path.name if root.is_file() else path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0"
        )
    return whole.hexdigest()[:16]


def _root(place: EntryPoint) -> Path:
    """Return the folder of the package that an entry point's module is in, or the module's one file."""
    found = importlib.util.find_spec(place.module.partition(".")[0])
    return Path(next(iter(found.submodule_search_locations or [found.origin])))
