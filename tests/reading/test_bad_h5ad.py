"""What is wrong with a file is said all at once: the file, the place, the number, and what to type."""

import re

import h5py
import numpy as np
import pytest
from h5ad_files import CELLS, COUNTS, GENES, TYPES, log1p, source, write
from scipy import sparse

from data_pipeline.errors import RequestError
from data_pipeline.reading import validation
from data_pipeline.reading.h5ad import Source, Values, open_cells


def refusal(dataset: Source) -> str:
    """Return the words with which a dataset is refused."""
    with pytest.raises(RequestError) as caught:
        open_cells(dataset)
    return str(caught.value)


def changed(counts: sparse.csr_matrix, value: float) -> sparse.csr_matrix:
    """Return the counts with the fifth stored number of cell 7 changed."""
    other = counts.astype(np.float32)
    other.data[other.indptr[7] + 4] = value
    return other


# not an h5ad file


def test_a_missing_file_names_the_one_that_is_nearly_it(tmp_path):
    write(tmp_path / "pancreas.h5ad")
    said = refusal(source(tmp_path / "pancraes.h5ad"))
    assert "pancraes.h5ad: no such file. Did you mean" in said and "pancreas.h5ad?" in said
    assert "The folder" in refusal(source(tmp_path / "nowhere" / "a.h5ad"))


def test_a_folder_names_the_files_in_it(tmp_path):
    write(tmp_path / "cells.h5ad")
    assert re.search(
        r"is a folder, not an h5ad file; name one of the files in it: cells.h5ad", refusal(source(tmp_path))
    )


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_cut_off_file_is_called_that(tmp_path, share, compression):
    path = write(tmp_path / "a.h5ad", compression=compression)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    said = refusal(source(path))
    assert "is cut off or damaged at" in said and "fetch it again" in said


def test_damaged_numbers_are_found_and_placed(tmp_path):
    path = write(tmp_path / "a.h5ad", compression="gzip")
    with h5py.File(path) as file:
        chunk = file["X/data"].id.get_chunk_info(0)
    broken = bytearray(path.read_bytes())
    broken[chunk.byte_offset + 10 : chunk.byte_offset + 60] = b"\xff" * 50
    path.write_bytes(bytes(broken))
    assert "can't be read from cell 0 on" in refusal(source(path))


def test_pointers_and_columns_that_lead_nowhere_are_damage(tmp_path):
    path = write(tmp_path / "a.h5ad")
    with h5py.File(path, "a") as file:
        file["X/indices"][3] = 4000
    assert "names column 4,000, but there are 40" in refusal(source(path))
    path = write(tmp_path / "b.h5ad")
    with h5py.File(path, "a") as file:
        file["X/indptr"][5] = 10**6
    assert "pointers don't fit 90 lines" in refusal(source(path))
    path = write(tmp_path / "c.h5ad", COUNTS.tocsc())
    with h5py.File(path, "a") as file:
        file["X/indptr"][5] = 10**6
    assert "pointers don't fit 40 lines" in refusal(source(path))


def test_codes_beyond_the_categories_are_damage(tmp_path):
    path = write(tmp_path / "a.h5ad")
    with h5py.File(path, "a") as file:
        file["obs/celltype/codes"][3] = 100
    assert "its tables can't be read (a column has codes from 0 to 100, but 3 categories)" in refusal(source(path))


def test_hdf5_of_another_kind_is_told_from_h5ad(tmp_path):
    path = tmp_path / "a.h5ad"
    with h5py.File(path, "w") as file:
        file["matrix/data"] = [1]
    assert "10x Genomics HDF5 file" in refusal(source(path)) and "read_10x_h5" in refusal(source(path))
    with h5py.File(path, "w") as file:
        file["weights"] = [1]
    assert "is HDF5 but not h5ad: obs and var missing (it holds weights)" in refusal(source(path))


# the wrong place in the file


def test_a_missing_layer_lists_those_there_are(tmp_path):
    path = write(tmp_path / "a.h5ad", layers={"counts": COUNTS})
    said = refusal(source(path, layer="count"))
    assert "has no layer 'count'. It has: X (leave `layer:` out), counts" in said
    assert "has no layer 'raw'" in refusal(source(path, layer="raw"))


