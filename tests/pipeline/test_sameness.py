"""Workers run the driver's code, wherever they would find another; if they can't, they say so and do nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipeline import sameness
from data_pipeline.errors import RequestError

ROOT = Path(__file__).parents[2]
SWEEP = """
name: small
datasets: [pbmc68k_reduced]
genes: {select: hvg, n: 50}
models: {majority: {}}
splits: {seeds: [0]}
"""
START = "from sweeps.cli import main\n\nif __name__ == '__main__':\n    main()\n"  # as the installed command does


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """Another checkout, with another metric, in which somebody's own folder has a name of ours."""
    other = tmp_path / "checkout"
    for name in ("trainables", "sweeps"):
        shutil.copytree(ROOT / name, other / name)
    metrics = other / "trainables" / "metrics.py"
    right = "float(np.trace(table) / support.sum())"
    assert right in metrics.read_text()
    metrics.write_text(metrics.read_text().replace(right, "0.123456"))
    (other / "data_pipeline").mkdir()
    (other / "data_pipeline" / "__init__.py").touch()
    return other


def test_a_pinned_folder_comes_before_working_folder_and_pythonpath(changed):
    code = f"from data_pipeline import sameness; sameness.pin({str(ROOT)!r}); import trainables, sweeps; "
    code += "print(trainables.__path__[0], sweeps.__path__[0], sameness.places())"
    shutil.rmtree(changed / "data_pipeline")
    paths = {**os.environ, "PYTHONPATH": f"{changed}{os.pathsep}{ROOT}"}
    asked = subprocess.run([sys.executable, "-c", code], cwd=changed, env=paths, capture_output=True, text=True)
    assert asked.stdout.split() == [str(ROOT / "trainables"), str(ROOT / "sweeps"), f"['{ROOT}']"], asked.stderr


def test_a_folder_that_is_not_on_this_machine_pins_nothing(tmp_path):
    assert sameness.Pinned(str(tmp_path)).find_spec("sweeps") is None
    (tmp_path / "sweeps").mkdir()
    assert sameness.Pinned(str(tmp_path)).find_spec("sweeps") is None, "a folder of results, say, is no package"
    assert sameness.Pinned(str(ROOT)).find_spec("numpy") is None


def test_a_changed_file_changes_the_fingerprint(changed, monkeypatch):
    before = sameness.fingerprint()
    assert before == sameness.fingerprint() and len(before) == 16
    folders = [ROOT / "data_pipeline", changed / "trainables", ROOT / "sweeps"]
    monkeypatch.setattr(sameness, "_folders", lambda: folders)
    assert sameness.fingerprint() != before
    assert sameness.places() == [str(ROOT), str(changed)]
    with pytest.raises(RequestError, match=f"trainables in {changed}, .* stands before the installed one"):
        sameness.check_here()


def test_a_worker_with_other_code_does_nothing_and_names_both_places(ray_here, monkeypatch):
    import ray

    def ask(work):
        return ray.get(ray.remote(num_cpus=1)(work).remote(3))

    assert ask(sameness.checked(lambda number: number + 1)) == 4
    monkeypatch.setattr(sameness, "fingerprint", lambda: "f" * 16)
    wanted = sameness.comparison()
    monkeypatch.undo()
    monkeypatch.setattr(sameness, "comparison", lambda: wanted)
    said = ask(sameness.checked(lambda number: number + 1, lambda said: said))
    assert f"would run the code in {ROOT}, which differs from what the driver" in said and f"found in {ROOT}" in said
    with pytest.raises(RequestError, match="install the same cellskew on every node"):
        ask(sameness.checked(lambda number: number + 1))


@pytest.mark.slow
def test_a_sweep_started_in_another_checkout_runs_the_drivers_code(changed, tmp_path):
    """Its workers once took trainables from there, and a user's folder data_pipeline ended in Ray's traceback."""
    (tmp_path / "small.yaml").write_text(SWEEP)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "cellskew").write_text(START)
    command = [sys.executable, "../bin/cellskew", "run", "../small.yaml", "--storage", tmp_path / "r"]
    paths = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=changed, env=paths, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    from sweeps.answers.runs import results
    from sweeps.tracking.uris import default_uri

    (run,) = results.fetch(default_uri(tmp_path / "r"), "small").to_dict("records")
    assert run["test_accuracy"] != 0.123456 and run["test_accuracy"] > 0
