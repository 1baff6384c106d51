"""Code from outside: models in folders of one's own, and those that installed packages offer.

Folders of one's own are those of the variable CELLSKEW_PLUGINS (`cellskew --plugins FOLDER` sets it), which workers are
handed on; packages name their models as entry points `cellskew.models`.
"""

import hashlib
import importlib.util
import os
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

VARIABLE, GROUP = "CELLSKEW_PLUGINS", "cellskew.models"


def folders() -> list[Path]:
    """Return the folders of one's own."""
    return [Path(one).resolve() for one in os.environ.get(VARIABLE, "").split(os.pathsep) if one]


@cache
def in_folder(folder: Path) -> dict[str, Path]:
    """Return name -> file or folder of the models that a folder holds, when this process first asks."""
    found = {path.stem: path for path in folder.glob("[!_]*.py")}
    return found | {path.parent.name: path.parent for path in folder.glob("[!_]*/__init__.py")}


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
