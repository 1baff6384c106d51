"""Types are called whatever people call them: tables, CSV, pages and pictures hold the names as they are. Fuzzed."""

import csv
import io
import json
import re
import subprocess
import sys
import xml.etree.ElementTree
from html.parser import HTMLParser
from pathlib import Path

import anndata
import pandas as pd
import pytest
import yaml
from conftest import counts_like
from hypothesis import given, settings
from hypothesis import strategies as any_
from typer.testing import CliRunner

from data_pipeline import spreadsheets
from data_pipeline.names import UNSEEN, short, shown
from data_pipeline.spreadsheets import read_csv, to_csv
from sweeps import cli, tables
from sweeps.answers.page import svg
from sweeps.file.plugins import LONGEST, _readable
from trainables.trial import files

CRUEL = ["=1+1", "+1", "-2", "@S", "\tt", "\rr", "'=x", "''-", " lead", "line\nbreak", "q\"uo'te,;", "x" * 300, "01"]
CRUEL += [
    "1e5",
    "NA",
    "nan",
    "None",
    "True",
    "",
    " ",
    "[bold]m[/x]",
    "[/]",
    ":smile:",
    "<b>&amp;",
    r"\$ $\bad{$",
    "a$b$",
]
CRUEL += ["细胞", "😀", "é", "e\u0301", "\x1b[31mred", "\u202eevil", "a/b", "..", "a:b", "T=1", "％", "＝1", "\u2028"]
CRUEL += ["'", '"', "\\n", "\\", "a$b$"]
CHARACTERS = any_.characters(exclude_categories=["Cs"], exclude_characters="\0")
NAMES = any_.sampled_from(CRUEL) | any_.text(CHARACTERS, max_size=12)
LISTS = any_.lists(NAMES, min_size=1, max_size=6, unique=True)
NAMED = ["细胞", "😀", "é", "a·b"]
many, some = settings(max_examples=100, deadline=None), settings(max_examples=5, deadline=None)


def table_of(names: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"class": names, "test": range(len(names)), "f1": [0.5] * len(names)})


@many
@given(LISTS)
def test_a_csv_gives_every_name_back_and_no_cell_is_a_formula(names):
    text = to_csv(table_of(names))
    cells = [row[0] for row in csv.reader(io.StringIO(text, newline=""))]
    assert len(cells) == len(names) + 1 and not any(cell[:1] in tuple("=+-@\t\r＝＋－＠") and cell for cell in cells)
    assert list(read_csv(text.encode(), ["class"])["class"]) == names


@many
@given(LISTS.filter(lambda names: "" not in names))
def test_headers_and_rows_of_a_matrix_are_guarded_alike(names):
    matrix = pd.DataFrame(1, index=pd.Index(names, name="truth"), columns=names)
    back = read_csv(to_csv(matrix, index=True).encode(), ["truth"])
    assert list(back["truth"]) == names == list(back.columns[1:])


def test_numbers_stay_numbers():
    frame = pd.DataFrame({"a": [-1.5, 2.0], "b": [1, -2], "c": [True, False], "d": ["-x", None]})
    assert to_csv(frame) == "a,b,c,d\n-1.5,1,True,'-x\n2.0,-2,False,\n"


@many
@given(LISTS)
def test_tables_on_a_screen_show_every_name_in_visible_characters(names):
    with pytest.MonkeyPatch.context() as patch:
        screen = io.StringIO()
        patch.setattr(sys, "stdout", screen)
        tables.draw(table_of(names), title=names[0])
        tables.say(*names)
        tables.headed(names[0], f": {names[-1]}")
        tables.for_programs(table_of(names), "table", names[0])
    printed = screen.getvalue()
    assert UNSEEN.sub("", printed.replace("\n", "")) == printed.replace("\n", "")
    squeezed = re.sub(r"\s", "", printed)
    assert all(re.sub(r"\s", "", shown(name)) in squeezed for name in names if len(name) < 40)


@many
@given(NAMES, any_.integers(12, 40))
def test_a_short_name_is_short_and_visible(name, most):
    assert len(short(name, most)) <= most and not UNSEEN.search(short(name, most))
    assert len(shown(name)) > most or short(name, most) == shown(name)


@many
@given(LISTS)
def test_labels_fit_tables_and_stay_apart(names):
    labels = [_readable(f"rarefy-{name}-5") for name in names]
    assert all(len(one) <= LONGEST and not UNSEEN.search(one) for one in labels)
    assert len({shown(name) for name in names}) == len(set(labels))


