"""What isn't h5ad is called what it is, with the way to h5ad."""

import h5py
import numpy as np
import pytest
from h5ad_files import source, write

from data_pipeline.errors import RequestError
from data_pipeline.reading.h5ad import open_cells


def refusal(path) -> str:
    with pytest.raises(RequestError) as caught:
        open_cells(source(path))
    assert len(caught.value.problems) == 1 and str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("inside", "words"), [("zarr.json", "a zarr store"), ("matrix.mtx.gz", "read_10x_mtx"), ("a.csv", "no .h5ad file")]
)
def test_a_folder_of_another_format_is_named(tmp_path, inside, words):
    (tmp_path / inside).touch()
    assert words in refusal(tmp_path)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"", "is empty (0 bytes)"),
        (b"gene,cell1\nA,3", "it is text, perhaps a table"),
        (b"PAR1\x15\x04", "is a Parquet table"),
        (b"\x1f\x8b rest", "is compressed with gzip: unpack it with gunzip first"),
        (b"\x80\x04\x95", "is a Python pickle"),
        (b"\n<!doctype html><title>404", "is a web page, not the file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x00\x01\x02\x03", "of some other format"),
    ],
)
def test_a_file_of_another_format_is_named(tmp_path, head, words):
    path = tmp_path / "a.h5ad"
    path.write_bytes(head)
    assert words in refusal(path)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (["matrix/barcodes"], "10x Genomics HDF5 file, not h5ad. Convert it: scanpy.read_10x_h5("),
        (["GRCh38/barcodes", "GRCh38/genes"], "10x Genomics HDF5 file"),
        (["matrix", "row_attrs", "col_attrs"], "is a loom file, not h5ad. Convert it: scanpy.read_loom("),
        (["mod/rna/X", "mod/prot/X", "obs/_index", "var/_index"], "is a MuData file: take the genes out of it"),
        (["assays/RNA", "meta.data/x"], "is a Seurat file"),
        (["model_weights/x"], "is HDF5 but not h5ad: obs and var missing (it holds model_weights)"),
        ([], "obs and var missing (it holds nothing)"),
    ],
)
def test_an_hdf5_file_that_is_no_h5ad_is_named(tmp_path, groups, words):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for place in groups:
            file[place] = np.zeros(1)
    assert words in refusal(tmp_path / "a.h5")


def test_a_link_that_leads_nowhere_says_so_and_only_such_files_are_offered(tmp_path):
    write(tmp_path / "pancreas.h5ad")
    (tmp_path / "link.h5ad").symlink_to("/nowhere/pancreas.h5ad")
    assert "It is a link to /nowhere/pancreas.h5ad, which isn't there" in refusal(tmp_path / "link.h5ad")
    (tmp_path / ".profile").touch()
    assert "Did you mean" not in refusal(tmp_path / "nofile")