def test_a_missing_label_column_suggests_columns_that_look_like_labels(tmp_path):
    obs = {"depth": np.arange(90.0), "batch": ["x", "y"] * 45, "Cell_type": TYPES, "barcode": CELLS}
    said = refusal(source(write(tmp_path / "a.h5ad", obs=obs)))
    assert "obs has no column 'celltype' (label); columns that could be labels: Cell_type (3 values)." in said
    assert "depth" not in said and "barcode" not in said


def test_missing_columns_of_donor_totals_and_gene_names_are_listed_together(tmp_path):
    said = refusal(source(write(tmp_path / "a.h5ad"), donor="who", totals="depth", gene_names="symbol"))
    assert "obs has no column 'who' (donor)" in said and "obs has no column 'depth' (totals)" in said
    assert "var has no column 'symbol' (gene_names)" in said


def test_totals_below_the_counts_are_refused(tmp_path):
    said = refusal(source(write(tmp_path / "a.h5ad", obs={"celltype": TYPES, "depth": [1] * 90}), totals="depth"))
    assert "below the counts in the file for 90 cells" in said


# labels


def test_unlabelled_cells_are_counted_named_and_can_be_left_out(tmp_path):
    types = TYPES.copy()
    types[[3, 5, 7, 80]] = [None, "", np.nan, "  "]
    path = write(tmp_path / "a.h5ad", obs={"celltype": types})
    said = refusal(source(path))
    assert "4 of 90 cells have no label in obs['celltype'] (first: 'cell3', 'cell5', 'cell7', ...)" in said
    assert "`unlabelled: drop`" in said
    assert open_cells(source(path, unlabelled="drop")).num_cells == 86


def test_continuous_labels_are_refused(tmp_path, rng):
    many = rng.permutation(90 * 100)
    big = sparse.vstack([COUNTS] * 100, format="csr")
    obs = {"score": rng.random(9000), "umis": many, "barcode": [f"b{i}" for i in many]}
    path = write(tmp_path / "a.h5ad", big, obs, cells=[f"c{i}" for i in range(9000)])
    assert "holds continuous numbers (9,000 different ones, " in refusal(source(path, label="score"))
    assert "has 9,000 different values in 9,000 cells: numbers that measure" in refusal(source(path, label="umis"))
    assert "names of cells rather than cell types" in refusal(source(path, label="barcode"))


def test_one_class_only_is_refused(tmp_path):
    said = refusal(source(write(tmp_path / "a.h5ad", obs={"celltype": ["T"] * 90})))
    assert "obs['celltype'] has only one value, 'T'; telling cell types apart needs two" in said


def test_cells_without_a_donor_are_refused(tmp_path):
    path = write(tmp_path / "a.h5ad", obs={"celltype": TYPES, "who": [None, *["d"] * 89]})
    assert "1 cells have no donor in obs['who'] (first: 'cell0')" in refusal(source(path, donor="who"))


# names


def test_repeated_names_give_the_way_out(tmp_path):
    path = write(tmp_path / "a.h5ad", genes=["GENE5", *GENES[1:]], cells=["cell9", "cell9", *CELLS[2:]])
    said = refusal(source(path))
    assert (
        "1 gene name is there more than once ('GENE5')" in said
        and "1 cell name is there more than once ('cell9')" in said
    )
    assert "`duplicates: sum`" in said and "`duplicates: first`" in said and "`duplicates: rename`" in said


def test_cells_of_one_name_and_different_types_cannot_be_summed(tmp_path):
    assert TYPES[0] != TYPES[-1]
    path = write(tmp_path / "a.h5ad", cells=[*CELLS[:-1], "cell0"])
    said = refusal(source(path, duplicates="sum"))
    assert "1 cell names stand for cells with different labels, donors or files ('cell0')" in said


def test_files_of_one_dataset_need_the_same_genes(tmp_path):
    first = write(tmp_path / "a.h5ad", COUNTS[:50], cells=CELLS[:50])
    genes = ["OTHER", *GENES[1:]]
    second = write(tmp_path / "b.h5ad", COUNTS[50:], {"celltype": TYPES[50:]}, genes, CELLS[50:])
    said = refusal(source(first, paths=(str(first), str(second))))
    assert "b.h5ad: its genes are not those of" in said and "1 lacking ('GENE0'), 1 more ('OTHER')" in said


# numbers


