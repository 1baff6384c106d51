"""The door to Hugging Face: a checkpoint's files, fetched into one folder, each held against the hub's own digest."""

import hashlib
import os
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from data_pipeline.errors import RequestError, of_disk
from trainables.official.checkpoints import Checkpoint

HUB = "https://huggingface.co"
BLOCK = 1 << 22  # bytes


class Published(NamedTuple):
    """A file as the hub lists it. sha256: of a large file; git: of a small one, sha1 as git counts it."""

    path: str
    size: int
    sha256: str | None
    git: str | None

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def is_that_of(self, path: Path) -> bool:
        """Tell whether a file here is, byte for byte, the one on the hub."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        return digest(path, self.sha256 is None) == (self.sha256 or self.git)


def digest(path: Path, as_git: bool = False) -> str:
    """Return the sha256 of a file, or the sha1 that git gives it."""
    found = hashlib.sha1(b"blob %d\0" % path.stat().st_size) if as_git else hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def fetch(wanted: Checkpoint, folder: Path, tell: Callable[[str], None] = print) -> list[Published]:
    """Fetch the files of a checkpoint into `folder`, flat; returns them. What is there and right is left as it is.

    A download that ended early goes on where it ended. HF_ENDPOINT, if set, is asked instead of HUB. RequestError if no
    hub serves the checkpoint, if the hub can't be reached, or if a file isn't what the hub says it is.
    """
    if wanted.repo is None:
        raise RequestError(
            f"{wanted.name}: no hub serves it; fetch {', '.join(wanted.files)} by hand ({wanted.place}) "
            "into one folder, then: cellskew weights --check FOLDER"
        )
    endpoint = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    files = _asked(wanted, endpoint, lambda: _listed(wanted, endpoint))
    for file in files:
        if file.is_that_of(folder / file.name):
            tell(f"{file.name}: is there already")
            continue
        tell(f"{file.name}: {file.size / 1e6:,.1f} MB")
        _asked(wanted, endpoint, lambda file=file: _one(wanted, file, folder, endpoint))
    return files


def _listed(wanted: Checkpoint, endpoint: str) -> list[Published]:
    """Return the files that the checkpoint consists of; RequestError where the hub lacks a kind of them."""
    from huggingface_hub import HfApi

    tree = HfApi(endpoint=endpoint).list_repo_tree(wanted.repo, recursive=True)
    there = [_published(one) for one in tree if hasattr(one, "blob_id")]
    parts = {pattern: [one for one in there if _fits(one.path, pattern)] for pattern in wanted.patterns}
    if lacking := [pattern for pattern, found in parts.items() if not found]:
        raise RequestError(f"{wanted.name}: {wanted.repo} at {endpoint} has no {', '.join(lacking)}; it was reordered")
    return [file for found in parts.values() for file in found]


def _fits(path: str, pattern: str) -> bool:
    return path.count("/") == pattern.count("/") and fnmatchcase(path, pattern)


def _published(found: Any) -> Published:
    lfs = found.lfs
    return Published(found.path, found.size, lfs and lfs.sha256, None if lfs else found.blob_id)


def _one(wanted: Checkpoint, file: Published, folder: Path, endpoint: str) -> None:
    """Fetch one file, from where it ended if it was begun; look whether it is right, and give it its name."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get  # hf_hub_download begins anew in every process
    from huggingface_hub.utils import build_hf_headers

    folder.mkdir(parents=True, exist_ok=True)
    begun = folder / f".{file.name}.{file.sha256 or file.git}.part"
    with begun.open("ab") as part:
        if part.tell() < file.size:
            url = hf_hub_url(wanted.repo, file.path, endpoint=endpoint)
            given = {"headers": build_hf_headers(), "expected_size": file.size, "displayed_filename": file.name}
            http_get(url, part, resume_size=part.tell(), **given)
    if not file.is_that_of(begun):
        begun.unlink()
        raise RequestError(f"{wanted.name}: {file.name} is not what {endpoint} says it is; fetch it again")
    begun.replace(folder / file.name)


def _asked(wanted: Checkpoint, endpoint: str, ask: Callable[[], Any]) -> Any:
    """Return what the hub answers; RequestError where it doesn't."""
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

    try:
        return ask()
    except (HTTPError, LocalEntryNotFoundError) as error:
        why = str(error).strip().splitlines()[0]
        raise RequestError(
            f"{wanted.name}: {endpoint} gave no answer ({why}); try again, it goes on where it ended; another hub is "
            f"named by HF_ENDPOINT; or fetch the files by hand: {wanted.place}"
        ) from error
    except OSError as error:
        raise of_disk(error)(f"{wanted.name}: can't be written: {error}") from error
