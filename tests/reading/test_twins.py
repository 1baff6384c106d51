"""The same cells under other names: found, named, and kept in one part of every split."""

import numpy as np
import pytest
from h5ad_files import CELLS, COUNTS, TYPES, source, write
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from data_pipeline.errors import RequestError
from data_pipeline.reading import twins
from data_pipeline.reading.check import summarise
from data_pipeline.reading.h5ad import open_cells
from data_pipeline.rows.split import split

TWICE = sparse.vstack([COUNTS, COUNTS[:30]]).tocsr()
OBS = {"celltype": np.concatenate([TYPES, TYPES[:30]])}
NAMES = [*CELLS, *(f"again{i}" for i in range(30))]


def doubled(path, **options):
    file = path / "twice.h5ad"
    return source(file if file.exists() else write(file, TWICE, OBS, cells=NAMES), **options)


def parts_of(cells, seed: int = 0) -> list[set]:
    made = split(cells.labels, seed, donors=cells.donors, fixed_test=cells.fixed_test, twins=cells.twins)
    return [set(cells.cell_ids[part]) for part in (made.train, made.validation, made.test)]


def test_a_row_stands_for_its_counts_whatever_the_order_of_its_genes(rng):
    assert min(COUNTS.getnnz(axis=1)) >= twins.FEWEST  # else cells would be told apart by chance alone
    hashes = twins.row_hashes(COUNTS)
    assert len(set(hashes)) == 90
    order = rng.permutation(40)
    shuffled = COUNTS[:, order]
    back = sparse.csr_matrix((shuffled.data, order[shuffled.indices].astype(np.int32), shuffled.indptr), COUNTS.shape)
    assert np.array_equal(twins.row_hashes(back), hashes)
    other = COUNTS.copy()
    other.data[other.indptr[7]] += 1
    assert np.flatnonzero(twins.row_hashes(other) != hashes).tolist() == [7]


def test_cells_with_few_genes_are_nobodys_twins(tmp_path):
    thin = COUNTS[:, :4]
    thin = sparse.csr_matrix(thin[thin.getnnz(axis=1) > 0])
    obs = {"celltype": np.array(["A", "B"] * 45, dtype=object)[: thin.shape[0]]}
    path = write(tmp_path / "thin.h5ad", thin, obs, genes=[f"g{i}" for i in range(4)])
    cells = open_cells(source(path))
    assert cells.twins is None and cells.facts["twins"]["cells"] == 0


def test_twins_are_named_and_stay_in_one_part_of_every_split(tmp_path):
    cells = open_cells(doubled(tmp_path), tmp_path / "cache")
    found = summarise(cells)
    assert found["twins"]["cells"] == 60 and found["twins"]["groups"] == 30 and found["twins"]["left_out"] == 0
    said = next(doubt for doubt in found["warnings"] if "same cells under other names" in doubt)
    assert "60 of 120 cells" in said and "'cell0' and 'again0'" in said and "twins: drop" in said
    for seed in range(5):
        for part in parts_of(cells, seed):
            assert {f"again{i}" in part for i in range(30) if f"cell{i}" in part} <= {True}
    again = open_cells(doubled(tmp_path), tmp_path / "cache")
    assert np.array_equal(again.twins, cells.twins)


def test_twins_are_dropped_or_let_be_when_asked_for(tmp_path):
    dropped = open_cells(doubled(tmp_path, twins="drop"))
    assert summarise(dropped)["genes_per_cell"] == COUNTS.nnz / 90 and summarise(dropped)["density"] < 1
    assert list(dropped.cell_ids) == CELLS and dropped.twins is None and dropped.facts["left_out"] == 30
    assert np.array_equal(dropped.read(0, 90).toarray(), COUNTS.toarray())
    ignored = open_cells(doubled(tmp_path, twins="ignore"))
    assert ignored.num_cells == 120 and ignored.twins is None and "30 groups" in str(ignored.facts["warnings"])
    digests = {ignored.digest, dropped.digest, open_cells(doubled(tmp_path)).digest}
    assert len(digests) == 3
    with pytest.raises(RequestError, match="twins: 'both' is unknown; allowed: together, drop, ignore"):
        doubled(tmp_path, twins="both")


def test_a_file_without_twins_keeps_its_digest_whatever_is_asked(tmp_path):
    path = write(tmp_path / "a.h5ad")
    assert len({open_cells(source(path, twins=asked)).digest for asked in ("together", "drop", "ignore")}) == 1


