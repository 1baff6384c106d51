"""What a sweep calls its models is no part of what they are: other names train nothing anew."""

import json
import shutil

import pytest
from fake_trials import cells
from scgpt_folder import write_folder
from test_contents import drive, sweep, trained

from data_pipeline.errors import RequestError
from sweeps.answers.deciding import table
from sweeps.answers.designs import Designs
from sweeps.answers.runs import choices, results
from sweeps.drive import contents
from sweeps.tracking.uris import default_uri

ONE = "scgpt: {size: tiny, epochs: 3}, majority: {}"
TUNED = "scgpt: {size: tiny, tune: {epochs: [3, 4, 5]}}, majority: {}"
OTHER = "mine: {model: scgpt, size: tiny, epochs: 3}, chance: {model: majority}"


def runs(storage, name="small", all_settings=False):
    uri = default_uri(storage)
    return results.choose(uri, results.fetch(uri, name), every=False, all_settings=all_settings)[0]


def test_another_label_in_this_or_another_sweep_trains_nothing_and_tables_show_it(ray_here, tmp_path):
    drive(sweep(tmp_path, ONE), tmp_path / "runs")
    before, first = runs(tmp_path / "runs"), trained(tmp_path / "runs")
    outcome, said = drive(sweep(tmp_path, OTHER), tmp_path / "runs")
    assert (outcome.before, outcome.finished) == (2, 0) and "begin" not in said
    assert any(line.startswith("2 runs are called otherwise now") for line in said)
    after = runs(tmp_path / "runs")
    assert trained(tmp_path / "runs") == first and set(after["run_id"]) == set(before["run_id"])
    assert dict(zip(after["model"], after["architecture"], strict=True)) == {"mine": "scgpt", "chance": "majority"}
    assert sorted(name.split("·")[0] for name in after["name"]) == ["chance", "mine"]
    assert choices.kinds(after) == {"mine": "network", "chance": "chance"}
    shown = table.build(after, ["model"], ["test_macro_f1"], Designs(after))
    assert list(shown["kind"]) == ["network", "chance"]
    second = sweep(tmp_path, ONE).model_copy(update={"name": "second"})
    outcome, _ = drive(second, tmp_path / "runs")
    assert outcome.finished == 2 and trained(tmp_path / "runs") == first, "another sweep takes what is trained"
    other = runs(tmp_path / "runs", "second")
    assert set(other["model"]) == {"scgpt", "majority"} and set(runs(tmp_path / "runs")["model"]) == {"mine", "chance"}
    numbers = [dict(zip(each["architecture"], each["test_macro_f1"], strict=True)) for each in (after, other)]
    assert numbers[0] == numbers[1]


def test_a_trial_that_comes_to_be_tuned_stays_and_one_that_no_longer_is_says_so(ray_here, tmp_path):
    drive(sweep(tmp_path, ONE), tmp_path / "runs")
    fault = {"run": "scgpt(epochs=5)", "epoch": 2, "kind": "raise", "times": 9}
    (tmp_path / "runs" / "fault.json").write_text(json.dumps({"faults": [fault]}))
    outcome, _ = drive(sweep(tmp_path, TUNED), tmp_path / "runs")
    assert (outcome.before, outcome.finished, len(outcome.failed)) == (2, 1, 1)
    every, chosen = runs(tmp_path / "runs", all_settings=True), runs(tmp_path / "runs")
    tuned = every[every["tuned"] != ""]
    assert sorted(tuned["tuned"]) == ["epochs=3", "epochs=4", "epochs=5"] and set(tuned["tuned_over"]) == {"3"}
    assert set(tuned["settings"]) == {"recipe.epochs=3", "recipe.epochs=4", "recipe.epochs=5"}
    best = tuned.loc[tuned["validation_macro_f1"].idxmax()]
    assert len(chosen) == 3 and best["run_id"] in set(chosen["run_id"]) and set(chosen["settings"]) == {""}
    assert len(table.build(chosen, ["model"], ["test_macro_f1"], Designs(chosen))) == 2
    assert "scgpt: tuned over 3 settings on validation cells" in results.warning(chosen)
    assert "1 of 1 are among fewer" in results.warning(chosen)
    drive(sweep(tmp_path, ONE), tmp_path / "runs")
    assert set(runs(tmp_path / "runs")["tuned"]) == {""} and results.warning(runs(tmp_path / "runs")) is None


def test_labels_whose_weights_hold_the_same_are_refused_naming_both(tmp_path):
    one = write_folder(tmp_path, genes=["A", "B"])
    other = shutil.copytree(one, tmp_path / "copy")
    spec = sweep(tmp_path, f"one: {{model: scgpt, weights: {one}}}, two: {{model: scgpt, weights: {other}}}")
    known = contents.known(spec, {"mine": cells("d0")}, tmp_path / "runs", keep=False)
    with pytest.raises(RequestError, match=r"model one and model two mean the same \(trials: 1\)"):
        contents.check_distinct(known.trials())
