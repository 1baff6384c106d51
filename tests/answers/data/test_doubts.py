"""What `check` and `plan` say of files as people bring them: labels, donors, genes, skews that fail."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from h5ad_files import COUNTS, GENES, TYPES, source, write
from official_folders import write_geneformer
from scgpt_folder import write_folder

from data_pipeline.errors import RequestError
from data_pipeline.reading.h5ad import open_cells
from data_pipeline.reading.labels import read_renames
from sweeps import cli
from sweeps.answers.data.checking import check
from sweeps.commands.options import as_both, as_options
from sweeps.drive import converge
from sweeps.drive.forecast import planning
from sweeps.file import changes, reading_data
from sweeps.file.config import load

IDS = [f"ENSG{number:011d}" for number in range(40)]
SWEEP = """\
name: small
datasets: [{{path: a.h5ad, label: celltype{more}}}]
splits: {{seeds: [0, 1, 2]}}
skews:
  - natural
  - {{kind: rarefy, class: {rare}, cells: [{cells}]}}
models: {{majority: {{}}}}
"""


def sweep(folder: Path, rare: str = "NK", cells: str = "3", more: str = "") -> Path:
    path = folder / "small.yaml"
    path.write_text(SWEEP.format(rare=rare, cells=cells, more=more))
    return path


def run(words: list[str], capsys, monkeypatch) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["cellskew", *map(str, words)])
    try:
        cli.main()
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    printed = capsys.readouterr()
    return code, " ".join((printed.out + printed.err).split())


# skews that can't be had


def test_a_wrong_class_is_one_error_with_its_line_and_the_near_name(tmp_path):
    write(tmp_path / "a.h5ad")
    with pytest.raises(RequestError) as refusal:
        planning.plan(load(sweep(tmp_path, rare="nk", cells="3, 5")), tmp_path)
    (said,) = refusal.value.problems
    assert said.startswith(f"{tmp_path / 'small.yaml'}:6: ") and "'nk'; did you mean NK? there are B, NK, T" in said
    assert "and 5 more of its splits and levels" in said


def test_mistakes_of_two_skews_in_one_line_are_both_said(tmp_path):
    write(tmp_path / "a.h5ad")
    path = sweep(tmp_path, rare="nk", cells="3, 5]}, {kind: rarefy, class: B, cells: [900, 1000")
    text = path.read_text().replace("  - natural\n  - {kind: rarefy", "  [{kind: rarefy")
    path.write_text(text.replace("1000]}", "1000]}]"))
    with pytest.raises(RequestError) as refusal:
        planning.plan(load(path), tmp_path)
    unknown, few, way_out = refusal.value.problems
    assert "'nk'; did you mean NK?" in unknown and "and 5 more" in unknown
    assert "900 are wanted" in few and "and 5 more" in few and "way out: ask for at most" in way_out


def test_too_few_cells_are_said_once(tmp_path):
    write(tmp_path / "a.h5ad")
    with pytest.raises(RequestError) as refusal:
        planning.plan(load(sweep(tmp_path, cells="900")), tmp_path)
    assert sum("900 are wanted" in said for said in refusal.value.problems) == 1


# what plan says of data


def test_plan_says_what_check_says(tmp_path):
    values = TYPES.copy()
    values[:4], values[4:8] = "unassigned", "nk"
    donors = np.array([f"d{number % 6}" for number in range(90)], dtype=object)
    write(tmp_path / "a.h5ad", COUNTS, {"celltype": values, "donor_id": donors})
    said = " ".join(planning.plan(load(sweep(tmp_path)), tmp_path).notes)
    assert "'unassigned' (4 cells)" in said and "'NK'" in said and "obs has donor_id (6 values)" in said
    said = " ".join(planning.plan(load(sweep(tmp_path, more=", donor: donor_id")), tmp_path).notes)
    assert "obs has donor_id" not in said


def test_run_says_what_is_doubtful_before_it_trains(tmp_path):
    said = []
    cells = open_cells(source(write(tmp_path / "a.h5ad", obs={"celltype": ["unassigned"] * 4 + [*TYPES[4:]]})))
    drive = SimpleNamespace(screen=SimpleNamespace(say=said.append))
    converge._Drive._doubt(drive, {"mine": cells, "published counts alone": SimpleNamespace()})
    assert [one.partition(": trained")[0] for one in said] == ["note: mine"] and "'unassigned' (4 cells)" in said[0]


def test_a_donor_split_that_misses_its_share_names_the_split(tmp_path):
    donors = np.array(["a"] * 45 + ["b"] * 15 + ["c"] * 15 + ["d"] * 15, dtype=object)
    write(tmp_path / "a.h5ad", COUNTS, {"celltype": TYPES[np.argsort(np.arange(90) % 7)], "donor": donors})
    notes = planning.plan(load(sweep(tmp_path, cells="1", more=", donor: donor")), tmp_path).notes
    missed = [note for note in notes if "were asked for" in note]
    assert "small: validation has 17% of the cells, 10% were asked for" in missed[0].replace("a: ", "small: ")


# check


def test_check_says_how_many_cells_are_in_the_test_files(tmp_path, capsys, monkeypatch):
    train = write(tmp_path / "a.h5ad", COUNTS[:60], {"celltype": TYPES[:60]})
    test = write(tmp_path / "b.h5ad", COUNTS[60:], {"celltype": TYPES[60:]}, cells=[f"test{n}" for n in range(30)])
    words = ["check", train, "--label", "celltype", "--test-path", test, "--storage", tmp_path]
    assert "test files: 30 of the cells, never trained on" in run(words, capsys, monkeypatch)[1]


def test_check_shows_donors_and_types_of_one_donor(tmp_path, capsys, monkeypatch):
    donors = np.where(TYPES == "NK", "d0", np.array([f"d{number % 6}" for number in range(90)], dtype=object))
    path = write(tmp_path / "a.h5ad", COUNTS, {"celltype": TYPES, "donor_id": donors})
    words = ["check", path, "--label", "celltype", "--storage", tmp_path]
    said = run(words, capsys, monkeypatch)[1]
    assert "without `--donor donor_id` (in a sweep file: `donor: donor_id`) cells of one donor" in said
    code, said = run([*words, "--donor", "donor_id"], capsys, monkeypatch)
    assert code == 0 and "donors: 6, with " in said and "train and test on it: NK" in said


def test_a_column_of_donors_taken_for_types_is_doubted(tmp_path, capsys, monkeypatch):
    donors = np.array([f"d{number % 6}" for number in range(90)], dtype=object)
    path = write(tmp_path / "a.h5ad", COUNTS, {"celltype": TYPES, "donor_id": donors})
    said = run(["check", path, "--label", "donor_id", "--storage", tmp_path], capsys, monkeypatch)[1]
    assert "obs['donor_id'] is taken for the types of cells, though its name tells of something else" in said
    assert (
        "is taken for" not in run(["check", path, "--label", "celltype", "--storage", tmp_path], capsys, monkeypatch)[1]
    )


def test_check_shows_what_a_table_of_names_does(tmp_path, capsys, monkeypatch):
    path = write(tmp_path / "a.h5ad")
    (tmp_path / "names.csv").write_text("NK,T\nnobody,x\n")
    words = ["check", path, "--label", "celltype", "--map", tmp_path / "names.csv", "--storage", tmp_path]
    code, said = run(words, capsys, monkeypatch)
    assert code == 0 and f"label becomes cells NK T {(TYPES == 'NK').sum()}" in said and "'nobody'" in said


def test_a_table_is_part_of_a_trials_key_by_what_it_says(tmp_path):
    keys = []
    for name, text in (("one.csv", "NK,T\n"), ("two.csv", "label,name\nNK,T\n"), ("three.csv", "NK,B\n")):
        (tmp_path / name).write_text(text)
        keys.append(load(sweep(tmp_path, rare="B", more=f", labels: {{map: {name}}}")).trials()[0].key)
    assert keys[0] == keys[1] != keys[2]
    with pytest.raises(RequestError, match=r"small.yaml:2: .*nowhere.csv: can't be read"):
        load(sweep(tmp_path, more=", labels: {map: nowhere.csv}"))


def test_a_table_is_read_once_and_on_a_machine_without_files_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "names.csv").write_text("NK,T\n")
    opened = []
    monkeypatch.setattr(reading_data, "read_renames", lambda path: opened.append(path) or read_renames(path))
    path = sweep(tmp_path, rare="B", more=", labels: {map: names.csv}")
    now = load(path).trials()
    assert opened == [str(tmp_path / "names.csv")]
    before = load(path, check_files=False).trials()
    assert len(opened) == 1 and changes.since(tmp_path / "small.yaml", before) == []
    assert [changes._differences(*pair) for pair in zip(before, now, strict=True)] == [[]] * len(now)


def test_a_folder_without_name_dictionary_does_for_ensembl_ids(tmp_path, capsys, monkeypatch):
    folder = write_geneformer(tmp_path, IDS, "V1")
    for dictionary in folder.glob("gene_name_id*"):
        dictionary.unlink()
    ids, symbols = (
        write(tmp_path / "ids.h5ad", genes=IDS),
        write(tmp_path / "symbols.h5ad", genes=[f"G{n}" for n in range(40)]),
    )
    for path, usable in ((ids, True), (symbols, False)):
        found = check(str(path), {"label": "celltype"}, ["geneformer"], folder, tmp_path)["weights"]
        assert found["complete"] == usable and bool(found["missing"]) == (not usable)


def test_few_known_genes_and_genes_added_up_are_said_with_examples(tmp_path, capsys, monkeypatch):
    folder = write_folder(tmp_path, GENES[:8])
    path = write(tmp_path / "a.h5ad")
    words = ["check", path, "--label", "celltype", "--model", "scgpt", "--weights", folder, "--storage", tmp_path]
    code, said = run(words, capsys, monkeypatch)
    assert code == 0 and "scgpt reads 8 of 40 genes (20%) and no other, such as GENE8" in said
    again = ["ENSG00000000003.1", "ENSG00000000003.2", *IDS[10:38], *(f"x{n}" for n in range(10))]
    folder = write_geneformer(tmp_path, ["ENSG00000000003", *IDS[10:38]], "V1")
    found = check(str(write(tmp_path / "b.h5ad", genes=again)), {"label": "celltype"}, ["geneformer"], folder, tmp_path)
    assert found["coverage"]["geneformer"]["together"] == [again[:2]]
    notes = planning.plan(load(_with_weights(tmp_path, folder)), tmp_path).notes
    assert any("adds their counts: ENSG00000000003.1 + ENSG00000000003.2" in note for note in notes)


def _with_weights(folder: Path, weights: Path) -> Path:
    path = sweep(folder)
    models = f"models: {{geneformer: {json.dumps({'weights': str(weights)})}}}"
    path.write_text(path.read_text().replace("a.h5ad", "b.h5ad").replace("models: {majority: {}}", models))
    return path


def test_errors_of_check_advise_its_own_options(tmp_path, capsys, monkeypatch):
    first = write(tmp_path / "a.h5ad", obs={"celltype": ["T", *TYPES[1:]]})
    (tmp_path / "names.csv").write_text("tcell,T\n")
    words = ["check", first, "--label", "celltype", "--map", tmp_path / "names.csv", "--storage", tmp_path]
    code, said = run(words, capsys, monkeypatch)
    assert code == 2 and "the table of labels names 1 that no cell has: 'tcell'" in said
    assert as_both("do `twins: drop`, see `model:`", {"twins"}) == (
        "do `--twins drop` (in a sweep file: `twins: drop`), see `model:`"
    )
    assert as_both("without `donor: Donor ID`", {"donor"}).startswith("without `--donor 'Donor ID'` (in a")
    assert as_options("do `labels: {map: names.csv}` or `twins: drop`", {"labels", "twins"}) == (
        "do `--map names.csv` or `--twins drop`"
    )
