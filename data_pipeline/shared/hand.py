"""What a task or a trial reads, on the machine where it runs: fetched before, and what is made put into the store."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.hashes import identity_hash
from data_pipeline.shared import cache
from data_pipeline.shared.objects import StoreError
from data_pipeline.shared.store import Shared, is_whole, stamp


@contextmanager
def at_hand(shared: Shared | None, given: Any, but: tuple[Path, ...] = ()) -> Iterator[Any]:
    """Have the made files that plain values name on this machine; gives the values with the paths that these have here.

    but: paths that nobody has made. StoreError if the store lacks some. Without a store all is where it is.
    """
    if shared is None:
        yield given
        return
    node, paths = shared.on_node(), [path for path in shared.made_in(given) if path not in but]
    with cache.using(node, paths):
        come = [path for path in paths if not is_whole(node.here(path))]
        lacking = [node.name(path) for path in come if not cache.pull(node, path)]
        if lacking:
            raise StoreError(f"{node.uri} has no {', '.join(lacking)}; run the sweep again")
        if come:
            cache.make_room(node)
        yield node.translated(given)


def make(shared: Shared | None, how: Callable[..., None], path: Path, *args: Any) -> None:
    """Have how(path, *args) make a file, where it isn't here, and put it into the store."""
    if shared is None:
        return how(path, *args)
    node = shared.on_node()
    with cache.using(node, [path]):
        if not node.here(path).exists():
            with at_hand(node, args) as here:
                how(node.here(path), *here)
        return node.push(path)


def on_hand(shared: Shared | None, ask: Callable[[dict[str, Any]], Any], given: dict[str, Any]) -> Any:
    """Return ask(given), with the made files that a trial's configuration names on this machine."""
    with at_hand(shared, given, (Path(given["directory"]),)) as here:
        return ask(here)


@dataclass(frozen=True)
class Inputs:
    """Finds files from outside the storage folder on any machine: call(path) -> where it is here.

    brought: the paths that they have in the storage folder, see Shared.bring. Any other path is the storage folder's,
    as it is here, or what it is, in a bucket say.
    """

    shared: Shared
    brought: dict[str, Path]

    def __call__(self, path: str) -> str:
        node = self.shared.on_node()
        if path not in self.brought:
            return node.translated(path)
        inside = self.brought[path]
        if Path(path).exists() and identity_hash(path, stamp(Path(path))) == inside.parent.name:
            return path
        if not cache.pull(node, inside):
            raise StoreError(f"{node.uri} has no {node.name(inside)}; run the sweep again")
        return str(node.here(inside))


def reading(shared: Shared, encoder: Any) -> Any:
    """Return an encoder that reads weights from outside the storage folder, if it does, where they are here."""
    if not isinstance(getattr(encoder, "weights", None), Path):
        return encoder
    own = copy.copy(encoder)
    with at_hand(shared, encoder.weights) as own.weights:
        return own


def bring(shared: Shared | None, counts: Any) -> None:
    """Have the files behind a dataset's counts, or vectors, in the store, and workers find them there."""
    files = getattr(counts, "files", counts)
    if shared is None or not hasattr(files, "fetch"):
        return
    paths = [part.path for part in files.parts] if hasattr(files, "parts") else files.paths
    files.fetch = Inputs(shared, {path: shared.bring(Path(path)) for path in paths if "://" not in path})
