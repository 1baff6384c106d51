"""Names of types: one form where that is certain, a doubt where it isn't, a table that renames them."""

import numpy as np
import pandas as pd
import pytest
from h5ad_files import COUNTS, TYPES, source, write

from data_pipeline.errors import RequestError
from data_pipeline.reading import labels
from data_pipeline.reading.check import summarise
from data_pipeline.reading.h5ad import open_cells
from data_pipeline.reading.known.catalog import resolve


def opened(path, values, **options):
    return open_cells(source(write(path / "a.h5ad", COUNTS, {"celltype": values}), **options))


def table(path, text: str, name: str = "names.csv"):
    (path / name).write_text(text, encoding="utf-8")
    return labels.read_renames(path / name)


@pytest.mark.parametrize(
    "values",
    [
        np.tile(["Müller", " Mu\u0308ller", "Mu\u0308ller\u200b"], 30),
        pd.Categorical(np.tile(["Müller", "\ufeffMüller ", "Mu\u0308ller\xa0"], 30)),
    ],
)
def test_unicode_forms_and_outer_blanks_make_no_types(tmp_path, values):
    values = pd.Series(values).astype(object)
    values[:40] = "T cell"
    assert opened(tmp_path, values.to_numpy()).classes == ["Müller", "T cell"]


@pytest.mark.parametrize(
    "values",
    [
        np.arange(90) % 3,
        (np.arange(90) % 3).astype(float),
        pd.Categorical((np.arange(90) % 3).astype(float)),
        pd.Categorical(np.arange(90) % 3),
        (np.arange(90) % 3).astype(float).astype(str),
        pd.array(np.arange(90) % 3, dtype="Int64"),
    ],
)
def test_whole_numbers_are_one_label_however_they_are_stored(tmp_path, values):
    assert opened(tmp_path, values).classes == ["0", "1", "2"]


def test_numbers_among_words_stay_as_they_are():
    for given, wanted in ((["1.0", "T cell"], ["1.0", "T cell"]), (["1.0", "02.", "nan"], ["1", "02", "nan"])):
        found, renames = labels.without_decimals(np.array(given, dtype=object), (("1.0", "B"),))
        assert found.tolist() == wanted and renames == ((wanted[0], "B"),)


def test_files_agree_on_what_is_a_number(tmp_path):
    first = write(tmp_path / "a.h5ad", COUNTS, {"celltype": np.tile(["1.0", "T"], 45)})
    second = write(tmp_path / "b.h5ad", COUNTS * 2, {"celltype": ["1.0"] * 90}, cells=[f"b{i}" for i in range(90)])
    assert open_cells(source(first, paths=(str(first), str(second)))).classes == ["1.0", "T"]


def test_training_and_test_labels_meet_as_numbers(tmp_path):
    first = write(tmp_path / "a.h5ad", COUNTS, {"celltype": np.arange(90) % 3})
    second = write(
        tmp_path / "b.h5ad", COUNTS[:, ::-1], {"celltype": np.arange(90) % 3.0}, cells=[f"t{i}" for i in range(90)]
    )
    cells = open_cells(source(first, paths=(str(first),), test_paths=(str(second),)))
    assert cells.classes == ["0", "1", "2"] and np.array_equal(cells.labels[:90], cells.labels[90:])


def test_near_twins_and_names_that_are_none_are_doubted():
    said = labels.doubts({"T cell": 9, "T-Cell": 2, "CD16+": 4, "CD16-": 5, "CD16": 6, "L2-3": 1, "L23": 1, "B": 3})
    assert len(said) == 1 and "'T cell' (9 cells) and 'T-Cell' (2 cells)" in said[0] and "CD16" not in said[0]
    pairs = (
        ("CD4+", "CD4\u207a"),
        ("B", "\uff22"),
        ("Tcell", "T\u200bcell"),
        ("fibro", "\ufb01bro"),
        ("Tcell", "\u0422cell"),
    )
    for one, other in pairs:
        assert (
            f"{one!r} (1 cells) and {ascii(other) if len(other) > 4 else repr(other)}"
            in labels.doubts({one: 1, other: 2})[0]
        )
    assert not labels.doubts({"\u03b1\u03b2 T": 1, "a\u03b2 T": 2, "M\u00fcller": 3, "Muller": 4})
    for name in ("Unknown", "unassigned", "UNLABELED", "not available", "doublets", "?", "Unknown cells", "unknown_3"):
        assert f"{name!r} (3 cells)" in labels.doubts({name: 3, "B": 2})[0]
    assert not labels.doubts({"Unconventional T": 1, "Nonclassical": 2, "B": 3, "Naive": 3})


def test_donors_that_may_be_one_are_doubted(tmp_path):
    donors = np.array([("P1", "p1", "P-1", "P11", "P1-1")[number % 5] for number in range(90)], dtype=object)
    cells = open_cells(source(write(tmp_path / "a.h5ad", COUNTS, {"celltype": TYPES, "who": donors}), donor="who"))
    (said,) = [one for one in cells.facts["warnings"] if "donors that look alike" in one]
    assert "'P1' (18 cells) and 'p1' (18 cells) and 'P-1' (18 cells). If" in said and "P11" not in said


