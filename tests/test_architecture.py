"""The shape of the house: arrows point one way, one door per outside system, the printed tree is the real one."""

import ast
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("data_pipeline", "trainables", "sweeps")  # each may import those before it
DOORS = {  # outside system -> the only files that may import it
    "mlflow": {
        f"sweeps/tracking/{name}.py"
        for name in (
            "about",
            "ailments",
            "artifacts",
            "connection",
            "delivery",
            "joint",
            "kept/registry",
            "kept/runs",
            "registration",
            "store",
        )
    },
    "ray.tune": {"sweeps/drive/launching/launch.py", "sweeps/drive/launching/order.py"},
    "pyarrow.fs": {"data_pipeline/shared/objects.py"},
    "ray.data": {"data_pipeline/shards/datasource.py"},
    "anndata": {
        "data_pipeline/reading/h5ad.py",
        "data_pipeline/reading/known/catalog.py",
        "data_pipeline/scvi_tools.py",
    },
    "flash_attn": {"trainables/networks/attention.py"},
    "scvi": {"data_pipeline/scvi_tools.py"},
    "huggingface_hub": {"trainables/official/hub.py"},
}
ROOMS = {  # a folder -> those beside it that its files may import; files beside the folders are open to all of them
    "data_pipeline.reading": {"shared"},
    "data_pipeline.reading.file": {},
    "data_pipeline.reading.known": {"file"},
    "data_pipeline.rows": {"reading"},
    "data_pipeline.shards": {"shared"},
    "data_pipeline.shared": {},
    "trainables.networks": {},
    "trainables.fitting": {"training"},
    "trainables.models": {"fitting", "networks"},
    "trainables.models.geneformer": {},
    "trainables.models.logistic_regression": {},
    "trainables.models.scbert": {},
    "trainables.models.scgpt": {},
    "trainables.losses": {},
    "trainables.official": {},
    "trainables.training": {"losses", "networks"},
    "trainables.trial": {"fitting", "losses", "networks", "training"},
    "sweeps.file": {},
    "sweeps.cluster": {"file"},
    "sweeps.tracking": {"file", "cluster"},
    "sweeps.tracking.kept": {},
    "sweeps.tracking.locks": {},
    "sweeps.drive": {"file", "cluster", "tracking"},
    "sweeps.drive.forecast": {},
    "sweeps.drive.launching": {},
    "sweeps.drive.preparing": {},
    "sweeps.statistics": {},
    "sweeps.answers": {"file", "cluster", "tracking", "statistics"},
    "sweeps.answers.data": {},
    "sweeps.answers.deciding": {"runs"},
    "sweeps.answers.page": {"deciding", "runs"},
    "sweeps.answers.networks": {"deciding", "runs"},
    "sweeps.answers.runs": {},
    "sweeps.commands": {"file", "cluster", "tracking", "drive", "answers"},
}
DOORSTEPS = {"sweeps", "sweeps.cli"}  # import every folder of sweeps, and are imported by none
LONGEST = {"data_pipeline": 299, "trainables": 299, "sweeps": 299, "tests": 400}  # lines of a file
LARGEST = 12  # files in a folder of code, beside __init__.py and README.md
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


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in sources()}


def ours(node: ast.stmt) -> set[str]:
    """Return the modules of ours that an import statement needs; of `from a import b` that is a.b where that is one."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names} & set(MODULES)
    if not isinstance(node, ast.ImportFrom):
        return set()
    named = {f"{node.module}.{alias.name}" for alias in node.names}
    return named & set(MODULES) | ({node.module} & set(MODULES) if named - set(MODULES) else set())


def on_import(body: list[ast.stmt]) -> set[str]:
    """Return the modules of ours that are imported together with one that has this body: not those of functions."""
    found = set()
    for node in body:
        found |= ours(node)
        if isinstance(node, ast.If | ast.Try | ast.With) and "TYPE_CHECKING" not in ast.unparse(node):
            found |= on_import(node.body)
    return found


def arrow(module: str, other: str) -> tuple[str, str] | None:
    """Return the folders or files where the paths of two modules part; None if one is the folder of the other."""
    first, second = module.split("."), other.split(".")
    depth = next((at for at, (one, two) in enumerate(zip(first, second, strict=False), 1) if one != two), None)
    return depth and (".".join(first[:depth]), ".".join(second[:depth]))


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return names that lead back to where they began, or [] if there are none."""
    state: dict[str, str] = {}

    def visit(name: str, path: list[str]) -> list[str]:
        if state.get(name) == "left":
            return []
        if state.get(name) == "entered":
            return [*path[path.index(name) :], name]
        state[name] = "entered"
        found = next(filter(None, (visit(other, [*path, name]) for other in sorted(graph.get(name, ())))), [])
        state[name] = "left"
        return found

    return next(filter(None, (visit(name, []) for name in sorted(graph))), [])


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_arrows_point_from_sweeps_to_trainables_to_data_pipeline(path):
    allowed = PACKAGES[: PACKAGES.index(path.relative_to(ROOT).parts[0]) + 1]
    ours = {name.split(".")[0] for name in imports(path)} & {*PACKAGES, "tests", "benchmarks"}
    assert ours <= set(allowed)


