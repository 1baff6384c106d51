"""Several sweeps as one table: the same trial counts once, what only has the same name is refused."""

import json

import pytest
from test_summary import grid

from data_pipeline.errors import RequestError
from sweeps.answers import bundle
from sweeps.answers.runs.results import check_alone
from sweeps.answers.runs.several import Part, join
from sweeps.answers.runs.stored import Stored
from sweeps.commands import asking

METRIC = "test_macro_f1"


def part(name: str, models=("scgpt",), **changes) -> Part:
    """Return a sweep of 3 splits x none, oversample; keys are those of model, strategy and split."""
    runs = grid(3, models=models).assign(**{"digest": "d0", "test_per_train": 0.25} | changes)
    keys = runs[["model", "strategy", "split"]].agg("-".join, axis=1)
    return Part(name, runs.assign(key=keys, run_id=f"{name}-" + runs["run_id"]), Stored(None))


def test_runs_of_both_are_there_each_with_its_sweep():
    runs, _, said = join([part("one"), part("two", ("logistic_regression",))])
    assert dict(runs["sweep"].value_counts()) == {"one": 6, "two": 6} and said == []


def test_a_trial_that_both_have_counts_once_the_finished_one_first():
    first = part("one")
    first.runs.loc[0, "status"] = "FAILED"
    runs, _, said = join([first, part("two")])
    assert len(runs) == 6 and set(runs["status"]) == {"FINISHED"} and runs["sweep"].value_counts()["one"] == 5
    assert said == ["6 trials that several of one, two have count once"]


def test_other_trials_under_the_same_labels_are_told_apart():
    """As where options or genes differ: tables must not take them for seeds."""
    other = part("two")
    runs, _, _ = join([part("one"), Part("two", other.runs.assign(key="other " + other.runs["key"]), other.stored)])
    assert set(runs["settings"]) == {"sweep=one", "sweep=two"}
    with pytest.raises(RequestError, match="Choose with --where .*, or ask about one sweep at a time$"):
        check_alone(runs)
    with pytest.raises(RequestError, match="Choose with --where .*, or leave out --all$"):
        check_alone(runs.assign(wanted=runs["sweep"] == "one"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"digest": "d1"}, "dataset d doesn't hold the same cells in these sweeps .one: d0; two: d1."),
        ({"test_per_train": 0.5}, "the splits of d are not the same in these sweeps .*one: 0.25; two: 0.5"),
    ],
)
def test_other_cells_under_the_same_name_are_refused(changes, words):
    with pytest.raises(RequestError, match=words):
        join([part("one"), part("two", ("logistic_regression",), **changes)])


def test_the_same_trials_under_two_names_are_refused():
    other = part("two", ("scgpt",))
    runs = other.runs.assign(model="mine")
    with pytest.raises(RequestError, match="model scgpt and mine are the same 6 trials .*change the name"):
        join([part("one"), Part("two", runs, other.stored)])


def tuned(name: str, values: list[str], over: str = "2", **changes) -> Part:
    """Return a sweep whose model chose so in splits 0, 1, 2: its trials are those of a sweep with that setting."""
    made = part(name)
    setting = made.runs["split"].map(dict(zip("012", values, strict=True)))
    key = made.runs["key"] + setting.where(setting != "a", "")
    return Part(name, made.runs.assign(key=key, tuned="rate=" + setting, tuned_over=over, **changes), made.stored)


def test_a_setting_under_another_label_keeps_the_splits_in_which_tuning_chose_it():
    """Else it would be without just the splits where it does best."""
    other = part("two", tuned="", tuned_over="")
    plain = Part("two", other.runs.assign(model="fixed"), other.stored)
    runs, _, said = join([tuned("one", ["a", "b", "a"]), plain])
    assert dict(runs["model"].value_counts()) == {"scgpt": 6, "fixed": 6} and said == []


