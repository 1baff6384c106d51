"""Controls stand apart from choices; one that beats chance makes every table begin with a warning."""

import numpy as np
import pandas as pd
import pytest

from sweeps.answers.runs import controls, results


def table(reached: list[float], model: str = "knn", chance: float = 0.25) -> pd.DataFrame:
    """Return a choice's run on each split, and a control's with that balanced accuracy."""
    rows = [
        {"model": model, "split": str(split), "control": control, "test_balanced_accuracy": value}
        for split, one in enumerate(reached)
        for control, value in (("", 0.9), ("shuffled_labels", one))
    ]
    frame = pd.DataFrame(rows).assign(
        dataset="d", seed="0", status="FINISHED", wanted=True, superseded="", settings="", test_per_train=0.25
    )
    frame["test_chance"] = np.where(frame["control"] == "", np.nan, chance)
    frame["test_macro_f1"] = frame["test_balanced_accuracy"] / 2
    frame["key"] = frame["run_id"] = [str(number) for number in range(len(frame))]
    labels = ("skew", "strategy", "loss", "defects", "protocol", "genes_fit", "precision")
    return frame.assign(**dict.fromkeys(labels, ""))


def chosen(*tables: pd.DataFrame) -> pd.DataFrame:
    return results.choose("nowhere", pd.concat(tables, ignore_index=True), every=False)[0]


def test_controls_are_no_choices_and_are_kept_beside_them():
    runs = chosen(table([0.2, 0.3, 0.26]))
    assert set(runs["control"]) == {""} and len(runs) == 3
    assert [one["test_balanced_accuracy"] for one in runs.attrs["controls"]] == [0.2, 0.3, 0.26]
    assert results.choose("nowhere", table([0.2, 0.3, 0.26]), every=True)[0]["control"].eq("").all()


def test_chance_is_shown_and_passes():
    runs = chosen(table([0.2, 0.3, 0.26]))
    chance, sanity = controls.sentences(runs)
    assert "shuffled labels: macro F1 0.127 (knn, d)" in chance
    assert sanity.startswith("sanity: passes") and "knn on d 0.253 [" in sanity
    assert "may not show" in sanity
    assert results.warning(runs) is None


@pytest.mark.parametrize("reached", [[0.81, 0.78, 0.85], [1.0, 1.0, 1.0]])
def test_a_control_that_beats_chance_stands_above_every_table(reached):
    runs = chosen(table([0.2, 0.3, 0.26], "mlp"), table(reached).assign(run_id=list("abcdef"), key=list("abcdef")))
    warning = results.warning(runs)
    assert warning.startswith("WARNING: trained on shuffled labels, still better than chance")
    assert "knn on d" in warning and "mlp" not in warning
    assert any(said.startswith("sanity: FAILS, knn on d") for said in controls.sentences(runs))


def test_a_control_a_little_above_chance_is_within_its_interval():
    assert not controls.controls(chosen(table([0.25, 0.31, 0.28])))[0].leaks


def test_two_splits_tell_nothing():
    runs = chosen(table([0.9, 0.92]))
    assert list(controls.sentences(runs))[1].startswith("sanity: can't tell; 3 splits")
    assert results.warning(runs) is None


def test_constant_answers_are_chance_itself():
    assert not controls.controls(chosen(table([0.25, 0.25, 0.25])))[0].leaks


def test_no_controls_no_words():
    assert list(controls.sentences(chosen(table([0.2])[:1]))) == []
