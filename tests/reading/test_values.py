"""Numbers that look like counts and are none, and numbers that can be made counts again: said with the evidence."""

import re

import anndata
import numpy as np
import pytest
import scipy
from h5ad_files import COUNTS, log1p, source, write
from scipy import sparse

from data_pipeline.errors import RequestError
from data_pipeline.reading.file.recognition import doubt, recognise
from data_pipeline.reading.h5ad import open_cells
from data_pipeline.reading.likely import look

RNG = np.random.default_rng(1)
DEEP = sparse.csr_matrix(RNG.poisson(RNG.gamma(0.4, 2.0, 2000) * RNG.lognormal(0, 0.3, (90, 1))).astype(np.float32))
OBS = {"celltype": np.tile(["A", "B", "C"], 30)}
GENES = [f"GENE{i}" for i in range(2000)]


def changed(numbers: np.ndarray) -> sparse.csr_matrix:
    made = DEEP.copy()
    made.data = np.asarray(numbers, dtype=np.float32)
    made.eliminate_zeros()
    return made


LOGS = log1p(DEEP).data
CP10K = np.expm1(LOGS.astype(np.float64))


def test_counts_of_any_depth_are_not_doubted():
    for share in (1.0, 0.3, 0.05):
        thinned = changed(np.random.default_rng(0).binomial(DEEP.data.astype(int), share))
        thinned = thinned[np.flatnonzero(np.diff(thinned.indptr))]
        assert doubt(thinned, np.array(GENES)) is None


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        (np.floor(LOGS), "vary less than counts can"),
        (np.rint(LOGS), "vary less than counts can"),
        (np.rint(np.sqrt(DEEP.data * 16)), "no gene was counted once"),
        (np.ones(DEEP.nnz), "every number that isn't 0 is 1: this says whether a gene is there"),
        (np.rint(CP10K * 100), "nine in ten cells add up to 999,"),
        (np.rint(DEEP.data * 3), "no gene was counted once"),
    ],
)
def test_whole_numbers_that_are_no_counts_are_doubted_with_the_evidence(tmp_path, numbers, words):
    cells = open_cells(source(write(tmp_path / "a.h5ad", changed(numbers), OBS, GENES)))
    said = [one for one in cells.facts["warnings"] if "may be no counts" in one]
    assert len(said) == 1 and words in said[0] and str(tmp_path / "a.h5ad") in said[0]


