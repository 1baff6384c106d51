"""`cellskew report`: one page with everything in it, nothing loaded from elsewhere, names made harmless."""

import re
from pathlib import Path

import pandas as pd
import pytest

from data_pipeline.errors import RequestError
from sweeps.answers import report

METRIC = "test_macro_f1"


@pytest.fixture
def runs() -> pd.DataFrame:
    rows = []
    for model, base in (("scgpt", 0.6), ("logistic_regression", 0.7)):
        for skew in ("natural", "step-10"):
            for strategy, gain in (("none", 0.0), ("oversample", 0.05)):
                for split in range(3):
                    row = {"run_id": str(len(rows)), "key": f"{len(rows):016x}", "name": f"d·{model}", "reason": ""}
                    row |= {"status": "FINISHED", "started": 0, "ended": 1_700_000_000_000, "dataset": "a<b>c"}
                    row |= {"split": str(split), "skew": skew, "strategy": strategy, "loss": "cross_entropy"}
                    row |= {"model": model, "seed": "0", "defects": "", "test_per_train": 0.3, "trial_seconds": 12.5}
                    rows.append(row | {METRIC: base + gain * (1 + 0.1 * split) + 0.02 * split})
    return pd.DataFrame(rows)


def page(runs: pd.DataFrame, trials: Path = Path("nowhere"), metric: str = METRIC) -> str:
    return report.report(runs, "my <sweep>", metric, trials)


def titles(html: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", html)


def test_the_page_holds_tables_plots_tests_and_costs(runs):
    html = page(runs)
    assert titles(html) == [
        "Which model, which remedy",
        "How it changes with the skew",
        "What strategy changes",
        "What it costs",
        "How it was done",
    ]
    assert html.count("<svg") == 3 and "24 of 24 trials finished" in html and "2023-11-14" in html
    assert "0.620 ± 0.020" in html and "+0.055 [" in html and "12.5" in html


def test_nothing_is_loaded_from_elsewhere_and_names_are_text(runs):
    html = page(runs)
    assert "my &lt;sweep&gt;" in html and "a&lt;b&gt;c" in html and "<sweep>" not in html and "<b>" not in html
    assert not re.search(r"<(script|link|img|iframe)|src=|@import|url\((?!#)", html)
    assert html == page(runs), "the same runs give the same page"


def test_types_come_from_the_trials_tables_with_the_rarest_last(runs, tmp_path):
    for key in runs["key"][:6]:
        (tmp_path / key).mkdir()
        table = pd.DataFrame({"class": ["rare", "common"], "train": [5, 500], "f1": [0.25, 0.95]})
        table.to_csv(tmp_path / key / "per_class.csv", index=False)
    html = page(runs, tmp_path)
    assert "By cell type" in titles(html) and html.index("common (500)") < html.index("rare (5)")
    assert ">0.25<" in html and ">0.95<" in html


def test_one_skew_and_one_strategy_leave_their_sections_out(runs):
    plain = runs[(runs["skew"] == "natural") & (runs["strategy"] == "none")]
    assert "does not hold" not in page(plain)
    assert titles(page(plain)) == ["Which model, which remedy", "What it costs", "How it was done"]


def test_failures_and_defects_are_told(runs):
    runs.loc[0, ["status", "reason"]] = ["FAILED", "NonFiniteLoss: the loss is <nan>\nmore"]
    runs.loc[1, "defects"] = "select_on_test"
    html = page(runs)
    assert "What failed" in titles(html) and "the loss is &lt;nan&gt;" in html and "more</td>" not in html
    assert "does not hold for the runs with defects" in html
    assert 'class="warning">WARNING: 1 of 24 runs were made with known defects on purpose: select_on_test' in html


def test_too_little_to_report_is_refused(runs):
    with pytest.raises(RequestError, match="unknown metric 'test_f1'"):
        page(runs, metric="test_f1")
    runs["status"] = "RUNNING"
    with pytest.raises(RequestError, match="no trial of my <sweep> is finished yet; `cellskew status"):
        page(runs)
