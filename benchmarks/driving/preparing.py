"""Seconds until the first trial starts, and until the last has ended, where one artefact of several takes long.

    python benchmarks/driving/preparing.py [--seconds 60] [--splits 4]

A small real sweep (700 cells, two models, so many splits, two CPUs) in which what one split needs takes so many seconds
more to be made, as where a deep model makes cells. It sleeps meanwhile, so that other work on the machine matters less.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from parts import Screen  # noqa: E402

from sweeps.drive.converge import converge  # noqa: E402
from sweeps.drive.request import Parts, Request, real_parts  # noqa: E402
from sweeps.file.config import parse  # noqa: E402

SWEEP = """
name: preparing
datasets: [pbmc68k_reduced]
genes: {{select: hvg, n: 200}}
splits: {{seeds: {splits}}}
models: {{scgpt: {{size: tiny, steps: 200}}, logistic_regression: {{}}}}
"""


class Watch(Screen):
    """Notes when the first trial started."""

    def event(self, what: str, key: str, numbers: dict[str, Any]) -> None:
        self.at.setdefault(what, time.monotonic())
        super().event(what, key, numbers)


def slow(parts: Parts, seconds: float) -> Parts:
    """Return parts whose preparation takes so many seconds more where it is for split 0."""

    def prepare(configs: list[dict[str, Any]], *given: Any) -> list[dict[str, Any]]:
        if any(config["split"]["seed"] == 0 for config in configs):
            time.sleep(seconds)
        return parts.prepare(configs, *given)

    return dataclasses.replace(parts, prepare=prepare)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--splits", type=int, default=4)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spec = parse(SWEEP.format(splits=list(range(asked.splits))), Path(folder) / "preparing.yaml")
        screen, began = Watch(), time.monotonic()
        outcome = converge(spec, Request(storage=Path(folder), num_cpus=2), screen, slow(real_parts(), asked.seconds))
        ended = time.monotonic() - began
    first = screen.at["started"] - began
    print(json.dumps({"trials": outcome.finished, "first_start": round(first, 1), "makespan": round(ended, 1)}))


if __name__ == "__main__":
    main()
