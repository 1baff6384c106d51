"""What an edited sweep file would train anew: said by plan and run before anything is."""

import fake_trials
import pytest
from sweep_files import MINIMAL, parse

from sweeps.drive.forecast import planning
from sweeps.file import changes, trials
from sweeps.file.config import load


def written(path, **given) -> list:
    text = fake_trials.SWEEP.format(**({"name": "small", "splits": "[0, 1]", "seeds": "[0]", "strategies": "[none]",
                                        "max_failures": 3} | given))  # fmt: skip
    path.write_text(text.replace("epochs: 3", f"epochs: {given.get('epochs', 3)}"))
    return load(path).trials()


def test_a_setting_that_trains_trials_anew_is_named_with_both_values(tmp_path):
    kept, file = tmp_path / "sweeps" / "small.yaml", tmp_path / "small.yaml"
    kept.parent.mkdir()
    assert changes.since(kept, written(file)) == []
    written(kept)
    assert changes.since(kept, written(file)) == []
    said = changes.since(kept, written(file, epochs=15))
    assert said[0].startswith("the sweep's file has changed since it last ran: 4 of its 8 trials are new, 4 of the 8")
    assert said[1] == "recipe.epochs: 3 before, 15 now (4 trials are trained anew)"
    assert said[1] in planning.plan(load(file), tmp_path).notes


def test_more_seeds_change_no_setting(tmp_path):
    kept, file = tmp_path / "kept.yaml", tmp_path / "small.yaml"
    written(kept)
    said = changes.since(kept, written(file, splits="[0, 1, 2]"))
    assert "4 of its 12 trials are new, 0 of the 8 before" in said[0] and said[1:] == ["split: 2 new"]


def test_choices_that_are_new_or_left_out_are_named(tmp_path):
    kept, file = tmp_path / "kept.yaml", tmp_path / "small.yaml"
    written(kept)
    written(file, strategies="[none, oversample]")
    file.write_text(file.read_text().replace("ratio: 20", "ratio: 50"))
    said = changes.since(kept, load(file).trials())
    assert said[1:] == ["skew: exponential-20 left out; exponential-50 new", "strategy: oversample new"]


def test_a_kept_file_that_cannot_be_read_is_said(tmp_path):
    kept, file = tmp_path / "kept.yaml", tmp_path / "small.yaml"
    kept.write_text("models: [nothing]\n")
    assert "can't be read" in changes.since(kept, written(file))[0]


@pytest.mark.parametrize(
    ("name", "other"), [("posthoc: [prior_shift]", "posthoc: [logit_adjust]"), ("losses: [ldam]", "losses: [focal]")]
)
def test_what_comes_to_mean_another_one_renews_the_trials_that_have_it_alone(name, other, monkeypatch):
    def keys() -> list[str]:
        return [parse(MINIMAL + line).trials()[0].key for line in (other, name)]

    before = keys()
    monkeypatch.setitem(trials.ANEW, name.split("[")[1][:-1], 99)
    assert [new == old for new, old in zip(keys(), before, strict=True)] == [True, False]