@pytest.mark.parametrize("asked", ["together", "drop"])
def test_twins_of_cells_in_the_test_files_are_left_out_of_training(tmp_path, asked):
    train = write(tmp_path / "train.h5ad")
    test = write(tmp_path / "test.h5ad", COUNTS[:30], {"celltype": TYPES[:30]}, cells=NAMES[90:])
    cells = open_cells(source(train, paths=(str(train),), test_paths=(str(test),), twins=asked))
    assert list(cells.cell_ids) == [*CELLS[30:], *NAMES[90:]] and cells.fixed_test.sum() == 30
    said = next(doubt for doubt in cells.facts["warnings"] if "other names" in doubt)
    assert "30 groups are in the test files and in the others" in said and "30 cells are left out" in said


def test_twins_with_two_labels_are_counted(tmp_path):
    again = np.where(np.arange(30) < 7, np.where(TYPES[:30] == "B", "T", "B"), TYPES[:30])
    obs = {"celltype": np.concatenate([TYPES, again])}
    cells = open_cells(source(write(tmp_path / "a.h5ad", TWICE, obs, cells=NAMES)))
    assert cells.facts["twins"]["other_labels"] == 7
    assert "30 groups ('cell0' and 'again0'" in (said := str(cells.facts["warnings"]))
    assert "; 7 groups have more than one label. " in said


def test_donors_that_share_cells_stay_together(tmp_path):
    donors = np.array([f"d{i % 6}" for i in range(90)] + ["copy of d0"] * 30, dtype=object)
    donors[:30] = "d0"
    path = write(tmp_path / "a.h5ad", TWICE, OBS | {"donor": donors}, cells=NAMES)
    cells = open_cells(source(path, donor="donor"))
    for seed in range(5):
        made = split(cells.labels, seed, donors=cells.donors, twins=cells.twins)
        assert "donors that share cells stay together: copy of d0, d0" in made.notes
        for part in (made.train, made.validation, made.test):
            assert len({"d0", "copy of d0"} & set(cells.donors[part])) in (0, 2)


def test_donors_that_all_share_cells_are_refused_with_the_way_out():
    labels, donors = np.repeat([0, 1], 10), np.tile(["a", "b"], 10)
    with pytest.raises(RequestError, match="all 2 donors share cells .* `twins: drop`"):
        split(labels, 0, donors=donors, twins=np.zeros(20, np.int64))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=12, max_size=120), st.integers(0, 5), st.booleans())
def test_no_group_is_ever_in_two_parts_and_no_cell_is_lost(groups, seed, by_donor):
    group = np.array(groups)
    labels = group % 3
    donors = np.array([f"d{number % 9}" for number in groups], dtype=object) if by_donor else None
    if by_donor and len(set(donors)) == 1:  # a twin is of its own donor here, so no others grow together
        with pytest.raises(RequestError, match="all cells are of one donor"):
            split(labels, seed, donors=donors, twins=group)
        return
    made = split(labels, seed, donors=donors, twins=group)
    parts = [made.train, made.validation, made.test]
    assert len(made.train)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(group)))
    held = [set(group[part]) for part in parts]
    assert not held[0] & held[1] and not held[0] & held[2] and not held[1] & held[2]


def test_splits_without_twins_are_what_they_were():
    labels = np.random.default_rng(0).integers(0, 4, 300)
    alone, plain = split(labels, 3, twins=np.arange(300)), split(labels, 3)
    assert all(np.array_equal(getattr(alone, part), getattr(plain, part)) for part in ("train", "validation", "test"))


def test_copies_of_another_cellxgene_data_set_are_named(tmp_path):
    obs = {"celltype": TYPES, "is_primary_data": np.arange(90) >= 25}
    cells = open_cells(source(write(tmp_path / "a.h5ad", COUNTS, obs)))
    assert any("obs['is_primary_data'] is False for 25 of 90 cells" in doubt for doubt in cells.facts["warnings"])


def test_a_split_that_misses_its_shares_says_so():
    donors = np.repeat(["a", "b", "c", "d"], [70, 10, 10, 10])
    made = split(np.tile([0, 1], 50), 0, donors=donors, test=0.3, validation=0.1)
    assert (len(made.train), len(made.validation), len(made.test)) == (70, 10, 20)
    assert [note for note in made.notes if "asked for" in note] == ["test has 20% of the cells, 30% were asked for"]
    assert not [note for note in split(np.tile([0, 1], 50), 0, donors=donors).notes if "asked for" in note]
