"""Tables: in LaTeX (rules, columns, names that are commands there), and whether one fits a screen."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest
from rich.cells import cell_len
from rich.console import Console

from data_pipeline.errors import RequestError
from sweeps import tables
from sweeps.commands import options

TABLE = pd.DataFrame({"model": ["a_b & 50%", "[c]"], "": ["best", ""], "macro_f1": ["0.5 ± 0.1", "<0.1"]})


def test_a_tabular_has_rules_columns_and_no_name_that_is_a_command(capsys):
    tables.draw(TABLE, title="skew step-10", left=2, breaks={1}, form="latex")
    assert capsys.readouterr().out.splitlines() == [
        "% skew step-10",
        r"\begin{tabular}{llr}",
        r"\toprule",
        r"model &  & macro\_f1 \\",
        r"\midrule",
        r"a\_b \& 50\% & best & 0.5 $\pm$ 0.1 \\",
        r"\addlinespace",
        r"{}[c] &  & $<$0.1 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_what_must_be_said_is_a_comment_on_every_line(capsys):
    assert not tables.for_programs(TABLE, "latex", "WARNING: one\ntwo")
    tables.say("word " * 60, form="latex")
    assert all(line.startswith("% ") for line in capsys.readouterr().out.splitlines())


def test_a_table_that_is_too_wide_for_the_screen_is_told(monkeypatch):
    monkeypatch.setattr(tables, "console", lambda: SimpleNamespace(width=29))
    assert tables.fits(TABLE), "9 + 4 + 9 letters, and two more for each of three columns: 28"
    monkeypatch.setattr(tables, "console", lambda: SimpleNamespace(width=27))
    assert not tables.fits(TABLE)


def test_a_table_goes_into_a_file_in_the_form_that_its_name_says(tmp_path, capsys):
    table = pd.DataFrame({"model": ["=a"], "n": [3]})
    table.attrs["keys"] = frozenset("a")
    for name in ("t.parquet", "t.csv", "t.json"):
        printed = options.printed_as(None, False, tmp_path / name)
        with tables.into(printed.out):
            assert tables.for_programs(table, printed.form, "few splits")
    written = pd.read_parquet(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(written, table)
    assert not written.attrs, "what runs are told, which is no part of a table"
    assert (tmp_path / "t.csv").read_text() == "model,n\n'=a,3\n"
    assert json.loads((tmp_path / "t.json").read_text())["rows"] == [{"model": "=a", "n": 3}]
    said = capsys.readouterr()
    assert said.err == "few splits\n" * 2 and said.out.count("written") == 3
    with pytest.raises(RequestError, match="say how with --format"):
        options.printed_as(None, False, tmp_path / "t.xlsx")


def test_a_wide_table_is_drawn_in_parts_and_no_word_is_broken(monkeypatch, capsys):
    choices = ["logistic_regression · oversample", "细胞 🧬"]
    table = pd.DataFrame({"choice": choices, "macro_f1": ["0.640 ± 0.013 [0.597, 0.680]", "-"], "cells of it": [3, 4]})
    wide = [len(tables.parts(table.astype(str), 1, columns)) for columns in (80, 45, 30, 10)]
    assert wide == [1, 1, 2, 2], "at 45 in more lines, at 30 in two parts"
    monkeypatch.setattr(tables, "console", lambda: Console(width=38))
    tables.draw(table, title="skew natural")
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert said.count("skew natural") == 1 and said.count("oversample") == 2 and "[0.597, 0.680]" in said
    assert max(map(cell_len, lines)) <= 38 and [line.split() for line in lines if "细胞" in line][1] == [
        "细胞",
        "🧬",
        "4",
    ]


@pytest.mark.parametrize(("columns", "widest"), [(80, 80), (120, 110), (200, 110)])
def test_no_sentence_is_wider_than_the_terminal(columns, widest, monkeypatch, capsys):
    monkeypatch.setattr(tables, "console", lambda: SimpleNamespace(width=columns))
    tables.say("a word and another " * 20)
    assert widest - 12 < max(map(len, capsys.readouterr().out.splitlines())) <= widest
