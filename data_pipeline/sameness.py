"""Workers run the driver's code: found where the driver's lies, its hash compared before anything is done with it.

What is sent from here is pickled by value: a worker that would import other packages than the driver's has to notice.
"""

import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

PACKAGES = ("data_pipeline", "trainables", "sweeps")


class Pinned:
    """Finds our packages in one folder, whatever the working folder, PYTHONPATH or an installation would offer."""

    def __init__(self, root: str) -> None:
        self.root = root

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return where a package of ours is; None for anything else, and where the folder doesn't have it."""
        found = PathFinder.find_spec(name, [self.root]) if path is None and name in PACKAGES else None
        return found if found is not None and found.origin is not None else None


def pin(root: str) -> None:
    """Import our packages from the folder `root`, if this machine has them there, from now on."""
    if not any(getattr(finder, "root", None) == root for finder in sys.meta_path):
        sys.meta_path.insert(0, Pinned(root))


def fingerprint() -> str:
    """Return the hash, 16 hex digits, of the source files of our packages as this process finds them."""
    whole = hashlib.sha256()
    for folder in _folders():
        for path in sorted(folder.rglob("*.py")):
            whole.update(f"{folder.name}/{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    return whole.hexdigest()[:16]


def places() -> list[str]:
    """Return the folders that this process finds our packages in; one, unless something is wrong."""
    return list(dict.fromkeys(str(folder.parent) for folder in _folders()))


def check_here() -> None:
    """RequestError if this process itself has our packages from several places, a folder of another's among them."""
    found = places()
    if len(found) > 1:
        from data_pipeline.errors import RequestError

        listed = ", ".join(f"{folder.name} in {folder.parent}" for folder in _folders())
        raise RequestError(
            f"cellskew's packages come from several places: {listed}. A folder of that name in the working folder or "
            "on PYTHONPATH stands before the installed one: call the command `cellskew`, or start elsewhere"
        )


def _folders() -> list[Path]:
    specs = {name: importlib.util.find_spec(name) for name in PACKAGES}
    return [Path("(not installed)", name) if spec is None else Path(_place(spec)) for name, spec in specs.items()]


def _place(spec: ModuleSpec) -> str:
    return next(iter(spec.submodule_search_locations or [spec.origin]))


def pinning() -> Callable[[], None]:
    """Return what a worker is to do first, so that it imports our packages from where this process has them."""
    _send_by_value()
    here = places()[0]
    return lambda: pin(here)


def comparison() -> Callable[[], str | None]:
    """Return a function for workers: what to say where their code isn't what it is here, now; None where it is."""
    _send_by_value()
    here, wanted = places()[0], fingerprint()

    def compare() -> str | None:
        pin(here)
        if fingerprint() == wanted:
            return None
        return (
            f"the worker on {os.uname().nodename} would run the code in {', '.join(places())}, which differs from what "
            f"the driver, on {node}, found in {here} when it started: install the same cellskew on every node, change "
            "none while a sweep runs, and run the same command again"
        )

    node = os.uname().nodename
    return compare


def checked(work: Callable[..., Any], refused: Callable[[str], Any] | None = None) -> Callable[..., Any]:
    """Return `work` as workers get it: done only where the code is what it is here, now; see `comparison`.

    refused: called there in place of it with the sentence that says why; None: RequestError is raised.
    """
    from ray import cloudpickle

    packed, compare = cloudpickle.dumps(work), comparison()

    def run(*given: Any) -> Any:
        said = compare()
        if said is None:
            return cloudpickle.loads(packed)(*given)
        if refused is not None:
            return refused(said)
        from data_pipeline.errors import RequestError

        raise RequestError(said)

    return run


def _send_by_value() -> None:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