def test_a_model_that_is_tuned_in_one_sweep_alone_is_refused():
    plain = part("two", tuned="", tuned_over="")
    with pytest.raises(RequestError, match="scgpt isn't tuned alike .*one: over 2 settings; two: not tuned"):
        join([tuned("one", ["a", "b", "a"]), plain])
    with pytest.raises(RequestError, match="over 2 settings; two: over 3 settings"):
        join([tuned("one", ["a", "b", "a"]), tuned("two", ["a", "b", "b"], "3")])
    assert len(join([tuned("one", ["a", "b", "a"]), tuned("two", ["a", "b", "a"])])[0]) == 6


def test_what_was_chosen_in_each_split_tears_no_model_apart(monkeypatch):
    """Two sweeps of other genes, each tuned: each is one row, whatever rate a split has chosen."""
    one, two = (tuned(name, ["a", "b", "a"], tuned_among=2.0) for name in ("one", "two"))
    two = Part("two", two.runs.assign(key="other " + two.runs["key"]), two.stored)
    for part_ in (one, two):
        part_.runs.attrs["uri"] = part_.name
    rates = dict(zip(one.runs["run_id"], one.runs["tuned"], strict=True))
    rates |= dict(zip(two.runs["run_id"], two.runs["tuned"], strict=True))
    params = lambda uri, ids: {one: {"genes.n": uri, "recipe.rate": rates[one]} for one in ids}  # noqa: E731
    monkeypatch.setattr("sweeps.answers.runs.several.params_of", params)
    runs, _, _ = join([one, two])
    assert set(runs["settings"]) == {"genes.n=one, sweep=one", "genes.n=two, sweep=two"}


def test_what_sweeps_differ_in_whatever_the_model_is_said(monkeypatch):
    listed = [part("one"), part("two", ("logistic_regression",))]
    for one in listed:
        one.runs.attrs["uri"] = one.name
    genes = {"one": "200", "two": "1000"}
    params = lambda uri, run_ids: dict.fromkeys(run_ids, {"genes.n": genes[uri], "seed": uri})  # noqa: E731
    monkeypatch.setattr("sweeps.answers.runs.several.params_of", params)
    assert join(listed)[2] == ["WARNING: these sweeps differ in genes.n (one: 200; two: 1000)"]


def test_a_model_that_is_another_under_the_same_label_is_said(monkeypatch):
    """No trial of one has all labels of one of the other, so that nothing else tells them apart."""
    one, two = part("one"), part("two")
    one, two = (
        Part(x.name, x.runs[x.runs["strategy"] == y], x.stored) for x, y in ((one, "none"), (two, "oversample"))
    )
    one.runs.attrs["uri"], two.runs.attrs["uri"] = "one", "two"
    sizes = {"one": "tiny", "two": "small"}
    params = lambda uri, run_ids: dict.fromkeys(run_ids, {"options.size": sizes[uri], "seed": "0"})  # noqa: E731
    monkeypatch.setattr("sweeps.answers.runs.several.params_of", params)
    assert join([one, two])[2] == ["WARNING: trials of scgpt differ in options.size (one: tiny; two: small)"]


def test_the_commands_take_several_names(tmp_path, capsys):
    for one in (part("one"), part("two", ("logistic_regression",))):
        runs = one.runs.assign(code="", superseded="", reason="", ended=1_700_000_000_000, name="x")
        bundle.write(tmp_path / f"{one.name}.zip", one.name, runs, Stored(None), None, None)
    names = [str(tmp_path / f"{name}.zip") for name in ("one", "two")]
    asking.results(names, as_json=True)
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {(row["model"], row["n"]) for row in rows} == {("scgpt", 3), ("logistic_regression", 3)}
    asking.compare(names, between="model", as_json=True)
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["level"], row["against"], row["pairs"]) == ("scgpt", "logistic_regression", 6)
    asking.report(names, out=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "2 models" in page and page.partition("</h1>")[0].endswith("<h1>one two"), "as the sweeps are called"
    with pytest.raises(RequestError, match="named twice: .*one.zip"):
        asking.results([names[0], names[0]])