@pytest.mark.parametrize(
    ("value", "kind"), [(-1, "negative"), (np.nan, "non-finite"), (np.inf, "non-finite"), (2.5, "non-integer")]
)
@pytest.mark.parametrize("form", ["csr", "dense"])
def test_a_single_wrong_number_is_found_and_placed(tmp_path, value, kind, form):
    counts = changed(COUNTS, value)
    gene = GENES[counts.indices[counts.indptr[7] + 4]]
    said = refusal(source(write(tmp_path / "a.h5ad", counts if form == "csr" else counts.toarray())))
    assert f"1 {kind} value, the first {value:g} in cell 'cell7', gene {gene!r}" in said


@pytest.mark.parametrize(("base", "power"), [("e", np.e), (2, 2.0), (10, 10.0)])
def test_log_values_are_recognised_with_what_to_declare(tmp_path, base, power):
    said = refusal(source(write(tmp_path / "a.h5ad", log1p(COUNTS, power), layers={"counts": COUNTS})))
    assert f"They look like log1p base {base} of counts per 10,000" in said
    assert f"declare `values: {{kind: log1p, base: {base}, target_sum: 10000}}`" in said
    assert "Counts are in the same file: use `layer: counts`" in said


def test_log_values_of_some_genes_and_of_another_depth_are_recognised(tmp_path):
    path = write(tmp_path / "a.h5ad", log1p(COUNTS, 2.0)[:, :20], genes=GENES[:20])
    assert "log1p base 2 of counts per 10,000" in refusal(source(path))
    path = write(tmp_path / "b.h5ad", log1p(COUNTS, np.e, 1e6))
    assert "log1p base e of counts per 1,000,000" in refusal(source(path))


def test_other_transformations_are_named(tmp_path):
    scaled = sparse.csr_matrix(COUNTS.multiply(1e4 / COUNTS.sum(axis=1)), dtype=np.float32)
    assert "counts scaled to 10,000 per cell without a logarithm" in refusal(source(write(tmp_path / "a.h5ad", scaled)))
    said = refusal(source(write(tmp_path / "b.h5ad", COUNTS.log1p())))
    assert "log1p base e of raw counts, never scaled; undo it: X = scipy.sparse.csr_matrix(adata.X); " in said
    assert "X.data = np.rint(np.expm1(X.data)); adata.X = X" in said
    centred = COUNTS.toarray() - COUNTS.toarray().mean(axis=0)
    assert "negative values" in refusal(source(write(tmp_path / "c.h5ad", centred)))
    odd = COUNTS.astype(np.float32)
    odd.data = odd.data + np.random.default_rng(0).random(odd.nnz).astype(np.float32)
    said = refusal(source(write(tmp_path / "d.h5ad", odd)))
    assert "No layer of the file holds counts: get the file with raw counts" in said and "round" not in said


@pytest.mark.parametrize(
    ("actual", "declared"), [(2.0, Values("log1p", "e")), (np.e, Values("log1p", 2)), (np.e, Values("log1p", "e", 1e6))]
)
def test_a_wrong_declaration_is_refused_with_the_right_one(tmp_path, actual, declared):
    base = "e" if actual == np.e else 2
    for genes in (40, 20):  # with all genes cells add up to one total; with some, multiples tell
        if genes == 20 and declared.target_sum == 1e6:
            continue  # nothing in a selection of genes tells its scale
        path = write(tmp_path / f"{genes}.h5ad", log1p(COUNTS, actual)[:, :genes], genes=GENES[:genes])
        said = refusal(source(path, values=declared, empty_cells="drop"))
        assert f"declared `values: {declared}`, but" in said
        assert f"declare `values: {{kind: log1p, base: {base}, target_sum: 10000}}`" in said


def test_a_declared_total_is_taken_as_it_is_said(tmp_path):
    path = write(tmp_path / "a.h5ad", log1p(COUNTS, np.e, 12345))
    assert open_cells(source(path, values=Values("log1p", "e", 12345))).totals[0] == 12345
    assert "target_sum: 12300" in refusal(source(path, values=Values("log1p", "e", 20000)))


def test_counts_declared_as_logarithms_are_refused(tmp_path):
    assert "all values are whole numbers; declare `values: counts`" in refusal(
        source(write(tmp_path / "a.h5ad"), values=Values("log1p"))
    )


