"""Which trained model is meant by the best choice of a sweep."""

import numpy as np
import pandas as pd
import pytest
from made_runs import runs as made_runs

from data_pipeline.errors import RequestError
from sweeps.answers.designs import Designs
from sweeps.answers.networks import meant
from sweeps.answers.runs.stored import Stored


def test_the_first_split_is_that_of_the_lowest_number():
    runs = made_runs({("knn", "none"): 0.6}).replace(
        {"split": dict(zip("01234", ("10", "9", "2", "100", "11"), strict=True))}
    )
    found = meant.best(runs, Designs(runs, Stored(None)), "macro_f1")
    assert list(runs.set_index("run_id").loc[found.runs, "split"]) == ["2", "9", "10", "11", "100"]


def test_the_best_choice_is_found_with_its_adjustment_and_all_its_splits(tmp_path):
    runs = made_runs({("knn", "none"): 0.6, ("scgpt", "none"): 0.5, ("majority", "none"): 0.9})
    adjusted = {"test_macro_f1.logit_adjust": runs["test_macro_f1"] + 0.1, "test_macro_f1.prior_shift": 0.99}
    adjusted["test_macro_f1.milder"] = 0.98
    runs = runs.assign(**adjusted)
    found = meant.best(runs, Designs(runs, Stored(None)), "macro_f1")
    mine = runs[runs["model"] == "knn"]
    assert (found.adjustment, found.runs) == ("logit_adjust", mine.sort_values("split")["run_id"].tolist())
    assert "knn · logit_adjust" in found.said[0] and found.said[1].startswith("milder is from outside")
    assert found.said[2].startswith("prior_shift is made of all test cells together")
    two = pd.concat([runs, runs.assign(skew="step-10")], ignore_index=True)
    assert meant.best(two, Designs(two, Stored(None)), "macro_f1").runs == found.runs, "the natural mix is meant"
    two["skew"] = np.where(two["skew"] == "natural", "step-100", two["skew"])
    with pytest.raises(RequestError, match="depends on the skew, of which there are step-100, step-10: say which"):
        meant.best(two, Designs(two, Stored(None)), "macro_f1")
    chance = runs[runs["model"] == "majority"]
    with pytest.raises(RequestError, match="only chance is left"):
        meant.best(chance, Designs(chance, Stored(None)), "macro_f1")
