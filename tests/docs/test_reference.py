"""docs/sweep-file.md is what the code says, and nothing a sweep file may hold is left unexplained."""

import runpy

from documents import ROOT

REFERENCE = runpy.run_path(str(ROOT / "docs" / "reference.py"))


def test_the_page_is_what_the_code_says_now():
    said = "run `make docs`: the code has changed since docs/sweep-file.md was made from it"
    assert REFERENCE["page"]() == REFERENCE["TARGET"].read_text(encoding="utf-8"), said


def test_every_meaning_is_of_something_that_can_be_written(monkeypatch):
    used = set()

    class Watched(dict):
        def __getitem__(self, key):
            used.add(key)
            return super().__getitem__(key)

    watched = Watched(REFERENCE["MEANINGS"])
    monkeypatch.setitem(REFERENCE["meaning"].__globals__, "MEANINGS", watched)
    REFERENCE["page"]()
    assert set(watched) - used == set()
