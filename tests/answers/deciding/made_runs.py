"""Runs made up for tests of choices: numbers by choice, split and luck."""

import numpy as np
import pandas as pd

METRIC = "test_macro_f1"


def run(model: str, strategy: str, split: int, value: float, **more) -> dict:
    row = {"status": "FINISHED", "dataset": "d", "split": str(split), "skew": "natural", "seed": "0"}
    row |= {"model": model, "strategy": strategy, "loss": "cross_entropy", "defects": "", "protocol": "corrected"}
    row |= {"settings": "", "artifact_uri": "", "test_cells": 20.0, "natural_cells": 80.0, "fixed_test": 0.0}
    return row | {"gpu": "", "gpus": "", "trial_seconds": 10.0, METRIC: value} | more


def runs(means: dict[tuple[str, str], float], splits: int = 5, noise: float = 0.01, **more) -> pd.DataFrame:
    """Return finished runs: each choice (model, strategy) on each split, around its mean; a split's luck is shared."""
    rng, rows = np.random.default_rng(0), []
    for split in range(splits):
        luck = rng.normal(0, 0.03)
        rows += [run(*choice, split, mean + luck + rng.normal(0, noise), **more) for choice, mean in means.items()]
    return numbered(pd.DataFrame(rows))


def numbered(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(
        run_id=[f"r{place}" for place in range(len(frame))], key=[f"{place:016x}" for place in range(len(frame))]
    )
