"""The same trial on other threads, kernels and instructions: how far its probabilities and metrics move.

    python tests/trial/test_kernels.py FOLDER THREADS

trains a tiny trial of every network there and prints what came out, so that a process can be started with other
instructions; and of two baselines, which have one thread whatever is asked for. Over whole trials of the quickstart:
benchmarks/numbers/machines.py.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from conftest import trial_config

from trainables.spec import get, names
from trainables.trial import outcome
from trainables.trial.trial import run_trial

NETWORKS = [name for name in names() if get(name).kind == "network"]
BASELINES = ["gradient_boosting", "logistic_regression"]  # the first by OpenMP that only its trial loads; by MKL
OLD = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}  # threads that wait leave a busy machine to others


def train(folder: Path, model: str, threads: int = 1) -> dict:
    """Train a tiny trial; returns its macro F1 and the instructions it was computed by."""
    final = run_trial(trial_config(folder, model, recipe={"epochs": 3, "threads": threads}), lambda *news: None, None)
    return {"macro_f1": final["test_macro_f1"], "instructions": final["tags"]["instructions"]}


def probabilities(folder: Path, model: str) -> np.ndarray:
    return pd.read_parquet(folder / "trials" / model / "predictions.parquet").filter(like="p_").to_numpy()


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> tuple[Path, dict]:
    """Trials as they are trained here, on one thread."""
    folder = tmp_path_factory.mktemp("plain")
    return folder, {model: train(folder, model) for model in NETWORKS}


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> tuple[Path, dict]:
    """The same on two threads and with the instructions of a CPU of twenty years ago."""
    folder = tmp_path_factory.mktemp("old")
    command = [sys.executable, __file__, str(folder), "2"]
    given = os.environ | OLD | PATIENT | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=True)
    return folder, json.loads(done.stdout.splitlines()[-1])


def check(one: tuple[Path, dict], other: tuple[Path, dict], model: str) -> None:
    """Three passes over 200 cells: measured 3e-8 to 2e-7; hundreds of steps make of it what machines.py measures."""
    apart = np.abs(probabilities(one[0], model) - probabilities(other[0], model)).max()
    assert 0 < apart < 1e-5, "the premise: something is computed otherwise; and no more than rounding comes of it"
    assert one[1][model]["macro_f1"] == pytest.approx(other[1][model]["macro_f1"], abs=0.005)


@pytest.mark.parametrize("model", NETWORKS)
def test_other_instructions_and_threads_move_probabilities_by_rounding_alone(plain, old, model):
    assert old[1][model]["instructions"] == "DEFAULT" != plain[1][model]["instructions"], "the premise"
    check(plain, old, model)


@pytest.mark.parametrize("model", ["scgpt", "geneformer"])
def test_another_kernel_of_attention_moves_probabilities_by_rounding_alone(plain, tmp_path, model):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel([SDPBackend.MATH]):
        check(plain, (tmp_path, {model: train(tmp_path, model)}), model)


@pytest.mark.parametrize("model", BASELINES)
def test_baselines_have_one_thread_and_other_instructions_move_them_by_rounding(old, tmp_path, model):
    final = run_trial(trial_config(tmp_path, model), lambda *news: None, None)
    assert old[1][model]["pools"] and set(old[1][model]["pools"]) == {1} and final["tags"]["threads"] == "1"
    assert np.abs(probabilities(tmp_path, model) - probabilities(old[0], model)).max() < 0.02
    assert final["test_macro_f1"] == pytest.approx(old[1][model]["macro_f1"], abs=0.005)


def fit(folder: Path, model: str) -> dict:
    """Train a baseline; returns its macro F1 and the threads of every library at the end of its training."""
    from threadpoolctl import threadpool_info

    pools, conclude = [], outcome.conclude

    def looked(*given):
        pools.extend(one["num_threads"] for one in threadpool_info())
        return conclude(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outcome, "conclude", looked)
        final = run_trial(trial_config(folder, model), lambda *news: None, None)
    return {"macro_f1": final["test_macro_f1"], "pools": pools}


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        place = Path(sys.argv[1])
        found = {model: fit(place, model) for model in BASELINES}  # first, while nothing else has loaded libraries
        found |= {model: train(place, model, int(sys.argv[2])) for model in NETWORKS}
    print(json.dumps(found))
