"""scANVI: its classifier's own probabilities, the same from one seed, kept without scvi-tools; refused without it."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from conftest import counts_like, made_up_cells, trial_config
from scipy import sparse

from data_pipeline.errors import RequestError
from sweeps.file import config
from trainables.fitting.kept import put_together, taken_apart
from trainables.models import scanvi
from trainables.models.logistic_regression.model import matrix
from trainables.spec import Encoded, get
from trainables.trial import run_trial
from trainables.trial.annotator import open_model

NUM_GENES = 40
FEW = {"hidden": 128, "epochs": 40, "labelled_epochs": 50}
SWEEP = """
name: few
datasets: [baron_pancreas]
models: [scanvi, majority]
losses: [cross_entropy, weighted, focal]
strategies: [none, MORE]
"""
needs_it = pytest.mark.skipif(find_spec("scvi") is None, reason="scvi-tools, an extra, isn't installed")
quietly = pytest.mark.filterwarnings("ignore")  # lightning's and torch's, of calls that are not ours


def parts() -> tuple[tuple[Encoded, np.ndarray], tuple[Encoded, np.ndarray]]:
    """130 training cells, whose last step would be of two, and 60 others; of four types, one has no training cell."""
    counts, labels = counts_like(260, NUM_GENES, 4)
    assert (np.bincount(labels, minlength=4) > 20).all()
    encoded = get("scanvi").encoder([""] * NUM_GENES)(counts, np.random.default_rng(0))
    order = np.random.default_rng(0).permutation(260)
    held, rest = order[:60], order[60:]
    train = rest[labels[rest] != 2][:130]
    return (encoded.take(train), labels[train]), (encoded.take(held), labels[held])


def fitted(seed: int = 0, **given: object) -> scanvi.Fitted:
    train, held = parts()
    rng = np.random.default_rng(seed)
    return scanvi.fit(*train, 4, rng, num_genes=NUM_GENES, **{"validation": held, **FEW, **given})


def test_counts_come_as_they_are_in_the_order_of_genes():
    counts = sparse.csr_matrix(np.array([[0, 3, 1], [0, 0, 0], [7, 0, 2]]))
    found = scanvi.encoder(["a", "b", "c"])(counts[:, ::-1], np.random.default_rng(0))
    assert (found.ids.tolist(), found.values.tolist(), found.offsets.tolist()) == (
        [0, 1, 0, 2],
        [1, 3, 2, 7],
        [0, 2, 2, 4],
    )
    assert found.values.dtype == np.float32


@pytest.mark.parametrize("number", [1, 2, 3, 128, 129, 130, 257, 10_000])
def test_no_step_of_a_pass_is_nearly_empty(number: int):
    size = scanvi._batch_size(number)
    assert number < scanvi.SMALLEST or number % size == 0 or number % size >= scanvi.SMALLEST
    assert scanvi.BATCH <= size < scanvi.BATCH + 5


def test_few_cells_are_gone_through_more_often():
    assert [scanvi._usual_epochs(number) for number in (100, 20_000, 80_000)] == [400, 400, 100]
    assert [scanvi._usual_labelled(number) for number in (100, 1280, 50_000)] == [400, 40, 10]


def test_weights_of_types_are_refused_and_one_type_alone_is_certain():
    (encoded, labels), _ = parts()
    with pytest.raises(RequestError, match="scanvi weighs no types: leave out losses that do"):
        scanvi.fit(encoded, labels, 4, np.random.default_rng(0), num_genes=NUM_GENES, class_weight=np.ones(4))
    alone = scanvi.fit(encoded, np.full(len(labels), 3), 4, np.random.default_rng(0), num_genes=NUM_GENES)
    assert alone.predict_proba(encoded).tolist() == [[0, 0, 0, 1]] * 130


def test_without_scvi_tools_the_sweep_is_refused_and_only_told_by_plan(monkeypatch, tmp_path: Path):
    monkeypatch.setattr("data_pipeline.scvi_tools.find_spec", lambda name: None)
    text, path = SWEEP.replace("MORE", "{kind: scvi, cells: 50}"), tmp_path / "s.yaml"
    with pytest.raises(RequestError) as refused:
        config.parse(text, path)
    said = "needs scvi-tools, which is not installed here: pip install 'scvi-tools==1.4.2' (the extra cellskew[scvi])"
    assert [one.split(": ", 2)[0] for one in refused.value.problems] == [f"{path}:4", f"{path}:6"]
    assert [said in one for one in refused.value.problems] == [True, True]
    spec = config.parse(text, path, check_files=False)
    assert [where for where, _ in spec.lacking()] == [("models", "scanvi"), ("strategies",)]


def test_losses_that_weigh_types_are_left_out_and_said_so(monkeypatch, tmp_path: Path):
    spec = config.parse(SWEEP.replace("MORE", "oversample"), tmp_path / "s.yaml", check_files=False)
    found = {(trial.model, trial.labels["loss"]) for trial in spec.trials()}
    assert found == {("scanvi", "cross_entropy"), ("majority", "cross_entropy"), ("majority", "weighted")}
    said = ["scanvi has no loss weighted, focal; left out", "majority has no loss focal; left out"]
    assert spec.impossible() == said


@needs_it
@quietly
def test_it_finds_the_types_and_the_same_seed_gives_the_same_probabilities():
    _, (held, truth) = parts()
    first, again, other = (fitted(seed).predict_proba(held) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert first.dtype == np.float64 and first.sum(axis=1) == pytest.approx(np.ones(len(held)))
    known = truth != 2
    assert (first[:, 2] == 0).all() and (first.argmax(axis=1) == truth)[known].mean() > 0.8


@needs_it
@quietly
def test_its_probabilities_are_those_of_scvi_tools(monkeypatch):
    (encoded, _), (held, _) = parts()
    kept = []
    plain = scanvi._classifier
    monkeypatch.setattr(scanvi, "_classifier", lambda module: kept.append(module) or plain(module))
    found = fitted().predict_proba(held)
    import torch

    with torch.no_grad():
        logits = kept[0].eval().classify(torch.from_numpy(matrix(held, NUM_GENES).toarray()))
    assert found[:, [0, 1, 3]] == pytest.approx(torch.softmax(logits, dim=1).numpy(), abs=1e-5)


@needs_it
@quietly
def test_validation_cells_end_the_training_and_teach_nothing():
    _, (held, truth) = parts()
    others = (Encoded(held.ids, held.values * 2, held.offsets), np.roll(truth, 7))
    one, other = (fitted(validation=cells, patience=1000) for cells in ((held, truth), others))
    assert one.numbers == other.numbers == {"iterations": 90}
    assert np.array_equal(one.predict_proba(held), other.predict_proba(held)), "labels or counts were looked at"
    assert fitted(epochs=300, patience=2).numbers["iterations"] < 350


@needs_it
@quietly
def test_a_trial_leaves_what_names_cells_and_nothing_else(monkeypatch, tmp_path: Path):
    options = get("scanvi").options(**FEW).model_dump()
    encoding = tmp_path / "encoding.json"
    encoding.write_text(json.dumps({"genes": [f"gene{n}" for n in range(60)], "learned": {}}))
    told = trial_config(tmp_path, "scanvi", options=options, encoding=str(encoding))
    final = run_trial(told, lambda *said: None, None)
    assert final["test_macro_f1"] > 0.5
    monkeypatch.setitem(sys.modules, "scvi", None)
    model = open_model(Path(told["directory"]) / "checkpoint")
    cells = made_up_cells()
    found = model.predict(cells.counts, cells.totals)
    assert (found.argmax(axis=1) == cells.labels).mean() > 0.6


@needs_it
@quietly
def test_what_is_kept_comes_back_as_it_was():
    _, (held, _) = parts()
    found = fitted(epochs=5, labelled_epochs=2)
    again = put_together(scanvi.Fitted, *taken_apart(found))
    assert np.array_equal(again.predict_proba(held), found.predict_proba(held))