class Cells(HTMLParser):
    """The text of a page's table cells."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.add(tag)
        self.cells += [""] if tag == "td" else []

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


@many
@given(LISTS)
def test_a_page_shows_every_name_and_takes_none_for_markup(names):
    page = Cells()
    page.feed("".join(f"<td>{svg.text(name)}</td>" for name in names))
    assert page.tags == {"td"} and page.cells == [shown(name) for name in names]


def test_of_a_table_only_names_are_looked_at(monkeypatch):
    seen = []
    monkeypatch.setattr(spreadsheets, "_guarded", lambda value: seen.append(value) or value)
    table = pd.DataFrame({"=n": [1.0, 2.0], "class": ["a", "b"]}, index=["r", "s"])
    assert to_csv(table) == "=n,class\n1.0,a\n2.0,b\n" and seen == ["=n", "class", "a", "b"]
    assert to_csv(table, index=True).startswith(",=n") and seen[-2:] == ["r", "s"]
    table.index = ["r\r", "s"]
    assert '"class"' not in to_csv(table) and '"class"' in to_csv(table, index=True)


@some
@given(LISTS)
def test_names_are_drawn_as_they_are(names):
    matrix = pd.DataFrame(1, index=names, columns=names)
    assert files.picture(matrix).startswith(b"\x89PNG")
    axis = svg.Axis(-1, len(names), list(enumerate(names)), "types")
    drawn = svg.Panel(names[0], axis, axis).draw([svg.dot((1, 1), "c0", names[0])], names[0])
    xml.etree.ElementTree.fromstring(drawn)
    assert drawn.startswith("<svg") and not re.search("[\x00-\x08\x0b-\x1f]", drawn)


def test_every_cruel_name_is_drawn_and_no_warning_is_printed():
    for name in CRUEL:
        assert files.picture(pd.DataFrame(1, index=[name], columns=[name])).startswith(b"\x89PNG")
        assert len(short(name, files.ROOM)) <= files.ROOM


@pytest.mark.parametrize("form", ["table", "csv", "json"])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_outside_the_terminals_encoding_are_no_reason_to_fall_over(form, encoding):
    code = f"""
import sys, pandas as pd
from sweeps import cli, tables

def app():
    table = pd.DataFrame({{"class": {ascii(NAMED)}, "f1": [0.5] * 4}})
    tables.for_programs(table, {form!r}, "\\xe9 \\u7ec6") or tables.draw(table, title="\\xe9")
    tables.say("\\U0001f600 \\xb7")

cli.app = app
cli.main()
"""
    given_ = {"PYTHONIOENCODING": encoding, "PYTHONPATH": ":".join(sys.path), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=given_)
    assert done.returncode == 0, done.stderr.decode()
    if form == "csv":
        assert read_csv(done.stdout.rpartition(b"0.5\n")[0] + b"0.5\n", ["class"])["class"].tolist() == [
            "细胞",
            "😀",
            "é",
            "a·b",
        ]
    if form == "json":
        rows = json.JSONDecoder().raw_decode(done.stdout.decode(encoding))[0]["rows"]
        assert [row["class"] for row in rows] == NAMED


def odd_cells(path: Path) -> list[str]:
    """Write cells of ten cruelly named types; returns the names."""
    names = [
        "=1+1",
        "line\nbreak",
        "01",
        "[bold]m[/x]",
        "\x1b[31mred",
        r"\$ $\bad{$",
        "x" * 300,
        "细胞😀",
        "a/b:c=d",
        "'=x",
    ]
    counts, labels = counts_like(300, 30, len(names))
    obs = pd.DataFrame({"t": pd.Categorical([names[label] for label in labels])}, index=map(str, range(300)))
    anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"g{n}" for n in range(30)])).write_h5ad(path)
    return names


def printed(*words: str) -> str:
    """Run a command in this process; returns what it prints on standard output."""
    done = CliRunner().invoke(cli.app, list(words))
    assert done.exit_code == 0, f"{words}: {done.output} {done.exception!r}"
    return done.stdout


def test_a_whole_sweep_of_cruelly_named_types(ray_here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = odd_cells(tmp_path / "odd.h5ad")
    rarefied = [{"kind": "rarefy", "class": name, "cells": 5} for name in ("=1+1", "line\nbreak", "x" * 300)]
    asked = {"name": "odd", "datasets": [{"path": "odd.h5ad", "label": "t"}], "splits": {"seeds": [0]}}
    asked |= {"skews": ["natural", *rarefied], "models": {"majority": {}}}
    (tmp_path / "odd.yaml").write_text(yaml.safe_dump(asked), encoding="utf-8")
    for words in ("check odd.h5ad --label t", "plan odd.yaml", "run odd.yaml", "report odd", "results odd --by skew"):
        said = printed(*words.split())
        assert not UNSEEN.search(said.replace("\n", "")), said
    assert not list(tmp_path.glob("cellskew-runs/trials/*/not_made.json"))
    tables_ = [read_csv(path.read_bytes(), ["class"]) for path in tmp_path.glob("cellskew-runs/trials/*/per_class.csv")]
    assert len(tables_) == 4 and all(sorted(table["class"]) == sorted(names) for table in tables_)
    for name in names:
        said = printed("results", "odd", "--by", "model", "--json", "--type", name)
        row = json.loads(said)["rows"][0]
        assert row["type"] == name and row["test_recall"] >= 0
