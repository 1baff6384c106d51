"""What stands for the files of a weights folder, wherever it lies."""

from collections.abc import Callable
from pathlib import Path

from data_pipeline.hashes import file_sha256, identity_hash
from trainables.spec import get


def files_of(model: str, folder: Path) -> dict[str, Path]:
    """Return the files of a weights folder that a model of the registry reads, by what they are to it."""
    from trainables.weights import find

    found = {role: find(folder, role) for role in get(model).files}
    return {role: path for role, path in found.items() if path is not None}


def contents_of(model: str, folder: Path, hash_of: Callable[[Path], str] = file_sha256) -> str:
    """Return the hash of what a model reads of a weights folder."""
    return identity_hash(sorted((role, hash_of(path)) for role, path in files_of(model, folder).items()))


def network_of(model: str, contents: str, code: str | None) -> str:
    """Return what stands for a pretrained network: its weights' contents, and code that is from outside."""
    return contents if code is None or not contents else identity_hash(contents, code)
