"""docs/design.md: its journeys name files that there are, each once; its table names folders that there are."""

import re

from documents import ROOT

PAGE = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
PACKAGES = ("data_pipeline", "trainables", "sweeps")


def test_the_journeys_name_each_file_once_and_leave_none_out():
    journeys = PAGE[PAGE.index("## The journey of a cell") : PAGE.index("## Decisions")]
    named = re.findall(r"`([\w/]+\.(?:py|yaml))`", journeys)
    there = {f"/{path.relative_to(ROOT).as_posix()}" for package in PACKAGES for path in (ROOT / package).rglob("*.*")}
    assert [name for name in named if not any(path.endswith(f"/{name}") for path in there)] == []
    assert sorted({name for name in named if named.count(name) > 1}) == []
    left_out = {path for path in there if not any(path.endswith(f"/{name}") for name in named)}
    assert sorted(path for path in left_out if path.endswith((".py", ".yaml")) and "__init__" not in path) == []


def test_the_folders_that_answer_questions_are_there():
    table = PAGE[PAGE.index("## Where is what") : PAGE.index("## The journey of a cell")]
    folders = re.findall(r"`((?:data_pipeline|trainables|sweeps)/[\w/]+)`", table)
    assert len(folders) >= 7
    assert [folder for folder in folders if not (ROOT / folder).exists()] == []
