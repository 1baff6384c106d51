"""`models:` of a sweep file: what a label stands for."""

import pytest
from sweep_files import parse, problems

HEAD = "name: small\ndatasets: [pbmc68k_reduced]\nsplits: {seeds: [0]}\n"


def sweep(models: str, more: str = ""):
    return parse(f"{HEAD}models: {{{models}}}\n{more}")


def test_a_label_stands_wherever_models_did_and_no_key_has_it():
    more = "resources: {wide: {cpu: 2}}\nexclude: [{model: plain, seed: 1}]\nseeds: [0, 1]\n"
    spec = sweep("plain: {model: scgpt}, wide: {model: scgpt, width: 32}, majority: {}", more)
    assert [(one.label, one.model) for one in spec.models] == [
        ("plain", "scgpt"),
        ("wide", "scgpt"),
        ("majority", "majority"),
    ]
    found = {trial.name: trial for trial in spec.trials()}
    assert len(found) == 5 and not any(name.startswith("plain") and name.endswith("1") for name in found)
    trial = found["wide·none·cross_entropy·natural·pbmc68k_reduced·s0·0"]
    assert (trial.label, trial.model, trial.resources.cpu) == ("wide", "scgpt", 2)
    tags = trial.tags()
    assert (tags["cellskew.model"], tags["cellskew.architecture"]) == ("wide", "scgpt")
    assert trial.config()["model"] == trial.params()["model"] == "scgpt"
    bare = {trial.key for trial in sweep("scgpt: {}").trials()}
    assert bare == {trial.key for trial in sweep("any-name.2: {model: scgpt}").trials()}


@pytest.mark.parametrize(
    "models, said",
    [
        ("one: {model: scgpt}, two: {model: scgpt, epochs: 15}", "models.two: means the same as one; leave one"),
        ("scgpt-head: {epochs: 3}", "unknown model 'scgpt-head'; did you mean scgpt?"),
        ("scgpt-head: {epochs: 3}", "scgpt-head: {model: NAME}"),
        ("mine: {model: scgtp}", "models.mine.model: unknown model 'scgtp'; did you mean scgpt?"),
        ("mine: {model: [scgpt]}", "models.mine.model: unknown model ['scgpt']"),
        ("a/b: {model: scgpt}", 'models.a/b: "a/b" is a path, not a name'),
        ("'a b': {model: scgpt}", 'models.a b: "a b" is no name for a model; use up to 100 letters'),
        ("a·b: {model: scgpt}", "is no name for a model"),
        ("scGPT: {model: majority}", "scGPT would be read as the model of that name, and is majority: call it"),
    ],
)
def test_labels_that_would_mislead_are_refused(models, said):
    assert any(said in one for one in problems(f"{HEAD}models: {{{models}}}\n")), problems(
        f"{HEAD}models: {{{models}}}\n"
    )


@pytest.mark.parametrize("value, is_known", [("mine", True), ("geneformer", True), ("scgpt", False), ("mine-2", False)])
def test_rules_name_models_by_label(value, is_known):
    text = f"{HEAD}models: {{mine: {{model: scgpt}}, majority: {{}}}}\nexclude: [{{model: {value}}}]\n"
    if is_known:
        parse(text)
    else:
        assert f"exclude[0].model: unknown model '{value}'" in problems(text)[0]
