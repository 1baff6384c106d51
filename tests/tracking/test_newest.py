"""MLflow's newest release, in an environment of its own: what reaches behind its client works there, or steps aside."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from pathlib import Path

import mlflow

from sweeps.file.trials import Trial
from sweeps.tracking.kept.runs import runs_of
from sweeps.tracking.store import Tracker
from sweeps.tracking.uris import default_uri

storage = Path(sys.argv[1])
(storage / "sweeps").mkdir(parents=True)
described = {name: {"kind": "none"} for name in ("skew", "strategy", "loss")}
described |= {"dataset": {"path": "x"}, "genes": {"fit": "kept"}, "split": {"test": 0.2}, "defects": []}
described |= {"weights": None, "model": "majority", "options": {}}
axes = ("dataset", "split", "skew", "strategy", "loss", "model")
trials = [
    Trial(described | {"seed": seed}, dict.fromkeys(axes, "a") | {"seed": str(seed)}, "corrected", digest="d")
    for seed in range(5)
]
tracker = Tracker(default_uri(storage), "small", storage)
runs = tracker.register(trials, {}, lambda done, total: None)
for run in runs.values():
    tracker.report(run.run_id, {"epoch": 1, "train_loss": 0.5})
    tracker.finish(run.run_id, "FINISHED", {}, {"epoch": 1, "test_macro_f1": 0.25})
assert tracker.close(60)
found = runs_of(default_uri(storage), "small")
assert {run.tags["cellskew.trial"] for run in found} == {trial.key for trial in trials}
assert all((run.status, run.metrics) == ("FINISHED", {"test_macro_f1": 0.25, "train_loss": 0.5}) for run in found)
print("MLflow", mlflow.__version__, "joint" if tracker.is_joint else "run by run")
"""


def test_the_newest_mlflow_takes_a_sweep(tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", tmp_path / "venv"], check=True)
    newest = subprocess.run(
        [python, "-m", "pip", "install", "-q", "--upgrade", "--upgrade-strategy", "only-if-needed", "mlflow"],
        capture_output=True,
        text=True,
        check=False,
    )
    if newest.returncode:
        pytest.skip(f"no package index answers: {newest.stderr[-300:]}")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [python, "-W", "ignore", program, tmp_path / "runs"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "MLflow" in done.stdout
    print(done.stdout)