def test_doubts_reach_whoever_looks(tmp_path):
    values = TYPES.copy()
    values[:5], values[5:9] = "Unknown", "nk"
    said = " ".join(summarise(opened(tmp_path, values))["warnings"])
    assert "'Unknown' (5 cells)" in said and "'nk' (4 cells)" in said and "labels: {map: names.csv}" in said


def test_files_that_share_no_label_are_refused(tmp_path):
    first = write(tmp_path / "a.h5ad")
    second = write(
        tmp_path / "b.h5ad",
        COUNTS[:, ::-1],
        {"celltype": [f"cluster {i % 3}" for i in range(90)]},
        cells=[f"t{i}" for i in range(90)],
    )
    with pytest.raises(RequestError, match="b.h5ad: has no label of the training files .*'cluster 0'.*'NK'.*labels: "):
        open_cells(source(first, paths=(str(first),), test_paths=(str(second),)))
    both = open_cells(source(first, paths=(str(first), str(second))))
    assert sum("shares no label with the other training files" in one for one in both.facts["warnings"]) == 2


@pytest.mark.parametrize(
    "text",
    ["label,name\nB,B cell\nT,\n", "B;B cell\nT;\n", "B\tB cell\nT\t\n", '\ufefffrom,to\r\nB,"B cell"\r\nT,\r\n\r\n'],
)
def test_a_table_renames_merges_and_drops(tmp_path, text):
    renames = table(tmp_path, text)
    assert renames == (("B", "B cell"), ("T", ""))
    assert opened(tmp_path, TYPES, labels=renames).classes == ["B cell", "NK"]


def test_what_a_table_does_to_cells(tmp_path):
    values = TYPES.copy()
    values[TYPES == "B"] = np.where(np.arange((TYPES == "B").sum()) % 2, "B", "b cell")
    renames = (("b cell", "B"), ("T", ""), ("plasma", "B"))
    cells = opened(tmp_path, values, labels=renames)
    assert cells.classes == ["B", "NK"] and cells.num_cells == (TYPES != "T").sum()
    assert cells.facts["left_out"] == (TYPES == "T").sum()
    found = summarise(cells)
    assert found["renamed"] == [["b cell", "B", int((values == "b cell").sum())], ["T", "", int((TYPES == "T").sum())]]
    assert any("names 1 that no cell has: 'plasma'" in doubt for doubt in found["warnings"])
    assert cells.digest != opened(tmp_path, values, labels=(("T", ""),)).digest


def test_a_table_that_fits_no_label_is_refused_with_the_near_name(tmp_path):
    with pytest.raises(RequestError, match="names 2 that no cell has: 'nk' did you mean NK\\?; 'Tcell'"):
        opened(tmp_path, TYPES, labels=(("nk", "natural killer"), ("Tcell", "T")))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no line"),
        ("B,B cell,extra\n", "names.csv:1: has 3 columns"),
        ("B\n", "has 1 columns"),
        ("B,x\nB,y\n", "names.csv:2: 'B' becomes 'x' further up, and 'y' here"),
        (",x\n", "cells without a label can't be renamed"),
        ("B,NA\n", "names.csv:1: 'NA' stands for no label; leave the second column empty to leave the cells out"),
        ("B,x,1\n" * 300, "names.csv: and so on, 300 lines in all"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_by_line(tmp_path, text, words):
    with pytest.raises(RequestError) as refusal:
        table(tmp_path, text)
    assert words in str(refusal.value) and len(refusal.value.problems) <= 6


def test_a_name_in_quotes_may_have_line_breaks_and_lines_are_counted_as_an_editor_does(tmp_path):
    assert table(tmp_path, '"a\nb",c\n"d, e",\n') == (("a\nb", "c"), ("d, e", ""))
    with pytest.raises(RequestError, match="names.csv:3: has 1 columns"):
        table(tmp_path, '"a\nb",c\nd\n')


def test_a_table_that_leaves_one_type_is_named_as_the_cause(tmp_path):
    with pytest.raises(RequestError, match="only one value, 'NK' once the table of labels has renamed and left out"):
        opened(tmp_path, TYPES, labels=(("B", "NK"), ("T", "")))


def test_a_table_is_part_of_a_dataset_of_a_sweep(tmp_path):
    write(tmp_path / "a.h5ad")
    (tmp_path / "names.csv").write_text("T,T cell\n")
    given = {"path": str(tmp_path / "a.h5ad"), "label": "celltype", "labels": {"map": str(tmp_path / "names.csv")}}
    assert open_cells(resolve(given, tmp_path)).classes == ["B", "NK", "T cell"]
    with pytest.raises(RequestError, match="labels: 'names.csv' is not {map: names.csv}"):
        resolve(given | {"labels": "names.csv"}, tmp_path)
    with pytest.raises(RequestError, match="nowhere.csv: can't be read"):
        resolve(given | {"labels": {"map": "nowhere.csv"}}, tmp_path)
