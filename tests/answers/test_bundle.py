"""A bundle holds a sweep: the same tables come from it without MLflow, and what isn't one is refused."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_summary import METRIC, grid, per_class

import sweeps
from data_pipeline.errors import RequestError
from sweeps.answers import bundle, celltypes, frames, summary
from sweeps.answers.designs import Designs
from sweeps.answers.page import report
from sweeps.answers.runs.stored import Stored
from sweeps.file.questions import Question


def sure(predicted: list[str]) -> dict[str, list[float]]:
    """Return a probability per type, that of the predicted one above the others."""
    kinds = np.array(["T cell", "DC", "NA"])
    scores = np.eye(3)[[list(kinds).index(one) for one in predicted]] + np.linspace(0.5, 2, len(predicted))[:, None]
    return {f"p_{kind}": list(column) for kind, column in zip(kinds, (scores.T / scores.sum(axis=1)), strict=True)}


@pytest.fixture
def runs(tmp_path) -> pd.DataFrame:
    found = per_class(tmp_path, grid(3)).assign(fixed_test=1.0, code="0.1.0, commit abc", digest="d0", cpu="")
    found["test_macro_f1.logit_adjust"] = found[METRIC] + 0.01
    for number, folder in enumerate(found["artifact_uri"]):
        truth = ["T cell"] * 6 + ["DC"] * 4 + ["NA"] * 2
        said = {"cell_id": [f"c{cell}" for cell in range(12)], "truth": truth}
        said["prediction"] = ["T cell"] * (7 + number % 2) + ["DC"] * (5 - number % 2)
        said |= {"prediction.logit_adjust": truth, **sure(said["prediction"])}
        history = [{"val_macro_f1": 0.1 * epoch} for epoch in (1, 2)]
        Path(folder, "result.json").write_text(json.dumps({"history": history, "final": {}}))
        pd.DataFrame(said).to_parquet(f"{folder}/predictions.parquet")
    failed = found.iloc[[0]].assign(status="FAILED", run_id="broken", key="f" * 16)
    found = pd.concat([found, failed], ignore_index=True)
    found.attrs["questions"] = [Question(between="strategy", within=["model"])]
    return found


def test_the_same_tables_come_from_a_bundle(runs, tmp_path):
    path, stored = tmp_path / "small.zip", Stored(None)
    bundle.write(path, "small", runs, stored, "name: small\n", "<html>")
    read, left = bundle.read(path)
    assert read.attrs["questions"] == runs.attrs["questions"] and list(read["status"]) == list(runs["status"])
    for metric in (METRIC, "test_f1:DC", "test_accuracy"):
        tables = []
        for mine, store in ((runs, stored), (read, left)):
            mine = celltypes.with_type(mine, "DC", store).assign(test_accuracy=0.8)
            tables.append(summary.summarise(mine, ["model", "strategy"], [metric], Designs(mine, store)))
        pd.testing.assert_frame_equal(*tables)
    assert tables[0]["test_accuracy_low"].notna().all(), "test cells are drawn again from predictions in both"


def test_a_page_from_a_bundle_is_that_of_the_sweep(runs, tmp_path):
    """Probabilities and courses were left out: calibration, mistakes and learning curves were missing, unsaid."""
    runs = runs.assign(trial_seconds=10.0, test_per_train=0.3, best_round=2.0, started=0, ended=1_700_000_000_000)
    runs = runs.assign(name="a", reason="", lacking="", defects="")
    bundle.write(tmp_path / "small.zip", "small", runs, Stored(None), None, None)
    read, left = bundle.read(tmp_path / "small.zip")
    mine, theirs = (
        report.report(one, "s", METRIC, Designs(one, store)) for one, store in ((runs, Stored(None)), (read, left))
    )
    assert "can probabilities be trusted?" in mine and "the course of training" in mine
    assert theirs == mine


def test_what_a_bundle_holds(runs, tmp_path):
    path = tmp_path / "small.zip"
    bundle.write(path, "small", runs, Stored(None), "name: small\n", None)
    with zipfile.ZipFile(path) as file:
        trials, types = (pd.read_parquet(io.BytesIO(file.read(f"{name}.parquet"))) for name in ("trials", "types"))
        versions = json.loads(file.read("versions.json"))
        assert file.read("sweep.yaml") == b"name: small\n" and "report.html" not in file.namelist()
        assert "cellskew results small.zip" in file.read("README.txt").decode()
    assert versions["digest"] == {"d0": 12} and "cpu" not in versions
    assert len(trials) == 24 and set(trials["posthoc"]) == {"none", "logit_adjust"}
    assert len(types) == 24 * 3 and types.loc[types["posthoc"] == "logit_adjust", "recall"].eq(1).all()


def test_what_is_no_bundle_is_refused(runs, tmp_path):
    (tmp_path / "text.zip").write_text("no")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("a.txt", "a")
    for name in ("text.zip", "other.zip", "missing.zip"):
        with pytest.raises(RequestError, match=f"{name} is no bundle"):
            bundle.read(tmp_path / name)
    with pytest.raises(RequestError, match="a bundle has the chosen settings alone"):
        sweeps.load(str(tmp_path / "missing.zip"), all_settings=True)
    with pytest.raises(RequestError, match="no trial of small is finished"):
        bundle.write(tmp_path / "b.zip", "small", runs.assign(status="RUNNING"), Stored(None), None, None)


def test_types_has_a_row_per_trial_adjustment_and_type(runs):
    found = frames.types(runs, Stored(None))
    assert list(found.columns[:3]) == ["run_id", "key", "dataset"] and "f1_high" in found
    assert not found.duplicated(["run_id", "posthoc", "class"]).any() and "broken" not in set(found["run_id"])
    assert frames.types(runs.assign(artifact_uri=""), Stored(None)).empty
