"""What stands in README and docs: their code blocks, links and anchors, and how their commands are run.

A block ```sh holds commands, ```python code, ```yaml a sweep file or a part of one, ```text what the block before it
printed (numbers may differ; a line `...` stands for lines left out). An HTML comment right above a block says more:
`<!-- not run: reason -->`, or `<!-- file: NAME -->`: the tests' folder has such a file with this content.
"""

import argparse
import contextlib
import io
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sweeps import cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]
FENCE = re.compile(r"(?:<!-- (?P<note>[^>]*) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
NUMBER = re.compile(r"[-+]?\d[\d.,:%]*")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. note: of the comment above it; printed: the block of output below it, or None."""

    page: Path
    line: int
    kind: str
    text: str
    note: str
    printed: str | None

    @property
    def is_run(self) -> bool:
        return not self.note.startswith("not run:")

    @property
    def file(self) -> str | None:
        return self.note.removeprefix("file:").strip() if self.note.startswith("file:") else None

    def commands(self) -> list[str]:
        """Return a shell block's commands, continued lines joined."""
        return [line for line in self.text.replace("\\\n", " ").splitlines() if line.strip()]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*kinds: str) -> list[Block]:
    """Return the blocks of all pages that are of one of these kinds (all, if none is named)."""
    return [block for page in PAGES for block in _blocks(page) if not kinds or block.kind in kinds]


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    found = list(FENCE.finditer(text))
    for match, after in zip(found, [*found, None][1:], strict=True):
        is_output = after is not None and after["kind"] == "text" and not text[match.end() : after.start()].strip()
        line = text.count("\n", 0, match.start("kind")) + 1
        printed = after["text"] if is_output else None
        yield Block(page, line, match["kind"], match["text"], (match["note"] or "").strip(), printed)


def without_blocks(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def inline_commands(page: Path) -> list[str]:
    """Return what stands in backticks and begins with a program of ours."""
    quoted = (" ".join(match.split()) for match in INLINE.findall(without_blocks(page)))
    return [words for words in quoted if words.startswith(("cellskew ", "python "))]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    titles = re.findall(r"^#+ (.+)$", without_blocks(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def run(command: str) -> tuple[int, str]:
    """Run a `cellskew` command in this process, in the working folder; returns (exit code, what it printed)."""
    printed, streams = io.StringIO(), contextlib.ExitStack()
    with pytest.MonkeyPatch.context() as patch, streams:
        streams.enter_context(contextlib.redirect_stdout(printed))
        streams.enter_context(contextlib.redirect_stderr(printed))
        patch.setattr(sys, "argv", shlex.split(command, comments=True))
        patch.setenv("COLUMNS", "160")
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0), printed.getvalue()
    return 0, printed.getvalue()


def finish_sweep(folder: Path) -> str:
    """Put my.h5ad, the files that pages name and a finished sweep into `folder`; returns what the run printed."""
    import anndata

    from data_pipeline.reading.known import catalog

    cells = anndata.read_h5ad(catalog.resolve("pbmc68k_reduced", folder / "made").all_paths[0])
    cells.obs = cells.obs.rename(columns={"bulk_labels": "celltype"})
    cells.write_h5ad(folder / "my.h5ad")
    shutil.copytree(ROOT / "sweeps" / "configs", folder / "sweeps" / "configs")
    for block in blocks():
        if block.file is not None:
            (folder / block.file).parent.mkdir(exist_ok=True)
            (folder / block.file).write_text(block.text, encoding="utf-8")
    with contextlib.chdir(folder):
        code, printed = run("cellskew run my.yaml")
    assert code == 0, printed
    return printed


class Parsed(Exception):
    """A script's arguments were understood."""


def parse(command: str) -> None:
    """Have a script of ours read the arguments of `python SCRIPT ARGUMENTS`, and nothing more."""
    script, *given = shlex.split(command, comments=True)[1:]
    whole = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *options: object) -> None:
        whole(parser, *options)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Parsed):
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "argv", [script, *given])
        patch.setattr(sys, "path", [str((ROOT / script).parent), *sys.path])
        runpy.run_path(str(ROOT / script), run_name="__main__")


def renewed(said: str, printed: str) -> str | None:
    """Return `said` with the lines that were printed in place of those of the same shape; None if one wasn't printed.

    Shapes: numbers and folders may differ. A line `...` of `said` stands for any that are left out; without one, all
    that was printed is returned.
    """
    lines, found = iter(printed.splitlines()), []
    for wanted in said.splitlines():
        line = wanted if wanted in ("...", "") else next((one for one in lines if _shape(one) == _shape(wanted)), None)
        if line is None:
            return None
        found.append(line)
    return "\n".join(found) + "\n" if "..." in found else printed


def _shape(line: str) -> list[str]:
    without_folders = re.sub(r"[\w:]*/[\w./-]*/", "", line)
    return NUMBER.sub("0", without_folders).split()
