"""`cellskew answer`: says what is best where it can, and that it can't tell where it can't."""

import json

import numpy as np
import pandas as pd
import pytest
from made_runs import METRIC, numbered, run, runs
from scipy import stats

from data_pipeline.errors import RequestError
from sweeps.answers.deciding import answer
from sweeps.answers.designs import Designs

LR = "logistic_regression"
CLEAR = {("scgpt", "none"): 0.6, (LR, "none"): 0.7, (LR, "oversample"): 0.8, ("majority", "none"): 0.1}


def said(frame: pd.DataFrame, metric: str = "macro_f1", **asked) -> dict[str, str]:
    """Return the sentences by what stands before their colon."""
    found = answer.answer(frame, metric, Designs(frame), **asked).sentences
    return {sentence.partition(":")[0]: sentence.partition(": ")[2] for sentence in found}


def test_a_clear_best_is_named_with_what_it_beats_and_by_how_much():
    found = said(runs(CLEAR))
    assert found["answer"] == f"{LR} · oversample; it is better than each of the other 2"
    assert f"against {LR} · none +0.1" in found["natural"] and found["natural"].count("better") == 2
    assert "20 test cells in a split" in found["question"] and "by chance (majority): 0.09" in found["question"]
    assert "other datasets than d" in found["can't be said"] and "surer" not in found


def test_ties_are_said_and_no_winner_is_made_of_them():
    found = said(runs({(LR, "none"): 0.70, (LR, "oversample"): 0.701, (LR, "smote"): 0.702}))
    assert found["answer"].startswith("can't tell;") and "all 2 others tie" in found["answer"]
    assert "can't tell" in found["natural"] or "· none" in found["natural"]
    assert "that the best is better than what ties with it" in found["can't be said"]
    assert "no baseline" not in found["can't be said"] and "foundation models" in found["can't be said"]


def test_where_only_chance_is_left_nothing_is_called_unfinished():
    found = said(runs({("majority", "none"): 0.1, ("majority", "oversample"): 0.1}))
    assert found["answer"].startswith("nothing to choose from; all of these trials are of chance")


@pytest.mark.parametrize("splits", [1, 2])
def test_under_three_splits_nothing_is_told(splits):
    found = said(runs(CLEAR, splits=splits))
    assert found["answer"].startswith(f"can't tell; {splits} split") and "3 splits are needed" in found["surer"]
    assert "no interval" in found["natural"] and "better" not in found["natural"]


def test_of_several_skews_what_holds_at_all_is_said():
    mild, hard = runs(CLEAR), runs(CLEAR | {(LR, "none"): 0.5}, skew="step-10")
    found = said(numbered(pd.concat([mild, hard])))
    assert found["answer"].startswith(f"{LR} · oversample, best or tied with the best at all skews (2)")
    assert "worse at some skew" in found["answer"] and {"natural", "step-10"} < set(found)
    other = runs(CLEAR | {(LR, "none"): 0.9}, skew="step-10")
    assert said(numbered(pd.concat([mild, other])))["answer"].startswith("no choice is best")


def test_the_choice_for_all_skews_has_its_worth_and_its_cost():
    """Neither stood anywhere where another is first at each skew, by its mean; costs were one skew's."""
    means = {(LR, "none"): 0.5, (LR, "oversample"): 0.7, (LR, "smote"): 0.705, ("knn", "none"): 0.6}
    mild = runs(means, noise=0.02, trial_seconds=10.0)
    hard = runs(means | {(LR, "smote"): 0.6, ("knn", "none"): 0.702}, noise=0.02, skew="step-10", trial_seconds=30.0)
    both = numbered(pd.concat([mild, hard], ignore_index=True))
    found = said(both)
    assert found["answer"].startswith(f"{LR} · oversample, best or tied")
    assert [found[skew].partition(" 0")[0] for skew in ("natural", "step-10")] == [f"{LR} · smote", "knn · none"]
    assert found["cost of one training"].startswith(f"{LR} · oversample 20 s on CPUs; ")
    pairs = both[both["model"] == LR].pivot_table(METRIC, "split", "strategy")
    own = (pairs["oversample"] - pairs["none"]).to_numpy()
    reach = stats.t.ppf(1 - 0.025 / 2, 4) * own.std(ddof=1) * np.sqrt(1 / 5 + 20 / 80)  # two remedies to pick from
    ends = f"{own.mean():+.3f} [{own.mean() - reach:+.3f}, {own.mean() + reach:+.3f}]"
    worth = f"{LR} · oversample {pairs['oversample'].mean():.3f}"
    assert found["on average over skews"] == f"{worth}; against {LR} · none {ends} better"
    assert "on average over skews" not in said(mild)


def test_of_what_is_better_when_less_it_is_said_which_way_differences_go():
    """Beside 0.08, "+0.01 better" reads as if it were more."""
    frame = runs(CLEAR).assign(test_ece=lambda rows: 1 - rows[METRIC])
    assert (
        "best ece (the less the better; differences say by how much)?"
        in answer.answer(frame, "ece", Designs(frame)).sentences[0]
    )
    assert "less" not in answer.answer(frame, METRIC, Designs(frame)).sentences[0]


