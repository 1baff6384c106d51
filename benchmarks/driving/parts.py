"""What the benchmarks of a driver share: a sweep as the driver knows it, a screen that notes times, no preparation."""

import time
from pathlib import Path
from typing import Any

from sweeps.drive import contents
from sweeps.drive.request import real_parts
from sweeps.file.config import SweepSpec, parse


def known(text: str, file: Path) -> SweepSpec:
    """Return a sweep whose trials are known by what their data hold, as the driver knows them."""
    spec = parse(text, file)
    return contents.known(spec, real_parts().open_datasets(spec, file.parent), file.parent)


class Screen:
    """Notes when each stage was reached."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self.finished = 0

    def say(self, text: str) -> None:
        self.at.setdefault(text.split(":")[0].split(" ")[0], time.monotonic())

    def count(self, what: str, done: int, total: int) -> None:
        self.at[what] = time.monotonic()

    def passed(self, what: str) -> None:
        pass

    def begin(self, *about: Any) -> None:
        self.at["begin"] = time.monotonic()

    def event(self, what: str, key: str, numbers: dict[str, Any]) -> None:
        self.finished += what == "finished"

    def end(self) -> None:
        self.at["end"] = time.monotonic()


def nothing_to_prepare(configs: list, cells: dict, storage: Path, *more: Any) -> list[dict[str, Any]]:
    return [{"shards": "none", "generated": None, "rows": None} for _ in configs]
