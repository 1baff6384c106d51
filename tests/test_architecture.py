"""The shape of the house: arrows point one way, one door per outside system, the printed tree is the real one."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("data_pipeline", "trainables", "sweeps")  # each may import those before it
DOORS = {  # outside system -> the only files that may import it
    "mlflow": {
        "sweeps/tracking/store.py",
        "sweeps/tracking/registry.py",
        "sweeps/tracking/joint.py",
        "sweeps/answers/results.py",
        "sweeps/drive/artifacts.py",
    },
    "ray.tune": {"sweeps/drive/launch.py", "sweeps/drive/worker.py"},
    "ray.data": {"data_pipeline/shards/datasource.py"},
    "anndata": {
        "data_pipeline/reading/h5ad.py",
        "data_pipeline/reading/catalog.py",
        "data_pipeline/rows/synthesize.py",
    },
    "flash_attn": {"trainables/networks/attention.py"},
    "scvi": {"data_pipeline/rows/synthesize.py"},
}
PICKLE = {"trainables/weights.py"}  # a restricted unpickler


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path) -> set[str]:
    """Return every module a file imports, as `a.b`, both `import a.b` and `from a import b`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_arrows_point_from_sweeps_to_trainables_to_data_pipeline(path):
    allowed = PACKAGES[: PACKAGES.index(path.relative_to(ROOT).parts[0]) + 1]
    ours = {name.split(".")[0] for name in imports(path)} & {*PACKAGES, "tests", "benchmarks"}
    assert ours <= set(allowed)


@pytest.mark.parametrize("system", DOORS)
def test_one_door_per_outside_system(system):
    users = {name_of(path) for path in sources() if any(_is_in(name, system) for name in imports(path))}
    assert users <= DOORS[system]


def _is_in(name: str, system: str) -> bool:
    return name == system or name.startswith(f"{system}.")


def test_no_pickle_and_no_unsafe_yaml():
    for path in sources():
        text = path.read_text()
        assert name_of(path) in PICKLE or not {"pickle", "dill", "joblib"} & imports(path), path
        assert "yaml.load(" not in text or "Safe" in text, path
        assert "weights_only=False" not in text, path


def test_no_global_random_state_outside_the_loop():
    for path in sources():
        text = path.read_text()
        assert not re.search(r"np\.random\.(seed|rand|randn|randint|choice|shuffle|permutation)\b", text), path
        assert "torch.manual_seed(" not in text or name_of(path) == "trainables/training/loop.py", path


def test_the_tree_is_what_git_holds():
    """Every file of the packages stands in the tree of docs/design.md with a role of at most ten words."""
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    tracked = {
        name for name in listing.stdout.split() if name.startswith(PACKAGES) and not name.endswith("__init__.py")
    }
    shown, folder = {}, ""
    block = (ROOT / "docs" / "design.md").read_text().split("```tree\n")[1].split("```")[0]
    for line in block.splitlines():
        indent, name, role = re.match(r"( *)(\S+)\s*(.*)", line).groups()
        folder = name if not indent else folder
        if indent:
            shown[f"{folder}{name}"] = role
    assert set(shown) == tracked
    too_long = [name for name, role in shown.items() if not 1 <= len(role.split()) <= 10]
    assert not too_long