def test_no_circle_of_modules_that_import_each_other():
    graph = {module: on_import(ast.parse(path.read_text()).body) - {module} for module, path in MODULES.items()}
    assert circle(graph) == []


def test_arrows_between_folders_are_those_declared_and_make_no_circle():
    """Those of functions too: that an import happens late makes no circle right."""
    graph: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        needed = {one for node in ast.walk(ast.parse(path.read_text())) for one in ours(node)}
        assert module in DOORSTEPS or not needed & DOORSTEPS, module
        for start, end in filter(None, (arrow(module, other) for other in needed)):
            graph.setdefault(start, set()).add(end)
    assert circle(graph) == []
    assert {module for module, path in MODULES.items() if path.name == "__init__.py"} == {*ROOMS, *PACKAGES}
    for room, beside in ROOMS.items():
        allowed = {f"{room.rpartition('.')[0]}.{name}" for name in beside}
        assert graph.get(room, set()) & set(ROOMS) <= allowed, room


def test_arrows_begin_and_end_where_paths_part():
    """The premise of the one above."""
    assert arrow("sweeps.drive.launching.news", "sweeps.drive.stopping") == (
        "sweeps.drive.launching",
        "sweeps.drive.stopping",
    )
    assert arrow("sweeps.drive.converge", "trainables.spec") == ("sweeps", "trainables")
    assert arrow("data_pipeline.rows", "data_pipeline.rows.skew") is None


def test_circles_are_seen():
    """The premise of the two above."""
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    assert on_import(ast.parse("import sweeps.cli\ndef f():\n    from sweeps.file import strict").body) == {
        "sweeps.cli"
    }


def test_functions_stay_short_and_their_arguments_annotated():
    functions = [node for path in sources() for node in ast.walk(ast.parse(path.read_text()))]
    functions = [node for node in functions if isinstance(node, ast.FunctionDef)]
    lengths = sorted(node.end_lineno - node.lineno + 1 for node in functions)
    at = {share: lengths[int(share * (len(lengths) - 1))] for share in (0.5, 0.9, 1.0)}
    assert at[0.5] <= 7 and at[0.9] <= 18 and at[1.0] <= 34, f"lines of functions: {at}"
    given = [one for node in functions for one in arguments(node) if one.arg not in ("self", "cls")]
    assert sum(one.annotation is not None for one in given) / len(given) >= 0.97


def arguments(node: ast.FunctionDef) -> list[ast.arg]:
    rest = [one for one in (node.args.vararg, node.args.kwarg) if one is not None]
    return [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, *rest]


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


def tracked() -> list[str]:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return listing.stdout.split()


def test_a_folder_of_code_holds_a_dozen_files_at_most():
    files = [Path(name) for name in tracked() if name.startswith((*PACKAGES, "tests/", "benchmarks/"))]
    code = {path.parent for path in files if path.suffix == ".py"}
    held = Counter(path.parent for path in files if path.name not in ("__init__.py", "README.md"))
    assert {folder.as_posix(): held[folder] for folder in code if held[folder] > LARGEST} == {}


def test_files_stay_short():
    lines = {name: len((ROOT / name).read_text().splitlines()) for name in tracked() if name.endswith(".py")}
    assert {name: n for name, n in lines.items() if n > LONGEST.get(name.split("/")[0], n)} == {}


def test_the_tree_is_what_git_holds():
    """Every file of the packages stands in the tree of docs/design.md with a role of at most ten words."""
    there = {name for name in tracked() if name.startswith(PACKAGES) and not name.endswith("__init__.py")}
    shown, folder = {}, ""
    block = (ROOT / "docs" / "design.md").read_text().split("```tree\n")[1].split("```")[0]
    for line in block.splitlines():
        indent, name, role = re.match(r"( *)(\S+)\s*(.*)", line).groups()
        folder = name if not indent else folder
        if indent:
            shown[f"{folder}{name}"] = role
    assert set(shown) == there
    too_long = [name for name, role in shown.items() if not 1 <= len(role.split()) <= 10]
    assert not too_long
