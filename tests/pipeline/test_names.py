"""The nearest known name, found in one place."""

from pathlib import Path

from data_pipeline.names import did_you_mean, few_near, nearest

ROOT = Path(__file__).resolve().parents[2]


def test_the_nearest_name_is_offered_and_a_far_one_is_not():
    assert nearest("scgtp", ["geneformer", "scgpt"]) == "scgpt"
    assert nearest("pancraes.h5ad", (name for name in ["pancreas.h5ad", "x.h5ad"]), least=0.5) == "pancreas.h5ad"
    assert few_near("NK cell", ["nk cell", "NK CELL", "T cell", "NK"]) == ["nk cell", "T cell"]
    assert nearest("NK cell", ["nk cell", "NK CELL"]) == "nk cell"
    assert did_you_mean("lable", ["label", "layer"]) == "did you mean label? "
    assert nearest("zzz", ["label"]) is None and did_you_mean("zzz", ["label"]) == "" == did_you_mean("zzz", [])


def test_nobody_looks_for_near_names_alone():
    sources = [path for name in ("data_pipeline", "trainables", "sweeps") for path in (ROOT / name).rglob("*.py")]
    assert [
        path.name for path in sources if "import difflib" in (text := path.read_text()) or "from difflib" in text
    ] == ["names.py"]
