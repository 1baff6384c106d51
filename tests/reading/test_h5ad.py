"""Opening h5ad files: every storage form gives the same counts, and the reading of rows is exact."""

import pickle

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from h5ad_files import CELLS, COUNTS, GENES, LABELS, TYPES, log1p, source, write
from scipy import sparse

from data_pipeline.reading.check import summarise
from data_pipeline.reading.file import matrix
from data_pipeline.reading.h5ad import Source, Values, open_cells

FORMS = {
    "csr": {"x": COUNTS},
    "csr gzip": {"x": COUNTS, "compression": "gzip"},
    "csr integers": {"x": COUNTS.astype(np.int64)},
    "csc": {"x": COUNTS.tocsc()},
    "dense": {"x": COUNTS.toarray()},
    "dense gzip": {"x": COUNTS.toarray().astype(np.float64), "compression": "gzip"},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_storage_form_gives_the_same_counts_and_digest(tmp_path, form):
    cells = open_cells(source(write(tmp_path / "a.h5ad", **FORMS[form])))
    reference = open_cells(source(write(tmp_path / "b.h5ad")))
    block = cells.read(0, 90)
    assert block.dtype == np.float32 and block.format == "csr" and block.has_sorted_indices
    assert np.array_equal(block.toarray(), COUNTS.toarray())
    assert cells.digest == reference.digest
    assert cells.classes == ["B", "NK", "T"] and np.array_equal(cells.labels, LABELS)
    assert list(cells.cell_ids) == CELLS and cells.genes == GENES and cells.true_counts
    assert np.array_equal(cells.totals, np.asarray(COUNTS.sum(axis=1)).ravel())


@pytest.mark.parametrize("form", ["csr", "csr gzip", "csc", "dense"])
def test_take_returns_any_rows_in_the_order_asked_for(tmp_path, form, rng, monkeypatch):
    monkeypatch.setattr(matrix, "GAP", 10)  # small enough that rows are read in several runs
    monkeypatch.setattr(matrix, "PIECE", 300)
    cells = open_cells(source(write(tmp_path / "a.h5ad", **FORMS[form])))
    for rows in (rng.integers(0, 90, 200), np.array([89, 0, 0]), np.zeros(0, np.int64), np.arange(90)):
        assert np.array_equal(cells.take(rows).toarray(), COUNTS[rows].toarray())
    blocks = list(cells.blocks(32))
    assert [start for start, _ in blocks] == [0, 32, 64]
    assert np.array_equal(sparse.vstack([block for _, block in blocks]).toarray(), COUNTS.toarray())


def test_a_large_csc_matrix_is_turned_round_once_and_left_by_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(matrix, "SMALL", 10)
    monkeypatch.setattr(matrix, "COLUMNS_PIECE", 200)
    monkeypatch.setattr(matrix, "BLOCK", 16)
    path = write(tmp_path / "a.h5ad", COUNTS.tocsc())
    with h5py.File(path) as file:
        assert len(matrix._column_pieces(file["X"])) > 3
    cells = open_cells(source(path), tmp_path / "cache")
    assert np.array_equal(cells.read(5, 60).toarray(), COUNTS[5:60].toarray())
    made = list((tmp_path / "cache").glob("by-rows-*.h5"))
    assert len(made) == 1 and not [name for name in (tmp_path / "cache").iterdir() if name.name.startswith(".")]
    assert f"is stored by gene (CSC); a copy by cell is kept at {made[0]}" in summarise(cells)["warnings"][0]
    when = made[0].stat().st_mtime_ns
    pickle.loads(pickle.dumps(cells)).read(0, 5)
    assert made[0].stat().st_mtime_ns == when


def test_layers_and_raw_are_read_where_they_are_named(tmp_path):
    path = write(tmp_path / "a.h5ad", log1p(COUNTS), layers={"counts": COUNTS}, raw=COUNTS * 2)
    assert np.array_equal(open_cells(source(path, layer="counts")).read(0, 90).toarray(), COUNTS.toarray())
    assert np.array_equal(open_cells(source(path, layer="raw")).read(0, 90).toarray(), (COUNTS * 2).toarray())


def test_files_follow_each_other_with_columns_brought_to_the_first_ones_order(tmp_path):
    first = write(tmp_path / "a.h5ad", COUNTS[:50], cells=CELLS[:50])
    order = np.random.default_rng(1).permutation(40)
    types = {"celltype": TYPES[50:]}
    second = write(tmp_path / "b.h5ad", COUNTS[50:][:, order], types, [GENES[i] for i in order], CELLS[50:])
    cells = open_cells(source(first, paths=(str(first),), test_paths=(str(second),)))
    assert np.array_equal(cells.read(30, 70).toarray(), COUNTS[30:70].toarray())
    rows = np.array([80, 3, 51, 3, 49, 50])
    assert np.array_equal(cells.take(rows).toarray(), COUNTS[rows].toarray())
    assert np.array_equal(cells.fixed_test, np.arange(90) >= 50)
    whole = open_cells(source(write(tmp_path / "c.h5ad")))
    assert whole.fixed_test is None and whole.digest != cells.digest


def test_old_files_with_compound_tables_are_read(tmp_path):
    path = tmp_path / "old.h5ad"
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = b"csr", COUNTS.shape
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(COUNTS, name)
        kinds = np.array(
            list(zip(np.char.encode(CELLS), LABELS, strict=True)), dtype=[("index", "S8"), ("celltype", "i1")]
        )
        file["obs"], file["uns/celltype_categories"] = kinds, np.array([b"B", b"NK", b"T"])
        file["var"] = np.array([(name.encode(),) for name in GENES], dtype=[("index", "S8")])
    assert open_cells(source(path)).digest == open_cells(source(write(tmp_path / "new.h5ad"))).digest


def test_gene_names_donors_and_totals_come_from_their_columns(tmp_path):
    path = write(tmp_path / "a.h5ad", obs={"celltype": TYPES, "who": [1, 2, 3] * 30, "depth": np.arange(90) + 1e4})
    with h5py.File(path, "a") as file:
        anndata.io.write_elem(file, "var", pd.DataFrame({"id": [f"ENSG{i:011d}" for i in range(40)]}, index=GENES))
    cells = open_cells(source(path, gene_names="id", donor="who", totals="depth"))
    assert cells.genes[3] == "ENSG00000000003" and set(cells.donors) == {"1", "2", "3"}
    assert cells.totals[5] == 10005


def test_stored_zeros_unsorted_and_repeated_entries_become_canonical(tmp_path):
    path = write(tmp_path / "a.h5ad")
    with h5py.File(path, "a") as file:
        data, indices = file["X/data"][()], file["X/indices"][()]
        ends = file["X/indptr"][:2]
        data[ends[0] : ends[1]] = data[ends[0] : ends[1]][::-1]
        indices[ends[0] : ends[1]] = indices[ends[0] : ends[1]][::-1]
        file["X/data"][:], file["X/indices"][:] = data, indices
    cells = open_cells(source(path))
    assert cells.read(0, 1).has_sorted_indices
    assert cells.digest == open_cells(source(write(tmp_path / "b.h5ad"))).digest


def test_values_declared_as_log1p_come_back_as_counts_per_target(tmp_path):
    wanted = COUNTS.multiply(1e4 / COUNTS.sum(axis=1)).toarray()
    for base in ("e", 2, 10):
        path = write(tmp_path / f"{base}.h5ad", log1p(COUNTS, np.e if base == "e" else base))
        cells = open_cells(source(path, values=Values("log1p", base)))
        assert not cells.true_counts and np.all(cells.totals == 1e4) and not summarise(cells)["warnings"]
        np.testing.assert_allclose(cells.read(0, 90).toarray(), wanted, rtol=1e-5)


def test_a_selection_of_genes_of_log_values_is_accepted_in_its_base_only(tmp_path):
    path = write(tmp_path / "a.h5ad", log1p(COUNTS)[:, :20], genes=GENES[:20])
    cells = open_cells(source(path, values=Values("log1p"), empty_cells="drop"))
    assert cells.read(0, 90).sum(axis=1).max() < 1e4 and not summarise(cells)["warnings"]


def test_duplicates_are_summed_kept_once_or_renamed_as_asked(tmp_path):
    names = ["cell0", *CELLS[:89]]  # cells 0 and 1 share a name, and a type
    genes = ["GENE0", *GENES[:39]]
    assert TYPES[0] == TYPES[1]
    path = write(tmp_path / "a.h5ad", genes=genes, cells=names)
    dense = COUNTS.toarray()
    genes_summed = np.column_stack([dense[:, 0] + dense[:, 1], dense[:, 2:]])
    summed = open_cells(source(path, duplicates="sum"))
    assert (summed.num_cells, summed.num_genes) == (89, 39)
    assert np.array_equal(summed.read(0, 2).toarray(), [genes_summed[0] + genes_summed[1], genes_summed[2]])
    assert np.array_equal(summed.take([88, 0]).toarray(), [genes_summed[89], genes_summed[0] + genes_summed[1]])
    assert np.array_equal(summed.totals, np.asarray(summed.read(0, 89).sum(axis=1)).ravel())
    first = open_cells(source(path, duplicates="first"))
    assert np.array_equal(first.read(0, 89).toarray(), np.delete(np.delete(dense, 1, 0), 1, 1))
    renamed = open_cells(source(path, duplicates="rename"))
    assert list(renamed.cell_ids[:3]) == ["cell0", "cell0-1", "cell1"] and renamed.genes[1] == "GENE0-1"
    assert np.array_equal(renamed.read(0, 90).toarray(), dense)
    assert len({summed.digest, first.digest, renamed.digest}) == 3


def test_unlabelled_and_empty_cells_are_left_out_when_told_to(tmp_path):
    types, counts = TYPES.copy(), COUNTS.copy().tolil()
    types[[3, 80]] = [None, " "]
    counts[10] = 0
    path = write(tmp_path / "a.h5ad", counts.tocsr(), {"celltype": types})
    cells = open_cells(source(path, unlabelled="drop", empty_cells="drop"))
    kept = np.delete(np.arange(90), [3, 10, 80])
    assert list(cells.cell_ids) == [CELLS[i] for i in kept]
    assert np.array_equal(cells.read(0, 87).toarray(), COUNTS[kept].toarray())
    assert np.array_equal(cells.labels, LABELS[kept]) and cells.facts["left_out"] == 3


def test_integer_and_boolean_labels_become_names(tmp_path):
    path = write(tmp_path / "a.h5ad", obs={"celltype": LABELS, "float": LABELS.astype(float), "yes": LABELS > 0})
    assert open_cells(source(path)).classes == ["0", "1", "2"]
    assert open_cells(source(path, label="float")).classes == ["0", "1", "2"]
    assert open_cells(source(path, label="yes")).classes == ["False", "True"]


def test_a_second_open_reads_no_counts_and_a_changed_file_is_read_again(tmp_path, monkeypatch):
    path = write(tmp_path / "a.h5ad", obs={"celltype": TYPES, "who": ["a", "b", "c"] * 30})
    options = {
        "donor": "who",
        "test_paths": (
            str(
                write(
                    tmp_path / "b.h5ad", cells=[f"t{i}" for i in range(90)], obs={"celltype": TYPES, "who": ["d"] * 90}
                )
            ),
        ),
    }
    first = open_cells(source(path, **options), tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(matrix.Rows, "read", lambda *_: pytest.fail("counts were read"))
        second = open_cells(source(path, **options), tmp_path / "cache")
    for name in ("labels", "cell_ids", "donors", "fixed_test", "totals"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
        assert getattr(first, name).dtype == getattr(second, name).dtype
    assert (first.genes, first.classes, first.digest, first.facts) == (
        second.genes,
        second.classes,
        second.digest,
        second.facts,
    )
    write(path, COUNTS * 2, {"celltype": TYPES, "who": ["a", "b", "c"] * 30})
    assert open_cells(source(path, **options), tmp_path / "cache").digest != first.digest


@pytest.mark.parametrize("duplicates", ["sum", "first"])
def test_merged_rows_survive_being_remembered(tmp_path, duplicates):
    path = write(tmp_path / "a.h5ad", cells=["cell0", *CELLS[:89]])
    first = open_cells(source(path, duplicates=duplicates), tmp_path / "cache")
    second = open_cells(source(path, duplicates=duplicates), tmp_path / "cache")
    assert np.array_equal(first.read(0, 89).toarray(), second.read(0, 89).toarray())


def test_a_damaged_remembered_file_is_made_again(tmp_path):
    path = write(tmp_path / "a.h5ad")
    first = open_cells(source(path), tmp_path / "cache")
    (remembered,) = (tmp_path / "cache").glob("validated-*.parquet")
    remembered.write_bytes(remembered.read_bytes()[:100])
    assert open_cells(source(path), tmp_path / "cache").digest == first.digest


def test_cells_pickle_small_without_their_counts_and_read_on_elsewhere(tmp_path):
    path = write(
        tmp_path / "a.h5ad",
        sparse.vstack([COUNTS] * 30, format="csr"),
        {"celltype": list(TYPES) * 30},
        cells=[f"c{i}" for i in range(2700)],
    )
    cells = open_cells(source(path))
    cells.read(0, 1)
    again = pickle.loads(pickle.dumps(cells))
    assert np.array_equal(again.take([5, 2600]).toarray(), cells.take([5, 2600]).toarray())
    assert len(pickle.dumps(cells.counts)) < 2000


def test_a_uri_is_read_through_fsspec(tmp_path):
    import fsspec

    path = write(tmp_path / "a.h5ad")
    with fsspec.open("memory://cells/a.h5ad", "wb") as file:
        file.write(path.read_bytes())
    remote = open_cells(source("memory://cells/a.h5ad"), tmp_path / "cache")
    assert remote.digest == open_cells(source(path)).digest
    assert np.array_equal(remote.take([4, 1]).toarray(), COUNTS[[4, 1]].toarray())


def test_summary_tells_classes_depth_and_doubts(tmp_path):
    types = TYPES.copy()
    types[types == "B"] = np.where(np.arange((types == "B").sum()) < 2, "rare", "B")
    path = write(tmp_path / "a.h5ad", obs={"celltype": types})
    told = summarise(open_cells(source(path)))
    assert (told["cells"], told["genes"], told["values"], told["gene_names"]) == (90, 40, "counts", "symbols")
    assert told["classes"]["rare"] == 2 and list(told["classes"].values()) == sorted(
        told["classes"].values(), reverse=True
    )
    assert told["totals"]["median"] == np.median(np.asarray(COUNTS.sum(axis=1)))
    assert told["density"] == pytest.approx(COUNTS.nnz / 3600)
    assert told["warnings"] == ["too few cells for training, validation and test: rare (2)"]


def test_real_files_open(zheng11, baron):
    cells = open_cells(Source("zheng11", (str(zheng11),), "celltype", donor="source"))
    assert (cells.num_cells, cells.num_genes, len(cells.classes)) == (5731, 7583, 11)
    assert np.bincount(cells.labels).min() == 15 and set(cells.donors) == {"sorted_scminer", "sorted_mudan", "pbmc68k"}
    reference = anndata.read_h5ad(baron)
    cells = open_cells(Source("baron", (str(baron),), "celltype"))
    rows = np.random.default_rng(0).integers(0, 1937, 100)
    assert (cells.take(rows) != reference.X[rows]).nnz == 0
    assert np.array_equal(np.array(cells.classes)[cells.labels], reference.obs["celltype"].to_numpy(str))
