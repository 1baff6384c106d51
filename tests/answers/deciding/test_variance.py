"""`cellskew shares`: of a complete table within a dataset, and it says which."""

import json

import numpy as np
import pandas as pd
import pytest
from made_runs import METRIC, numbered, runs

from data_pipeline.errors import RequestError
from sweeps.answers.deciding import variance
from sweeps.answers.designs import Designs

MEANS = {("scgpt", "none"): 0.5, ("scgpt", "oversample"): 0.52, ("scbert", "none"): 0.7, ("scbert", "oversample"): 0.72}


def sweep(**more) -> pd.DataFrame:
    both = [runs(MEANS, **more), runs({choice: mean - 0.1 for choice, mean in MEANS.items()}, skew="step-10", **more)]
    return numbered(pd.concat(both))


def found(frame: pd.DataFrame) -> list[variance.Shares]:
    return variance.of_variance(frame, METRIC, Designs(frame))


def test_the_model_that_differs_most_has_the_largest_share():
    (one,) = found(sweep())
    assert list(one.shares)[:2] == ["model", "skew"] and one.shares["model"][0] > 0.6 and one.splits == 5
    assert one.shares["skew"][1] < 0.05 / (0.05 + 0.2) < one.shares["skew"][2] and not one.left_out
    assert one.levels["remedy"] == ["none", "oversample"]


def test_what_is_not_complete_is_left_out_and_named(capsys):
    frame = sweep()
    more = frame[(frame["model"] == "scgpt") & (frame["strategy"] == "none")].assign(strategy="smote")
    frame = numbered(pd.concat([frame, more]))
    frame.loc[(frame["split"] == "3") & (frame["skew"] == "natural"), "status"] = "FAILED"
    (one,) = found(frame)
    assert one.splits == 4 and one.left_out == ["remedy smote", "split 3"]
    variance.show([one], "table", None)
    said = " ".join(capsys.readouterr().out.split())
    assert "2 remedies (none, oversample)" in said and "remedy smote, split 3" in said and "jackknife" in said


def test_a_fixed_test_set_makes_no_replicates_of_splits(capsys):
    (one,) = found(sweep(fixed_test=1.0))
    assert one.shares["model"][0] > 0.6 and all(np.isnan(ends).all() for _, *ends in one.shares.values())
    variance.show([one], "table", None)
    said = " ".join(capsys.readouterr().out.split())
    assert "no interval: all splits have the same test cells" in said and "jackknife" not in said


def test_the_same_numbers_again_are_no_more_numbers():
    """A temperature leaves predictions as they are: as a remedy of its own it would make the rest look small."""
    frame = sweep()
    (plain,) = found(frame)
    (one,) = found(frame.assign(**{f"{METRIC}.temperature": frame[METRIC]}))
    assert repr(one.shares) == repr(plain.shares) and one.levels == plain.levels
    assert one.left_out[0] == "remedy temperature, whose numbers are those of none"


def test_datasets_are_never_pooled_and_programs_get_numbers(capsys):
    frame = numbered(pd.concat([sweep(), sweep(dataset="e")]))
    both = found(frame)
    assert [one.dataset for one in both] == ["d", "e"]
    variance.show(both, "json", None)
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) == 2 * 8 and sum(row["share"] for row in rows) == pytest.approx(2)


def test_nothing_that_varies_is_refused():
    with pytest.raises(RequestError, match="some skews alone is left out by --where"):
        frame = sweep()
        found(frame[(frame["model"] == "scgpt") | (frame["skew"] == "natural")])
    with pytest.raises(RequestError, match="take two or more skews, models or remedies, and two splits"):
        found(runs({("scgpt", "none"): 0.5}))
    with pytest.raises(RequestError, match="and two splits"):
        found(sweep(splits=1))
