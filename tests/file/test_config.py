"""Sweep files: what they come to, that every default counts in a key, and that every mistake is named with its line."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from sweep_files import MINIMAL, parse, problems

from data_pipeline.errors import RequestError
from data_pipeline.reading.source import CHOICES
from data_pipeline.rows.skew import SKEWS
from sweeps.file import config, plugins, reading_models, yaml_lines
from trainables import protocol
from trainables.spec import Recipe

# what a file comes to


def test_every_way_out_that_a_refused_data_file_is_told_can_be_written_in_a_sweep_file():
    for option, allowed in CHOICES.items():
        for value in allowed:
            text = MINIMAL.replace("[pbmc68k_reduced]", f"[{{path: a.h5ad, label: type, {option}: {value}}}]")
            assert parse(text).datasets[0][option] == value
    said = problems(MINIMAL.replace("[pbmc68k_reduced]", "[{path: a.h5ad, label: type, duplicates: add}]"))
    assert said == ["""sweep.yaml:3: datasets[0].duplicates: "add" must be 'sum', 'first' or 'rename'"""]


def test_defaults_make_one_trial_per_model():
    trials = parse(MINIMAL).trials()
    assert [trial.name for trial in trials] == [
        "scgpt·none·cross_entropy·natural·pbmc68k_reduced·s0·0",
        "majority·none·cross_entropy·natural·pbmc68k_reduced·s0·0",
    ]
    described = trials[0].described
    assert described["recipe"]["epochs"] == 3 and described["recipe"]["batch_size"] == 32
    assert described["split"] == {"seed": 0, "test": 0.2, "validation": 0.1}
    assert trials[1].described["recipe"] is None


def test_trials_are_the_cross_product_in_the_files_order_with_distinct_keys_and_names():
    spec = parse(
        MINIMAL
        + "splits: {seeds: [3, 1]}\nstrategies: [oversample, none]\nlosses: [cross_entropy, weighted]\nseeds: [0, 7]"
    )
    trials = spec.trials()
    assert len(trials) == 2 * 2 * 2 * 2 * 2
    assert [trial.labels["split"] for trial in trials] == ["3"] * 16 + ["1"] * 16
    assert [trial.labels["seed"] for trial in trials[:4]] == ["0", "7", "0", "7"]
    assert len({trial.key for trial in trials}) == len({trial.name for trial in trials}) == 32
    assert [trial.key for trial in trials] == [trial.key for trial in spec.trials()]


def test_a_list_for_a_parameter_stands_for_one_entry_per_value():
    text = (
        MINIMAL + 'skews: [{kind: rarefy, class: "CD34+", cells: [200, 50, 10]}, {kind: exponential, ratio: [5, 50]}]'
    )
    spec = parse(text)
    assert [skew.label for skew in spec.skews] == [
        "rarefy-CD34+-200",
        "rarefy-CD34+-50",
        "rarefy-CD34+-10",
        "exponential-5",
        "exponential-50",
    ]
    assert spec.skews[0].config()["class_name"] == "CD34+"


def test_labels_show_what_differs_from_the_defaults():
    spec = parse(
        MINIMAL + "skews: [natural, {kind: exponential, total: 100}]\nstrategies: [{kind: smote, neighbours: 3}]"
    )
    assert [skew.label for skew in spec.skews] == ["natural", "exponential-10-total=100"]
    assert spec.strategies[0].label == "smote-neighbours=3"


def test_exclude_takes_names_labels_lists_and_parameters():
    text = MINIMAL + "skews: [natural, {kind: exponential, ratio: [5, 50]}]\nstrategies: [none, oversample]\n"
    everything = parse(text).trials()
    by_kind = parse(text + "exclude: [{skew: {kind: exponential}, strategy: [oversample]}]").trials()
    assert len(everything) - len(by_kind) == 4
    by_label = parse(text + "exclude: [{skew: exponential-50}]").trials()
    assert len(everything) - len(by_label) == 4
    by_parameter = parse(text + "exclude: [{skew: {kind: exponential, ratio: 5}, model: majority}]").trials()
    assert len(everything) - len(by_parameter) == 2
    assert len(parse(text + "seeds: [0, 1]\nexclude: [{seed: 1}]").trials()) == len(everything)


def test_a_name_in_exclude_is_the_exact_name_as_in_where():
    text = MINIMAL + "skews: [natural, {kind: natural, total: 200}]\n"
    left = parse(text + "exclude: [{skew: natural}]").trials()
    assert {trial.labels["skew"] for trial in left} == {"natural-200"}
    said = "no skew is called 'exponential'; name exponential-5, exponential-50, or write {kind: exponential} for all"
    with pytest.raises(RequestError, match=re.escape(f"exclude[0].skew: {said}")):
        parse(MINIMAL + "skews: [{kind: exponential, ratio: [5, 50]}]\nexclude: [{skew: exponential}]")


def test_what_each_rule_left_out_is_told_and_what_is_quite_gone():
    rules = ["{skew: natural-200}", "{model: majority}", "{model: majority, skew: natural}", "{loss: focal}"]
    skews = "skews: [natural, {kind: natural, total: 200}, {kind: natural, total: 300}]\n"
    spec = parse(MINIMAL + skews + f"exclude: [{', '.join(rules)}]")
    assert spec.excluded() == [
        'exclude[0] (skew: "natural-200") leaves out 2 trials',
        'exclude[1] (model: "majority") leaves out 2 trials',
        'exclude[2] (model: "majority", skew: "natural") leaves out nothing: rules before it do already',
        'exclude[3] (loss: "focal") leaves out nothing: no trial is like that',
        "no trial is left of skew natural-200",
        "no trial is left of model majority",
    ]
    assert len(spec.trials()) == 2 and parse(MINIMAL).excluded() == []


def test_a_baseline_has_no_trials_with_losses_for_networks_and_the_plan_says_so():
    spec = parse(MINIMAL + "losses: [cross_entropy, focal]")
    assert [trial.name.split("·")[0:3:2] for trial in spec.trials()] == [
        ["scgpt", "cross_entropy"],
        ["majority", "cross_entropy"],
        ["scgpt", "focal"],
    ]
    assert spec.impossible() == ["majority has no loss focal; left out"]


def test_scientific_notation_without_a_point_is_a_number():
    assert parse(MINIMAL.replace("epochs: 3", "learning_rate: 1e-4")).models[0].recipe["learning_rate"] == 1e-4


def test_a_models_list_stands_for_models_as_they_come():
    spec = parse(MINIMAL.replace("{scgpt: {epochs: 3}, majority: {}}", "[majority]"))
    assert [model.label for model in spec.models] == ["majority"]


def test_relative_paths_are_relative_to_the_sweep_file(tmp_path):
    text = "name: own\ndatasets: [{path: cells.h5ad, label: type}]\nmodels: [majority]"
    spec = config.parse(text, tmp_path / "sweep.yaml")
    assert spec.datasets == [{"path": str(tmp_path / "cells.h5ad"), "label": "type"}]
    assert spec.dataset_names == ["cells"]


def test_the_stored_file_reads_the_same_from_anywhere(tmp_path):
    (tmp_path / "weights").mkdir()
    text = "name: own\ndatasets: [{path: cells.h5ad, label: type}, pbmc68k_reduced]\nskews: [{kind: rarefy, class: B, "
    text += "cells: [5, 9]}]\nmodels: {scgpt: {weights: weights, learning_rate: 1e-4}, majority: }\n"
    spec = config.parse(text, tmp_path / "sweep.yaml")
    stored = yaml.safe_dump(spec.given, sort_keys=False)
    again = config.parse(stored, tmp_path / "elsewhere" / "own.yaml")
    assert [trial.key for trial in again.trials()] == [trial.key for trial in spec.trials()]
    assert again.models[0].weights == str(tmp_path / "weights") and again.given == spec.given


def test_the_paper_protocol_turns_on_each_models_defects():
    trials = parse(MINIMAL + "protocol: paper").trials()
    assert trials[0].described["defects"] == protocol.defects_of("scgpt", "none", "paper", [])
    assert "cellskew.defects" in trials[0].tags()
    chosen = parse(MINIMAL + "defects: [scgpt_unshuffled]").trials()
    assert [trial.described["defects"] for trial in chosen] == [["scgpt_unshuffled"], []]


# keys


def test_a_key_is_the_same_for_the_same_trial_in_another_sweep():
    one, other = parse(MINIMAL).trials()[0], parse(MINIMAL.replace("small", "other") + "seeds: [0, 1]").trials()[0]
    assert one.key == other.key


def test_spelling_a_default_out_keeps_the_key():
    plain = parse(MINIMAL + "skews: [exponential]").trials()[0]
    assert parse(MINIMAL + "skews: [{kind: exponential, ratio: 10}]").trials()[0].key == plain.key
    assert (
        parse(MINIMAL.replace("epochs: 3", "epochs: 3, batch_size: 32")).trials()[0].key
        == parse(MINIMAL).trials()[0].key
    )


@pytest.mark.parametrize("field", Recipe.model_fields)
def test_changing_a_recipes_default_changes_the_key(field, monkeypatch):
    before = parse(MINIMAL).trials()[0].key
    read = reading_models._checked

    def with_another_default(model, given):
        found, wrong = read(model, given)
        values = found.model_dump()
        changed = values | {field: "another"} if model is Recipe else values
        return SimpleNamespace(**values, idle=found.idle, model_dump=lambda: changed), wrong

    monkeypatch.setattr(reading_models, "_checked", with_another_default)
    assert parse(MINIMAL).trials()[0].key != before


def test_changing_an_options_or_a_plugins_default_changes_the_key(monkeypatch):
    before = parse(MINIMAL).trials()[0].key
    options = reading_models.registry.get("scgpt").options

    class Wider(options):
        n_bins: int = 52

    spec = reading_models.registry.get("scgpt").__class__(
        **vars(reading_models.registry.get("scgpt")) | {"options": Wider}
    )
    with monkeypatch.context() as patched:
        patched.setattr(reading_models.registry, "get", lambda name: spec)
        assert parse(MINIMAL.replace(", majority: {}", "")).trials()[0].key != before

    def natural(labels, rng, *, total: int | None = 5, classes: list[str] | None = None):
        return labels

    monkeypatch.setitem(SKEWS, "natural", natural)
    assert parse(MINIMAL).trials()[0].key != before


def test_every_part_of_a_trial_is_in_its_key():
    base = parse(MINIMAL).trials()[0].key
    changes = [
        MINIMAL.replace("pbmc68k_reduced", "baron_pancreas"),
        MINIMAL.replace("[pbmc68k_reduced]", "[{name: pbmc68k_reduced, empty_cells: drop}]"),
        *(
            MINIMAL + line
            for line in (
                "genes: {select: hvg, n: 100}",
                "splits: {seeds: [1]}",
                "splits: {test: 0.3}",
                "splits: {validation: 0.2}",
                "skews: [exponential]",
                "strategies: [oversample]",
                "losses: [focal]",
                "seeds: [1]",
                "protocol: paper",
                "posthoc: [temperature]",
            )
        ),
        MINIMAL.replace("epochs: 3", "epochs: 4"),
        MINIMAL.replace("epochs: 3", "epochs: 3, size: tiny"),
    ]
    keys = [parse(text).trials()[0].key for text in changes]
    assert len({base, *keys}) == len(changes) + 1


def test_resources_tracking_and_failures_are_not_in_the_key():
    more = "resources: {scgpt: {gpu: 0.25}}\ntracking: {checkpoints: none}\nmax_failures: 7\n"
    more += "checkpoint_every: 3"
    assert parse(MINIMAL).checkpoint_every == "auto" and parse(MINIMAL + more).checkpoint_every == 3
    assert parse(MINIMAL + more).trials()[0].key == parse(MINIMAL).trials()[0].key
    assert parse(MINIMAL + more).trials()[0].resources.gpu == 0.25


# the pieces


def test_parameters_that_cellskew_passes_are_not_the_users():
    assert list(plugins.parameters(SKEWS["rarefy"])) == ["class", "cells", "total"]

    def by_counts(labels, rng, *, counts, share: float = 0.5):
        return labels

    by_counts.needs = "counts"
    assert list(plugins.parameters(by_counts)) == ["share"]
    assert "counts" in plugins.parameters(SKEWS["match"])


def test_every_plugins_parameters_are_annotated_keyword_only_and_checkable():
    for _, registry, noun, _ in plugins.registries():
        for name, plugin in registry.items():
            for parameter in plugins.parameters(plugin).values():
                which = (noun, name, parameter.shown)
                assert parameter.annotation is not Any, which
                if not parameter.required:
                    assert plugins.check(parameter.annotation, parameter.default)[1] is None, which


def test_lines_of_nested_values():
    document = yaml_lines.read("a:\n  - b\n  - c: 1\n    d: 2\n")
    assert document.value == {"a": ["b", {"c": 1, "d": 2}]}
    assert [document.line(path) for path in (("a",), ("a", 0), ("a", 1, "d"), ("a", 1, "gone"))] == [1, 2, 4, 3]


def test_controls_are_a_trial_more_for_each_split_and_model_and_known_apart(tmp_path):
    text = (
        "name: x\ndatasets: [pbmc68k_reduced]\nsplits: {seeds: [0, 1]}\nstrategies: [oversample, smote]\n"
        "losses: [weighted, focal]\nmodels: {mlp: {}, majority: {}}\n"
    )
    path = tmp_path / "x.yaml"
    plain, more = (config.parse(one, path).trials() for one in (text, text + "controls: [shuffled_labels]\n"))
    assert [trial.key for trial in more[: len(plain)]] == [trial.key for trial in plain]
    added = more[len(plain) :]
    assert [(one.label, one.labels["split"]) for one in added] == [
        ("mlp", "0"),
        ("majority", "0"),
        ("mlp", "1"),
        ("majority", "1"),
    ]
    assert {one.labels["strategy"] for one in added} == {"none"}, "a strategy may have made cells of true labels"
    assert all(one.tags()["cellskew.control"] == "shuffled_labels" and "shuffled_labels" in one.name for one in added)
    assert len({one.key for one in more}) == len(more)
    with pytest.raises(RequestError, match=r"controls\[0\]: unknown control 'shuffled'; did you mean shuffled_labels"):
        config.parse(text + "controls: [shuffled]\n", path)
