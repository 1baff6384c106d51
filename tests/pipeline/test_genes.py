"""Gene names against vocabularies, and the choice of variable genes against scanpy's."""

import numpy as np
import pytest
from conftest import counts_like
from scipy import sparse

from data_pipeline import genes
from data_pipeline.errors import RequestError
from data_pipeline.genes import (
    chooser,
    coverage,
    looks_ensembl,
    per_smallest,
    residual_variances,
    select_hvg,
    strip_version,
)
from data_pipeline.reading.h5ad import Source, open_cells


def test_versions_are_stripped_from_ensembl_ids_only():
    assert strip_version("ENSG00000141510.16") == "ENSG00000141510" == strip_version("ENSG00000141510")
    assert strip_version("ENSMUSG00000059552.1") == "ENSMUSG00000059552"
    assert strip_version("RP11-34P13.7") == "RP11-34P13.7"  # a symbol whose dot belongs to it


def test_ensembl_lists_are_told_from_symbols():
    assert looks_ensembl(["ENSG00000141510", "ENSG00000141511.2", "ERCC-1"]) and not looks_ensembl(["TP53", "ENSA"])
    assert not looks_ensembl([])


def test_coverage_counts_what_is_known_and_names_what_is_not():
    told = coverage(["TP53", "NEW1", "KMT2A", "CD8A"], np.array([5, -1, 2, 0]), 0.1, "the list")
    assert told == {"genes": 4, "known": 3, "share": 0.75, "unknown": ["NEW1"], "added_up": 0, "together": []}


@pytest.mark.parametrize(("names", "known", "least"), [(["Cd3e", "Tp53"], [-1, -1], 0.0), ([], [], 0.0)])
def test_a_list_of_which_nothing_is_known_is_refused_whatever_is_asked_for(names, known, least):
    with pytest.raises(RequestError, match=f"only 0 of {len(names)} genes .* are in the list, 0% are needed"):
        coverage(names, np.array(known, np.int64), least, "the list")


def test_ensembl_ids_match_whatever_their_version_and_columns_of_one_id_are_added_up():
    genes = ["ENSG00000000003.15", "CD3E", "ENSG00000000003.9", "ENSG00000000005", "MT"]
    wanted = ["CD3E", "ENSG00000000005.2", "ENSG00000000003", "CD4", "ENSG00000000003.9"]
    counts = sparse.csr_matrix([[1.0, 2.0, 4.0, 8.0, 16.0]])
    assert (counts @ chooser(wanted, genes)).toarray().tolist() == [[2.0, 8.0, 5.0, 0.0, 4.0]]


def blocks_of(counts: sparse.csr_matrix, size: int):
    return lambda: (counts[start : start + size] for start in range(0, counts.shape[0], size))


@pytest.mark.parametrize("depths", [2048, 400])
def test_residual_variances_equal_scanpys_on_real_cells(zheng11, depths, monkeypatch):
    import scanpy as sc

    monkeypatch.setattr(genes, "DEPTHS", depths)
    cells = open_cells(Source("zheng11", (str(zheng11),), "celltype"))
    ours = residual_variances(lambda: (block for _, block in cells.blocks(1000)), cells.num_genes)
    data = sc.AnnData(cells.read(0, cells.num_cells))
    data = data[:, ours >= 0].copy()  # scanpy divides by zero for a gene without a count
    sc.experimental.pp.highly_variable_genes(data, n_top_genes=1000, flavor="pearson_residuals")
    theirs = data.var["residual_variances"].to_numpy()
    # scanpy works in float32; with fewer depths than there are totals, groups of cells share a mean
    np.testing.assert_allclose(ours[ours >= 0], theirs, rtol=2e-3 if depths == 400 else 2e-4)
    chosen = select_hvg(lambda: (block for _, block in cells.blocks(1000)), cells.num_genes, 1000)
    same = np.intersect1d(chosen, np.flatnonzero(ours >= 0)[data.var["highly_variable"]])
    assert len(chosen) == 1000 and np.all(np.diff(chosen) > 0) and len(same) >= 995


def test_selection_is_the_same_for_any_blocks_and_ties_go_by_column():
    counts, _ = counts_like(200, 60, 3)
    twice = sparse.hstack([counts, counts], format="csr")  # every gene has a twin of equal variance
    chosen = select_hvg(blocks_of(twice, 200), 120, 21)
    assert np.array_equal(chosen, select_hvg(blocks_of(twice, 33), 120, 21))
    assert np.all(np.isin(chosen[chosen >= 60] - 60, chosen)) and np.count_nonzero(chosen < 60) == 11


def test_a_marker_of_a_rare_type_is_chosen_and_silent_genes_are_not():
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, (300, 100)).astype(np.float32)
    counts[:, 7] = 0
    counts[:6, 7] = 5  # six cells of 300
    counts[:, 40:] = 0
    chosen = select_hvg(blocks_of(sparse.csr_matrix(counts), 50), 100, 10)
    assert 7 in chosen and chosen.max() < 40
    assert np.array_equal(select_hvg(lambda: [], 100, 100), np.arange(100))


def test_scaled_values_choose_the_genes_of_their_counts(zheng11):
    cells = open_cells(Source("zheng11", (str(zheng11),), "celltype"))
    counts = cells.read(0, cells.num_cells)
    scaled = sparse.csr_matrix(counts.multiply(1e4 / cells.totals[:, None]), dtype=np.float32)
    from_counts = select_hvg(lambda: [counts], 7583, 1000)
    both = np.intersect1d(from_counts, select_hvg(lambda: [scaled], 7583, 1000, true_counts=False))
    assert len(both) > 990  # 693 were the values taken as they are
    assert np.array_equal(per_smallest(sparse.csr_matrix((2, 3), dtype=np.float32)).toarray(), np.zeros((2, 3)))