def test_a_best_that_is_worth_what_it_shows_is_not_called_less():
    assert "0.800 on that one, as it shows here, and" in said(runs(CLEAR, noise=0.0).round(1))["beyond luck"]


def test_of_equals_the_plainest_is_named_first_every_time():
    alike = runs({(LR, name): 0.7 for name in ("none", *"abcdef")} | {("scgpt", "none"): 0.5})
    alike[METRIC] = alike[METRIC].where(alike["model"] == "scgpt", alike.groupby("split")[METRIC].transform("max"))
    found = said(numbered(pd.concat([alike, alike.assign(skew="step-10")])))["answer"]
    assert found.startswith(f"{LR} · none, best or tied") and f"; {LR} · a, {LR} · b, {LR} · c and 3 more" in found


def test_dear_choices_are_left_out_and_named():
    frame = runs(CLEAR)
    on_gpu = frame["model"] == "scgpt"
    frame.loc[on_gpu, ["gpu", "gpus", "trial_seconds"]] = ["NVIDIA H100", "0.25", 8 * 3600.0]  # 2 GPU-hours
    assert any(
        "left out: scgpt · none" in one for one in answer.answer(frame, METRIC, Designs(frame), budget=1).sentences
    )
    assert "0.25 of a GPU (2 GPU-hours)" in said(frame, budget=2)["cost of one training"]


def test_an_unfinished_choice_is_no_rival_and_is_named():
    frame = runs(CLEAR)
    late = (frame["model"] == "scgpt") & (frame["split"] != "0")
    assert "anything of scgpt · none" in said(frame[~late])["can't be said"]


def test_a_dataset_that_some_choice_lacks_is_not_left_out_silently():
    other = runs({(LR, "none"): 0.9, (LR, "oversample"): 0.7}).assign(dataset="e")
    found = said(numbered(pd.concat([runs(CLEAR), other], ignore_index=True)))
    assert found["left out, as not every choice has a number there"] == "e altogether"
    assert not any("left out, as" in name for name in said(runs(CLEAR)))


def test_a_split_that_is_left_out_at_one_skew_is_named_with_it():
    """It was named alone, as if it counted at no skew."""
    skewed = runs(CLEAR).assign(skew="step-10")
    lost = (skewed["model"] == "scgpt") & (skewed["split"] == "0")
    one, both = (
        said(numbered(pd.concat([plain, skewed[~lost]], ignore_index=True)))
        for plain in (runs(CLEAR), runs(CLEAR)[~lost.to_numpy()])
    )
    words = "left out, as not every choice has a number there"
    assert (one[words], both[words]) == ("d split 0 at step-10", "d split 0")


def test_runs_with_defects_on_purpose_are_no_choice():
    wrong = runs({("scgpt", "none"): 0.99}).assign(defects="test_selection")
    assert said(numbered(pd.concat([runs(CLEAR), wrong])))["answer"].startswith(f"{LR} · oversample")


def test_of_a_type_its_test_cells_and_training_cells_are_said(tmp_path):
    frame = runs(CLEAR)
    for place, row in frame.iterrows():
        (folder := tmp_path / row["run_id"]).mkdir()
        f1 = np.clip(row[METRIC], 0, 1)
        lines = (
            f"class,natural,train,test,predicted,precision,recall,f1\nDC,9,4,3,3,{f1},{f1},{f1}\nB,60,60,17,17,1,1,1\n"
        )
        (folder / "per_class.csv").write_text(lines)
        frame.loc[place, "artifact_uri"] = str(folder)
    found = said(frame, "f1", kind="DC")
    assert "test cells of DC in a split: 3; one of them more or less is 33 points" in found["question"]
    assert "natural (4 training cells)" in found
    with pytest.raises(RequestError, match="unknown cell type 'dc'.*DC"):
        said(frame, "f1", kind="dc")


def test_skews_that_thin_another_type_are_left_out_of_an_answer_about_one():
    frame = numbered(
        pd.concat([runs(CLEAR, skew=name) for name in ("rarefy-DC-5", "rarefy-B-5")]).assign(**{"test_f1:DC": 0.5})
    )
    about, others = answer._about(frame, "DC")
    assert set(about["skew"]) == {"rarefy-DC-5"} and others == 1
    assert answer._about(frame, None)[1] == 0 and answer._about(frame, "T")[1] == 0


def test_nothing_finished_or_an_unknown_metric_is_refused_or_said(capsys):
    frame = runs(CLEAR)
    with pytest.raises(RequestError, match="macro_f2"):
        said(frame, "macro_f2")
    rows = [run(model, "none", split, 0.5) for model, split in (("scgpt", 0), (LR, 1))]
    lone = numbered(pd.DataFrame(rows))
    assert said(lone)["answer"] == "can't tell; no split has a finished trial of every choice"
    answer.show([answer.answer(frame, METRIC, Designs(frame))], "json", "careful")
    told = json.loads(capsys.readouterr().out)
    assert told["warning"] == "careful"
    assert told["answers"][0]["skews"]["natural"][0]["label"] == f"{LR} · oversample"
