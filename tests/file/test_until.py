"""`splits: until:`: what may be written, what can't be answered by any number of splits, when it is looked."""

import pytest
from sweep_files import parse, problems

from sweeps.file.questions import looks

FILE = """
name: small
datasets: [pbmc68k_reduced]
models: [knn, majority]
strategies: [none, oversample]
splits: %s
"""


def said(splits: str, more: str = "") -> list[str]:
    return [one.removeprefix("sweep.yaml:6: splits.") for one in problems(FILE % splits + more)]


def test_a_file_with_until_may_come_to_all_its_splits_and_begins_with_few():
    asked = "{until: {half_width: 0.02, between: strategy, within: model}, at_most: 30, test: 0.3}"
    found = parse(FILE % asked)
    assert [split["seed"] for split in found.splits] == list(range(30)) and found.splits[0]["test"] == 0.3
    assert found.looks == [5, 8, 12, 18, 30]
    assert [len(found.first(splits).trials()) for splits in (5, 30)] == [20, 120]
    listed = parse(FILE % "{seeds: [0, 1, 2, 3, 4], test: 0.3}")
    assert [trial.declared for trial in found.first(5).trials()] == [trial.declared for trial in listed.trials()]
    assert str(found.until) == "macro_f1 between strategy within model, to ±0.02 or beyond ±0.005"
    assert (listed.until, listed.looks) == (None, [5])


@pytest.mark.parametrize(("most", "after"), [(3, [3]), (5, [5]), (7, [5, 7]), (40, [5, 8, 12, 18, 27, 40])])
def test_looks_are_fixed_by_at_most_alone(most, after):
    assert looks(most) == after


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        ("{until: {between: model}}", "until: half_width: is missing"),
        ("{until: {half_width: 0, between: model}}", "until.half_width: 0 must be greater than 0"),
        ("{until: {half_width: 0.1, between: model}, at_most: 2}", "at_most: 2 must be greater than or equal to 3"),
        ("{until: {half_width: 0.1, between: modle}}", "until.between: unknown choice 'modle'; did you mean model?"),
        ("{until: {half_width: 0.1, between: dataset}}", "until.between: unknown choice 'dataset'"),
        ("{until: {half_width: 0.1, between: model, within: split}}", "until.within: unknown axis"),
        ("{until: {half_width: 0.1, between: model, metric: f2}}", "until.metric: unknown metric 'f2'"),
        ("{until: {half_width: 0.1, between: model, metric: mcc, type: B}}", "until.metric: unknown metric 'mcc'"),
        ("{until: {half_width: 0.1, between: model, tie: -1}}", "until.tie: -1 must be greater than or equal to 0"),
        ("{until: {half_width: 0.1, between: model, hafl: 1}}", "until.hafl: unknown key 'hafl'"),
        ("{until: {half_width: 0.1, between: model}, seeds: [0]}", "seeds: can't be listed beside `until:`"),
        ("{at_most: 9}", "at_most: goes with `until:`"),
        ("{until: {half_width: 0.1, between: loss}}", "until: between loss: the sweep has only cross_entropy"),
        ("{until: {half_width: 0.1, between: posthoc}}", "until: between posthoc: the sweep has only none"),
        ("{until: {half_width: 0.1, between: model, against: mlp}}", "until: unknown model to compare with 'mlp'"),
    ],
)
def test_what_can_not_become_sure_is_refused_with_its_line(splits, expected):
    (only,) = said(splits)
    assert only.startswith(expected)


def test_pairs_that_exclude_leaves_nothing_of_are_no_question():
    rules = "exclude: [{model: knn, strategy: oversample}, {model: majority, strategy: none}]\n"
    (only,) = said("{until: {half_width: 0.1, between: strategy}}", rules)
    assert only == "until: between strategy: no two trials differ in strategy alone"
