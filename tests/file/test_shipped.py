"""What the shipped sweep files promise: remedied baselines everywhere, a quickstart that compares like with like."""

from pathlib import Path

import pytest

from sweeps.file import config

SHIPPED = sorted((Path(config.__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_network_with_a_remedy_has_a_baseline_with_one_beside_it(path: Path):
    trials = config.parse(path.read_text(), path).trials()
    losses = {
        trial.tags()["cellskew.loss"] for trial in trials if trial.tags()["cellskew.model"] == "logistic_regression"
    }
    assert {"cross_entropy", "weighted"} <= losses


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_rule_of_exclude_leaves_something_out(path: Path):
    said = config.parse(path.read_text(), path).excluded()
    assert not [one for one in said if "leaves out nothing" in one]


def test_the_quickstart_compares_like_with_like():
    path = next(path for path in SHIPPED if path.stem == "quickstart")
    spec = config.parse(path.read_text(), path)
    trials = spec.trials()
    assert len({trial.tags()["cellskew.split"] for trial in trials}) >= 3
    skews = {trial.tags()["cellskew.skew"] for trial in trials}
    assert all("250" in skew for skew in skews) and len(skews) == 2  # both have so many training cells