def test_log_values_that_fit_nothing_are_a_doubt_and_no_refusal(tmp_path, rng):
    odd = COUNTS.astype(np.float32)
    odd.data = rng.random(odd.nnz).astype(np.float32) + 0.1
    cells = open_cells(source(write(tmp_path / "a.h5ad", odd), values=Values("log1p")))
    assert "can't be verified" in cells.facts["warnings"][0]


def test_no_cells_and_no_genes_are_refused(tmp_path):
    path = write(tmp_path / "a.h5ad", COUNTS[:0], {"celltype": []})
    assert "has no cells (0 x 40 values)" in refusal(source(path))
    path = write(tmp_path / "b.h5ad", COUNTS[:, :0], genes=[])
    assert "has no genes (0 x 90 values)" in refusal(source(path))


def test_cells_without_a_count_are_refused_unless_dropped(tmp_path):
    counts = COUNTS.tolil()
    counts[[4, 60]] = 0
    path = write(tmp_path / "a.h5ad", counts.tocsr())
    said = refusal(source(path))
    assert (
        "2 of 90 cells have not a single count (first: 'cell4', 'cell60'). Leave them out with `empty_cells: drop`"
        in said
    )


# all at once


def test_all_problems_of_all_files_come_together(tmp_path):
    counts = changed(COUNTS, -3).tolil()
    counts[60] = 0
    first = write(tmp_path / "a.h5ad", counts.tocsr(), {"type": TYPES}, ["GENE1", *GENES[1:]])
    second = write(tmp_path / "b.h5ad", cells=[f"t{i}" for i in range(90)], genes=["GENE1", *GENES[1:]])
    with pytest.raises(RequestError) as caught:
        open_cells(source(first, paths=(str(first), str(second))))
    words = ["1 gene name", "1 gene name", "no column 'celltype'", "1 negative value", "not a single count"]
    assert len(caught.value.problems) == len(words)
    for problem, word in zip(caught.value.problems, words, strict=True):
        assert word in problem
    missing = refusal(source(first, paths=(str(tmp_path / "x.h5ad"), str(tmp_path / "y.h5ad"))))
    assert "x.h5ad" in missing and "y.h5ad" in missing


def test_numbers_get_only_a_quick_look_when_the_tables_are_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(validation, "QUICK_LOOK", 5)
    path = write(tmp_path / "a.h5ad", changed(COUNTS, -3), {"type": TYPES})
    assert "negative" not in refusal(source(path)) and "negative" in refusal(source(path, label="type"))


def test_nothing_is_left_behind_by_a_refusal(tmp_path):
    path = write(tmp_path / "a.h5ad", changed(COUNTS, -3))
    with pytest.raises(RequestError):
        open_cells(source(path), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_unknown_options_are_refused_with_the_allowed_ones():
    with pytest.raises(RequestError, match="duplicates: 'add' is unknown; allowed: sum, first, rename"):
        Source("a", ("a.h5ad",), "celltype", duplicates="add")
    with pytest.raises(RequestError) as caught:
        Values.parse({"kind": "log2", "base": 1, "target_sum": -5, "bas": 2})
    assert len(caught.value.problems) == 4 and "values: base 1 is neither e nor a number above 1" in str(caught.value)
    with pytest.raises(RequestError, match="unknown key 'lable'; did you mean label"):
        Source.from_dict({"name": "a", "paths": ["a"], "lable": "x"})


def test_a_source_survives_json():
    given = Source("a", ("a.h5ad", "b.h5ad"), "t", "raw", Values("log1p", 2, 1e6), test_paths=("c.h5ad",), donor="d")
    assert Source.from_dict(given.to_dict()) == given


@pytest.mark.parametrize("form", ["csr", "csr gzip", "csc", "dense"])
def test_a_file_with_bytes_changed_at_random_is_opened_or_refused_and_never_crashes(tmp_path, form):
    stored = {"csc": COUNTS.tocsc(), "dense": COUNTS.toarray()}.get(form, COUNTS)
    good = write(tmp_path / "good.h5ad", stored, compression="gzip" if "gzip" in form else None).read_bytes()
    rng = np.random.default_rng(len(form))
    refused = 0
    for number in range(40):
        bad = bytearray(good)
        at = int(rng.integers(0, len(bad) - 64))
        bad[at : at + 32] = rng.bytes(32)
        path = tmp_path / f"{number}.h5ad"
        path.write_bytes(bytes(bad))
        try:
            open_cells(source(path))
        except RequestError as error:
            refused += str(path) in str(error)
    assert refused > 5
