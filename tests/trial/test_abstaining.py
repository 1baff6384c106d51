"""`posthoc: [abstain, conformal]` in a trial: numbers, tables per type, a row per cell; no other prediction."""

import numpy as np
import pandas as pd
import pytest
from conftest import trial_config

from sweeps.answers.runs import choices
from sweeps.file.config import parse
from trainables.trial import abstaining
from trainables.trial.trial import run_trial

P = np.array([[0.96, 0.04], [0.8, 0.2], [0.4, 0.6], [0.55, 0.45]])
LABELS = np.array([0, 1, 1, 0])


def test_numbers_and_tables_by_hand(tmp_path):
    validation = np.array([[0.95, 0.05]] * 10 + [[0.7, 0.3]] * 2 + [[0.3, 0.7]] * 10), np.array([0] * 10 + [1] * 12)
    found = abstaining.write(["abstain", "conformal"], validation, (P, LABELS), list("wxyz"), ["a", "b"], tmp_path)
    assert found["test_abstain_named"] == 0.25 and found["test_abstain_accuracy"] == 1.0, "0.95 and above"
    assert found["test_abstain_threshold"] == 0.95
    table = pd.read_csv(tmp_path / "abstain.csv").set_index("class")
    assert table.loc["b", ["validation", "threshold", "test", "named"]].tolist() == [10, 0.7, 2, 0]
    sets = pd.read_csv(tmp_path / "conformal.csv").set_index("class")
    assert sets["coverage"].tolist() == [0.5, 0.5] and sets["validation"].tolist() == [10, 12]
    assert found["test_conformal_coverage"] == 0.5 and found["test_conformal_macro_coverage"] == 0.5
    cells = pd.read_parquet(tmp_path / "abstaining.parquet")
    assert cells["cell_id"].tolist() == list("wxyz") and [list(one) for one in cells["conformal"]][2] == ["b"]


@pytest.mark.parametrize("model", ["logistic_regression"])
def test_a_trial_reports_them_and_predicts_as_without(model, tmp_path):
    silent = lambda numbers, checkpoint: None  # noqa: E731
    plain = run_trial(trial_config(tmp_path / "one", model), silent, None)
    both = run_trial(trial_config(tmp_path / "two", model, posthoc=["abstain", "conformal"]), silent, None)
    added = {name for name in both if name not in plain}
    assert added == {f"test_abstain_{name}" for name in ("named", "accuracy", "threshold")} | {
        f"test_conformal_{name}" for name in ("coverage", "macro_coverage", "size", "single")
    }
    assert plain["test_aurc"] == both["test_aurc"] and both["test_macro_f1"] == plain["test_macro_f1"]
    runs = pd.DataFrame([both | {"model": model, "strategy": "none", "loss": "cross_entropy"}])
    assert len(choices.unfolded(runs)) == 1, "no choice of its own"


def test_a_sweep_file_may_ask_for_them(tmp_path):
    text = "name: x\ndatasets: [pbmc68k_reduced]\nmodels: [majority]\nposthoc: [logit_adjust, abstain, conformal]\n"
    assert parse(text, tmp_path / "x.yaml").posthoc == ["logit_adjust", "abstain", "conformal"]
