"""What a drive is asked for, what its trials are made of, and who is told what happens."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from data_pipeline.shared import objects
from data_pipeline.shared.hand import on_hand
from data_pipeline.shared.store import Shared
from sweeps.drive.allowance import Allowance
from sweeps.drive.workshop import Workshop
from sweeps.file.config import SweepSpec
from sweeps.file.trials import Trial


@dataclass(frozen=True)
class Request:
    """How a sweep is to be run. tracking_uri None: see uris.choose; address None: a Ray of our own; max_failed: so many
    trials that fail in this launch stop it; allowance: how much this launch may use; shared: URI of a store in which
    nodes that share no folder find one another's files, None: they all see `storage`."""

    storage: Path
    tracking_uri: str | None = None
    address: str | None = None
    max_concurrent: int | None = None
    num_cpus: int | None = None
    retry_failed: bool = False
    from_scratch: bool = False
    move_tracking: bool = False
    max_failed: int | None = None
    allowance: Allowance | None = None
    shared: str | None = None

    @property
    def store(self) -> Shared | None:
        """What the nodes have in common in place of a folder."""
        return None if self.shared is None else Shared(objects.checked(self.shared), self.storage.absolute())


@dataclass(frozen=True)
class Parts:
    """What the trials are made of; tests and benchmarks put their own here. measure: see packing.py; check: refuses
    what can be refused before anything is prepared."""

    open_datasets: Callable[[SweepSpec, Path], dict[str, Any]]
    prepare: Callable[[list[dict[str, Any]], dict[str, Any], Path, Callable, Workshop], list[dict[str, Any]]]
    run_trial: Callable[..., dict[str, Any]]
    measure: Callable[[dict[str, Any]], dict[str, Any]]
    check: Callable[..., None] = lambda *given: None


class Wanted(Protocol):
    """How many splits a sweep wants now, and what a look at these found, "" where they aren't finished."""

    splits: int
    said: str


Look = Callable[[SweepSpec, str, int], Wanted]  # (sweep, its contents known; MLflow's URI; looks) -> how many splits


def all_splits(spec: SweepSpec, uri: str, looks: int) -> Wanted:
    """Want all the splits that a file lists; one that says `until` needs another look, see answers.sure.wanted."""
    if spec.until is not None:
        raise TypeError(f"sweep {spec.name} adds splits until it is sure: who looks?")
    return SimpleNamespace(splits=len(spec.splits), said="")


class Screen(Protocol):
    """Who is told what happens."""

    def say(self, text: str) -> None: ...

    def count(self, what: str, done: int, total: int) -> None: ...

    def passed(self, what: str) -> None: ...

    def begin(
        self, trials: list[Trial], finished: int, costs: dict[str, float], cores: float, trouble: Callable
    ) -> None: ...

    def event(self, what: str, key: str, numbers: dict[str, Any]) -> None: ...

    def end(self) -> None: ...


def real_parts(shared: Shared | None = None) -> Parts:
    """Return the parts of real trials: opened files, encoded shards, networks. shared: see Request.store."""
    from sweeps.drive.preparing.prepare import check, open_datasets, prepare
    from trainables.trial.profile import peak_memory
    from trainables.trial.trial import run_trial

    prepared, measured = partial(prepare, shared=shared), partial(on_hand, shared, peak_memory)
    return Parts(open_datasets, prepared, run_trial, measured, partial(check, shared=shared))
