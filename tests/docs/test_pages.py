"""README and docs: every command runs or says why not, every example is a sweep file, every link leads somewhere."""

import re
import shlex

import pytest
import yaml
from documents import PAGES, ROOT, Block, anchors, blocks, inline_commands, parse, renewed, run, without_blocks
from typer.main import get_command

from sweeps import cli
from sweeps.file import config, yaml_lines

KINDS = {"sh", "python", "yaml", "text", "tree"}
STAND_IN = {"name": "x", "datasets": ["pbmc68k_reduced"], "models": ["majority"]}


def at(block: Block) -> str:
    return str(block)


def test_readme_is_read_in_one_go():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


SCRIPTS = sorted((ROOT / "benchmarks").rglob("*.py"))


def test_every_page_is_reached_from_readme_and_every_benchmark_from_its_page():
    text, benchmarks = (ROOT / "README.md").read_text(), (ROOT / "benchmarks" / "README.md").read_text()
    pages = [page.relative_to(ROOT).as_posix() for page in PAGES if page.name != "README.md"]
    assert [page for page in pages if f"({page}" not in text] == []
    scripts = [path for path in SCRIPTS if "ArgumentParser" in path.read_text()]
    scripts = [path.relative_to(ROOT / "benchmarks").as_posix() for path in scripts]
    assert [script for script in scripts if f"| `{script}` |" not in benchmarks] == []


def test_every_block_says_what_it_is_and_what_is_not_run_says_why():
    assert [str(block) for block in blocks() if block.kind not in KINDS] == []
    assert [str(block) for block in blocks() if not block.is_run and len(block.note.split()) < 5] == []


@pytest.mark.parametrize("block", [block for block in blocks("sh") if block.is_run], ids=at)
def test_commands_run_and_print_what_the_page_shows(block, finished_sweep, monkeypatch):
    monkeypatch.chdir(finished_sweep)
    said = ""
    for command in block.commands():
        if command.startswith("python "):
            parse(command)
            continue
        assert command.startswith("cellskew "), (
            f"{command}: not a command of ours; mark the block <!-- not run: why -->"
        )
        expected = int((re.findall(r"# exit code (\d)", command) or [0])[0])
        code, printed = run(command)
        assert code == expected, f"{command}\n{printed}"
        said += printed
    assert block.printed is None or renewed(block.printed, said), f"`make docs`; it printed:\n{said}"


@pytest.mark.parametrize("block", [block for block in blocks("python") if block.page.stem != "mlflow"], ids=at)
def test_python_runs(block, finished_sweep, monkeypatch):
    if not block.is_run or block.file is not None:
        pytest.skip(block.note)
    monkeypatch.chdir(finished_sweep)
    exec(compile(block.text, str(block), "exec"), {"__name__": "page"})


def test_the_recipes_for_mlflow_run_one_after_the_other(finished_sweep, monkeypatch, capsys):
    monkeypatch.chdir(finished_sweep)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # mlflow.set_tracking_uri writes it, and our commands heed it
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", None)
    recipes = [block for block in blocks("python") if block.page.stem == "mlflow"]
    assert len(recipes) >= 10
    names = {"__name__": "page"}
    for block in recipes:
        exec(compile(block.text, str(block), "exec"), names)
        assert capsys.readouterr().out.strip(), f"{block} prints nothing"


@pytest.mark.parametrize("block", [block for block in blocks("yaml") if block.is_run], ids=at)
def test_examples_are_sweep_files_or_parts_of_one(block, tmp_path):
    document = yaml_lines.read(block.text)  # `on:` is a word there
    assert document.problems == []
    given = document.value
    whole = given if "datasets" in given and "models" in given else STAND_IN | given
    config.parse(yaml.safe_dump(whole), tmp_path / "page.yaml", check_files=False)


@pytest.mark.parametrize("block", [block for block in blocks("sh") if not block.is_run], ids=at)
def test_commands_that_are_not_run_have_these_names_and_options(block):
    for command in block.commands():
        if command.startswith("python "):
            parse(command)
        check_options(command)


def test_the_sweep_of_readmes_figure_can_be_planned():
    assert len(config.load(ROOT / "docs" / "figures" / "few-cells.yaml").trials()) == 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_within_sentences_have_these_names_and_options(page):
    for command in inline_commands(page):
        check_options(command)
        assert not command.startswith("python ") or (ROOT / command.split()[1]).exists(), command


def check_options(command: str) -> None:
    """Look whether a command of ours has that name and those options; others pass."""
    commands = get_command(cli.app).commands
    program, *words = shlex.split(command, comments=True)
    if program != "cellskew" or words[0].startswith("-"):
        return
    assert words[0] in commands, command
    options = {flag for option in commands[words[0]].params for flag in option.opts} | {"--help"}
    assert {word for word in words if word.startswith("--")} <= options, command


def test_what_pages_tell_make_to_make_can_be_made():
    told = {word for block in blocks("sh") for word in re.findall(r"make (\w+)", block.text)}
    made = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= told <= made


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    text = without_blocks(page)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset|href)="([^"]+)"', text)
    for link in links:
        if link.startswith(("https://", "http://")):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}: no such heading"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_every_benchmark_says_how_it_is_used(script, capsys):
    if "ArgumentParser" not in script.read_text():
        pytest.skip("a module of the others")
    with pytest.raises(SystemExit) as end:
        parse(f"python {script.relative_to(ROOT)} --help")
    assert end.value.code == 0 and "usage:" in capsys.readouterr().out