@pytest.mark.parametrize("whole", [np.rint, np.floor])
@pytest.mark.parametrize("depth", [0.7, 1.2, 2.0])
def test_counts_per_ten_thousand_made_whole_are_told_by_their_totals(whole, depth):
    """Of deep cells: where a count becomes 1 or less, the smallest numbers tell nothing."""
    rng = np.random.default_rng(2)
    rates = rng.gamma(0.4, 12.5 * depth, 2000) * rng.gamma(2, 0.5, (90, 2000))  # genes, and how cells differ in them
    counts = rng.poisson(rates * rng.lognormal(0, 0.5, (90, 1)))
    assert doubt(sparse.csr_matrix(counts, dtype=np.float32), np.array(GENES)) is None
    made = whole(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    said = doubt(sparse.csr_matrix(made, dtype=np.float32), np.array(GENES))
    assert re.search(r"nine in ten cells add up to [\d,]+ to [\d,]+: .* unless cells were sampled to one depth", said)


def test_real_counts_are_not_doubted_and_their_logs_are(baron, zheng11):
    for path in (baron, zheng11):
        made = anndata.read_h5ad(path)[:200]
        counts = sparse.csr_matrix(made.X, dtype=np.float32)
        assert doubt(counts, made.var_names.to_numpy()) is None
        logs = log1p(counts)
        logs.data = np.floor(logs.data)
        logs.eliminate_zeros()
        assert doubt(logs, made.var_names.to_numpy()) is not None


def test_a_layer_of_zeros_and_ones_is_not_advised_as_counts(tmp_path):
    path = write(tmp_path / "a.h5ad", log1p(COUNTS), layers={"mask": (COUNTS > 0).astype(np.float32), "umi": COUNTS})
    with pytest.raises(RequestError) as refusal:
        open_cells(source(path))
    assert "use `layer: umi`" in str(refusal.value) and "mask" not in str(refusal.value)
    assert look(str(path)).layer == "umi"


def test_logarithms_taken_twice_and_roots_are_named(tmp_path):
    for form, words in (
        (log1p(COUNTS).log1p(), "log1p taken twice"),
        (COUNTS.sqrt(), "square roots of counts; undo it"),
    ):
        with pytest.raises(RequestError, match=words):
            open_cells(source(write(tmp_path / f"{words[:4]}.h5ad", form)))


def test_normalised_twice_is_a_doubt_of_what_was_declared(tmp_path):
    path = write(tmp_path / "a.h5ad", log1p(log1p(DEEP)), OBS, GENES)
    with pytest.raises(RequestError, match="no multiples of a smallest one.*normalised twice.*TPM"):
        open_cells(source(path))
    said = open_cells(source(path, values=recognise(log1p(log1p(DEEP))).values)).facts["warnings"]
    assert any("normalised twice" in one for one in said)
    honest = open_cells(
        source(write(tmp_path / "b.h5ad", log1p(DEEP), OBS, GENES), values=recognise(log1p(DEEP)).values)
    )
    assert not any("normalised" in one for one in honest.facts["warnings"])


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("layer", [None, "umi", "raw"])
@pytest.mark.parametrize("form", ["rounded", "roots", "logs"])
def test_the_line_that_is_advised_gives_the_counts_back(tmp_path, dense, layer, form):
    stored = {"rounded": COUNTS * 1.00002, "roots": COUNTS.sqrt(), "logs": COUNTS.log1p()}[form].astype(np.float64)
    stored = stored.toarray() if dense else stored
    where = {None: {"x": stored}, "umi": {"layers": {"umi": stored}}, "raw": {"raw": stored}}[layer]
    path = write(tmp_path / "a.h5ad", **({"x": log1p(COUNTS)} | where))
    with pytest.raises(RequestError) as refusal:
        open_cells(source(path, layer=layer))
    line = re.search(r": ((?:adata = .*?; )?X = scipy.*?= X)(?:$| )", str(refusal.value))[1]
    names = {"adata": anndata.read_h5ad(path), "np": np, "scipy": scipy}
    exec(line, names)  # noqa: S102  (what a user is told to type)
    made = names["adata"].layers["umi"] if layer == "umi" else names["adata"].X
    assert np.array_equal(np.asarray(made.todense()), COUNTS.toarray())


def test_rounding_is_advised_near_whole_numbers_only(tmp_path):
    for off, advised in ((4e-4, True), (5e-3, False)):
        other = COUNTS.astype(np.float64)
        other.data = other.data + off
        with pytest.raises(RequestError) as refusal:
            open_cells(source(write(tmp_path / f"{off}.h5ad", other)))
        assert ("round them" in str(refusal.value)) == advised


# features that are no genes


@pytest.mark.parametrize("by", ["kind", "name"])
def test_antibodies_are_named_and_dropped_on_request(tmp_path, by):
    import h5py

    names = [f"GENE{i}" for i in range(37)] + (
        ["CD3", "CD4", "CD8"] if by == "kind" else ["ADT_CD3", "CD4_TotalSeqB", "ERCC-00002"]
    )
    path = write(tmp_path / "a.h5ad", COUNTS, genes=names)
    if by == "kind":
        with h5py.File(path, "a") as file:
            kinds = ["Gene Expression"] * 37 + ["Antibody Capture"] * 3
            file["var"].create_dataset("feature_types", data=kinds)
            file["var"].attrs["column-order"] = ["feature_types"]
    whole = open_cells(source(path))
    said = next(one for one in whole.facts["warnings"] if "features are no genes" in one)
    assert "3 of 40 features" in said and f"{names[37]!r}" in said and "`other_features: drop`" in said
    dropped = open_cells(source(path, other_features="drop"))
    assert dropped.genes == names[:37] and np.array_equal(dropped.read(0, 90).toarray(), COUNTS[:, :37].toarray())
    assert np.array_equal(dropped.totals, np.asarray(COUNTS[:, :37].sum(axis=1)).ravel())
    assert "they are left out" in str(dropped.facts["warnings"]) and dropped.digest != whole.digest


def test_what_is_dropped_is_not_judged_but_what_is_kept_is(tmp_path):
    other = COUNTS.toarray()
    other[:, 39] += 0.5
    path = write(tmp_path / "a.h5ad", other, genes=[*(f"GENE{i}" for i in range(39)), "HTO_1"])
    assert open_cells(source(path, other_features="drop")).num_genes == 39
    with pytest.raises(RequestError, match="HTO_1"):
        open_cells(source(path))
    path = write(tmp_path / "b.h5ad", COUNTS, genes=[f"HTO_{i}" for i in range(40)])
    with pytest.raises(RequestError, match="none of its 40 features is a gene"):
        open_cells(source(path, other_features="drop"))


@pytest.mark.parametrize(
    ("kind", "largest", "words"),
    [
        (np.uint8, 255, "the largest number is 255, the most that uint8 holds: larger counts may have been cut"),
        (np.int16, 32767, "the most that int16 holds"),
        (np.float16, 4096, "is stored as float16, which rounds whole numbers above 2,048; the largest is 4,096"),
        (np.uint8, 254, None),
        (np.float16, 2048, None),
        (np.int32, 255, None),
    ],
)
def test_numbers_that_their_type_may_have_changed_are_doubted(tmp_path, kind, largest, words):
    counts = COUNTS.toarray()
    counts[0, 0] = largest
    for number, form in enumerate([np.asarray, sparse.csc_matrix] if kind != np.float16 else [np.asarray]):
        said = open_cells(source(write(tmp_path / f"{number}.h5ad", form(counts.astype(kind))))).facts["warnings"]
        assert (words is None and not said) or (words is not None and len(said) == 1 and words in said[0])
