"""Names of genes that models with a vocabulary don't know, or that say that something went wrong before: doubted."""

import pytest
from h5ad_files import COUNTS, TYPES, source, write

from data_pipeline.reading.file import features
from data_pipeline.reading.h5ad import open_cells

NUMBERS = ["43891", *(str(number) for number in range(39))]
GENES = [f"g{number}" for number in range(40)]
MANGLED = ["1-Mar", "2-Sep", "Dec-01", "2021-03-01", "2.31E+13"]
BLANKS = [" CD3E", "CD4 ", "CD8A\u00a0", '"CD19"', "5'OT"]
IDS = [f"ENSG{number:011d}.{number % 3}" for number in range(40)]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (NUMBERS, "40 of 40 genes are called by a number ('43891', '0', '1', ...)"),
        (["nan", "", *GENES[2:]], "2 of 40 genes have no name ('nan', '')"),
        (["MATR3", "MATR3-1", "TBCE", "TBCE-1", "NKX2-1", *GENES[5:]], "2 of 40 genes bear the name of another"),
        ([*MANGLED, *GENES[5:]], "5 of 40 genes are called by a date or a large number ('1-Mar', '2-Sep', 'Dec-01', "),
        ([*BLANKS, *GENES[5:]], "4 of 40 genes have blanks or quotes around their names (' CD3E', 'CD4 ', "),
        (["CD3E", "Cd3e", *GENES[2:]], "2 of 40 genes differ from another in case only ('CD3E', 'Cd3e')"),
        (["GRCh38_CD4", "mm10___Cd4", "mm10_Cd8a", *GENES[3:]], "of 2 species (1 such as 'GRCh38_CD4'; 2 such as 'mm1"),
        (["ENSMUSG00000041147", *IDS[1:]], "of 2 species (1 such as 'ENSMUSG00000041147'; 39 such as 'ENSG0000000000"),
    ],
)
def test_doubtful_names_of_genes_are_named(tmp_path, names, words):
    said = open_cells(source(write(tmp_path / "a.h5ad", COUNTS, {"celltype": TYPES}, names))).facts["warnings"]
    assert len(said) == 1 and words in said[0] and str(tmp_path / "a.h5ad") in said[0]


def test_usual_names_of_genes_are_not_doubted(tmp_path):
    usual = [
        "HLA-A",
        "NKX2-1",
        "MT-CO1",
        "C1orf112",
        "RP11-34P13.7",
        "AC005.1",
        "MARCHF1",
        "SEPTIN2",
        "DEC1",
        "hsa-mir-1",
    ]
    for number, names in enumerate((GENES, IDS, [*usual, *GENES[10:]])):
        path = write(tmp_path / f"{number}.h5ad", COUNTS, {"celltype": TYPES}, names)
        assert not open_cells(source(path)).facts["warnings"]


def test_features_that_are_no_genes_are_told_by_their_names():
    others = ["ADT_CD3", "CD3_prot", "CD19-ADT", "IgG1-isotype", "CD4_TotalSeqB", "Hashtag1", "HTO2", "ERCC-00002"]
    others += ["chr1:1000-2000", "chrX_155000_156000"]
    genes = [
        "ABCA1",
        "PROTOR1",
        "ANTXR1",
        "HLA-A",
        "ADTRP",
        "PROC",
        "ERCC1",
        "CD3E",
        "X-inactive",
        "RP11-34P13.7",
        "IGHG1",
    ]
    assert [name for name in [*others, *genes] if features.OTHER_NAME.fullmatch(name)] == others
