"""`cellskew init`: for ordinary files the draft passes `plan` as it is, and says what it guessed."""

from operator import methodcaller
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import counts_like
from h5ad_files import COUNTS, GENES, TYPES, log1p, write
from scipy import sparse
from typer.testing import CliRunner

from data_pipeline.errors import RequestError
from sweeps import cli
from sweeps.answers.data import drafting
from sweeps.drive.forecast import planning
from sweeps.file import config
from trainables import spec as registry

ODD = ['CD4+ T: naïve, "helper"', "yes", "#3", "{NK}", "- B", "null", "1e3", "it's", "α/β 'T'", "*", "B: 2 # x"]


def file_of(path: Path, sizes: list[int], names: list[str] | None = None, **parts) -> Path:
    """Write cells of types of the given sizes; parts: see h5ad_files.write, `obs` beside the types."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    names = [f"type{kind}" for kind in range(len(sizes))] if names is None else names
    counts, _ = counts_like(len(labels), 40, len(sizes))
    x = parts.pop("make", lambda counts: counts)(counts)
    obs = {"cell_type": np.array(names, dtype=object)[labels]} | parts.pop("obs", {})
    layout = parts.pop("layout", lambda counts: counts)
    given = {"layers": {name: layout(counts) for name in parts.pop("counts_in", [])}}
    return write(path, x, obs, cells=[f"c{i}" for i in range(len(labels))], **given, **parts)


def drafted(data: Path, tmp_path: Path, **options) -> tuple[str, dict, planning.Plan]:
    """Return the draft, what it says to YAML, and its plan."""
    text = drafting.draft(str(data), options, tmp_path / "runs")
    (tmp_path / "sweep.yaml").write_text(text)
    plan = planning.plan(config.load(tmp_path / "sweep.yaml"), tmp_path / "runs")
    assert not (tmp_path / "runs").exists(), "nothing is made"
    return text, yaml.safe_load(text), plan


def test_a_plain_file_gets_splits_skews_and_baselines_that_can_be_had(tmp_path):
    text, said, plan = drafted(file_of(tmp_path / "cells.h5ad", [400, 200, 160, 60]), tmp_path)
    assert said["datasets"] == [{"name": "cells", "path": str(tmp_path / "cells.h5ad"), "label": "cell_type"}]
    assert said["skews"] == [
        "natural",
        {"kind": "exponential", "ratio": 100},
        {"kind": "rarefy", "class": "type2", "cells": [50, 10]},
    ]
    assert list(said["models"]) == ["majority", "logistic_regression"] and said["genes"] == "all"
    assert "820 cells, 40 genes (symbols), 4 types, largest / smallest 7." in text
    assert "# rare, with at most 50 training cells: type3 42\n" in text
    assert len(plan.trials) == 3 * 4 * 3 * 2 and not plan.notes


def test_every_model_is_in_it_or_its_comments_and_those_are_right_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr("data_pipeline.scvi_tools.find_spec", lambda name: name)
    text, _, _ = drafted(file_of(tmp_path / "cells.h5ad", [60, 40]), tmp_path)
    commented = {name for name in registry.names() if f"  # {name}:" in text}
    for name in commented:
        text = text.replace(f"  # {name}:", f"  {name}:")
    models = config.parse(text, tmp_path / "sweep.yaml").models
    assert {model.label for model in models} == commented | {"logistic_regression", "majority"}
    assert {model.label for model in models} == set(registry.names())


def test_counts_are_found_in_a_layer(tmp_path):
    data = file_of(tmp_path / "cells.h5ad", [60, 40], make=log1p, counts_in=["rounded", "raw_counts"])
    text, said, _ = drafted(data, tmp_path)
    assert said["datasets"][0]["layer"] == "raw_counts" and "values" not in said["datasets"][0]
    assert "layer: raw_counts    # X holds no counts" in text


@pytest.mark.parametrize("in_layer", [True, False])
@pytest.mark.parametrize("turned", ["tocsr", "tocsc", "toarray"])
def test_counts_are_found_however_they_are_stored(tmp_path, turned, in_layer):
    turn = methodcaller(turned)
    parts = {"make": log1p, "counts_in": ["counts"], "layout": turn} if in_layer else {"make": turn}
    _, said, _ = drafted(file_of(tmp_path / "cells.h5ad", [60, 40], **parts), tmp_path)
    assert said["datasets"][0].get("layer") == ("counts" if in_layer else None)
    assert "values" not in said["datasets"][0]


@pytest.mark.parametrize(("base", "target"), [(np.e, 1e4), (2, 1e6)])
def test_log_values_are_recognised(tmp_path, base, target):
    data = file_of(tmp_path / "cells.h5ad", [60, 40], make=lambda counts: log1p(counts, base, target))
    _, said, _ = drafted(data, tmp_path)
    assert said["datasets"][0]["values"] == {"kind": "log1p", "base": "e" if base != 2 else 2, "target_sum": target}


def test_log_values_are_found_in_raw_where_x_is_scaled(tmp_path):
    def scaled(counts):
        return log1p(counts).toarray() - 1

    logs = log1p(counts_like(100, 40, 2)[0])
    data = file_of(tmp_path / "cells.h5ad", [60, 40], make=scaled, raw=logs)
    _, said, _ = drafted(data, tmp_path)
    assert said["datasets"][0]["layer"] == "raw" and said["datasets"][0]["values"]["kind"] == "log1p"


def test_donors_are_found_and_held_out_whole(tmp_path):
    donors = np.array([f"P {i % 5}" for i in range(300)], dtype=object)
    data = file_of(tmp_path / "cells.h5ad", [150, 100, 50], obs={"patient_id": donors, "batch": donors})
    text, said, plan = drafted(data, tmp_path)
    assert said["datasets"][0]["donor"] == "patient_id" and "guessed: 5 values; whole donors" in text
    assert any("test donors: P " in note for note in plan.notes)


@pytest.mark.parametrize("lacking", ["two of them", "some cells have none", "each has a type of its own"])
def test_donors_that_cannot_be_split_by_are_left_out(tmp_path, lacking):
    donors = np.array([f"P{i % (2 if lacking == 'two of them' else 5)}" for i in range(300)], dtype=object)
    donors[:7] = None if lacking == "some cells have none" else donors[:7]
    donors = np.repeat(["P1", "P2", "P3"], [150, 100, 50]) if lacking == "each has a type of its own" else donors
    _, said, _ = drafted(file_of(tmp_path / "cells.h5ad", [150, 100, 50], obs={"donor": donors}), tmp_path)
    assert "donor" not in said["datasets"][0]


def test_odd_names_of_types_columns_and_files_survive_the_yaml(tmp_path):
    for number, rare in enumerate(ODD[:4]):  # each must be named as the type to thin, once
        data = tmp_path / f'my cells #{number}, "v2".h5ad'
        sizes = [200 if name == rare else 900 for name in ODD]
        _, said, plan = drafted(file_of(data, sizes, ODD), tmp_path)
        assert said["skews"][-1]["class"] == rare
        assert set(next(iter(plan.shapes.values())).classes) == set(ODD)
        assert said["name"] == f"my-cells-{number}-v2-first"


@pytest.mark.parametrize("text", [*ODD, "a\nb", "tab\there", "\x7f", "\U0001f9ec", "~", "2024-01-01", "0x1F", "on", ""])
def test_a_scalar_is_one_line_that_reads_back(text):
    written = drafting.scalar(text)
    assert "\n" not in written and yaml.safe_load(f"[{written}]    # x") == [text]
    assert yaml.safe_load(f"# {written}\nkey: {{a: {written}}}") == {"key": {"a": text}}


def test_types_of_one_or_two_cells_are_named_and_planned(tmp_path):
    text, said, plan = drafted(file_of(tmp_path / "cells.h5ad", [500, 300, 2, 1]), tmp_path)
    assert "type2 1, type3 1; 2 of them too small for training, validation and test" in text
    assert all(skew == "natural" or skew["kind"] == "rarefy" for skew in said["skews"]), "a curve would leave few cells"
    assert any("class 'type3' has 1 cell: none in" in note for note in plan.notes)


def test_what_is_doubtful_stands_in_the_draft(tmp_path):
    values = np.where(np.arange(90) < 5, "Unknown\n?", TYPES)
    path = write(tmp_path / "cells.h5ad", COUNTS, {"celltype": values}, genes=["1-Mar", "2-Sep", *GENES[2:]])
    text = drafting.draft(str(path), {}, tmp_path)
    assert "# doubt: " in text and "('1-Mar', '2-Sep')" in text
    assert yaml.safe_load(text)["datasets"][0]["label"] == "celltype"


def test_cells_without_a_type_or_a_count_are_left_out_and_said_to_be(tmp_path):
    names = np.array([["a", "b"][i % 2] for i in range(200)], dtype=object)
    names[:9] = None

    def make(counts: sparse.csr_matrix) -> sparse.csr_matrix:
        return sparse.csr_matrix(counts.multiply(np.arange(200)[:, None] < 197))

    data = file_of(tmp_path / "cells.h5ad", [100, 100], obs={"celltype": names}, make=make)
    text, said, _ = drafted(data, tmp_path, label="celltype")
    entry = said["datasets"][0]
    assert (entry["unlabelled"], entry["empty_cells"]) == ("drop", "drop")
    assert "# 12 cells have no type, or not a single count" in text and "188 cells" in text


def test_log_values_by_columns_are_taken_as_they_are_said_to_be(tmp_path):
    data = file_of(tmp_path / "cells.h5ad", [60, 40], make=lambda counts: log1p(counts).tocsc())
    with pytest.raises(RequestError, match="declare `values: {kind: log1p, base: e, target_sum: 10000}`"):
        drafting.draft(str(data), {}, tmp_path)
    values = {"kind": "log1p", "base": "e", "target_sum": 10000}
    assert drafted(data, tmp_path, values=values)[1]["datasets"][0]["values"] == values


def test_the_label_is_guessed_aloud_or_asked_for(tmp_path):
    other = np.array([["x", "y", "z"][i % 3] for i in range(100)], dtype=object)
    data = file_of(tmp_path / "cells.h5ad", [60, 40], obs={"louvain": other, "phase": other})
    text, said, _ = drafted(data, tmp_path)
    assert said["datasets"][0]["label"] == "cell_type"
    assert "# guessed: 2 types; it could also be louvain (3)" in text
    _, said, _ = drafted(data, tmp_path, label="phase")
    assert said["datasets"][0]["label"] == "phase"
    plain = write(tmp_path / "plain.h5ad", obs={"phase": other[:90]})
    with pytest.raises(RequestError, match="no column of obs is named like cell types .* say with --label"):
        drafting.draft(str(plain), {}, tmp_path)


def test_a_file_named_like_a_dataset_of_the_catalog_is_still_the_users(tmp_path):
    _, said, plan = drafted(file_of(tmp_path / "zheng68k.h5ad", [60, 40]), tmp_path)
    assert said["datasets"][0]["name"] == "my-zheng68k" and plan.datasets == {
        "my-zheng68k": str(tmp_path / "zheng68k.h5ad")
    }


def test_a_file_that_cannot_be_used_is_refused_as_check_refuses_it(tmp_path):
    data = file_of(tmp_path / "cells.h5ad", [60, 40], make=lambda counts: sparse.csr_matrix(counts.toarray() - 0.5))
    with pytest.raises(RequestError, match="negative values"):
        drafting.draft(str(data), {}, tmp_path)


def test_the_command_writes_prints_and_never_overwrites_unasked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file_of(tmp_path / "cells.h5ad", [60, 40])

    def init(*words: str):
        return CliRunner().invoke(cli.app, ["init", "cells.h5ad", *words], catch_exceptions=True)

    assert init("-o", "mine.yaml").output == "mine.yaml: look at it, then: cellskew plan mine.yaml\n"
    written = Path("mine.yaml").read_text()
    assert init("-o", "-").output == written
    Path("mine.yaml").write_text("kept")
    refused = init("-o", "mine.yaml").exception
    assert isinstance(refused, RequestError) and "mine.yaml is there already" in str(refused)
    assert Path("mine.yaml").read_text() == "kept"
    assert init("-o", "mine.yaml", "--force").exit_code == 0 and Path("mine.yaml").read_text() == written
