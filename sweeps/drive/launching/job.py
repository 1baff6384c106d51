"""What a worker is handed for one trial, a frozen record that travels as text; how a launch runs them."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_pipeline.shared.store import Shared
from sweeps.drive.allowance import Allowance
from sweeps.tracking.artifacts import Upload
from trainables.config import LEAVE


@dataclass(frozen=True)
class Job:
    """One trial on its way to a worker and into its run.

    config: what run_trial takes. resources: its CPUs and share of a GPU, {"cpu", "gpu"}. tags, data (name, digest,
    source of the dataset): what its run is to say when it starts. fresh: "", or the name of a launch that starts
    over whatever was left before it; a worker that takes its place finds its name in the folder, and goes on.
    upload: where its files go; None: nowhere. cost: about the seconds it takes, in any unit. turn: its place among
    those that wait, see forecast.precedence. shared: URI of the store that has what the driver's storage folder has,
    where machines share none.
    """

    config: dict[str, Any]
    run_id: str
    resources: dict[str, float]
    tags: dict[str, str]
    data: dict[str, str]
    fresh: str = ""
    upload: Upload | None = None
    cost: float = 1.0
    turn: int = 0
    shared: str | None = None

    @property
    def key(self) -> str:
        return self.config["key"]

    @property
    def directory(self) -> Path:
        return Path(self.config["directory"])

    @property
    def store(self) -> Shared | None:
        """What the machines have in common in place of a folder; None where they share the storage folder."""
        return None if self.shared is None else Shared(self.shared, self.directory.parents[1])

    @property
    def marks(self) -> tuple[Path, ...]:
        """Files that ask the trial to save its round: as the sweep ends, as it is to leave its node."""
        return *([Path(self.config["stop_file"])] if self.config.get("stop_file") else []), self.directory / LEAVE

    def to_text(self) -> str:
        """Return the job as JSON, which Tune copies and stores without looking inside."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> "Job":
        """Return the job that `to_text` wrote."""
        found = json.loads(text)
        return cls(**found | {"upload": None if found["upload"] is None else Upload(**found["upload"])})


@dataclass(frozen=True)
class Settings:
    """How trials are run: by what, how many at once (None: as many as fit), how often again after a worker's death."""

    run_trial: Callable[..., dict[str, Any]]
    max_concurrent: int | None = None
    max_failures: int = 3
    max_failed: int | None = None  # failed trials that stop the launch
    allowance: Allowance | None = None
    pause: float = 5.0  # seconds before a launch that fell over is repeated, times the number of times
    say: Callable[[str], None] = print
