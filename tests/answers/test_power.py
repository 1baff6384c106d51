"""What a report says could be seen of rare types: steps of recall, and the least difference with these splits."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_report import grid, page, with_types

from sweeps.answers import frames
from sweeps.answers.designs import Designs
from sweeps.answers.page import power
from sweeps.answers.runs import choices


def test_the_least_difference_is_found_in_four_of_five_sweeps():
    """Splits without cells in common, where a paired t test is exact; the true variance is known to many choices."""
    rng = np.random.default_rng(0)
    tables = [rng.normal(0, 0.1, (40, 8)) + rng.normal(0, 0.3, 8) + rng.normal(0, 0.3, (40, 1)) for _ in range(20)]
    least = power.seen(tables, 0.0)
    differences = least + rng.normal(0, 0.1, (4000, 8)) - rng.normal(0, 0.1, (4000, 8))
    assert (stats.ttest_1samp(differences, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.04)
    assert power.seen(tables, 0.25) == pytest.approx(least * np.sqrt((1 / 8 + 0.25) * 8))
    assert power.seen(tables, 0.0, looks=5) > least


def test_nothing_is_promised_of_two_splits_one_choice_or_what_never_varies():
    rng = np.random.default_rng(0)
    for tables in ([rng.normal(size=(3, 2))], [rng.normal(size=(1, 9))], [np.ones((3, 9))], []):
        assert np.isnan(power.seen(tables, 0.3))
    assert np.isnan(power.seen([rng.normal(size=(3, 9))], np.nan)), "a test set that all splits share"


def test_the_page_says_it_for_rare_types_alone(tmp_path):
    runs = with_types(grid(), tmp_path)
    (one,) = power.power(frames.types(runs, Designs(runs).stored), Designs(runs))
    assert (one.kind, one.train, one.test, one.step) == ("rare", (5, 5), (4, 4), "25 points")
    assert one.splits == 3 and np.isnan(one.seen)
    html = page(runs)
    part = html[html.index("What could be seen</h2>") : html.index("Cost</h2>")]
    assert "rare has 4 test cells in a split: one of them more or less is 25 points of its recall." in part
    assert '<td class="left">rare</td><td class="">5</td>' in part and "common" not in part


def test_a_choice_with_the_predictions_of_another_is_no_second_one():
    """As temperature scaling: copies would make choices look as if they hardly varied from split to split."""
    rng, rows = np.random.default_rng(0), []
    for model in ("knn", "scgpt"):
        for split in range(5):
            row = {"dataset": "d", "skew": "natural", "split": str(split), "seed": "0", "model": model, **choices.PLAIN}
            row |= {"class": "rare", "train": 5, "natural": 20, "test": 5, "predicted": 4, "recall": rng.random()}
            rows.append(row)
    plain = pd.DataFrame(rows)
    both = pd.concat([plain, plain.assign(posthoc="temperature")], ignore_index=True)
    designs = SimpleNamespace(kind=lambda dataset: "splits")
    (one,), (other,) = power.power(plain, designs), power.power(both, designs)
    assert one == other and one.seen > 0
    apart = plain.assign(train=np.tile([2, 60, 90, 80, 70], 2), test=np.tile([5, 2, 9, 8, 7], 2))
    (one,) = power.power(apart, SimpleNamespace(kind=lambda dataset: "donors"))
    assert one.row()[2:5] == ["2 to 90", "2 to 9", "11 to 50 points"], "rare with one donor left out"
